"""Guests that never exit are stopped: by time, and by Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

from harness.machine import RunEnd
from harness.machine.trial import Trial
from harness.machine.watchdog import Watchdog

ENDLESS = b"\xeb\xfe"

LOOP = """
from harness.machine.trial import Trial
from harness.machine.watchdog import Watchdog
trial = Trial(b"\\xeb\\xfe")
try:
    print("running", flush=True)
    with Watchdog(trial.stop, None):
        trial.run(lambda exit_: False)
    print("came back")
except KeyboardInterrupt:
    print("interrupted")
"""


def test_time_ends_an_endless_loop():
    trial = Trial(ENDLESS)
    with Watchdog(trial.stop, 0.05) as watchdog:
        assert trial.run(lambda exit_: False) is RunEnd.STOPPED
    assert watchdog.expired
    trial.close()


def test_a_run_that_ends_in_time_is_left_alone():
    before = threading.active_count()
    stops = []
    with Watchdog(lambda: stops.append(1), 60) as watchdog:
        pass
    assert not watchdog.expired
    assert stops == []
    assert threading.active_count() == before


def test_without_a_timeout_only_signals_count():
    stops = []
    with Watchdog(lambda: stops.append(1), None) as watchdog:
        time.sleep(0.05)
    assert not watchdog.expired
    assert stops == []


def test_a_stop_that_is_lost_is_repeated():
    """The first request may fall between two runs."""
    stops = []
    with Watchdog(lambda: stops.append(1), 0.0) as watchdog:
        deadline = time.monotonic() + 30
        while len(stops) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert watchdog.expired
    assert len(stops) >= 3


def test_ctrl_c_ends_an_endless_loop():
    process = subprocess.Popen([sys.executable, "-c", LOOP], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "running\n"
        # The first may come before the engine runs, and then is Python's own.
        for _ in range(300):
            process.send_signal(signal.SIGINT)
            try:
                process.wait(0.1)
                break
            except subprocess.TimeoutExpired:
                continue
        assert process.returncode is not None, "never came back"
        assert "interrupted" in process.stdout.read()
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


def test_in_another_thread_than_the_main_one_time_still_counts():
    ended = []

    def work() -> None:
        trial = Trial(ENDLESS)
        with Watchdog(trial.stop, 0.05) as watchdog:
            trial.run(lambda exit_: False)
        ended.append(watchdog.expired)
        trial.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert ended == [True]


def test_the_wakeup_descriptor_is_put_back():
    before = signal.set_wakeup_fd(-1)
    with Watchdog(lambda: None, None):
        inside = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(inside)
    assert inside != -1
    assert signal.set_wakeup_fd(before) == -1
