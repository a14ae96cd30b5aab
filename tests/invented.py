"""A hypervisor that does what a guest's name says, for tests of everything around a run."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.domain.record import CrashReport, ExitRecord, RunResult, Verdict

Listener = Callable[[ExitRecord], None]


def exits(count: int) -> list[ExitRecord]:
    """So many CLTS, one after the other."""
    return [
        ExitRecord(n, "gp", 0x100000 + 2 * n, 1, b"\x0f\x06", "clts", "#GP(0)", "emulate_clts", "retired", (), n * 1000)
        for n in range(1, count + 1)
    ]


def result(name: str, mode: str, verdict: Verdict = Verdict.SUCCESS, **more: Any) -> RunResult:
    """A run that ended so, as expected unless it is told otherwise."""
    return RunResult(name, mode, verdict, more.pop("reason", "shutdown: poweroff"), **more)


def abort() -> None:
    """End as an engine does that ends its process, last words included."""
    os.write(2, b"qemu: fatal: invalid tss type\n")
    os.abort()


ENDINGS: dict[str, Callable[[], object]] = {
    "aborts": abort,
    "segfaults": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exits": lambda: os._exit(7),
    "hangs": lambda: time.sleep(600),
    "raises": lambda: {}["our mistake"],
    "slow": lambda: time.sleep(0.3),
    "naps": lambda: time.sleep(0.1),
}

VERDICTS: dict[str, dict[str, Any]] = {
    "fails": {"verdict": Verdict.FAILURE, "differences": ("verdict: expected success, got failure",)},
    "differs": {"differences": ("console: expected x, got y",)},
    "crashes": {
        "verdict": Verdict.CRASH,
        "reason": "no handler",
        "crash": CrashReport({"eip": 0x100000}, 0x100000, b"", (), tuple(exits(3))),
        "differences": ("verdict: expected success, got crash",),
    },
    "crashes-as-told": {"verdict": Verdict.CRASH, "reason": "no handler"},
    "errs": {"verdict": Verdict.ERROR, "differences": ("verdict: expected success, got error",)},
    "spins": {"verdict": Verdict.TIMEOUT, "differences": ("verdict: expected success, got timeout",)},
    "skips": {"verdict": Verdict.SKIP, "reason": "not here"},
    "hostile": {"console": "\x1b[2J[bold red]\x07\n"},
}

EXITS = {"chatters": 5000}


def run(guest: Any, *, mode: str, on_exit: Listener | None = None, **_: Any) -> RunResult:
    """Some exits, then the ending that the guest's name calls for."""
    records = exits(EXITS.get(guest.name, 3))
    for record in records if on_exit else ():
        on_exit(record)
    ENDINGS.get(guest.name, lambda: None)()
    told = {"console": "hello\n", "exits": {"gp": len(records)}, "time_ns": 3000, **VERDICTS.get(guest.name, {})}
    return result(guest.name, mode, **told)


def install() -> None:
    """Put the invented hypervisor in the place of the real one, for good: for a process of its own."""
    import harness

    sys.modules["harness.hypervisor"] = sys.modules[__name__]
    harness.hypervisor = sys.modules[__name__]  # type: ignore[attr-defined]


def flat_guest(folder: Path, name: str) -> Path:
    """A flat binary that nobody will execute."""
    path = folder / f"{name}.bin"
    path.write_bytes(b"\xf4")
    return path
