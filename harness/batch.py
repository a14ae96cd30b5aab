"""Many guests, each in a process of its own, told of in the order in which they were asked for.

An engine can abort the process that it runs in; so a guest of a batch gets a child, and a child that dies is one
result among others. Children are forked: measured 5 ms each, against 70 ms and the imports for a spawned one. The
engines are imported before the first fork and never used in the parent, which has a single thread.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import pickle
import resource
import signal
import tempfile
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO, Any

from harness.domain.image import Image
from harness.domain.record import CrashReport, ExitRecord, RunResult, Verdict

GRACE = 5.0
"""Seconds of wall-clock that a child may take beyond its timeout, for loading and for reporting."""

KEPT_EXITS = 16
MESSAGES_AT_ONCE = 1000
SPOOLED_IN_MEMORY = 1 << 20
PR_SET_PDEATHSIG = 1

# How an engine ends when it ends the process; other signals came from outside, and would come again or not.
ENGINE_SIGNALS = frozenset({signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE})


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


class HarnessError(Exception):
    """An exception escaped in a child: ours, not the guest's. The text is its traceback."""


def run_batch(
    jobs: Sequence[Job], *, jobs_at_once: int, on_exit: Listener | None = None, grace: float = GRACE
) -> Generator[BatchItem, None, None]:
    """Run the jobs, at most so many at once, and give their items in the order of `jobs`.

    `on_exit` hears the exits in the same order, those of the job whose turn it is as they happen. A child that is not
    done `grace` seconds after its timeout is killed. Children end when the iterator is closed, and with their parent.
    One job with `jobs_at_once` 1 runs in this process, unprotected. Raises HarnessError.
    """
    if len(jobs) == 1 and jobs_at_once == 1:
        yield run_here(jobs[0], on_exit)
        return
    _import_engines()
    waiting = deque(jobs)
    crew: deque[_Child] = deque()
    try:
        while waiting or crew:
            while waiting and sum(child.item is None for child in crew) < jobs_at_once:
                crew.append(_Child(waiting.popleft(), on_exit, grace))
            crew[0].take_turn()
            if (item := crew[0].item) is not None:
                crew.popleft()
                yield item
            else:
                _hear([child for child in crew if child.item is None])
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
        result = _perform(job, listen if on_exit else None, images.append)
    except _user_errors() as error:
        return BatchItem(job, error=str(error))
    return BatchItem(job, result, image=images[0] if result.crash else None)


def _perform(job: Job, on_exit: Callable[[ExitRecord], None] | None, on_image: Callable[[Image], None]) -> RunResult:
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


def _user_errors() -> tuple[type[Exception], ...]:
    from harness.code.source import AssemblyError
    from harness.guest.model import GuestError

    return GuestError, AssemblyError


def _import_engines() -> None:
    pass



# The child's side. What goes up the pipe: an Image first, then ExitRecords if someone listens, and last one of
# RunResult, _UserError or _Bug.


@dataclass(frozen=True, slots=True)
class _UserError:
    text: str


@dataclass(frozen=True, slots=True)
class _Bug:
    text: str


def _live(job: Job, listened_to: bool, up: Connection, words: IO[bytes], parent: int) -> None:
    _end_with(parent)
    # The last words are to be the engine's own.
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(words.fileno(), 2)
    try:
        up.send(_perform(job, up.send if listened_to else None, up.send))
    except _user_errors() as error:
        up.send(_UserError(str(error)))
    except Exception:
        up.send(_Bug(traceback.format_exc()))


def _end_with(parent: int) -> None:
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


# The parent's side.


