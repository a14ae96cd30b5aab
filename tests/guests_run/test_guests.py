"""Every shipped guest, in every mode of its head, against what its head declares."""

from __future__ import annotations

import pytest

from harness.guest import load, shipped_guests
from harness.hypervisor import MODES, Domain, run
from harness.report import jsonl

GUESTS = shipped_guests()
CASES = [pytest.param(path, mode, id=f"{path.stem}-{mode}") for path in GUESTS for mode in load(path).modes]


def test_there_are_guests():
    assert len(GUESTS) >= 25


@pytest.mark.parametrize(("path", "mode"), CASES)
def test_guest_comes_to_what_its_head_declares(path, mode):
    if mode not in MODES:
        pytest.skip(f"mode {mode} is not there yet")
    result = run(load(path), mode=mode)
    assert result.as_expected, "\n".join((*result.differences, result.console))


def _records(path) -> list[str]:
    guest, lines = load(path), []
    domain = Domain(guest)
    domain.watch(lambda record: lines.append(jsonl.exit_line(guest.name, domain.mode, record)))
    try:
        lines.append(jsonl.end_line(domain.run()))
    finally:
        domain.machine.close()
    return lines


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in GUESTS])
def test_two_runs_give_the_same_records(path):
    first = _records(path)
    assert first == _records(path)
    assert len(first) > 1


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in GUESTS])
@pytest.mark.parametrize("audit", [False, True])
def test_each_exit_says_what_was_raised_and_who_dealt_with_it(path, audit):
    records = []
    run(load(path), audit=audit, on_exit=records.append)
    assert records
    assert [record for record in records if not (record.raised and record.action and record.result)] == []
