"""One run in a forked process that shares our terminal: as fast as running here, and an engine that aborts takes only
the fork with it. Nothing travels between the two but an exit status, so nothing has to be imported for it.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import sys
import traceback
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
_OURS = 1
_BROKEN_PIPE = 141


def guarded(body: Callable[[], int]) -> int | None:
    """The status that `body` returns, from a child process; None if a signal ended it.

    Ctrl-C is for the child to deal with. An exception in `body` is printed there and is status 1; a reader that went
    away is 141.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    interrupt = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGINT, interrupt)
            _end_with(parent)
            os._exit(_status_of(body))
        _, status = os.waitpid(child, 0)
    finally:
        signal.signal(signal.SIGINT, interrupt)
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else None


def _end_with(parent: int) -> None:
    faulthandler.disable()  # what a dying engine has to say is told by who runs it again
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(_OURS)


def _status_of(body: Callable[[], int]) -> int:
    try:
        status = body()
        sys.stdout.flush()
        sys.stderr.flush()
    except (BrokenPipeError, SystemExit):
        return _BROKEN_PIPE
    except BaseException:  # whatever it is, it must not go on into the parent's code
        traceback.print_exc()
        sys.stderr.flush()
        return _OURS
    return status
