"""Sensitive instructions that do not fault in ring 1: left to the CPU, reported by an audit, corrected by `full`.

Results under the full policy are those of ring 0 (SDM 2, page of each instruction).
"""

from __future__ import annotations

import pytest

from harness.abi import xen
from harness.abi.x86 import AC, CF, CR0_TS, DF, ID, IF, IOPL, NT, OF, RF, TF, VIF, VIP, VM, ZF, Gpr, Seg, Vector
from harness.code.decoder import Instruction
from harness.domain.outcome import NATIVE, RESUME, RETIRE, Inject, Outcome
from harness.domain.registers import SegmentCache
from harness.pv import silent
from harness.pv.state import POLICY_FULL
from tests.pv.stage import CODE, DATA, NOWHERE, SPARE, STACK_TOP, Stage, descriptor

RING1_CS, RING1_SS, RING3_CS, RING3_SS = xen.FLAT_RING1_CS, xen.FLAT_RING1_SS, xen.FLAT_RING3_CS, xen.FLAT_RING3_SS
ONE_OF_EACH = {
    "sgdt": "0f0103", "sidt": "0f010b", "sldt": "0f00c0", "str": "0f00c8", "smsw": "0f01e0", "pushf": "9c",
    "popf": "9d", "iret": "cf", "lar": "0f02c1", "lsl": "0f03c1", "verr": "0f00e0", "verw": "0f00e8", "push_seg": "0e",
    "mov_from_seg": "8cc8", "pop_seg": "17", "mov_to_seg": "8ed0", "load_far": "0fb203", "far_call": "9a000000000000",
    "far_jmp": "ea000000000000", "far_ret": "cb",
}


def gpr(stage: Stage, register: int) -> int:
    return stage.regs.gpr[register]


def stack(stage: Stage, *words: int, size: int = 4) -> int:
    """Put words where ESP will be, the top one first; the address above them."""
    esp = STACK_TOP - 0x40
    stage.put(esp, b"".join(word.to_bytes(size, "little") for word in words))
    stage.regs.gpr[Gpr.ESP] = esp
    return esp + size * len(words)


def ring_3(stage: Stage, iopl: int = 0) -> Stage:
    """Its code and its stack are open to it."""
    for page in (CODE, DATA, STACK_TOP - 0x1000):
        stage.open_to_user(page)
    stage.enter(3)
    stage.state.iopl = iopl
    return stage


# -- Xen's own policy


@pytest.mark.parametrize(("kind", "code"), [(k, c) for k, c in ONE_OF_EACH.items() if k != "smsw"])
def test_xen_leaves_them_to_the_cpu(stage: Stage, kind: str, code: str) -> None:
    before = list(stage.regs.gpr), stage.regs.eip, stage.regs.eflags
    assert stage.scanned(kind, code) == NATIVE
    assert (list(stage.regs.gpr), stage.regs.eip, stage.regs.eflags) == before
    assert not stage.vcpu.findings


def test_every_kind_has_its_row() -> None:
    assert silent.TABLE.keys() == ONE_OF_EACH.keys() == silent.AUDIT_KINDS
    assert ONE_OF_EACH.keys() - silent.FULL_KINDS == {"far_jmp"}


@pytest.mark.parametrize("ts", [0, CR0_TS])
@pytest.mark.parametrize(("code", "expected"), [("0f01e1", 0x80050033), ("660f01e1", 0xABCD0033)])
def test_smsw_leaks_the_real_cr0(stage: Stage, code: str, expected: int, ts: int) -> None:
    """Real TS and all; the upper half too, into a register of 32 bits, as silicon does."""
    stage.regs.cr0, stage.state.control[0] = 0x80050033 | ts, CR0_TS ^ ts
    stage.regs.gpr[Gpr.ECX] = 0xABCDEF01
    assert stage.scanned("smsw", code) == RETIRE
    assert gpr(stage, Gpr.ECX) == expected | ts
    assert stage.vcpu.seen.handler is silent.emulate_smsw


def test_smsw_to_memory_is_a_word(stage: Stage) -> None:
    stage.regs.cr0 = 0x80050033
    stage.regs.gpr[Gpr.EBX] = DATA
    stage.words(DATA, 0xFFFFFFFF)
    assert stage.scanned("smsw", "0f0123") == RETIRE
    assert stage.get_words(DATA, 1) == (0xFFFF0033,)


# -- Descriptor-table registers and CR0