class _Child:
    """A job in its process, from start to item."""

    def __init__(self, job: Job, on_exit: Listener | None, grace: float) -> None:
        self.job = job
        self.item: BatchItem | None = None
        self._on_exit = on_exit
        self._has_turn = False
        self._limit = None if job.timeout is None else job.timeout + grace
        self._deadline = None if self._limit is None else time.monotonic() + self._limit
        self._death = ""
        self._start(listen=on_exit is not None)

    def _start(self, listen: bool) -> None:
        self._listens = listen
        self._image: Image | None = None
        self._last: deque[ExitRecord] = deque(maxlen=KEPT_EXITS)
        self._exits: Counter[str] = Counter()
        self._spool = tempfile.SpooledTemporaryFile(SPOOLED_IN_MEMORY)  # noqa: SIM115 - lives as long as the child
        self._words = tempfile.TemporaryFile()  # noqa: SIM115
        context = get_context("fork")
        self.pipe, up = context.Pipe(duplex=False)
        arguments = (self.job, listen, up, self._words, os.getpid())
        self._process = context.Process(target=_live, args=arguments, daemon=True)
        with _without_interrupts():
            self._process.start()
        # Only the child holds the writing end now, so that its death is the end of the pipe.
        up.close()

    @property
    def seconds_left(self) -> float | None:
        """Until this child is to be killed."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def take_turn(self) -> None:
        """From now on exits are passed on as they come; those that came earlier are passed on first."""
        if not self._has_turn:
            self._has_turn = True
            self._spool.seek(0)
            for record in _unpickled(self._spool):
                self._tell(record)

    def hear(self) -> None:
        """Take what has come up the pipe, up to a limit so that the others are heard too."""
        for _ in range(MESSAGES_AT_ONCE):
            if self.item is not None or not self.pipe.poll():
                return
            try:
                self._receive(self.pipe.recv_bytes())
            except (EOFError, ConnectionResetError):
                self._mourn()

    def kill(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._close()

    def give_up(self) -> None:
        """Kill a child that is past its deadline; its result is a timeout."""
        self.kill()
        self._finish(self._cut_short(Verdict.TIMEOUT, f"no answer within {self._limit:g} s of wall-clock: killed"))

    def _receive(self, raw: bytes) -> None:
        match pickle.loads(raw):
            case Image() as image:
                self._image = image
            case ExitRecord() as record:
                self._record(record, raw)
            case RunResult() as result:
                self._done(result)
            case _UserError(text):
                self._close()
                self.item = BatchItem(self.job, error=text)
            case _Bug(text):
                raise HarnessError(f"{self.job.name} ({self.job.mode}):\n{text}")
            case other:
                raise AssertionError(f"a child sent {other!r}")

    def _record(self, record: ExitRecord, raw: bytes) -> None:
        self._last.append(record)
        self._exits[record.kind] += 1
        if self._has_turn:
            self._tell(record)
        elif self._on_exit is not None:
            self._spool.write(raw)

    def _tell(self, record: ExitRecord) -> None:
        if self._on_exit is not None:
            self._on_exit(self.job, self._image, record)

    def _done(self, result: RunResult) -> None:
        # It has said all; what it would do yet, such as closing its engine, can only go wrong.
        self.kill()
        if self._death:
            result = replace(result, verdict=Verdict.CRASH, reason=self._death, differences=_unexpected(self._death))
        self._finish(result)

    def _mourn(self) -> None:
        """The child ended without a result.

        If nobody listened then nobody knows what it did. Runs are deterministic, so a second child repeats this one
        and tells, as far as it comes.
        """
        self._close()
        status = self._process.exitcode or 0
        self._death = self._death or _cause(status, _last_words(self._words))
        if -status in ENGINE_SIGNALS and not self._listens:
            self._start(listen=True)
        else:
            self._finish(self._cut_short(Verdict.CRASH, self._death))

    def _close(self) -> None:
        self._process.join()
        self.pipe.close()

    def _finish(self, result: RunResult) -> None:
        self.item = BatchItem(self.job, result, image=self._image if result.crash else None)

    def _cut_short(self, verdict: Verdict, reason: str) -> RunResult:
        last = tuple(self._last)
        return RunResult(
            guest=self.job.name,
            mode=self.job.mode,
            verdict=verdict,
            reason=reason,
            exits=dict(self._exits),
            crash=CrashReport({}, 0, b"", (), last) if last else None,
            differences=_unexpected(reason),
            time_ns=last[-1].time_ns if last else 0,
        )


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """A child forked here never hears of Ctrl-C, which reaches the whole process group: the parent alone decides."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _unexpected(reason: str) -> tuple[str, ...]:
    # No guest's head can expect to be cut short.
    return (f"the run was cut short: {reason}",)


def _hear(children: Sequence[_Child]) -> None:
    left = [child.seconds_left for child in children if child.seconds_left is not None]
    ready = wait([child.pipe for child in children], min(left, default=None))
    for child in children:
        if child.pipe in ready:
            child.hear()
        elif child.seconds_left == 0:
            child.give_up()


def _unpickled(file: IO[bytes] | tempfile.SpooledTemporaryFile[bytes]) -> Iterator[Any]:
    while True:
        try:
            yield pickle.load(file)
        except EOFError:
            return


def _cause(status: int, words: str) -> str:
    if status >= 0:
        return f"the process ended with status {status} and without a result" + (f" ({words})" if words else "")
    number = signal.Signals(-status)
    who = "engine died" if number in ENGINE_SIGNALS else "process was killed"
    return f"the {who}: {number.name} ({words or signal.strsignal(number)})"


def _last_words(file: IO[bytes]) -> str:
    """The last line that the child wrote to its standard error."""
    file.seek(0)
    lines = file.read().decode("utf-8", "replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
