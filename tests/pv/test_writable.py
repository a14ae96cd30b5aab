"""Page-table writes that Xen completes (vm_assist 2): each store that compilers use, and every refusal."""

from __future__ import annotations

import pytest

from harness.abi import xen
from harness.abi.x86 import (
    AF,
    ARITHMETIC_FLAGS,
    CF,
    DF,
    OF,
    PF,
    PFEC_P,
    PFEC_U,
    PFEC_W,
    PTE_A,
    PTE_P,
    PTE_RW,
    SF,
    ZF,
    Gpr,
    Seg,
    Vector,
)
from harness.abi.xen import Hypercall
from harness.domain.outcome import RETIRE, Inject, Outcome
from harness.domain.registers import SegmentCache
from tests.pv.stage import DATA, SPARE, Stage

WRITE = PFEC_P | PFEC_W
MOV = "890b"  # mov [ebx], ecx


def window(stage: Stage, linear: int = SPARE) -> int:
    """Where the guest sees the L1 entry of a page."""
    entry = stage.entry_at(linear)
    pfn = stage.frames.mfn(0) - (entry >> 12)
    assert stage.mfn(pfn << 12) == entry >> 12
    return pfn << 12 | entry & 0xFFF


@pytest.fixture
def assisted(stage: Stage) -> Stage:
    """A domain that asked for writable page tables, EBX at the entry of SPARE."""
    assert stage.call(Hypercall.vm_assist, 0, xen.VmAssist.writable_pagetables) == 0
    stage.regs.gpr[Gpr.EBX] = window(stage)
    return stage


def write(stage: Stage, code: str, linear: int | None = None, error_code: int = WRITE) -> Outcome:
    address = stage.regs.gpr[Gpr.EBX] if linear is None else linear
    return stage.fault(Vector.PF, error_code, address, bytes.fromhex(code))