@pytest.mark.parametrize(("kind", "code"), [("sgdt", "0f0103"), ("sidt", "0f010b")])
@pytest.mark.parametrize(("prefix", "base"), [("", 0xFEDCBA98), ("66", 0x00DCBA98)])
def test_sgdt_and_sidt(full: Stage, kind: str, code: str, prefix: str, base: int) -> None:
    """Six bytes; an operand size of 16 stores 24 bits of base."""
    setattr(full.state.virtual, "gdtr" if kind == "sgdt" else "idtr", (0xFEDCBA98, 0x1234))
    full.regs.gpr[Gpr.EBX] = DATA
    full.words(DATA, 0xFFFFFFFF, 0xFFFFFFFF)
    assert full.scanned(kind, prefix + code) == RETIRE
    assert full.get(DATA, 8) == b"\x34\x12" + base.to_bytes(4, "little") + b"\xff\xff"
    assert full.vcpu.seen.handler is silent.TABLE[kind].full


@pytest.mark.parametrize(("kind", "digit"), [("sldt", 0), ("str", 1)])
def test_sldt_and_str(full: Stage, kind: str, digit: int) -> None:
    """A register of 32 bits is zero-extended into; memory takes 16 whatever the operand size."""
    setattr(full.state.virtual, "ldtr" if kind == "sldt" else "tr", 0x1234)
    g = full.regs.gpr
    g[Gpr.ECX] = g[Gpr.EDX] = 0xABCDEF01
    assert full.scanned(kind, f"0f00{0xC1 + 8 * digit:02x}") == RETIRE
    assert full.scanned(kind, f"660f00{0xC2 + 8 * digit:02x}") == RETIRE
    assert (g[Gpr.ECX], g[Gpr.EDX]) == (0x1234, 0xABCD1234)
    g[Gpr.EBX] = DATA
    full.words(DATA, 0xFFFFFFFF)
    assert full.scanned(kind, f"0f00{0x03 + 8 * digit:02x}") == RETIRE
    assert full.get_words(DATA, 1) == (0xFFFF1234,)


@pytest.mark.parametrize("ts", [0, CR0_TS])
def test_smsw_of_the_virtual_cr0(full: Stage, ts: int) -> None:
    full.state.virtual.cr0, full.state.control[0] = 0x6001003B, ts
    assert full.scanned("smsw", "0f01e1") == RETIRE
    assert gpr(full, Gpr.ECX) == 0x60010033 | ts


# -- Flags

REAL = 0x202


@pytest.mark.parametrize("mask", [0, 1])
@pytest.mark.parametrize("iopl", [0, 1, 3])
@pytest.mark.parametrize("ring", [1, 3])
@pytest.mark.parametrize(("code", "size"), [("9c", 4), ("669c", 2)])
def test_pushf_shows_the_virtual_if_and_iopl(
        full: Stage, code: str, size: int, ring: int, iopl: int, mask: int) -> None:
    """VM and RF read as 0 (SDM 2, PUSHF)."""
    if ring == 3:
        ring_3(full)
    full.state.iopl, full.vcpu.mask = iopl, mask
    full.regs.eflags = REAL | CF | DF | ID | AC | RF
    full.regs.gpr[Gpr.ESP] = STACK_TOP
    assert full.scanned("pushf", code) == RETIRE
    image = 2 | CF | DF | ID | AC | iopl << 12 | (0 if mask else IF)
    assert gpr(full, Gpr.ESP) == STACK_TOP - size
    assert int.from_bytes(full.get(STACK_TOP - size, size), "little") == image & (1 << 8 * size) - 1
    assert full.regs.eflags == REAL | CF | DF | ID | AC | RF


def test_pushf_without_a_stack(full: Stage) -> None:
    full.regs.gpr[Gpr.ESP] = NOWHERE + 4
    assert full.scanned("pushf", "9c") == Inject(Vector.PF, 2, NOWHERE)
    assert gpr(full, Gpr.ESP) == NOWHERE + 4


def test_a_push_is_relative_to_ss(full: Stage) -> None:
    full.regs.load_segment(Seg.SS, SegmentCache(RING1_SS, 0x1000, 0xFFFFFFFF, 0xCFB300))
    assert full.scanned("pushf", "9c") == RETIRE
    assert full.get_words(STACK_TOP + 0x1000 - 4, 1) == (2,)
    assert gpr(full, Gpr.ESP) == STACK_TOP - 4


EVERY = 0xFFFFFFFF
POPF32 = CF | 4 | 0x10 | ZF | 0x80 | TF | DF | OF | NT | AC | ID
POPF16 = POPF32 & 0xFFFF
"""What POPF changes in the real EFLAGS; IF and IOPL are virtual (SDM 2, table 4-15)."""


@pytest.mark.parametrize(("ring", "iopl", "if_moves", "iopl_moves"), [
    (1, 0, True, True), (1, 3, True, True), (3, 0, False, False), (3, 2, False, False), (3, 3, True, False)])
