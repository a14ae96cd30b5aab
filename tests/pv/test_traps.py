"""Each exit goes to the one who deals with it (arch/x86/traps.c), by truth tables."""

from __future__ import annotations

import pytest

from harness.abi import xen
from harness.abi.x86 import (
    CR0_TS,
    DR6_BS,
    PFEC_P,
    PFEC_RSVD,
    PFEC_U,
    PFEC_W,
    PTE_A,
    PTE_P,
    VM,
    Gpr,
    Seg,
    Vector,
)
from harness.abi.xen import Errno, Hypercall, MmuExt
from harness.code.decoder import Instruction
from harness.domain.exits import Exit, Reason
from harness.domain.features import cpuid, pv_cpuid
from harness.domain.memory import PageFaultError
from harness.domain.outcome import NATIVE, RESUME, RETIRE, Crash, Inject, Outcome
from harness.domain.registers import SegmentCache
from harness.pv import traps
from harness.pv.pages import PageType
from tests.pv.stage import CODE, DATA, HANDLER, NOWHERE, PAGE, SPARE, Stage, descriptor

END = xen.HYPERVISOR_VIRT_START
GDT, LDT = xen.GDT_VIRT_START, xen.LDT_VIRT_START
BEFORE_PAGE = SPARE + 0x1000
"""The end of a page whose next one is taken away."""
GP0, UD = Inject(Vector.GP, 0), Inject(Vector.UD)
BAD = "f0c7c8"


def int_n(stage: Stage, vector: int, ring: int = 1, length: int = 2) -> Outcome:
    if ring == 3:
        stage.enter(3)
    return stage.exit(Reason.SOFTWARE_INT, vector=vector, length=length)


def at(stage: Stage, linear: int) -> None:
    stage.regs.eip = linear


def cut(stage: Stage, code: str) -> int:
    """Place an instruction's bytes so that nothing is mapped behind them; EIP is there."""
    data = bytes.fromhex(code)
    assert stage.map(BEFORE_PAGE, 0) == 0
    at(stage, stage.put(BEFORE_PAGE - len(data), data))
    return BEFORE_PAGE


# -- Software interrupts


def test_int_0x82_from_ring_1_is_a_hypercall(stage: Stage) -> None:
    stage.regs.gpr[Gpr.EAX], stage.regs.gpr[Gpr.EBX] = Hypercall.xen_version, 0
    assert int_n(stage, 0x82) == RESUME
    assert (stage.regs.gpr[Gpr.EAX], stage.regs.eip) == (0x00030000, CODE + 2)
    assert stage.vcpu.seen.kind == "hypercall"


@pytest.mark.parametrize("number", [11, 25, 63, 64, 0xFFFFFFFF])
def test_numbers_without_a_call(stage: Stage, number: int) -> None:
    stage.regs.gpr[Gpr.EAX] = number
    assert int_n(stage, 0x82) == RESUME
    assert stage.regs.gpr[Gpr.EAX] == 2**32 - Errno.ENOSYS


@pytest.mark.parametrize(("vector", "ring", "dpl", "given"), [
    (vector, ring, dpl, dpl >= ring)
    for vector in (0, 13, 0x21, 0x80, 0x82, 0xFF) for ring in (1, 3) for dpl in (0, 1, 2, 3)
    if (vector, ring) != (0x82, 1)])
def test_a_gate_opens_to_rings_that_its_dpl_names(stage: Stage, vector: int, ring: int, dpl: int, given: bool) -> None:
    """Xen's own gate is closed: #GP(n * 8 + 2), which is INT n for who may have it, and past the instruction."""
    stage.state.traps[vector].flags = dpl
    assert int_n(stage, vector, ring) == (
        Inject(vector, advance=2) if given else Inject(Vector.GP, vector * 8 + 2))
    assert stage.vcpu.seen.kind == "gp"


@pytest.mark.parametrize("ring", [1, 3])
@pytest.mark.parametrize("dpl", [0, 3])
@pytest.mark.parametrize(("vector", "length", "kind"), [(3, 1, "bp"), (3, 2, "bp"), (4, 1, "of"), (4, 2, "of")])
def test_breakpoint_and_overflow_are_for_everyone(
        stage: Stage, vector: int, length: int, kind: str, dpl: int, ring: int) -> None:
    """Xen's gates 3 and 4 have DPL 3, and the guest's DPL is not looked at. INT3 and INTO have one byte."""
    stage.state.traps[vector].flags = dpl
    assert int_n(stage, vector, ring, length) == Inject(vector, advance=length)
    assert stage.vcpu.seen.kind == kind