def refused(stage: Stage, code: str, linear: int | None = None, error_code: int = WRITE) -> bool:
    """The fault is the guest's, and nothing has changed."""
    address = stage.regs.gpr[Gpr.EBX] if linear is None else linear
    before = list(stage.regs.gpr), stage.regs.eflags, bytes(stage.ram.buffer)
    code_at = stage.maddr(stage.regs.eip)
    outcome = write(stage, code, linear, error_code)
    now = bytearray(stage.ram.buffer)
    now[code_at : code_at + len(code) // 2] = before[2][code_at : code_at + len(code) // 2]
    assert (list(stage.regs.gpr), stage.regs.eflags) == before[:2]
    assert now == before[2]
    return outcome == Inject(Vector.PF, error_code, address)


def put(stage: Stage, value: int) -> int:
    """Let the entry hold a value that maps nothing; where it is."""
    at = stage.entry_at(SPARE)
    if value & PTE_P == 0:
        assert stage.map(SPARE, 0) == 0
    stage.ram.set_u32(at, value)
    return at


# -- What is stored

OLD, OPERAND = 0xC0F0A5F0, 0x8123F00C


@pytest.mark.parametrize(("code", "expected"), [
    ("890b", OPERAND), ("c70310325476", 0x76543210), ("870b", OPERAND), ("090b", OLD | OPERAND),
    ("210b", OLD & OPERAND), ("310b", OLD ^ OPERAND), ("810b10325476", OLD | 0x76543210),
    ("812310325476", OLD & 0x76543210), ("813310325476", OLD ^ 0x76543210), ("830b0e", OLD | 0xE),
    ("810b80000000", OLD | 0x80), ("8323f0", OLD & 0xFFFFFFF0),
    ("8333f0", OLD ^ 0xFFFFFFF0), ("0fba2b03", OLD | 8), ("0fba2b23", OLD | 8), ("0fba330f", OLD & ~0x8000),
    ("0fba332f", OLD & ~0x8000),
    ("f0090b", OLD | OPERAND), ("f0870b", OPERAND), ("3e890b", OPERAND)])
def test_stores(assisted: Stage, code: str, expected: int) -> None:
    at = put(assisted, OLD)
    assisted.regs.gpr[Gpr.ECX] = OPERAND
    assert write(assisted, code) == RETIRE
    assert assisted.ram.u32(at) == expected
    assert assisted.vcpu.seen.handler.__name__ == "write_page_table"  # type: ignore[union-attr]


def test_a_direct_offset(assisted: Stage) -> None:
    at = put(assisted, OLD)
    assisted.regs.gpr[Gpr.EAX] = OPERAND
    assert write(assisted, "a3" + window(assisted).to_bytes(4, "little").hex()) == RETIRE
    assert assisted.ram.u32(at) == OPERAND


@pytest.mark.parametrize(("flags", "step"), [(0, 4), (DF, -4)])
def test_stosd(assisted: Stage, flags: int, step: int) -> None:
    at, gpr = put(assisted, OLD), assisted.regs.gpr
    gpr[Gpr.EAX], gpr[Gpr.EDI] = OPERAND, gpr[Gpr.EBX]
    assisted.regs.eflags |= flags
    assert write(assisted, "ab") == RETIRE
    assert (assisted.ram.u32(at), gpr[Gpr.EDI]) == (OPERAND, gpr[Gpr.EBX] + step)


def test_stosd_is_relative_to_es(assisted: Stage) -> None:
    at, gpr = put(assisted, OLD), assisted.regs.gpr
    assisted.regs.load_segment(Seg.ES, SegmentCache(0, 0x1000, 0xFFFFFFFF, 0xCFB300))
    gpr[Gpr.EAX], gpr[Gpr.EDI] = OPERAND, gpr[Gpr.EBX]
    assert refused(assisted, "ab"), "EDI alone is not the address"
    gpr[Gpr.EDI] -= 0x1000
    assert write(assisted, "ab") == RETIRE
    assert assisted.ram.u32(at) == OPERAND


def test_xchg_gives_the_old_entry(assisted: Stage) -> None:
    put(assisted, OLD)
    assisted.regs.gpr[Gpr.ECX] = OPERAND
    assert write(assisted, "870b") == RETIRE
    assert assisted.regs.gpr[Gpr.ECX] == OLD


# -- Flags (SDM 1, appendix A)


@pytest.mark.parametrize("before", [0, ARITHMETIC_FLAGS])
@pytest.mark.parametrize("code", ["890b", "c70300000000", "870b"])
def test_moves_change_no_flag(assisted: Stage, code: str, before: int) -> None:
    put(assisted, OLD)
    assisted.regs.eflags = 0x202 | before
    assert write(assisted, code) == RETIRE
    assert assisted.regs.eflags == 0x202 | before


@pytest.mark.parametrize("before", [0, ARITHMETIC_FLAGS & ~AF])
@pytest.mark.parametrize(("code", "old", "operand", "flags"), [
    ("090b", 0, 0, ZF | PF), ("090b", 0x80000000, 2, SF), ("090b", 0, 6, PF), ("210b", 6, 8, ZF | PF),
    ("210b", 0x102, 0x102, 0), ("310b", OLD, OLD, ZF | PF), ("310b", 0x80000000, 0x102, SF), ("8323fe", 2, 0, 0),
    ("832300", 2, 0, ZF | PF)])
def test_logic_clears_carry_and_overflow(
        assisted: Stage, code: str, old: int, operand: int, flags: int, before: int) -> None:
    put(assisted, old)
    assisted.regs.gpr[Gpr.ECX] = operand
    assisted.regs.eflags = 0x202 | before
    assert write(assisted, code) == RETIRE
    assert assisted.regs.eflags & ~AF == 0x202 | flags


@pytest.mark.parametrize("before", [0, CF])
@pytest.mark.parametrize(("code", "old", "carry"), [
    ("0fba2b03", 0, 0), ("0fba2b03", 8, CF), ("0fba3303", 0, 0), ("0fba3303", 8, CF), ("0fba2b1f", 1 << 31, CF)])
def test_bit_tests_leave_the_old_bit_in_carry(assisted: Stage, code: str, old: int, carry: int, before: int) -> None:
    put(assisted, old)
    assisted.regs.eflags = 0x202 | ZF | before
    assert write(assisted, code) == RETIRE
    assert assisted.regs.eflags == 0x202 | ZF | carry


@pytest.mark.parametrize("before", [0, ARITHMETIC_FLAGS])
@pytest.mark.parametrize(("eax", "old", "flags"), [
    (OLD, OLD, ZF | PF), (0, 0, ZF | PF), (6, 4, 0), (7, 4, PF), (4, 6, CF | AF | SF), (0x10, 2, AF),
    (0x7FFFFFFE, 0xFFFFFFFE, CF | OF | SF | PF), (0x80000000, 2, OF | AF), (0x80000000, 0x7FFFFFFE, OF | AF),
    (0, 0xFFFFFFFE, CF | AF)])
def test_compare_and_exchange(assisted: Stage, eax: int, old: int, flags: int, before: int) -> None:
    """The flags are those of EAX minus the entry; EAX takes the entry if they differ (SDM 2, CMPXCHG)."""
    at, gpr = put(assisted, old), assisted.regs.gpr
    gpr[Gpr.EAX], gpr[Gpr.ECX] = eax, OPERAND
    assisted.regs.eflags = 0x202 | before
    assert write(assisted, "f00fb10b") == RETIRE
    assert assisted.ram.u32(at) == (OPERAND if eax == old else old)
    assert gpr[Gpr.EAX] == old
    assert assisted.regs.eflags == 0x202 | flags


# -- Entries that map something


def test_a_good_entry_is_counted(assisted: Stage) -> None:
    """The frame that it maps cannot become a table while it is mapped writable."""
    mfn = assisted.mfn(SPARE)
    used = assisted.pages.count[mfn]
    assisted.regs.gpr[Gpr.ECX] = 0
    assert write(assisted, MOV) == RETIRE
    assert assisted.pages.count[mfn] == used - 1
    assisted.regs.gpr[Gpr.ECX] = mfn << 12 | PTE_P | PTE_A | PTE_RW
    assert write(assisted, MOV) == RETIRE
    assert assisted.pages.count[mfn] == used
    assert assisted.mfn(SPARE) == mfn


@pytest.mark.parametrize("what", ["xen", "table", "beyond"])
@pytest.mark.parametrize("code", ["890b", "870b", "090b", "f00fb10b", "ab"])
def test_a_bad_entry_is_the_guests_fault(assisted: Stage, what: str, code: str) -> None:
    put(assisted, 0)
    gpr = assisted.regs.gpr
    table = assisted.entry_at(SPARE) >> 12
    frame = {"xen": 1, "table": table, "beyond": 0xFFFFF}[what]
    gpr[Gpr.ECX] = frame << 12 | PTE_P | PTE_RW
    if code == "ab":
        gpr[Gpr.EAX], gpr[Gpr.EDI] = gpr[Gpr.ECX], gpr[Gpr.EBX]
    assert refused(assisted, code)


# -- Refusals


@pytest.mark.parametrize("code", [
    "880b", "66890b", "66c7030000", "66ab", "010b", "110b", "190b", "290b", "ff03", "f713", "8303f0", "8313f0",
    "832bf0", "0fba3b03", "0fab0b", "0fc10b", "8f03", "c1e00c", "90", "0fb00b", "f3ab", "f2ab", "8c1b"])
def test_other_instructions_are_the_guests_fault(assisted: Stage, code: str) -> None:
    """Other sizes, arithmetic, repeated stores, an instruction that stores nothing."""
    put(assisted, OLD)
    assisted.regs.gpr[Gpr.EDI] = assisted.regs.gpr[Gpr.EBX]
    assert refused(assisted, code)


def test_a_store_elsewhere(assisted: Stage) -> None:
    """The address of the fault must be the instruction's own."""
    assert refused(assisted, "894b04"), "[ebx+4]"
    assert refused(assisted, "89c8"), "a register"


@pytest.mark.parametrize("offset", [1, 2, 3])
def test_a_store_that_is_not_aligned(assisted: Stage, offset: int) -> None:
    assisted.regs.gpr[Gpr.EBX] += offset
    assert refused(assisted, MOV)


def test_a_directory_is_not_completed(assisted: Stage) -> None:
    """Xen leaves L2 tables to mmu_update."""
    root = assisted.state.guest_table
    linear = assisted.frames.mfn(0) - root << 12
    assert assisted.mfn(linear) == root
    assisted.regs.gpr[Gpr.EBX] = linear
    assert refused(assisted, MOV)


def test_an_ordinary_page_is_not_completed(assisted: Stage) -> None:
    assisted.read_only(DATA)
    assisted.regs.gpr[Gpr.EBX] = DATA
    assert refused(assisted, MOV)


@pytest.mark.parametrize("frame", [1, 0xFFFFF])
def test_a_frame_that_is_not_the_guests_is_not_completed(assisted: Stage, frame: int) -> None:
    """Xen's, or beyond memory, however its entry got there."""
    assisted.ram.set_u32(assisted.entry_at(DATA), frame << 12 | PTE_P)
    assisted.vcpu.linear.flush()
    assisted.regs.gpr[Gpr.EBX] = DATA
    assert refused(assisted, MOV)


def test_a_table_that_is_in_use_no_more_is_not_completed(assisted: Stage) -> None:
    """Its type is remembered until the frame gets another one; its count is 0."""
    mfn = assisted.read_only(DATA)
    assisted.put(DATA, bytes(4096))
    assert assisted.pages.get_type(mfn, assisted.pages.type[assisted.entry_at(SPARE) >> 12])
    assisted.regs.gpr[Gpr.EBX], assisted.regs.gpr[Gpr.ECX] = DATA, 0x10
    assert write(assisted, MOV) == RETIRE
    assisted.pages.put_type(mfn)
    assert refused(assisted, MOV)


@pytest.mark.parametrize("error_code", [PFEC_P, PFEC_W, 0, WRITE | PFEC_U])
def test_other_faults_are_the_guests(assisted: Stage, error_code: int) -> None:
    assert refused(assisted, MOV, error_code=error_code)


def test_ring_3_is_not_helped(assisted: Stage) -> None:
    assisted.open_to_user(assisted.regs.eip & ~0xFFF)
    assisted.enter(3)
    assert refused(assisted, MOV)


def test_nobody_is_helped_who_did_not_ask(stage: Stage) -> None:
    stage.regs.gpr[Gpr.EBX] = window(stage)
    assert refused(stage, MOV)


def test_what_is_said_of_it(assisted: Stage) -> None:
    put(assisted, 0)
    assisted.vcpu.listening = True
    assisted.regs.gpr[Gpr.ECX] = 0x10
    assert write(assisted, MOV) == RETIRE
    assert assisted.vcpu.seen.notes == [f"entry at {window(assisted):#010x}: 0x00000000 -> 0x00000010"]
