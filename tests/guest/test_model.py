"""A run held against an expectation: one readable entry a difference, none when all is as declared."""

from __future__ import annotations

import pytest

from harness.domain.record import RunResult, Verdict
from harness.guest.model import Expectation


def result(verdict: Verdict = Verdict.SUCCESS, reason: str = "shutdown: poweroff", **rest: object) -> RunResult:
    return RunResult("guest", "pv", verdict, reason, **rest)  # type: ignore[arg-type]


def test_all_as_expected() -> None:
    expected = Expectation(
        console="hi\n",
        exits={"gp": 1, "pf": 0},
        hypercalls={"console_io": 2},
        registers={"eax": 5},
        reason="poweroff",
    )
    seen = result(
        console="hi\n",
        exits={"gp": 1, "cpuid": 7},
        hypercalls={"console_io": 2, "sched_op": 1},
        registers={"eax": 5, "ebx": 9},
    )
    assert expected.differences(seen) == []


def test_without_a_head_success_is_expected() -> None:
    assert Expectation().differences(result(console="anything", exits={"gp": 3})) == []
    assert Expectation().differences(result(Verdict.TIMEOUT, "10 exits")) == [
        "verdict: expected success, got timeout (10 exits)"
    ]


def test_a_skip_is_as_expected() -> None:
    expected = Expectation(Verdict.CRASH, console="x", exits={"gp": 1}, crash="y")
    assert expected.differences(result(Verdict.SKIP, "no SVM")) == []


def test_counts() -> None:
    expected = Expectation(exits={"gp": 2, "pf": 0}, hypercalls={"iret": 1})
    assert expected.differences(result(exits={"gp": 1, "pf": 3})) == [
        "exits: expected 2 gp, got 1",
        "exits: expected 0 pf, got 3",
        "hypercalls: expected 1 iret, got 0",
    ]


def test_registers() -> None:
    expected = Expectation(registers={"eax": 0xFFFFFFDA, "cr2": 0})
    assert expected.differences(result(registers={"eax": 1})) == [
        "registers: expected eax = 0xffffffda, got 0x00000001",
        "registers: expected cr2 = 0x00000000, got nothing",
    ]


def test_reason_of_a_crash() -> None:
    expected = Expectation(Verdict.CRASH, crash="no handler")
    assert expected.differences(result(Verdict.CRASH, "#GP: no handler for vector 13")) == []
    assert expected.differences(result(Verdict.CRASH, "triple fault")) == [
        "crash: expected 'no handler' in 'triple fault'"
    ]


def test_reason() -> None:
    assert Expectation(reason="reboot").differences(result()) == ["reason: expected 'reboot' in 'shutdown: poweroff'"]


@pytest.mark.parametrize(
    ("expected", "seen", "difference"),
    [
        ("a\nb\n", "a\nc\n", "console: - expected, + got\n  @@ -1,2 +1,2 @@\n   a\n  -b\n  +c"),
        ("a\n", "a", "console: - expected, + got\n  @@ -1 +1 @@\n  -a\n  +a (no newline)"),
        ("", "\x1b", "console: - expected, + got\n  @@ -0,0 +1 @@\n  +\\x1b (no newline)"),
        ("x\n", "", "console: - expected, + got\n  @@ -1 +0,0 @@\n  -x"),
    ],
)
def test_console(expected: str, seen: str, difference: str) -> None:
    assert Expectation(console=expected).differences(result(console=seen)) == [difference]


def test_a_long_console_difference_is_cut() -> None:
    (difference,) = Expectation(console="").differences(result(console="line\n" * 50))
    assert difference.count("\n") == 13
    assert difference.endswith("... and 39 lines more")