@pytest.mark.parametrize("image", [0, EVERY, IF, IOPL, 0x1000 | CF])
@pytest.mark.parametrize("mask", [0, 1])
@pytest.mark.parametrize(("code", "size", "changed"), [("9d", 4, POPF32), ("669d", 2, POPF16)])
def test_popf(full: Stage, code: str, size: int, changed: int, ring: int, iopl: int, if_moves: bool, iopl_moves: bool,
              mask: int, image: int) -> None:
    """RF is cleared; VM, VIF and VIP are not touched; neither are the real IF and IOPL."""
    above = stack(full, image & (1 << 8 * size) - 1, size=size)
    if ring == 3:
        ring_3(full)
    full.regs.gpr[Gpr.ESP] = above - size
    full.state.iopl, full.vcpu.mask = iopl, mask
    full.regs.eflags = before = REAL | RF | AC | OF
    assert full.scanned("popf", code) == RETIRE
    assert gpr(full, Gpr.ESP) == above
    assert full.regs.eflags == (before & ~changed | image & changed) & ~RF
    assert full.vcpu.mask == ((0 if image & IF else 1) if if_moves else mask)
    assert full.state.iopl == (image >> 12 & 3 if iopl_moves else iopl)
    assert full.regs.eflags & (VM | VIF | VIP) == 0


def test_popf_without_a_stack(full: Stage) -> None:
    full.regs.gpr[Gpr.ESP] = NOWHERE
    assert full.scanned("popf", "9d") == Inject(Vector.PF, 0, NOWHERE)
    assert gpr(full, Gpr.ESP) == NOWHERE


# -- IRET


@pytest.mark.parametrize("cs", [RING1_CS, RING1_CS & ~3, RING1_CS | 1 << 16])
@pytest.mark.parametrize("image", [0x2, 0x202, 0x3202, 0x202 | RF | CF])
def test_iret_within_the_kernel(full: Stage, cs: int, image: int) -> None:
    """RPL 0 is RPL 1 here; the upper half of the CS slot is ignored; RF comes back."""
    above = stack(full, 0x12345, cs, image)
    full.regs.load_segment(Seg.DS, SegmentCache(0x33, 0, 0xFFFFFFFF, 0x00CFB300))
    assert full.scanned("iret", "cf") == RESUME
    regs = full.regs
    assert (regs.eip, regs.selector(Seg.CS), regs.selector(Seg.SS), regs.cpl) == (0x12345, RING1_CS, RING1_SS, 1)
    assert gpr(full, Gpr.ESP) == above
    assert regs.eflags == REAL | image & (RF | CF)
    assert full.vcpu.mask == (0 if image & IF else 1)
    assert full.state.iopl == image >> 12 & 3
    assert regs.selector(Seg.DS) == 0x33


def test_iret_to_an_application(full: Stage) -> None:
    """Five words; data segments that ring 3 may not have are nulled."""
    stack(full, 0x12345, RING3_CS, 0x202 | AC, 0x5678, RING3_SS)
    assert full.scanned("iret", "cf") == RESUME
    regs = full.regs
    assert (regs.eip, regs.selector(Seg.CS), regs.selector(Seg.SS), regs.cpl) == (0x12345, RING3_CS, RING3_SS, 3)
    assert (gpr(full, Gpr.ESP), regs.eflags, full.vcpu.mask) == (0x5678, REAL | AC, 0)
    assert regs.selector(Seg.DS) == 0


def test_a_16_bit_iret(full: Stage) -> None:
    above = stack(full, 0x2345, RING1_CS & ~3, 0x1001, size=2)
    full.regs.eflags |= AC
    assert full.scanned("iret", "66cf") == RESUME
    assert (full.regs.eip, gpr(full, Gpr.ESP), full.state.iopl, full.vcpu.mask) == (0x2345, above, 1, 1)
    assert full.regs.eflags == REAL | AC | CF, "the upper half stays"


@pytest.mark.parametrize(("words", "expected"), [
    ((0, 0, 2), Inject(Vector.GP, 0)), ((0, 3, 2, 0, RING3_SS), Inject(Vector.GP, 0)),
    ((0, RING1_SS, 2), Inject(Vector.GP, RING1_SS & ~3)), ((0, RING3_CS & ~3, 2), Inject(Vector.GP, RING3_CS & ~3)),
    ((0, RING3_CS, 2, 0, RING1_SS), Inject(Vector.GP, RING1_SS & ~3)), ((0, RING3_CS, 2, 0, 0), Inject(Vector.GP, 0)),
    ((0, xen.HYPERVISOR_CS, 2), Inject(Vector.GP, xen.HYPERVISOR_CS & ~3))])
def test_iret_to_where_it_may_not_go(full: Stage, words: tuple[int, ...], expected: Inject) -> None:
    stack(full, *words)
    before = list(full.regs.gpr), full.regs.eip, full.regs.eflags, full.vcpu.mask, full.state.iopl
    assert full.scanned("iret", "cf") == expected
    assert (list(full.regs.gpr), full.regs.eip, full.regs.eflags, full.vcpu.mask, full.state.iopl) == before