@pytest.mark.parametrize(("direct", "dpl", "ring", "through"), [
    (True, 3, 3, True), (True, 3, 1, True), (True, 1, 1, True), (True, 2, 3, False), (True, 0, 1, False),
    (False, 3, 3, False), (False, 3, 1, False)])
def test_int_0x80_goes_straight_to_the_kernel(
        stage: Stage, direct: bool, dpl: int, ring: int, through: bool) -> None:
    stage.handlers(0x80, flags=dpl)
    stage.state.direct_gate, stage.state.kernel_sp = direct, stage.regs.gpr[Gpr.ESP]
    outcome = int_n(stage, 0x80, ring)
    assert (outcome == RESUME, stage.vcpu.seen.kind) == ((True, "gate") if through else (False, "gp"))
    assert (stage.regs.eip == HANDLER + 16 * 0x80) == through


def test_a_gate_whose_stack_is_not_there_is_a_page_fault(stage: Stage) -> None:
    stage.handlers(0x80, flags=3)
    stage.state.direct_gate, stage.state.kernel_sp = True, NOWHERE + 0x100
    assert int_n(stage, 0x80, 3) == Inject(Vector.PF, PFEC_W, NOWHERE + 0x100 - 20)


@pytest.mark.parametrize(("vector", "raised"), [(0x82, "int 0x82"), (3, "int 0x03"), (0x21, "#GP(0x10a)")])
def test_a_trace_names_the_interrupt(stage: Stage, vector: int, raised: str) -> None:
    stage.vcpu.listening = True
    int_n(stage, vector)
    assert stage.vcpu.seen.raised == raised


# -- Exceptions


@pytest.mark.parametrize(("vector", "error_code"), [
    (Vector.DE, None), (Vector.BR, None), (Vector.MF, None), (Vector.XM, None), (Vector.BP, None), (Vector.OF, None),
    (Vector.TS, 0x18), (Vector.NP, 0x10), (Vector.SS, 0), (Vector.AC, 0), (Vector.GP, 0x28), (Vector.GP, 4)])
def test_exceptions_of_the_guest_alone(stage: Stage, vector: int, error_code: int | None) -> None:
    assert stage.fault(vector, error_code or 0) == Inject(vector, error_code)
    assert stage.vcpu.seen.kind == Vector(vector).name.lower()


@pytest.mark.parametrize(("vector", "kind"), [
    (2, "engine"), (15, "engine"), (20, "engine"), (31, "engine"), (255, "engine"), (8, "df"), (18, "mc")])
def test_what_no_guest_is_given_ends_it(stage: Stage, vector: int, kind: str) -> None:
    """NMI, double fault, machine check and what the manual reserves."""
    assert isinstance(stage.fault(vector), Crash)
    assert stage.vcpu.seen.kind == kind


@pytest.mark.parametrize(("vector", "error_code", "address", "raised"), [
    (Vector.DE, 0, 0, "#DE"), (Vector.NP, 0x10, 0, "#NP(0x10)"), (Vector.GP, 0x28, 0, "#GP(0x28)"),
    (Vector.PF, 2, 0x1234, "#PF(0x2) cr2 0x00001234"), (20, 0, 0, "#ENGINE")])
def test_a_trace_names_the_exception(stage: Stage, vector: int, error_code: int, address: int, raised: str) -> None:
    stage.vcpu.listening = True
    stage.fault(vector, error_code, address)
    assert stage.vcpu.seen.raised == raised


@pytest.mark.parametrize("virtual", [0, CR0_TS])
def test_the_first_use_of_the_fpu_is_xens_own_affair(stage: Stage, virtual: int) -> None:
    """#NM reaches the guest iff its own TS was set, which clears that."""
    stage.state.control[0] = virtual
    assert stage.fault(Vector.NM) == (Inject(Vector.NM) if virtual else RESUME)
    assert (stage.state.control[0], stage.regs.cr0 & CR0_TS, stage.state.fpu_dirtied) == (0, 0, True)


@pytest.mark.parametrize("length", [0, 1])
def test_debug_traps_show_dr6_and_int1_is_one(stage: Stage, length: int) -> None:
    stage.regs.set_debug(6, 0xFFFF0FF0 | DR6_BS)
    assert stage.exit(Reason.EXCEPTION, vector=Vector.DB, length=length) == Inject(Vector.DB, advance=length)
    assert stage.state.debug[6] == 0xFFFF0FF0 | DR6_BS


