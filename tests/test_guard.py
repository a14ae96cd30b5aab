"""One run in a fork: its status, and what becomes of one that dies."""

from __future__ import annotations

import os
import signal

import pytest

from harness.guard import guarded


@pytest.mark.parametrize("status", [0, 1, 4, 130])
def test_the_status_comes_back(status):
    assert guarded(lambda: status) == status


def test_a_child_that_aborts_has_no_status():
    assert guarded(lambda: os.kill(os.getpid(), signal.SIGABRT) or 0) is None


def test_what_the_child_does_stays_there():
    seen = []
    assert guarded(lambda: seen.append(1) or 0) == 0
    assert seen == []


def test_an_exception_is_told_and_is_status_1(capfd):
    assert guarded(lambda: 1 // 0) == 1
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_a_reader_that_went_away():
    def body():
        raise BrokenPipeError

    assert guarded(body) == 141


def test_ctrl_c_is_the_parents_again_afterwards():
    before = signal.getsignal(signal.SIGINT)
    guarded(lambda: 0)
    assert signal.getsignal(signal.SIGINT) is before
