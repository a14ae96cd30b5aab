from dataclasses import replace

from harness.domain.record import Verdict
from harness.report import summary
from tests.report.records import CRASHED, GOOD


def test_one_guest_in_full():
    assert summary.one(GOOD).split("\n") == [
        "hello",
        "clts (pv): success: shutdown: poweroff",
        "exits: 3",
        "  2  hypercall  int 0x82 from ring 1",
        "  1  gp         #GP general protection",
        "hypercalls",
        "  1  console_io",
        "  1  sched_op",
        "audit: sensitive instructions that did not trap",
        "  at           bytes   instruction  what it saw or lost   use instead",
        "  r1 00100020  0f0101  sgdt [ecx]   the hypervisor's GDT  do not read it",
    ]


def test_what_is_not_as_expected_is_said_twice():
    text = summary.one(CRASHED)
    assert "crash (not as expected): no handler" in text
    assert text.endswith("not as expected\n  verdict: crash instead of success")


def test_a_silent_guest_without_exits_is_one_line():
    assert summary.one(replace(GOOD, console="", exits={}, hypercalls={}, audit=())) == (
        "clts (pv): success: shutdown: poweroff"
    )


def test_the_console_cannot_drive_the_terminal():
    text = summary.one(replace(GOOD, guest="\x1b]0;x", console="\x1b[2J[red]\n", reason="\x07"))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\\x1b[2J[red]" in text


def test_rows_line_up():
    heading, *rows = summary.rows([GOOD, CRASHED])
    assert rows[0].split() == ["clts", "pv", "success", "yes", "3", "8.000", "us"]
    assert rows[1].split() == ["clts", "pv", "crash", "NO", "1", "0", "ns"]
    assert heading.index("verdict") == rows[1].index("crash")


def test_totals_count_verdicts_in_their_order():
    skipped = replace(GOOD, verdict=Verdict.SKIP)
    assert summary.totals([CRASHED, skipped, GOOD]) == "3 runs: 1 success, 1 skip, 1 crash; 1 not as expected"
    assert summary.totals([GOOD]) == "1 run: 1 success; all as expected"
    assert summary.totals([]) == "0 runs: nothing ran; all as expected"