def test_iret_of_an_application_is_the_cpus(full: Stage) -> None:
    ring_3(full)
    assert full.scanned("iret", "cf") == NATIVE


# -- Reading CS and SS


@pytest.mark.parametrize(("code", "size", "word"), [
    ("0e", 4, RING1_CS & ~3), ("16", 4, RING1_SS & ~3), ("660e", 2, RING1_CS & ~3), ("6616", 2, RING1_SS & ~3)])
def test_push_shows_rpl_0(full: Stage, code: str, size: int, word: int) -> None:
    full.words(STACK_TOP - 4, 0xFFFFFFFF)
    assert full.scanned("push_seg", code) == RETIRE
    assert gpr(full, Gpr.ESP) == STACK_TOP - size
    assert int.from_bytes(full.get(STACK_TOP - size, size), "little") == word


@pytest.mark.parametrize(("code", "register", "expected"), [
    ("8cc8", Gpr.EAX, RING1_CS & ~3), ("8cd1", Gpr.ECX, RING1_SS & ~3),
    ("668cca", Gpr.EDX, 0xABCD0000 | RING1_CS & ~3)])
def test_mov_shows_rpl_0(full: Stage, code: str, register: int, expected: int) -> None:
    full.regs.gpr[register] = 0xABCDEF01
    assert full.scanned("mov_from_seg", code) == RETIRE
    assert gpr(full, register) == expected


def test_mov_to_memory_is_a_word(full: Stage) -> None:
    full.regs.gpr[Gpr.EBX] = DATA
    full.words(DATA, 0xFFFFFFFF)
    assert full.scanned("mov_from_seg", "8c0b") == RETIRE
    assert full.get_words(DATA, 1) == (0xFFFF0000 | RING1_CS & ~3,)


def test_another_rpl_is_shown_as_it_is(full: Stage) -> None:
    """Only a kernel in ring 1 is told that it is in ring 0."""
    full.regs.load_segment(Seg.SS, SegmentCache(0x12, 0, 0xFFFFFFFF, 0xCFB300))
    assert full.scanned("mov_from_seg", "8cd1") == RETIRE
    assert gpr(full, Gpr.ECX) == 0x12


@pytest.mark.parametrize(("kind", "code"), [
    ("push_seg", "06"), ("push_seg", "1e"), ("push_seg", "0fa0"), ("push_seg", "0fa8"), ("mov_from_seg", "8cc0"),
    ("mov_from_seg", "8cd8"), ("mov_from_seg", "8ce0"), ("mov_from_seg", "8ce8"), ("pop_seg", "07"), ("pop_seg", "1f"),
    ("pop_seg", "0fa1"), ("pop_seg", "0fa9"), ("mov_to_seg", "8ec0"), ("mov_to_seg", "8ed8"), ("mov_to_seg", "8ee0"),
    ("mov_to_seg", "8ee8"), ("load_far", "c403"), ("load_far", "c503"), ("load_far", "0fb403"), ("load_far", "0fb503")])
def test_data_segments_are_the_cpus(full: Stage, kind: str, code: str) -> None:
    assert full.scanned(kind, code) == NATIVE


@pytest.mark.parametrize("kind", [
    "push_seg", "mov_from_seg", "pop_seg", "mov_to_seg", "load_far", "far_call", "far_ret"])
def test_applications_see_silicon(full: Stage, kind: str) -> None:
    ring_3(full)
    assert full.scanned(kind, ONE_OF_EACH[kind]) == NATIVE


# -- Loading SS

SS_LOADS = [("mov_to_seg", "8ed0"), ("mov_to_seg", "8e13"), ("pop_seg", "17"), ("pop_seg", "6617"),
            ("load_far", "0fb203"), ("load_far", "660fb203")]


def load_ss(stage: Stage, kind: str, code: str, selector: int) -> Outcome:
    """Give the instruction a selector, wherever it takes it from."""
    g = stage.regs.gpr
    g[Gpr.EAX], g[Gpr.EBX] = 0xABCD0000 | selector, DATA
    if kind == "load_far":
        data = (0x11223344).to_bytes(4, "little")[: 2 if code.startswith("66") else 4]
        stage.put(DATA, data + selector.to_bytes(2, "little"))
    else:
        stage.words(DATA, 0xABCD0000 | selector)
    if kind == "pop_seg":
        stack(stage, 0xABCD0000 | selector)
    return stage.scanned(kind, code)


