"""What came of a run: one guest in full, or many as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from harness.domain.kinds import KINDS
from harness.domain.record import AuditFinding, RunResult, Verdict
from harness.report.layout import indented, one_line, seconds, table, visible

ROW_HEADING = ("guest", "mode", "verdict", "expected", "exits", "virtual time")
NUMBERS = frozenset({4, 5})
# What the columns behind guest and mode need in most runs.
ROOM = ("success", "yes", "1234567", "123.456 ms")


def one(result: RunResult) -> str:
    """One guest in one mode: console, verdict, counts, audit findings, differences. No newline at its end."""
    return "\n".join([*console(result), verdict_line(result), *details(result)])


def console(result: RunResult) -> list[str]:
    """What the guest wrote, line by line; nothing when it wrote nothing."""
    return visible(result.console).rstrip("\n").split("\n") if result.console else []


def details(result: RunResult) -> list[str]:
    """The counts, the audit findings, and what is not as expected, each under a heading if there is any."""
    return [
        *_section(f"exits: {sum(result.exits.values())}", _counts(result.exits, KINDS)),
        *_section("hypercalls", _counts(result.hypercalls, {})),
        *_section("audit: sensitive instructions that did not trap", _findings(result.audit)),
        *_section("not as expected", visible("\n".join(result.differences)).split("\n") if result.differences else []),
    ]


def verdict_line(result: RunResult) -> str:
    """Guest, mode, verdict, reason, and a word when that is not what the guest's head expects."""
    surprise = "" if result.as_expected else " (not as expected)"
    reason = f": {one_line(result.reason)}" if result.reason else ""
    return f"{one_line(result.guest)} ({result.mode}): {result.verdict}{surprise}{reason}"


def rows(results: Sequence[RunResult], coming: Sequence[tuple[str, str]] = ()) -> list[str]:
    """A heading, and one line a result.

    coming: guest and mode of runs that are not done yet; their names make the columns wide enough for them, so that
    rows made one at a time still line up.
    """
    cells = [ROW_HEADING, *map(_row, results)]
    room = [(one_line(guest), mode, *ROOM) for guest, mode in coming]
    return table([*cells, *room], right=NUMBERS)[: len(cells)]


def _row(result: RunResult) -> tuple[str, ...]:
    return (
        one_line(result.guest),
        result.mode,
        result.verdict.value,
        "yes" if result.as_expected else "NO",
        f"{sum(result.exits.values())}",
        seconds(result.time_ns),
    )


def totals(results: Sequence[RunResult]) -> str:
    """How many runs, how many of each verdict, how many not as expected."""
    verdicts = Counter(result.verdict for result in results)
    told = ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in Verdict if verdicts[verdict])
    surprises = sum(not result.as_expected for result in results)
    ending = f"{surprises} not as expected" if surprises else "all as expected"
    return f"{len(results)} {'run' if len(results) == 1 else 'runs'}: {told or 'nothing ran'}; {ending}"


def _counts(counts: dict[str, int], meanings: dict[str, str]) -> list[str]:
    most_first = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    lines = [(f"{count}", one_line(name), meanings.get(name, "")) for name, count in most_first]
    return table(lines, right=frozenset({0})) if lines else []


def _findings(findings: Sequence[AuditFinding]) -> list[str]:
    if not findings:
        return []
    cells = [
        (f"r{finding.cpl} {finding.eip:08x}", finding.bytes.hex(), finding.text, finding.saw, finding.instead)
        for finding in findings
    ]
    shown = [tuple(map(one_line, row)) for row in cells]
    return table([("at", "bytes", "instruction", "what it saw or lost", "use instead"), *shown])


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [title, *indented(lines)] if lines else []
