"""Bounce frames word by word (x86_32/entry.S, create_bounce_frame), and the gate that needs no hypervisor."""

from __future__ import annotations

import pytest

from harness.abi import xen
from harness.abi.x86 import AC, CF, DF, IF, NT, PFEC_P, PFEC_W, RF, TF, VM, Gpr, Seg, Vector
from harness.domain.outcome import Crash, Inject
from harness.domain.registers import SegmentCache
from harness.pv import bounce
from tests.pv.stage import CODE, HANDLER, NOWHERE, SPARE, STACK_TOP, Stage, descriptor

KERNEL_STACK = SPARE + 0x1000
RING1, RING3 = (xen.FLAT_RING1_CS, xen.FLAT_RING1_SS), (xen.FLAT_RING3_CS, xen.FLAT_RING3_SS)
FIXED = 2


def prepare(stage: Stage, ring: int, flags: int = FIXED, mask: int = 0) -> None:
    stage.enter(ring)
    stage.state.kernel_sp = KERNEL_STACK
    stage.regs.eflags, stage.vcpu.mask = flags, mask
    stage.handlers(*range(256))


def frame(stage: Stage) -> tuple[int, ...]:
    """From ESP up to where the stack was."""
    esp = stage.regs.gpr[Gpr.ESP]
    base = KERNEL_STACK if KERNEL_STACK - 64 <= esp < KERNEL_STACK else STACK_TOP
    return stage.get_words(esp, (base - esp) // 4)


def landed(stage: Stage, vector: int) -> bool:
    regs = stage.regs
    return (regs.eip, regs.selector(Seg.CS), regs.selector(Seg.SS), regs.cpl) == (HANDLER + 16 * vector, *RING1, 1)


@pytest.mark.parametrize("error_code", [None, 0, 0x412])
def test_from_ring_1_the_same_stack_and_three_words(stage: Stage, error_code: int | None) -> None:
    prepare(stage, 1)
    assert stage.deliver(Inject(Vector.GP, error_code)) is None
    pushed = (CODE, xen.FLAT_RING1_CS, FIXED | IF)
    assert frame(stage) == (pushed if error_code is None else (error_code, *pushed))
    assert landed(stage, Vector.GP)


@pytest.mark.parametrize("error_code", [None, 0, 6])
def test_from_ring_3_the_kernels_stack_and_five_words(stage: Stage, error_code: int | None) -> None:
    prepare(stage, 3)
    stage.regs.gpr[Gpr.ESP] = 0x1234
    assert stage.deliver(Inject(Vector.GP, error_code)) is None
    pushed = (CODE, xen.FLAT_RING3_CS, FIXED | IF, 0x1234, xen.FLAT_RING3_SS)
    assert frame(stage) == (pushed if error_code is None else (error_code, *pushed))
    assert landed(stage, Vector.GP)


@pytest.mark.parametrize("ring", [1, 3])
@pytest.mark.parametrize("mask", [0, 1, 0xFF])
@pytest.mark.parametrize("trap_flags", [0, 3, xen.TRAP_INFO_IF, xen.TRAP_INFO_IF | 3])
@pytest.mark.parametrize("real_if", [0, IF])
def test_the_mask_of_before_is_saved_and_if_says_its_inverse(
        stage: Stage, ring: int, mask: int, trap_flags: int, real_if: int) -> None:
    prepare(stage, ring, FIXED | real_if, mask)
    stage.state.traps[6].flags = trap_flags
    assert stage.deliver(Inject(Vector.UD)) is None
    _, cs, flags = frame(stage)[:3]
    assert cs == (RING1 if ring == 1 else RING3)[0] | mask << 16
    assert flags == FIXED | (0 if mask else IF)
    assert stage.vcpu.mask == (1 if trap_flags & xen.TRAP_INFO_IF else mask)
    assert stage.regs.eflags & IF, "the real one is always set"


@pytest.mark.parametrize(("before", "after"), [
    (FIXED, FIXED | IF), (TF, IF), (NT, IF), (RF, IF), (VM, IF), (TF | NT | RF | CF | DF | AC, CF | DF | AC | IF)])
def test_flags_on_entry(stage: Stage, before: int, after: int) -> None:
    """AND 0xFFFCBEFF, and IF stays set; the image keeps what was."""
    prepare(stage, 1, before)
    assert stage.deliver(Inject(Vector.UD)) is None
    assert stage.regs.eflags == after
    assert frame(stage)[2] == before | IF


@pytest.mark.parametrize(("event", "eip"), [
    (Inject(Vector.UD), CODE), (Inject(0x80, advance=2), CODE + 2), (Inject(Vector.BP, advance=1), CODE + 1)])
def test_software_interrupts_are_traps_the_rest_faults(stage: Stage, event: Inject, eip: int) -> None:
    prepare(stage, 1)
    assert stage.deliver(event) is None
    assert frame(stage)[0] == eip


def test_a_page_faults_address_is_in_vcpu_info(stage: Stage) -> None:
    prepare(stage, 1)
    assert stage.deliver(Inject(Vector.PF, 2, 0xDEADBEEF)) is None
    assert stage.info(xen.VCPU_INFO_CR2) == 0xDEADBEEF
    assert stage.state.control[2] == 0xDEADBEEF


@pytest.mark.parametrize(("event", "words"), [
    (Inject(Vector.PF, 2, 0x1000), "#PF(0x2) for 0x00001000"), (Inject(Vector.DE), "#DE"), (Inject(0x21), "vector 33"),
    (Inject(0x80, advance=2), "int 0x80")])
def test_no_handler_is_the_end(stage: Stage, event: Inject, words: str) -> None:
    crash = stage.deliver(event)
    assert isinstance(crash, Crash)
    assert words in crash.reason
    assert "ring 1" in crash.reason


@pytest.mark.parametrize("esp", [NOWHERE, 0, 4, 0xFC000004, 0xFFFFFFFC])
@pytest.mark.parametrize("ring", [1, 3])
def test_a_stack_that_cannot_take_the_frame_is_the_end(stage: Stage, ring: int, esp: int) -> None:
    prepare(stage, ring)
    stage.regs.gpr[Gpr.ESP] = stage.state.kernel_sp = esp
    crash = stage.deliver(Inject(Vector.GP, 0))
    assert isinstance(crash, Crash)
    assert "the stack at" in crash.reason
    assert "#GP(0x0)" in crash.reason


def test_a_frame_that_ends_exactly_at_xen_fails_only_for_want_of_a_page(stage: Stage) -> None:
    prepare(stage, 1)
    stage.regs.gpr[Gpr.ESP] = xen.HYPERVISOR_VIRT_START
    crash = stage.deliver(Inject(Vector.UD))
    assert isinstance(crash, Crash)
    assert "0xfbfffff4" in crash.reason


def test_a_read_only_stack_is_the_end_and_nothing_is_written(stage: Stage) -> None:
    prepare(stage, 1)
    stage.put(STACK_TOP - 0x1000, b"\xaa" * 0x1000)
    stage.read_only(STACK_TOP - 0x1000)
    assert isinstance(stage.deliver(Inject(Vector.UD)), Crash)
    assert stage.get(STACK_TOP - 12, 12) == b"\xaa" * 12


def test_a_frame_that_does_not_fit_whole_is_not_begun(stage: Stage) -> None:
    prepare(stage, 1)
    stage.read_only(STACK_TOP - 0x2000)
    stage.put(STACK_TOP - 0x1000, bytes(8))
    stage.regs.gpr[Gpr.ESP] = STACK_TOP - 0x1000 + 8
    assert isinstance(stage.deliver(Inject(Vector.UD)), Crash)
    assert stage.get(STACK_TOP - 0x1000, 8) == bytes(8)


def test_a_stack_segment_with_a_base(stage: Stage) -> None:
    prepare(stage, 1)
    stage.regs.load_segment(Seg.SS, SegmentCache(9, 0x1000, 0xFFFFFFFF, 0x00CFB300))
    assert stage.deliver(Inject(Vector.UD)) is None
    assert stage.regs.gpr[Gpr.ESP] == STACK_TOP - 12
    assert stage.get_words(STACK_TOP + 0x1000 - 12, 1) == (CODE,)


def test_a_base_and_an_offset_that_wrap(stage: Stage) -> None:
    prepare(stage, 1)
    stage.regs.load_segment(Seg.SS, SegmentCache(9, 0xFFFFF000, 0xFFFFFFFF, 0x00CFB300))
    assert stage.deliver(Inject(Vector.UD)) is None
    assert stage.get_words(STACK_TOP - 0x1000 - 12, 1) == (CODE,)


CODE_R1, DATA_R1, CODE_R3 = descriptor(0, 0xFFFFF, 0xBA), descriptor(0, 0xFFFFF, 0xB2), descriptor(0, 0xFFFFF, 0xFA)


def test_a_handler_and_a_stack_by_own_selectors(stage: Stage) -> None:
    stage.own_gdt(CODE_R1, DATA_R1)
    prepare(stage, 3)
    stage.state.traps[6].cs, stage.state.kernel_ss = 0x09, 0x11
    assert stage.deliver(Inject(Vector.UD)) is None
    assert (stage.regs.selector(Seg.CS), stage.regs.selector(Seg.SS), stage.regs.cpl) == (0x09, 0x11, 1)


@pytest.mark.parametrize("cs", [0x09, 0x13, 0x1B, 0x21, 0xE02B, 0xE021, 0xE009, 0, 3, 0xFFF9])
def test_a_handler_that_is_not_the_kernels_code_is_the_end(stage: Stage, cs: int) -> None:
    """Data, ring 3, ring 3 with a stack of ring 1, nothing at all: IRET would refuse each of them."""
    stage.own_gdt(DATA_R1, CODE_R3, CODE_R1, 0)
    prepare(stage, 1)
    stage.state.traps[6].cs = cs
    crash = stage.deliver(Inject(Vector.UD))
    assert isinstance(crash, Crash)
    assert "a selector for #UD" in crash.reason


@pytest.mark.parametrize("ss", [0x09, 0x11, 0xE033, 0xE011, 1, 0x12345])
def test_a_kernel_stack_that_is_none_is_the_end(stage: Stage, ss: int) -> None:
    stage.own_gdt(CODE_R1, 0)
    prepare(stage, 3)
    stage.state.kernel_ss = ss
    assert isinstance(stage.deliver(Inject(Vector.UD)), Crash)


@pytest.mark.parametrize("ring", [1, 3])
@pytest.mark.parametrize("iopl", range(4))
def test_a_kernel_that_was_not_ported_sees_its_own_iopl(full: Stage, ring: int, iopl: int) -> None:
    """Under `--policy full` the image is what the guest believes; under Xen it is the hardware's, which is 0."""
    prepare(full, ring)
    full.state.iopl = iopl
    assert full.deliver(Inject(Vector.UD)) is None
    assert frame(full)[2] == FIXED | IF | iopl << 12


def test_a_ported_kernel_sees_iopl_0(stage: Stage) -> None:
    prepare(stage, 1)
    stage.state.iopl = 3
    assert stage.deliver(Inject(Vector.UD)) is None
    assert frame(stage)[2] == FIXED | IF


def test_a_gate_of_an_unported_kernel_stores_virtual_flags(full: Stage) -> None:
    prepare(full, 3, FIXED | IF, mask=1)
    full.state.iopl = 3
    assert bounce.through_gate(full.vcpu, 0x80, 2) is None
    assert frame(full)[2] == FIXED | 3 << 12


# -- Callbacks


@pytest.mark.parametrize("ring", [1, 3])
def test_the_event_callback_masks_events(stage: Stage, ring: int) -> None:
    prepare(stage, ring)
    stage.state.event.eip = HANDLER
    assert bounce.deliver_upcall(stage.vcpu) is None
    assert stage.vcpu.mask == 1
    assert frame(stage)[:3] == (CODE, (RING1 if ring == 1 else RING3)[0], FIXED | IF)
    assert stage.regs.eip == HANDLER


def test_no_event_callback_is_the_end(stage: Stage) -> None:
    crash = bounce.deliver_upcall(stage.vcpu)
    assert isinstance(crash, Crash)
    assert "event callback" in crash.reason


def load_selectors(stage: Stage) -> None:
    for seg, selector in ((Seg.DS, 0x11), (Seg.ES, 0x19), (Seg.FS, 0x21), (Seg.GS, 0x29)):
        stage.regs.load_segment(seg, SegmentCache(selector, 0, 0, 0x00CFB300))


@pytest.mark.parametrize("ring", [1, 3])
@pytest.mark.parametrize("mask", [0, 1])
@pytest.mark.parametrize("disables", [False, True])
def test_the_failsafe_frame(stage: Stage, ring: int, mask: int, disables: bool) -> None:
    """GS FS ES DS above the frame with DS lowest; then all four are null. Events only if it was registered so."""
    prepare(stage, ring, mask=mask)
    load_selectors(stage)
    stage.state.failsafe.eip, stage.state.failsafe.mask = HANDLER, disables
    assert bounce.deliver_failsafe(stage.vcpu) is None
    cs, ss = RING1 if ring == 1 else RING3
    rest = () if ring == 1 else (STACK_TOP, ss)
    assert frame(stage) == (0x11, 0x19, 0x21, 0x29, CODE, cs | mask << 16, FIXED | (0 if mask else IF), *rest)
    assert [stage.regs.segment(seg) for seg in (Seg.DS, Seg.ES, Seg.FS, Seg.GS)] == [SegmentCache()] * 4
    assert stage.vcpu.mask == (mask or int(disables))


@pytest.mark.parametrize(("cs", "stack", "rest"), [
    (0x7F9, SPARE + 0x2000, ()), (0x7FB, KERNEL_STACK, (SPARE + 0x2000, 0x33))])
def test_the_failsafe_frame_of_an_iret_tells_where_it_could_not_go(
        stage: Stage, cs: int, stack: int, rest: tuple[int, ...]) -> None:
    prepare(stage, 1)
    stage.state.failsafe.eip = HANDLER
    target = bounce.Interrupted(0x1234, cs, FIXED | CF, SPARE + 0x2000, 0x33)
    assert bounce.deliver_failsafe(stage.vcpu, target) is None
    words = (0xE021, 0xE021, 0xE021, 0xE021, 0x1234, cs, FIXED | CF | IF, *rest)
    assert stage.regs.gpr[Gpr.ESP] == stack - 4 * len(words)
    assert stage.get_words(stack - 4 * len(words), len(words)) == words


def test_no_failsafe_callback_is_the_end(stage: Stage) -> None:
    crash = bounce.deliver_failsafe(stage.vcpu)
    assert isinstance(crash, Crash)
    assert "failsafe" in crash.reason


# -- The direct gate


def test_through_the_gate_from_ring_3(stage: Stage) -> None:
    """The CPU's own frame: no mask in the CS slot, the real EFLAGS, and events as they were."""
    prepare(stage, 3, FIXED | IF | TF | NT, mask=1)
    assert bounce.through_gate(stage.vcpu, 0x80, 2) is None
    assert frame(stage) == (CODE + 2, xen.FLAT_RING3_CS, FIXED | IF | TF | NT, STACK_TOP, xen.FLAT_RING3_SS)
    assert landed(stage, 0x80)
    assert stage.regs.eflags == FIXED | IF
    assert stage.vcpu.mask == 1


def test_through_the_gate_from_ring_1(stage: Stage) -> None:
    prepare(stage, 1)
    assert bounce.through_gate(stage.vcpu, 0x80, 2) is None
    assert frame(stage) == (CODE + 2, xen.FLAT_RING1_CS, FIXED)


def test_a_gate_at_the_end_of_a_segment_wraps(stage: Stage) -> None:
    prepare(stage, 1)
    stage.regs.eip = 0xFFFFFFFF
    assert bounce.through_gate(stage.vcpu, 0x80, 2) is None
    assert frame(stage)[0] == 1


@pytest.mark.parametrize(("esp", "error_code"), [(NOWHERE, PFEC_W), (0xFC000004, PFEC_W)])
def test_a_gate_onto_no_stack_is_a_page_fault(stage: Stage, esp: int, error_code: int) -> None:
    prepare(stage, 3)
    stage.state.kernel_sp = esp
    assert bounce.through_gate(stage.vcpu, 0x80, 2) == Inject(Vector.PF, error_code, esp - 20)
    assert stage.regs.eip == CODE


def test_a_gate_onto_a_read_only_stack(stage: Stage) -> None:
    stage.read_only(KERNEL_STACK - 0x1000)
    prepare(stage, 3)
    assert bounce.through_gate(stage.vcpu, 0x80, 2) == Inject(Vector.PF, PFEC_W | PFEC_P, KERNEL_STACK - 20)


def test_a_gate_into_no_code(stage: Stage) -> None:
    prepare(stage, 3)
    stage.state.traps[0x80].cs = 0x41
    assert bounce.through_gate(stage.vcpu, 0x80, 2) == Inject(Vector.GP, 0x40)