@pytest.mark.parametrize(("kind", "code"), SS_LOADS)
@pytest.mark.parametrize("selector", [RING1_SS, RING1_SS & ~3])
def test_ss_with_rpl_0_is_ring_1s(full: Stage, kind: str, code: str, selector: int) -> None:
    assert load_ss(full, kind, code, selector) == RETIRE
    assert full.regs.segment(Seg.SS) == SegmentCache(RING1_SS, 0, xen.GUEST_SEGMENT_MAX - 1, 0x00CFB300 & 0x00F0FF00)
    if kind == "pop_seg":
        assert gpr(full, Gpr.ESP) == STACK_TOP - 0x40 + (2 if code.startswith("66") else 4)
    if kind == "load_far":
        assert gpr(full, Gpr.EDX if code[-2:] == "13" else Gpr.EAX) & 0xFFFF == 0x3344


def test_lss_loads_its_register_by_operand_size(full: Stage) -> None:
    assert load_ss(full, "load_far", "0fb213", RING1_SS & ~3) == RETIRE
    assert gpr(full, Gpr.EDX) == 0x11223344
    full.regs.gpr[Gpr.EDX] = 0xAAAAAAAA
    assert load_ss(full, "load_far", "660fb213", RING1_SS & ~3) == RETIRE
    assert gpr(full, Gpr.EDX) == 0xAAAA3344


@pytest.mark.parametrize(("kind", "code"), SS_LOADS)
@pytest.mark.parametrize(("selector", "error_code"), [
    (0, 0), (1, 0), (RING3_SS, RING3_SS & ~3), (RING1_SS | 3, RING1_SS & ~3), (RING1_CS, RING1_CS & ~3),
    (xen.HYPERVISOR_DS, xen.HYPERVISOR_DS), (0x1000, 0x1000)])
def test_ss_that_cannot_be_loaded(full: Stage, kind: str, code: str, selector: int, error_code: int) -> None:
    """A selector of DPL 0 faults as in ring 1: a known difference."""
    edx = gpr(full, Gpr.EDX)
    assert load_ss(full, kind, code, selector) == Inject(Vector.GP, error_code)
    assert (full.regs.selector(Seg.SS), gpr(full, Gpr.EDX), full.vcpu.shadow_next) == (RING1_SS, edx, False)
    assert gpr(full, Gpr.ESP) == (STACK_TOP - 0x40 if kind == "pop_seg" else STACK_TOP)


@pytest.mark.parametrize(("kind", "code"), SS_LOADS)
def test_no_event_comes_between_ss_and_esp(full: Stage, kind: str, code: str) -> None:
    """LSS loads both and needs no shadow (SDM 3, section 6.8.3)."""
    assert load_ss(full, kind, code, RING1_SS) == RETIRE
    assert full.vcpu.shadow_next == (kind != "load_far")


# -- Far transfers


@pytest.mark.parametrize(("code", "size", "dropped"), [
    ("cb", 4, 8), ("66cb", 2, 4), ("ca1000", 4, 24), ("66ca1000", 2, 20)])
def test_retf_to_rpl_0(full: Stage, code: str, size: int, dropped: int) -> None:
    esp = stack(full, 0x2345, RING1_CS & ~3, size=size) - 2 * size
    assert full.scanned("far_ret", code) == RESUME
    regs = full.regs
    assert (regs.eip, regs.selector(Seg.CS), regs.cpl, gpr(full, Gpr.ESP)) == (0x2345, RING1_CS, 1, esp + dropped)


@pytest.mark.parametrize("cs", [RING1_CS, RING3_CS, RING1_CS & ~3 | 2])
def test_retf_to_another_rpl_is_the_cpus(full: Stage, cs: int) -> None:
    stack(full, 0x2345, cs)
    assert full.scanned("far_ret", "cb") == NATIVE


@pytest.mark.parametrize("cs", [0, RING1_SS & ~3, xen.HYPERVISOR_CS, 0x1000])
def test_retf_to_where_it_may_not_go(full: Stage, cs: int) -> None:
    above = stack(full, 0x2345, cs)
    assert full.scanned("far_ret", "cb") == Inject(Vector.GP, cs)
    assert (full.regs.eip, full.regs.selector(Seg.CS), gpr(full, Gpr.ESP)) == (CODE, RING1_CS, above - 8)


def far_call(stage: Stage, selector: int, form: str = "9a") -> Outcome:
    """CALL far to 0x2345, by an immediate or through memory, with 32 or 16 bits."""
    size = 2 if form.startswith("66") else 4
    pointer = (0x2345).to_bytes(size, "little") + selector.to_bytes(2, "little")
    stage.put(DATA, pointer)
    stage.regs.gpr[Gpr.EBX] = DATA
    return stage.scanned("far_call", form + pointer.hex() if form.endswith("9a") else form)


