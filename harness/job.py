"""One guest in one mode: what is asked, what comes of it, and the doing of it in the process one is in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from harness.domain.image import Image
from harness.domain.record import ExitRecord, RunResult, Verdict


@dataclass(frozen=True, slots=True)
class Job:
    """One guest in one mode. `name` is what to call it as long as it is not loaded.

    timeout: seconds of wall-clock, None for no limit; memory in bytes; the rest as `hypervisor.run` takes it, None
    leaving the choice to the guest's head.
    """

    path: Path
    name: str
    mode: str
    flat: bool = False
    policy: str | None = None
    audit: bool | None = None
    memory: int | None = None
    cmdline: str | None = None
    modules: tuple[Path, ...] | None = None
    max_exits: int | None = None
    max_insns: int | None = None
    timeout: float | None = 60.0


@dataclass(frozen=True, slots=True)
class BatchItem:
    """What came of a job: a result; or one line about what its user did wrong, and no result.

    image: the guest's, without its bytes, when the result holds a crash report to be read with it.
    """

    job: Job
    result: RunResult | None = None
    error: str = ""
    image: Image | None = None


Listener = Callable[[Job, Image | None, ExitRecord], None]
"""Hears each exit. The image is the guest's, without its bytes: names and source lines."""


def perform(job: Job, on_exit: Callable[[ExitRecord], None] | None, on_image: Callable[[Image], None]) -> RunResult:
    """Load the guest and run it, here and now. `on_image` is given its image, without the bytes, before it runs.

    Raises one of `user_errors()` for what is wrong with the guest's file.
    """
    from harness import hypervisor
    from harness.guest import loader

    guest = loader.load(job.path, flat=job.flat)
    on_image(_without_bytes(guest.image))
    if guest.has_head and job.mode not in guest.modes:
        return RunResult(guest.name, job.mode, Verdict.SKIP, f"not written for {job.mode}")
    return hypervisor.run(
        guest,
        mode=job.mode,
        policy=job.policy,
        audit=job.audit,
        memory=job.memory,
        cmdline=job.cmdline,
        modules=job.modules,
        max_exits=job.max_exits,
        max_insns=job.max_insns,
        timeout=job.timeout,
        on_exit=on_exit,
    )


def _without_bytes(image: Image) -> Image:
    return replace(image, segments=tuple(replace(segment, data=b"") for segment in image.segments))


def user_errors() -> tuple[type[Exception], ...]:
    """What says that the user, or the author of a guest, did something wrong; the first line says where and what."""
    from harness.code.source import AssemblyError
    from harness.guest.model import GuestError

    return GuestError, AssemblyError
