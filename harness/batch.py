"""Many guests, each in a process of its own, told of in the order in which they were asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from harness.domain.image import Image
from harness.domain.record import ExitRecord
from harness.job import BatchItem, Job, Listener, perform, user_errors

if TYPE_CHECKING:
    from harness.child import Child

# What a run imports; once, before the first fork, is enough for all children.
ENGINE_ROOMS = ("harness.code.encoder", "harness.guest.loader", "harness.hypervisor")

GRACE = 5.0
"""Seconds of wall-clock that a child may take beyond its timeout, for loading and for reporting."""


def run_batch(
    jobs: Sequence[Job], *, jobs_at_once: int, on_exit: Listener | None = None, grace: float = GRACE
) -> Generator[BatchItem, None, None]:
    """Run the jobs, at most so many at once, and give their items in the order of `jobs`.

    `on_exit` hears the exits in the same order, those of the job whose turn it is as they happen. A child that is not
    done `grace` seconds after its timeout is killed. Children end when the iterator is closed, and with their parent.
    One job with `jobs_at_once` 1 runs in this process, unprotected. Raises child.HarnessError.
    """
    if len(jobs) == 1 and jobs_at_once == 1:
        yield run_here(jobs[0], on_exit)
        return
    # Not needed by who runs here, and not free.
    from harness.child import Child, hear

    for room in ENGINE_ROOMS:
        import_module(room)
    waiting = deque(jobs)
    crew: deque[Child] = deque()
    try:
        while waiting or crew:
            while waiting and sum(child.item is None for child in crew) < jobs_at_once:
                crew.append(Child(waiting.popleft(), on_exit, grace))
            crew[0].take_turn()
            if (item := crew[0].item) is not None:
                crew.popleft()
                yield item
            else:
                hear([child for child in crew if child.item is None])
    finally:
        for child in crew:
            child.kill()


def run_here(job: Job, on_exit: Listener | None = None) -> BatchItem:
    """Run one job in this process: a fast start, and no protection against an engine that aborts."""
    images: list[Image] = []

    def listen(record: ExitRecord) -> None:
        if on_exit is not None:
            on_exit(job, images[0], record)

    try:
        result = perform(job, listen if on_exit else None, images.append)
    except user_errors() as error:
        return BatchItem(job, error=str(error))
    return BatchItem(job, result, image=images[0] if result.crash else None)
