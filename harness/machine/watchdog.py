"""Stopping a guest that never exits: by wall-clock time, or by Ctrl-C.

While the engine runs there is no Python bytecode to interrupt. A thread waits for the time or for a signal to arrive
(through the interpreter's wakeup descriptor) and then asks the engine to stop, again and again until it is heard: a
request between two runs is lost (observed on Unicorn 2.1.4).
"""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import threading
from collections.abc import Callable
from types import TracebackType

_AGAIN = 0.02


class Watchdog:
    """A context in which `stop` is called once `timeout` seconds are over, or a signal has come.

    `expired` tells whether it was the time. Signals are heard only in the main thread.
    """

    def __init__(self, stop: Callable[[], None], timeout: float | None) -> None:
        self.expired = False
        self._stop, self._timeout = stop, timeout
        self._ours, self._theirs = socket.socketpair()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._previous = -1

    def __enter__(self) -> Watchdog:
        self._theirs.setblocking(False)
        with contextlib.suppress(ValueError):
            # ValueError: not the main thread. Then nobody tells us of signals, and nothing is to be put back.
            self._previous = signal.set_wakeup_fd(self._theirs.fileno(), warn_on_full_buffer=False)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._done.set()
        with contextlib.suppress(ValueError):
            signal.set_wakeup_fd(self._previous, warn_on_full_buffer=False)
        self._theirs.close()
        self._thread.join()
        self._ours.close()

    def _watch(self) -> None:
        heard, _, _ = select.select([self._ours], [], [], self._timeout)
        if self._done.is_set():
            return
        self.expired = not heard
        while not self._done.wait(_AGAIN):
            self._stop()
