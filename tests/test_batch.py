import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import harness
from harness.batch import run_batch
from harness.child import HarnessError
from harness.domain.image import Image
from harness.domain.record import ExitRecord, RunResult, Verdict
from harness.job import BatchItem, Job
from tests import invented

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _invented_hypervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "harness.hypervisor", invented)
    monkeypatch.setattr(harness, "hypervisor", invented, raising=False)


class Heard:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.exits: list[tuple[str, int]] = []

    def __call__(self, job: Job, image: Image | None, record: ExitRecord) -> None:
        assert image is not None
        self.exits.append((job.name, record.n))


def jobs(folder: Path, *names: str, **settings: Any) -> list[Job]:
    return [Job(invented.flat_guest(folder, name), name, "pv", flat=True, **settings) for name in names]


def results(items: Sequence[BatchItem]) -> list[RunResult]:
    assert all(item.result for item in items)
    return [item.result for item in items if item.result]


def only(folder: Path, name: str, jobs_at_once: int = 2, **more: Any) -> RunResult:
    [result] = results(list(run_batch(jobs(folder, name, **more), jobs_at_once=jobs_at_once, grace=0.3)))
    return result


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


@pytest.mark.parametrize("jobs_at_once", [1, 2, 8])
def test_results_come_in_the_order_asked_for(tmp_path, jobs_at_once):
    names = ["slow", "a", "naps", "b"]
    items = run_batch(jobs(tmp_path, *names), jobs_at_once=jobs_at_once)
    assert [result.guest for result in results(list(items))] == names


def test_no_more_than_so_many_run_at_once(tmp_path):
    before, most = len(children()), 0
    for _ in run_batch(jobs(tmp_path, *["naps"] * 5), jobs_at_once=2):
        most = max(most, len(children()) - before)
    assert most <= 2


def test_many_run_side_by_side(tmp_path):
    start = time.monotonic()
    assert len(list(run_batch(jobs(tmp_path, *["slow"] * 8), jobs_at_once=8))) == 8
    assert time.monotonic() - start < 8 * 0.3


@pytest.mark.parametrize("jobs_at_once", [1, 3])
def test_exits_are_heard_in_the_order_of_the_jobs(tmp_path, jobs_at_once):
    heard = Heard()
    work = jobs(tmp_path, "slow", "chatters", "b")
    list(run_batch(work, jobs_at_once=jobs_at_once, on_exit=heard))
    counts = (("slow", 3), ("chatters", 5000), ("b", 3))
    assert heard.exits == [(name, n) for name, count in counts for n in range(1, count + 1)]


def test_one_job_alone_runs_in_this_process(tmp_path, monkeypatch):
    monkeypatch.setattr(invented, "run", lambda guest, **_: invented.result(guest.name, "pv", reason=str(os.getpid())))
    assert only(tmp_path, "a", jobs_at_once=1).reason == str(os.getpid())
    assert only(tmp_path, "a", jobs_at_once=2).reason != str(os.getpid())


def test_the_image_comes_with_a_crash(tmp_path):
    [crashed, good] = list(run_batch(jobs(tmp_path, "crashes", "a"), jobs_at_once=2))
    assert crashed.image is not None
    assert crashed.image.segments[0].size == 1
    assert good.image is None


@pytest.mark.parametrize("jobs_at_once", [1, 2])
def test_a_users_mistake_is_no_result_and_stops_nobody(tmp_path, jobs_at_once):
    missing = Job(tmp_path / "missing.bin", "missing", "pv", flat=True)
    [item] = list(run_batch([missing], jobs_at_once=jobs_at_once))
    assert item.result is None
    assert item.error == f"{tmp_path / 'missing.bin'}: no such file"
    [_, good] = list(run_batch([missing, *jobs(tmp_path, "a")], jobs_at_once=jobs_at_once))
    assert good.result is not None


def test_an_engine_that_aborts_is_a_crash_with_its_last_words(tmp_path):
    result = only(tmp_path, "aborts")
    assert result.verdict is Verdict.CRASH
    assert result.reason == "the engine died: SIGABRT (qemu: fatal: invalid tss type)"
    assert not result.as_expected