# -- #GP


@pytest.mark.parametrize("error_code", [1, 3, 9, 0x11])
def test_a_fault_from_outside_the_guest_ends_it(stage: Stage, error_code: int) -> None:
    assert isinstance(stage.fault(Vector.GP, error_code), Crash)


@pytest.mark.parametrize(("ring", "dpl", "outcome"), [
    (1, 0, Inject(Vector.GP, 0x10A)), (1, 1, Inject(0x21, advance=2)), (3, 1, Inject(Vector.GP, 0x10A)),
    (3, 3, Inject(0x21, advance=2))])
def test_an_error_code_of_the_idt_is_a_software_interrupt(
        stage: Stage, ring: int, dpl: int, outcome: Outcome) -> None:
    stage.state.traps[0x21].flags = dpl
    stage.enter(ring)
    assert stage.fault(Vector.GP, 0x21 * 8 + 2) == outcome


@pytest.mark.parametrize(("code", "ring", "outcome"), [
    ("0f06", 1, RETIRE), ("0f06", 3, GP0),  # clts
    ("f4", 1, GP0), ("0f01f0", 1, GP0),  # hlt, lmsw ax: not on Xen's list
    ("fa", 1, GP0),  # cli without IOPL
    (BAD, 1, GP0)])
def test_error_code_0_is_an_instruction_to_emulate(stage: Stage, code: str, ring: int, outcome: Outcome) -> None:
    stage.enter(ring)
    assert stage.fault(Vector.GP, code=bytes.fromhex(code)) == outcome
    assert stage.vcpu.seen.handler is not None


@pytest.mark.parametrize("ring", [1, 3])
def test_an_instruction_that_cannot_be_read_is_a_page_fault(stage: Stage, ring: int) -> None:
    at(stage, NOWHERE)
    stage.enter(ring)
    assert stage.fault(Vector.GP) == Inject(Vector.PF, 4 if ring == 3 else 0, NOWHERE)


@pytest.mark.parametrize("ring", [1, 3])
def test_an_instruction_that_ends_on_a_page_that_is_not_there(stage: Stage, ring: int) -> None:
    where = cut(stage, "0f")
    stage.enter(ring)
    assert stage.fault(Vector.GP) == Inject(Vector.PF, 4 if ring == 3 else 0, where)


def test_an_operand_that_is_not_there_is_a_page_fault_of_the_guests(full: Stage) -> None:
    """LGDT under the full policy: its operand is read on the guest's behalf."""
    assert full.gp("0f011500008000") == Inject(Vector.PF, 0, NOWHERE)


# -- Fetching


def fetched(stage: Stage, code: str = "") -> str:
    stage.put(stage.regs.eip, bytes.fromhex(code))
    found = traps.fetch(stage.vcpu)
    assert isinstance(found, Instruction)
    assert stage.vcpu.seen.instruction is found
    return found.mnemonic


def test_what_was_decoded_before_is_used_only_while_memory_holds_it(stage: Stage) -> None:
    assert fetched(stage, "0f06") == "clts"
    first = stage.vcpu.seen.instruction
    assert fetched(stage) == "clts"
    assert stage.vcpu.seen.instruction is first
    assert fetched(stage, "0f09") == "wbinvd"


def test_a_page_that_goes_away_under_an_instruction_decoded_before(stage: Stage) -> None:
    at(stage, BEFORE_PAGE - 1)
    assert fetched(stage, "0f06") == "clts"
    assert stage.map(BEFORE_PAGE, 0) == 0
    assert traps.fetch(stage.vcpu) == Inject(Vector.PF, 0, BEFORE_PAGE)


def test_a_short_instruction_may_be_the_last_of_its_page(stage: Stage) -> None:
    """Whatever longer one was there before."""
    at(stage, BEFORE_PAGE - 1)
    assert fetched(stage, "0f06") == "clts"
    cut(stage, "fa")
    assert fetched(stage) == "cli"


@pytest.mark.parametrize("eip", [CODE - 0x10000, 0x100])
def test_the_code_segments_base_counts(stage: Stage, eip: int) -> None:
    stage.put(CODE + 0x100, b"\x0f\x06")
    code = SegmentCache(xen.FLAT_RING1_CS, CODE + 0x100 - eip & 0xFFFFFFFF, 0xFFFFFFFF, 0xC0BB00)
    stage.regs.enter(code, eip, stage.regs.segment(Seg.SS), 0, 2)
    assert fetched_here(stage) == "clts"


