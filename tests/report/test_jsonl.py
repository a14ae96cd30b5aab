import json
from dataclasses import replace

import pytest

from harness.report import jsonl
from tests.report.records import CLTS, CRASHED, GOOD, HYPERCALL

EXIT_KEYS = "type guest mode n kind eip cpl bytes text raised action result notes time_ns"
END_KEYS = "type guest mode verdict reason as_expected console exits hypercalls registers audit differences time_ns"


def test_the_keys_of_an_exit_and_their_order():
    assert " ".join(json.loads(jsonl.exit_line("clts", "pv", CLTS))) == EXIT_KEYS


def test_the_keys_of_an_end_and_their_order():
    assert " ".join(json.loads(jsonl.end_line(GOOD))) == END_KEYS


def test_addresses_are_numbers_and_bytes_are_hex():
    fields = json.loads(jsonl.exit_line("clts", "pv", CLTS))
    assert (fields["eip"], fields["bytes"]) == (0x100012, "0f06")


def test_what_was_written_is_read_back():
    told = [jsonl.exit_line("clts", "pv", CLTS), jsonl.exit_line("clts", "pv", HYPERCALL), jsonl.end_line(GOOD)]
    exits = [jsonl.ExitOf("clts", "pv", CLTS), jsonl.ExitOf("clts", "pv", HYPERCALL)]
    assert list(jsonl.read(told)) == [*exits, GOOD]


def test_a_crash_report_is_not_in_the_schema():
    assert list(jsonl.read([jsonl.end_line(CRASHED)])) == [replace(CRASHED, crash=None)]


def test_counts_are_in_order_whatever_order_they_came_in():
    turned = replace(GOOD, hypercalls=dict(reversed(GOOD.hypercalls.items())))
    assert jsonl.end_line(turned) == jsonl.end_line(GOOD)


def test_a_line_is_one_line_of_ascii():
    line = jsonl.end_line(replace(GOOD, console="\x1b[2J\n\u202e\ud800"))
    assert line.isascii()
    assert line.count("\n") == 1
    assert "\x1b" not in line


@pytest.mark.parametrize("line", ["", "[]", "{}", '{"type": "other"}', '{"type": "exit"}', "not json"])
def test_another_line_is_refused_by_its_number(line):
    with pytest.raises(ValueError, match="line 2"):
        list(jsonl.read([jsonl.end_line(GOOD), line]))
