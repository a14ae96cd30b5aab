"""What `harness explain` says, and that it says what the hypervisor's own tables say."""

from __future__ import annotations

import dataclasses
import re

import pytest
from click.testing import CliRunner

from harness.abi.instructions import ROWS, Row
from harness.cli import commands, main
from harness.explain import INNOCUOUS, explain
from harness.pv import emulate, silent


def fields(question: str) -> dict[str, str]:
    """The one block of an explanation, by what stands to the left."""
    lines = explain(question).splitlines()
    width = next(match.end() for line in lines if (match := re.match(r"  class +", line)))
    return {line[:width].strip(): line[width:].strip() for line in lines[1:] if line[:width].strip()}


# -- One of each class, by the sources: SDM 2 and 3, xen/arch/x86/traps.c


def test_clts_is_privileged_and_emulated_for_the_kernel_only():
    said = fields("clts")
    assert said["class"] == "privileged"
    assert said["encodings"] == "0F 06"
    assert said["ring 0"] == "executes"
    assert said["ring 1"] == said["ring 3"] == "#GP(0)"
    assert "emulate_clts" in said["Xen 3.0, ring 1"]
    assert "bounced" in said["Xen 3.0, ring 3"]
    assert said["VT-x"].startswith("exit 28 ")
    assert "0x10" in said["SVM"]
    assert "fpu_taskswitch" in said["ported kernel"]


def test_hlt_is_never_emulated_by_xen_but_blocks_under_the_full_policy():
    said = fields("hlt")
    assert "bounced" in said["Xen 3.0"]
    assert "full_hlt" in said["--policy full, ring 1"]
    assert "bounced" in said["--policy full, ring 3"]
    assert said["VT-x"] == "exit 12 (HLT): HLT exiting (P1.7)"
    assert said["ported kernel"] == "sched_op(block)"


def test_popf_is_silent():
    said = fields("popf")
    assert "3B" in said["class"]
    assert "without a fault" in said["ring 1, IOPL 0"]
    assert "IF is loaded" in said["ring 1, IOPL 1"]
    assert "silent" in said["Xen 3.0"]
    assert "full_popf" in said["--policy full"]
    assert said["VT-x"] == "no exit"
    assert "0x71" in said["SVM"]
    assert said["ported kernel"] == silent.TABLE["popf"].instead


def test_in_is_iopl_sensitive():
    blocks = explain("in").split("\n\n")
    assert [block.splitlines()[0] for block in blocks] == ["in al/ax/eax, imm8", "in al/ax/eax, dx"]
    said = fields("in al, dx")
    assert said["ring 1, IOPL 1"] == "executes"
    assert said["ring 1, IOPL 0"].startswith("#GP(0)")
    assert "emulate_io" in said["Xen 3.0"]
    assert said["VT-x"].startswith("exit 30 ")


def test_int_0x82_is_a_hypercall_from_ring_1_alone():
    said = fields("int 0x82")
    assert said["Xen 3.0, ring 1"].startswith("a hypercall")
    assert "#GP(0x412)" in said["Xen 3.0, ring 3"]
    assert "handler of vector 0x82" in said["Xen 3.0, ring 3"]


def test_int_0x80_goes_straight_to_the_kernel_and_int3_asks_no_dpl():
    assert fields("cd80")["Xen 3.0"].startswith("straight to the guest's handler")
    assert fields("int3")["Xen 3.0"] == "bounced to the guest's handler of vector 0x03"


def test_sysenter_faults_where_its_msr_is_0():
    said = fields("sysenter")
    assert said["or"].startswith("#GP(0)")
    assert said["Xen 3.0"] == "#GP(0), bounced to the guest's handler"


def test_cpuid_and_vmcall_are_their_own_classes():
    assert "do_cpuid" in fields("cpuid")["Xen 3.0"]
    assert fields("cpuid")["VT-x"] == "exit 10 (CPUID): always"
    assert "\n  class           VMX\n" in explain("vmcall")
    assert "exit 18 (VMCALL)" in explain("vmcall")