def fetched_here(stage: Stage) -> str:
    found = traps.fetch(stage.vcpu)
    assert isinstance(found, Instruction)
    return found.mnemonic


@pytest.mark.parametrize(("ring", "code", "expected"), [
    (1, 0, 0), (1, PFEC_P | PFEC_W, 3), (3, 0, 4), (3, PFEC_P | PFEC_W, 7)])
def test_a_fault_of_the_hypervisors_is_the_guests(stage: Stage, ring: int, code: int, expected: int) -> None:
    stage.enter(ring)
    assert traps.page_fault_of(stage.vcpu, PageFaultError(0x1234, code)) == Inject(Vector.PF, expected, 0x1234)


# -- #PF


@pytest.mark.parametrize("ring", [1, 3])
@pytest.mark.parametrize("error_code", [0, 1, 2, 3, 4, 5, 6, 7, 0x15])
@pytest.mark.parametrize("linear", [0, NOWHERE, END - 1, END, xen.GUEST_SEGMENT_MAX - 1])
def test_page_faults_below_the_guests_limit_are_the_guests(
        stage: Stage, ring: int, error_code: int, linear: int) -> None:
    """It can read the table of machine frames, and gets a fault for what it writes there."""
    stage.enter(ring)
    assert stage.fault(Vector.PF, error_code, linear) == Inject(Vector.PF, error_code, linear)


@pytest.mark.parametrize("linear", [NOWHERE, xen.GUEST_SEGMENT_MAX, LDT])
@pytest.mark.parametrize("others", [0, PFEC_P, PFEC_P | PFEC_W | PFEC_U])
def test_reserved_bits_are_xens_own_mistake(stage: Stage, linear: int, others: int) -> None:
    assert isinstance(stage.fault(Vector.PF, PFEC_RSVD | others, linear), Crash)


@pytest.mark.parametrize(("linear", "error_code", "outcome"), [
    (GDT, 0, Inject(Vector.GP, 0)),
    (GDT + 0x1234, 0, Inject(Vector.GP, 0x1230)),
    (GDT + 0x1237, PFEC_U, Inject(Vector.GP, 0x1230)),
    (GDT + 0xDFFF, PFEC_P, Inject(Vector.GP, 0xDFF8)),
    (GDT + 0xE000, 0, GP0),  # Xen's own page: beyond the segments
    (GDT + 0x1234, PFEC_W, GP0),
    (GDT - 1, 0, GP0),
    (LDT, 0, Inject(Vector.PF, 0, 0x5000)),  # there is no such entry
    (LDT + 0xFFFF, PFEC_U, Inject(Vector.PF, PFEC_U, 0x14FFF)),
    (LDT + 0x10000, 0, GP0),
    (LDT + 8, PFEC_P, GP0),  # mapped: an access of the guest's own
    (xen.GUEST_SEGMENT_MAX, 0, GP0),
    (xen.GUEST_SEGMENT_MAX, PFEC_W | PFEC_P, GP0),
    (0xFFFFFFFF, PFEC_U, GP0)])
def test_faults_in_xens_part(stage: Stage, linear: int, error_code: int, outcome: Outcome) -> None:
    """The CPU's look at a descriptor of the guest's, or an access that segment limits stop on silicon."""
    stage.state.ldt_base = 0x5000
    assert stage.fault(Vector.PF, error_code, linear) == outcome


def test_the_address_of_an_ldt_entry_wraps(stage: Stage) -> None:
    stage.state.ldt_base = 0xFFFFF000
    assert stage.fault(Vector.PF, 0, LDT + 0x2008) == Inject(Vector.PF, 0, 0x1008)


@pytest.mark.parametrize(("first", "outcome"), [
    (descriptor(0, 0xFFFFF, 0xB2), RESUME),
    (descriptor(0, 0xFFFFF, 0x92), Inject(Vector.PF, 0, SPARE + 8))])  # of ring 0: never the guest's