@pytest.mark.parametrize(("form", "length", "size"), [("9a", 7, 4), ("669a", 6, 2), ("ff1b", 2, 4), ("66ff1b", 3, 2)])
@pytest.mark.parametrize("selector", [RING1_CS, RING1_CS & ~3])
def test_a_far_call_pushes_rpl_0(full: Stage, form: str, length: int, size: int, selector: int) -> None:
    assert far_call(full, selector, form) == RESUME
    regs, esp = full.regs, STACK_TOP - 2 * size
    assert (regs.eip, regs.selector(Seg.CS), regs.cpl, gpr(full, Gpr.ESP)) == (0x2345, RING1_CS, 1, esp)
    pushed = full.get(esp, 2 * size)
    assert int.from_bytes(pushed[:size], "little") == (CODE + length) & (1 << 8 * size) - 1
    assert int.from_bytes(pushed[size:], "little") == RING1_CS & ~3


GATE = 0x0000EC00E0190000


@pytest.mark.parametrize("selector", [0, 0x10, RING3_CS, RING1_CS & ~3 | 2, 0x1000])
def test_calls_that_the_cpu_judges(full: Stage, selector: int) -> None:
    """A null selector, a call gate, an outer ring, nothing at all."""
    full.own_gdt(descriptor(0, 0xFFF, 0xB3), GATE)
    assert far_call(full, selector) == NATIVE
    assert gpr(full, Gpr.ESP) == STACK_TOP


@pytest.mark.parametrize(("selector", "expected"), [
    (0x08, Inject(Vector.GP, 0x08)), (0x09, Inject(Vector.GP, 0x08)), (0x10, Inject(Vector.NP, 0x10)),
    (0x18, Inject(Vector.GP, 0x18))])
def test_calls_to_where_one_may_not_go(full: Stage, selector: int, expected: Inject) -> None:
    """Data, code that is not present, code of an application."""
    full.own_gdt(descriptor(0, 0xFFF, 0xB3), descriptor(0, 0xFFF, 0x3B), descriptor(0, 0xFFF, 0xFB))
    assert far_call(full, selector) == expected
    assert (full.regs.eip, gpr(full, Gpr.ESP)) == (CODE, STACK_TOP)


def test_a_call_without_a_stack_goes_nowhere(full: Stage) -> None:
    full.regs.gpr[Gpr.ESP] = NOWHERE + 8
    assert far_call(full, RING1_CS) == Inject(Vector.PF, 2, NOWHERE)
    assert (full.regs.eip, gpr(full, Gpr.ESP)) == (CODE, NOWHERE + 8)


def test_a_far_jump_needs_no_correction(full: Stage) -> None:
    assert full.scanned("far_jmp", "ea4523000019e0") == NATIVE


# -- LAR, LSL, VERR, VERW at virtual CPL 0

# Access byte of entry n, its limit of 20 bits, its flags: what the four instructions answer with RPL 0.
# LAR: the second dword & 0x00F0FF00. LSL: in bytes. VERR and VERW: ZF. None: ZF clear.
_ENTRIES: dict[int, tuple[int, int, int, int | None, int | None, bool, bool]] = {
    1: (0xB3, 0x12345, 0xC, 0xC0B300, 0x12345FFF, True, True),  # data, DPL 1, pages
    2: (0xB1, 0x12345, 0x4, 0x40B100, 0x12345, True, False),  # data, DPL 1, read-only, bytes
    3: (0xBB, 0x00FFF, 0x4, 0x40BB00, 0xFFF, True, False),  # code, readable
    4: (0xB9, 0x00FFF, 0x4, 0x40B900, 0xFFF, False, False),  # code, execute-only
    5: (0xBF, 0x00FFF, 0x4, 0x40BF00, 0xFFF, True, False),  # conforming code, readable
    6: (0x33, 0x00FFF, 0x4, 0x403300, 0xFFF, True, True),  # data, not present: nobody asks
    7: (0xF7, 0x00FFF, 0x4, 0x40F700, 0xFFF, True, True),  # data, DPL 3, expand-down
    8: (0x93, 0x00FFF, 0x4, None, None, False, False),  # DPL 0 is Xen's: hidden
    9: (0x9F, 0x00FFF, 0x4, 0x409F00, 0xFFF, True, False),  # conforming code of DPL 0 hides from nobody
    # System descriptors of DPL 1; LAR and LSL tell of some types (SDM 2, tables 3-52 and 3-54).
    **{16 + kind: (0xA0 | kind, 0x67, 0x0, 0xA000 | kind << 8 if kind in (1, 2, 3, 4, 5, 9, 11, 12) else None,
                   0x67 if kind in (1, 2, 3, 9, 11) else None, False, False) for kind in range(16)},
}
ANSWERS = [(n, *row[3:]) for n, row in _ENTRIES.items()]
CODES = {"lar": "0f02ca", "lsl": "0f03ca", "verr": "0f00e2", "verw": "0f00ea"}
"""With EDX for the selector; LAR and LSL answer in ECX."""


