from dataclasses import replace

import pytest

from harness.report import crash
from tests.report.records import CRASHED, GOOD, IMAGE

REPORT = CRASHED.crash
assert REPORT is not None


def section(text: str, title: str) -> list[str]:
    lines = text.split("\n")
    start = next(at for at, line in enumerate(lines) if line.startswith(title)) + 1
    end = next((at for at, line in enumerate(lines) if at >= start and not line.startswith("  ")), len(lines))
    return [line[2:] for line in lines[start:end]]


def test_the_first_line_is_the_reason():
    assert crash.report(CRASHED).startswith("clts (pv) as it stood at its crash: no handler for #GP(0)\n")


def test_without_a_report_only_the_reason():
    assert crash.report(replace(CRASHED, crash=None)) == "clts (pv) as it stood at its crash: no handler for #GP(0)"


def test_registers_four_a_line():
    assert section(crash.report(CRASHED, IMAGE), "registers") == [
        "eax    00000001   ebx    00000002   ecx    00000003   edx    00000004",
        "esp    00102000   eip    00100012",
    ]


def test_code_in_the_guests_own_lines():
    assert section(crash.report(CRASHED, IMAGE), "code") == [
        "    00100010  89d8  mov eax, ebx  ; clts.asm:10",
        "->  00100012  0f06  clts            ; traps  ; clts.asm:11",
        "    00100014  cd82  int 0x82  ; clts.asm:12",
    ]


def test_bytes_are_those_in_memory_not_those_assembled():
    overwritten = replace(CRASHED, crash=replace(REPORT, code=b"\x90\x90\x0f\x0b\xcd\x82"))
    assert "->  00100012  0f0b  clts" in crash.report(overwritten, IMAGE)


def test_stack_with_symbols():
    assert section(crash.report(CRASHED, IMAGE), "stack") == [
        "00102000  00100014  fault+0x4",
        "00102004  deadbeef",
    ]


def test_last_exits_are_trace_lines():
    lines = section(crash.report(CRASHED, IMAGE), "last exits")
    assert "fault+0x2" in lines[1]
    assert "emulate_clts" in lines[1]
    assert lines[2].endswith("eax = 0")


def test_without_source_the_code_is_decoded_from_where_it_meets_eip():
    # The window opens in the middle of an instruction: its first byte belongs to none that would meet EIP.
    report = replace(REPORT, code_address=0x10000F, code=b"\xb8\x89\xd8\x0f\x06\xcd\x82")
    lines = section(crash.report(replace(CRASHED, crash=report)), "code")
    assert [line.split()[:2] for line in lines] == [["00100010", "89d8"], ["->", "00100012"], ["00100014", "cd82"]]


def test_code_that_does_not_decode_leaves_the_rest_of_the_report():
    report = replace(REPORT, code=b"\xff" * 6)
    assert "stack\n" in crash.report(replace(CRASHED, crash=report))


def test_eip_outside_of_what_could_be_read():
    nowhere = replace(REPORT, registers=REPORT.registers | {"eip": 0xDEAD0000}, code=b"", code_address=0xDEAD0000)
    assert "code\n" not in crash.report(replace(CRASHED, crash=nowhere), IMAGE)


@pytest.mark.parametrize("image", [None, IMAGE])
def test_nothing_of_the_guests_drives_the_terminal(image):
    assert "\x1b" not in crash.report(replace(CRASHED, guest="\x1b[2J", reason="\x1b[2J"), image)


def test_a_run_that_did_not_crash_has_no_report():
    assert crash.report(GOOD).count("\n") == 0


def test_the_instructions_of_one_macro_call_are_told_apart():
    called = [replace(line, line=10, text="greet") for line in IMAGE.lines]
    lines = section(crash.report(CRASHED, replace(IMAGE, lines=tuple(called))), "code")
    assert lines[0].endswith("mov eax, ebx  ; greet  ; clts.asm:10")
    assert lines[1].endswith("clts  ; greet  ; clts.asm:10")