def test_an_ldt_page_is_shown_to_the_cpu_when_it_is_first_needed(
        stage: Stage, first: int, outcome: Outcome) -> None:
    stage.put(SPARE, first.to_bytes(8, "little"))
    frame = stage.read_only(SPARE)
    stage.words(DATA, MmuExt.set_ldt, SPARE, 512)
    assert stage.call(Hypercall.mmuext_op, DATA, 1, 0, xen.DOMID_SELF) == 0
    assert stage.fault(Vector.PF, 0, LDT + 8) == outcome
    shown = stage.vcpu.linear.entry(LDT)[0]
    assert shown >> 12 == (frame if outcome == RESUME else 0)
    assert (stage.pages.type[frame] == PageType.LDT) == (outcome == RESUME)


@pytest.mark.parametrize(("assist", "ring", "error_code", "code", "done"), [
    (True, 1, 3, "8903", True),  # mov [ebx], eax
    (False, 1, 3, "8903", False),
    (True, 3, 3, "8903", False),
    (True, 1, 2, "8903", False),
    (True, 1, 1, "8903", False),
    (True, 1, 7, "8903", False),
    (True, 1, 3, "8803", False),  # mov [ebx], al
    (True, 1, 3, BAD, False)])
def test_page_tables_are_written_for_a_guest_that_asked(
        stage: Stage, assist: bool, ring: int, error_code: int, code: str, done: bool) -> None:
    """vm_assist type 2: a write of the kernel's to a page that is there and read-only."""
    if assist:
        assert stage.call(Hypercall.vm_assist, xen.VmAssistCmd.enable, xen.VmAssist.writable_pagetables) == 0
    stage.words(SPARE, stage.mfn(DATA) << 12 | PAGE)
    table = stage.read_only(SPARE)
    stage.words(DATA, MmuExt.pin_l1_table, table, 0)
    assert stage.call(Hypercall.mmuext_op, DATA, 1, 0, xen.DOMID_SELF) == 0
    stage.enter(ring)
    stage.regs.gpr[Gpr.EBX], stage.regs.gpr[Gpr.EAX] = SPARE, stage.mfn(DATA) << 12 | PTE_P | PTE_A
    outcome = stage.fault(Vector.PF, error_code, SPARE, bytes.fromhex(code))
    assert outcome == (RETIRE if done else Inject(Vector.PF, error_code, SPARE))
    assert stage.get_words(SPARE, 1) == (stage.mfn(DATA) << 12 | (PTE_P | PTE_A if done else PAGE),)


def test_a_write_by_an_instruction_that_is_not_there_is_the_guests_fault(stage: Stage) -> None:
    assert stage.call(Hypercall.vm_assist, xen.VmAssistCmd.enable, xen.VmAssist.writable_pagetables) == 0
    at(stage, NOWHERE)
    assert stage.fault(Vector.PF, 3, SPARE) == Inject(Vector.PF, 3, SPARE)


# -- #UD and CPUID

PREFIXED = "0f0b78656e0fa2"


@pytest.mark.parametrize("ring", [1, 3])
def test_cpuid_behind_xens_prefix_is_xens(stage: Stage, ring: int) -> None:
    stage.enter(ring)
    stage.regs.gpr[Gpr.EAX] = 1
    assert stage.fault(Vector.UD, code=bytes.fromhex(PREFIXED)) == RESUME
    assert answer(stage) == pv_cpuid(1)
    assert stage.regs.eip == CODE + 7


def answer(stage: Stage) -> tuple[int, ...]:
    return tuple(stage.regs.gpr[n] for n in (Gpr.EAX, Gpr.EBX, Gpr.ECX, Gpr.EDX))


@pytest.mark.parametrize("code", ["0f0b", "0f0b78656e0f31", "0f0b78656f0fa2", "0fff", "f0fa"])
def test_every_other_bad_opcode_is_the_guests(stage: Stage, code: str) -> None:
    assert stage.fault(Vector.UD, code=bytes.fromhex(code)) == UD
    assert stage.regs.eip == CODE


def test_a_prefix_that_ends_before_a_page_that_is_not_there(stage: Stage) -> None:
    cut(stage, "0f0b")
    assert stage.fault(Vector.UD) == UD


@pytest.mark.parametrize("ring", [1, 3])
def test_a_bad_opcode_that_cannot_be_read_again(stage: Stage, ring: int) -> None:
    at(stage, NOWHERE)
    stage.enter(ring)
    assert stage.fault(Vector.UD) == Inject(Vector.PF, 4 if ring == 3 else 0, NOWHERE)