def test_a_move_of_ss_is_corrected_where_one_of_ds_is_not():
    assert "corrected by full_pop_seg" in fields("pop ss")["--policy full, ring 1"]
    assert "left to the CPU" in fields("pop ds")["--policy full"]


# -- The same tables that the code runs on


def test_a_row_taken_from_the_table_is_missing_here(monkeypatch):
    monkeypatch.delitem(emulate.TABLE, 0x0F06)
    assert "bounced" in fields("clts")["Xen 3.0"]


def test_a_row_put_into_the_table_shows_here(monkeypatch):
    def emulate_hlt(_vcpu, _instruction):
        raise AssertionError("never run")

    monkeypatch.setitem(emulate.TABLE, 0xF4, emulate.Row(emulate_hlt, kernel_only=False))
    assert "emulate_hlt" in fields("hlt")["Xen 3.0"]


def test_a_silent_row_without_a_correction_is_left_alone_here(monkeypatch):
    monkeypatch.setitem(silent.TABLE, "sgdt", dataclasses.replace(silent.TABLE["sgdt"], full=None))
    assert "left to the CPU" in fields("sgdt")["Xen 3.0"]
    assert fields("sgdt")["--policy full"] == "the same"


@pytest.mark.parametrize("row", [pytest.param(row, id=row.id) for row in ROWS])
def test_every_row_can_be_explained(row: Row):
    text = explain(row.sample.hex() if row.sample else row.mnemonic)
    assert str(row.category) in text
    assert row.virtual in text


# -- What may be asked


@pytest.mark.parametrize(("one", "other"), [
    ("0f06", "0x0f06"), ("0F 06", "0f06"), ("CLTS", "clts"), ("mov cr0,eax", "mov cr0, eax"), ("pushfd", "pushf"),
    ("mov eax, cr0", "0f20c0"), ("f4", "hlt"),
])  # fmt: skip
def test_spellings_of_one_question(one, other):
    assert explain(one) == explain(other)


def test_a_mnemonic_of_many_forms_is_a_list_of_them():
    lines = explain("mov").splitlines()
    assert len(lines) == 3 + sum(row.mnemonic == "mov" for row in ROWS)
    assert lines[-1] == "Say which, such as: mov eax, cs"
    assert explain("mov cr0").count("\n\n") == 1


@pytest.mark.parametrize("question", ["nop", "add", "add eax, 1", "90"])
def test_innocuous(question):
    assert INNOCUOUS in explain(question)


@pytest.mark.parametrize("question", ["f0fa", "f0 0f 06", "ffff"])
def test_what_silicon_refuses_is_an_answer_too(question):
    assert "#UD in every ring" in explain(question)


@pytest.mark.parametrize(("question", "words"), [
    ("clst", "close: clts"), ("zzzz", "no instruction 'zzzz'"), ("mov foo", "no form of mov"),
    ("9a00", "ends within an instruction"), ("90cd82", "more than one instruction"), ("", "no instruction"),
])  # fmt: skip
def test_what_is_no_instruction_is_one_line_and_status_2(question, words, capsys):
    assert main(["explain", question]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1


def test_the_command_takes_words():
    result = CliRunner().invoke(commands, ["explain", "mov", "cr0,", "eax"])
    assert result.exit_code == 0
    assert "emulate_write_cr" in result.output


@pytest.mark.parametrize("question", ["fadd", "fxsave", "movaps xmm0, xmm1", "0f6fc1", "d8c1"])
def test_what_ts_holds_back_is_told_of_ts(question):
    """SDM 3, section 2.5: with CR0.TS set x87, MMX and SSE instructions raise #NM."""
    assert "CR0.TS" in explain(question)


@pytest.mark.parametrize(("question", "exits"), [("rdrand", "exit 57 (RDRAND)"), ("rdseed", "exit 61 (RDSEED)")])
def test_random_numbers_can_exit(question, exits):
    assert exits in explain(question)