@pytest.fixture
def described(full: Stage) -> Stage:
    """A GDT of _ENTRIES, put there by hand: a guest may not have all of them."""
    gdt = full.own_gdt(0)
    for n, (access, limit, flags, *_) in _ENTRIES.items():
        full.ram.write(gdt + 8 * n, descriptor(0, limit, access, flags).to_bytes(8, "little"))
    return full


def ask(stage: Stage, kind: str, selector: int, code: str = "") -> int | None:
    """What an instruction answers: None for ZF clear, ECX or 1 for ZF set."""
    stage.regs.gpr[Gpr.EDX], stage.regs.gpr[Gpr.ECX] = 0xABCD0000 | selector, 0x55AA55AA
    answers = set()
    for flags in (0x202 | CF, 0x202 | CF | ZF):
        stage.regs.eflags = flags
        assert stage.scanned(kind, code or CODES[kind]) == RETIRE
        assert stage.regs.eflags | ZF == 0x202 | CF | ZF, "only ZF is touched"
        answers.add(stage.regs.eflags & ZF != 0)
    assert len(answers) == 1
    if not answers.pop():
        assert gpr(stage, Gpr.ECX) == 0x55AA55AA
        return None
    return gpr(stage, Gpr.ECX) if kind in ("lar", "lsl") else 1


@pytest.mark.parametrize(("index", "lar", "lsl", "verr", "verw"), ANSWERS)
def test_what_a_kernel_is_told(
        described: Stage, index: int, lar: int | None, lsl: int | None, verr: bool, verw: bool) -> None:
    selector = 8 * index
    assert ask(described, "lar", selector) == lar
    assert ask(described, "lsl", selector) == lsl
    assert (ask(described, "verr", selector) is not None) == verr
    assert (ask(described, "verw", selector) is not None) == verw


@pytest.mark.parametrize("kind", CODES)
@pytest.mark.parametrize(("selector", "told"), [
    (0, False), (3, False), (0x1000, False), (0xFFF8, False), (0xC, False), (0x09, True), (0x0A, False), (0x0B, False),
    (0x3B, True)])
def test_what_no_selector_reaches(described: Stage, kind: str, selector: int, told: bool) -> None:
    """Null, beyond the table, an LDT that there is not; RPL 2 and 3 for a descriptor of DPL 1, RPL 3 for DPL 3."""
    assert (ask(described, kind, selector) is not None) == told


@pytest.mark.parametrize(("selector", "kind", "told"), [
    (8 * 5 | 3, "verr", True), (8 * 5 | 3, "lar", True), (8 * 9 | 3, "lsl", True), (8 * 3 | 3, "verr", False)])
def test_conforming_code_knows_no_ring(described: Stage, selector: int, kind: str, told: bool) -> None:
    assert (ask(described, kind, selector) is not None) == told


@pytest.mark.parametrize(("kind", "code", "expected"), [
    ("lar", "660f02ca", 0x55AAB300), ("lsl", "660f03ca", 0x55AA5FFF)])
def test_an_operand_size_of_16_answers_in_16_bits(described: Stage, kind: str, code: str, expected: int) -> None:
    assert ask(described, kind, 8, code) == expected


def test_a_selector_in_memory(described: Stage) -> None:
    described.regs.gpr[Gpr.EBX] = DATA
    described.words(DATA, 0xABCD0008)
    assert ask(described, "lar", 0, "0f020b") == 0xC0B300


def test_a_limit_that_xen_cut_is_shown_whole(full: Stage) -> None:
    """Its own flat segments, and a guest's that was cut below Xen."""
    assert ask(full, "lsl", RING1_CS) == 0xFFFFFFFF
    assert ask(full, "lsl", RING3_SS) == 0xFFFFFFFF
    full.own_gdt(descriptor(0, 0xFFFFF, 0xB3))
    assert ask(full, "lsl", 8) == 0xFFFFFFFF


def test_xens_own_segments_are_hidden(full: Stage) -> None:
    assert all(ask(full, kind, xen.HYPERVISOR_DS) is None for kind in CODES)


# -- The audit


def audited(policy: str = "xen") -> Stage:
    return Stage(policy, audit=True)