@pytest.mark.parametrize(("leaf", "expected"), [
    (0x40000000, (0x40000002, 0x566E6558, 0x65584D4D, 0x4D4D566E)),  # "XenVMMXenVMM"
    (0x40000001, (0x00030000, 0, 0, 0)),
    (0x40000002, (1, 0x40000000, 0, 0)),  # one hypercall page, by this MSR
    (0x40000003, pv_cpuid(0x40000003)), (0x3FFFFFFF, pv_cpuid(0x3FFFFFFF)), (0, cpuid(0)), (1, pv_cpuid(1))])
def test_leaves_of_the_forced_cpuid(stage: Stage, leaf: int, expected: tuple[int, ...]) -> None:
    stage.regs.gpr[Gpr.EAX] = leaf
    traps.emulate_forced_cpuid(stage.vcpu)
    assert answer(stage) == expected


# -- Intercepts


@pytest.mark.parametrize("leaf", [0, 1, 0x40000000, 0x80000002])
def test_plain_cpuid_is_the_cpus(stage: Stage, leaf: int) -> None:
    """It does not trap in ring 1 on silicon: nothing is filtered."""
    stage.regs.gpr[Gpr.EAX] = leaf
    assert stage.exit(Reason.CPUID, b"\x0f\xa2") == RETIRE
    assert answer(stage) == cpuid(leaf)
    assert stage.vcpu.seen.kind == "cpuid"


@pytest.mark.parametrize("now", [1, 0x1_2345_6789, (1 << 64) + 7])
def test_rdtsc_is_virtual_time(stage: Stage, now: int) -> None:
    stage.domain.clock.now = now
    assert stage.exit(Reason.RDTSC, b"\x0f\x31") == RETIRE
    assert (stage.regs.gpr[Gpr.EDX], stage.regs.gpr[Gpr.EAX]) == (now >> 32 & 0xFFFFFFFF, now & 0xFFFFFFFF)
    assert stage.vcpu.seen.kind == "rdtsc"


@pytest.mark.parametrize("reason", [Reason.CPUID, Reason.RDTSC])
def test_an_intercepted_instruction_must_be_there(stage: Stage, reason: Reason) -> None:
    assert isinstance(stage.exit(reason, bytes.fromhex(BAD)), Crash)
    at(stage, NOWHERE)
    assert stage.exit(reason) == Inject(Vector.PF, 0, NOWHERE)


def test_rdtscp_is_of_a_later_cpu(stage: Stage) -> None:
    assert stage.exit(Reason.RDTSCP, b"\x0f\x01\xf9") == UD
    assert stage.vcpu.seen.kind == "ud"


@pytest.mark.parametrize(("reason", "kind"), [
    (Reason.NESTED_FAULT, "nested"), (Reason.RDPMC, "engine"), (Reason.HLT, "engine"), (Reason.SLICE, "engine"),
    (Reason.OTHER, "engine")])
def test_exits_that_nobody_asked_for_end_the_domain(stage: Stage, reason: Reason, kind: str) -> None:
    assert isinstance(stage.exit(reason, vector=0x7F, address=0x123000), Crash)
    assert stage.vcpu.seen.kind == kind


def test_every_reason_has_its_row(stage: Stage) -> None:
    for reason in Reason:
        assert traps.handle(stage.vcpu, Exit(reason, vector=Vector.DE, kind="sgdt")) is not None


def test_no_exit_from_vm86_is_dealt_with(stage: Stage) -> None:
    stage.regs.eflags |= VM
    assert isinstance(stage.fault(Vector.DE), Crash)
    assert stage.vcpu.seen.kind == "engine"


# -- What the scan found

SGDT = "0f0103"  # [ebx]


def test_a_sensitive_instruction_goes_by_policy(stage: Stage, full: Stage) -> None:
    for each, outcome in ((stage, NATIVE), (full, RETIRE)):
        each.regs.gpr[Gpr.EBX] = DATA
        assert each.scanned("sgdt", SGDT) == outcome
        assert each.vcpu.seen.kind == "sensitive"
    assert full.get(DATA, 6) == b"\xff\xef" + GDT.to_bytes(4, "little")


def test_its_operand_may_not_be_there(full: Stage) -> None:
    full.regs.gpr[Gpr.EBX] = NOWHERE
    assert full.scanned("sgdt", SGDT) == Inject(Vector.PF, PFEC_W, NOWHERE)


def test_nor_may_it_be_there_itself(stage: Stage) -> None:
    assert stage.scanned("lock", BAD) == UD
    at(stage, NOWHERE)
    assert stage.exit(Reason.SCANNED, kind="sgdt") == Inject(Vector.PF, 0, NOWHERE)