def test_what_the_dead_one_did_is_found_by_repeating_it(tmp_path):
    result = only(tmp_path, "aborts")
    assert result.exits == {"gp": 3}
    assert result.time_ns == 3000
    assert result.crash is not None
    assert [record.n for record in result.crash.last] == [1, 2, 3]


def test_one_that_is_heard_need_not_be_repeated(tmp_path):
    heard = Heard()
    [item] = list(run_batch(jobs(tmp_path, "segfaults"), jobs_at_once=2, on_exit=heard))
    assert item.result is not None
    assert item.result.reason == "the engine died: SIGSEGV (Segmentation fault)"
    assert [n for _, n in heard.exits] == [1, 2, 3]


def test_an_engine_that_dies_only_once_died_nevertheless(tmp_path, monkeypatch):
    flag = tmp_path / "flag"

    def dies_once(guest, *, on_exit=None, **_):
        if not flag.exists():
            flag.touch()
            os.abort()
        return invented.result(guest.name, "pv", console="so far")

    monkeypatch.setattr(invented, "run", dies_once)
    result = only(tmp_path, "a")
    assert (result.verdict, result.console) == (Verdict.CRASH, "so far")
    assert result.reason.startswith("the engine died: SIGABRT")
    assert not result.as_expected


def test_killed_from_outside(tmp_path):
    result = only(tmp_path, "killed")
    assert (result.verdict, result.reason) == (Verdict.CRASH, "the process was killed: SIGKILL (Killed)")


def test_a_process_that_ends_without_a_word(tmp_path):
    result = only(tmp_path, "exits")
    assert (result.verdict, result.reason) == (
        Verdict.CRASH,
        "the process ended with status 7 and without a result",
    )


def test_one_that_hangs_is_killed_after_its_timeout_and_the_grace(tmp_path):
    start = time.monotonic()
    result = only(tmp_path, "hangs", timeout=0.2)
    assert 0.4 < time.monotonic() - start < 10
    assert (result.verdict, result.reason) == (
        Verdict.TIMEOUT,
        "no answer within 0.5 s of wall-clock: killed",
    )


def test_the_dead_do_not_disturb_the_others(tmp_path):
    names = ["a", "aborts", "b", "hangs", "killed", "c"]
    items = list(run_batch(jobs(tmp_path, *names, timeout=0.5), jobs_at_once=3, grace=0.3))
    verdicts = [result.verdict.value for result in results(items)]
    assert verdicts == ["success", "crash", "success", "timeout", "crash", "success"]


@pytest.mark.parametrize("jobs_at_once", [1, 2])
def test_a_mistake_of_ours_escapes(tmp_path, jobs_at_once):
    with pytest.raises((HarnessError, KeyError), match="our mistake"):
        list(run_batch(jobs(tmp_path, "raises"), jobs_at_once=jobs_at_once))


def test_closing_ends_the_children(tmp_path):
    before = children()
    items = run_batch(jobs(tmp_path, "a", "hangs", "hangs"), jobs_at_once=3)
    assert next(items).result
    items.close()
    assert children() <= before


def test_a_listener_that_raises_ends_the_children(tmp_path):
    before = children()

    def closed_pipe(*_):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        list(run_batch(jobs(tmp_path, "hangs", "hangs"), jobs_at_once=2, on_exit=closed_pipe))
    assert children() <= before


def test_children_end_with_their_parent(tmp_path):
    guest = invented.flat_guest(tmp_path, "hangs")
    script = textwrap.dedent(f"""
        import pathlib
        from tests import invented
        from harness.batch import run_batch
        from harness.job import Job
        invented.install()
        def told(job, image, record):
            print(record.n, flush=True)
        work = [Job(pathlib.Path({str(guest)!r}), "hangs", "pv", flat=True)]
        list(run_batch(work, jobs_at_once=2, on_exit=told))
    """)
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"1\n"
    [child] = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 5
    while _lives(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _lives(child)


def _lives(pid: str) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
