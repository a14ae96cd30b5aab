"""A guest in a process of its own, from start to item.

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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import IO, Any

from harness.domain.image import Image
from harness.domain.record import CrashReport, ExitRecord, RunResult, Verdict
from harness.job import BatchItem, Job, Listener, perform, user_errors

KEPT_EXITS = 16
MESSAGES_AT_ONCE = 1000
SPOOLED_IN_MEMORY = 1 << 20
PR_SET_PDEATHSIG = 1

# How an engine ends when it ends the process; other signals came from outside, and would come again or not.
ENGINE_SIGNALS = frozenset({signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE})


class HarnessError(Exception):
    """An exception escaped in a child: ours, not the guest's. The text is its traceback."""


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
        up.send(perform(job, up.send if listened_to else None, up.send))
    except user_errors() as error:
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


class Child:
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


def hear(children: Sequence[Child]) -> None:
    """Wait until one of them says something or is past its deadline, and see to it. There is at least one."""
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
