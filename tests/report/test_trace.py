from dataclasses import replace

from harness.report import trace
from tests.report.records import CLTS, HYPERCALL


def test_a_line_says_where_what_and_what_came_of_it():
    assert trace.line(CLTS) == (
        "     7 r1 00100012 0f06         clts                   #GP(0)     emulate_clts       retired: TS 1 -> 0"
    )


def test_the_heading_stands_over_the_columns():
    heading, line = trace.heading(), trace.line(CLTS)
    for name, cell in (("bytes", "0f06"), ("raised", "#GP(0)"), ("action", "emulate"), ("result", "retired")):
        assert heading.index(name) == line.index(cell)


def test_a_symbol_has_a_column_of_its_own():
    line, heading = trace.line(CLTS, "start+0x12"), trace.heading(symbols=True)
    assert heading.index("symbol") == line.index("start+0x12")
    assert heading.index("result") == line.index("retired")


def test_it_stays_within_120_columns():
    longest = replace(CLTS, n=999_999, text="mov dword ptr [ebp - 8]", bytes=bytes(6), result="x" * 35)
    assert len(trace.line(longest)) <= 120


def test_notes_stand_behind_the_result():
    assert trace.line(replace(CLTS, result="retired", notes=("TS 1 -> 0", "twice"))).endswith(
        "emulate_clts       retired: TS 1 -> 0; twice"
    )
    assert trace.line(replace(CLTS, result="", notes=("only this",))).endswith("emulate_clts       only this")


def test_notes_without_room_take_lines_of_their_own():
    first, *notes = trace.line(replace(CLTS, notes=("x" * 30, "y"))).split("\n")
    assert first == trace.line(CLTS)
    assert [note.strip() for note in notes] == ["- " + "x" * 30, "- y"]


def test_notes_cannot_drive_the_terminal():
    assert trace.line(HYPERCALL).endswith("eax = 0: wrote 6 bytes; \\x1b[2J")


def test_a_long_instruction_moves_only_what_it_must():
    line = trace.line(replace(CLTS, text="mov dword ptr fs:[eax + ebx]"))
    assert line.index("retired") == trace.line(CLTS).index("retired")