@pytest.mark.parametrize(("kind", "code", "saw"), [
    ("sgdt", "0f0103", "the real GDTR: base 0xfe000000, limit 0xefff"),
    ("sidt", "0f010b", "the real IDTR: base 0xff000000, limit 0x7ff"),
    ("sldt", "0f00c0", "the real LDTR: 0xe048"), ("str", "0f00c8", "the real TR: 0xe040"),
    ("smsw", "0f01e0", "the real CR0: 0x8005003b"),
    ("pushf", "9c", "the real IF 1 (virtual 0) and IOPL 0 (virtual 2)"),
    ("popf", "9d", "lost without a fault: IF 0, IOPL 1"),
    ("iret", "cf", "lost without a fault: IF 1"),
    ("lar", "0f02ca", "selector 0x1234 judged with the real CPL 1"),
    ("lsl", "0f03ca", "selector 0x1234 judged with the real CPL 1"),
    ("verr", "0f00e2", "selector 0x1234 judged with the real CPL 1"),
    ("verw", "0f00ea", "selector 0x1234 judged with the real CPL 1"),
    ("push_seg", "0e", "CS 0xe019: ring 1 shows"), ("push_seg", "0fa0", "FS 0xe021: ring 1 shows"),
    ("mov_from_seg", "8cd1", "SS 0xe021: ring 1 shows"),
    ("pop_seg", "17", "loaded with the real CPL 1: a selector of DPL 0 would fault"),
    ("mov_to_seg", "8ed8", "loaded with the real CPL 1: a selector of DPL 0 would fault"),
    ("load_far", "0fb203", "loaded with the real CPL 1: a selector of DPL 0 would fault"),
    ("far_call", "9a0000000019e0", "gate and target judged with the real CPL 1; CS keeps RPL 1"),
    ("far_jmp", "ea0000000019e0", "gate and target judged with the real CPL 1; CS keeps RPL 1"),
    ("far_ret", "cb", "gate and target judged with the real CPL 1; CS keeps RPL 1"),
])
def test_findings(kind: str, code: str, saw: str) -> None:
    stage = audited()
    regs, stage.state.iopl = stage.regs, 2
    regs.cr0 = 0x8005003B
    regs.load_gdtr(0xFE000000, 0xEFFF)
    regs.load_idtr(0xFF000000, 0x7FF)
    regs.load_ldtr(SegmentCache(0xE048))
    regs.gpr[Gpr.EDX] = 0x1234
    stack(stage, 0x1002, 0, 0x202)
    assert stage.scanned(kind, code) == (RETIRE if kind == "smsw" else NATIVE), "it runs as it would without an audit"
    (finding,) = stage.vcpu.findings.values()
    assert (finding.eip, finding.cpl, finding.saw) == (CODE, 1, saw)
    assert finding.instead == silent.TABLE[kind].instead != ""
    assert finding.bytes == bytes.fromhex(code)


@pytest.mark.parametrize(("image", "lost"), [
    (0, "IF 0"), (IF, "IF 1"), (0x3000, "IF 0, IOPL 3"), (IF | 0x2000, "IF 1, IOPL 2")])
@pytest.mark.parametrize("code", ["9d", "669d"])
def test_what_popf_lost(code: str, image: int, lost: str) -> None:
    stage = audited()
    stack(stage, image, size=2 if code == "669d" else 4)
    stage.scanned("popf", code)
    assert stage.vcpu.findings[CODE].saw == f"lost without a fault: {lost}"


def test_once_for_each_address() -> None:
    stage = audited()
    stage.scanned("sgdt", "0f0103")
    first = stage.vcpu.findings[CODE]
    stage.regs.load_gdtr(0x1000, 1)
    stage.scanned("sgdt", "0f0103")
    assert stage.vcpu.findings == {CODE: first}
    assert stage.vcpu.findings[CODE] is first
    stage.regs.eip = SPARE
    stage.scanned("sidt", "0f010b")
    assert list(stage.vcpu.findings) == [CODE, SPARE]


def test_applications_are_not_audited() -> None:
    stage = audited()
    ring_3(stage)
    stage.regs.gpr[Gpr.EBX] = DATA
    stage.scanned("sgdt", "0f0103")
    assert not stage.vcpu.findings


def test_a_corrected_one_is_reported_too() -> None:
    stage = audited(POLICY_FULL)
    assert stage.scanned("pushf", "9c") == RETIRE
    assert stage.vcpu.findings[CODE].text == "pushfd"


@pytest.mark.parametrize("listening", [False, True])
def test_what_is_said_of_a_finding(listening: bool) -> None:
    stage = audited()
    stage.vcpu.listening = listening
    stage.scanned("str", "0f00c8")
    said = ["audit: the real TR: 0xe040; use keep what stack_switch was given"]
    assert stage.vcpu.seen.notes == (said if listening else [])


def test_virtual_eflags(full: Stage) -> None:
    full.state.iopl, full.vcpu.mask, full.regs.eflags = 2, 0, 0x1002 | ZF
    assert silent.virtual_eflags(full.vcpu) == 2 | ZF | IF | 0x2000


def test_instructions_are_found_where_they_are(stage: Stage) -> None:
    """A stage decodes at EIP, as the tests above assume."""
    found = stage.decode("0f0103")
    assert isinstance(found, Instruction)
    assert found.address == CODE
