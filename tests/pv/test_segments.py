"""Selectors: what loading one gives or raises (SDM 2, MOV and IRET; SDM 3, chapter 5)."""

from __future__ import annotations

import pytest

from harness.abi import xen
from harness.abi.x86 import Seg, Vector
from harness.abi.xen import Hypercall, MmuExt
from harness.domain.registers import SegmentCache
from harness.pv import segments
from tests.pv.stage import DATA, NOWHERE, SPARE, Stage, descriptor

# Entry n of the GDT below, by access byte. 0x92 data, 0x9A code, + 0x20 a ring of DPL, - 0x80 not present.
ENTRIES = {
    1: 0xB3,  # data, DPL 1
    2: 0xF3,  # data, DPL 3
    3: 0xBB,  # code, DPL 1, readable
    4: 0xB9,  # code, DPL 1, execute-only
    5: 0xFB,  # code, DPL 3
    6: 0xBF,  # conforming code, DPL 1
    7: 0xB1,  # data, DPL 1, read-only
    8: 0x33,  # data, DPL 1, not present
    9: 0x3B,  # code, DPL 1, not present
    10: 0xF7,  # data, DPL 3, expand-down
    11: 0xD3,  # data, DPL 2
    12: 0xDB,  # code, DPL 2
    13: 0xBD,  # conforming code, DPL 1, execute-only
    14: 0xFF,  # conforming code, DPL 3
}


@pytest.fixture
def gdt(stage: Stage) -> Stage:
    """A domain with ENTRIES, and entry 15 a call gate."""
    descriptors = [descriptor(0x1000 * n, 0xFFF, access) for n, access in ENTRIES.items()]
    stage.own_gdt(*descriptors, 0x0000EC00E0190000)
    return stage


def outcome(function: object, *arguments: object) -> object:
    """What was loaded: its selector; or what was raised: vector and error code."""
    try:
        return function(*arguments).selector  # type: ignore[operator]
    except segments.SelectorError as bad:
        return bad.vector, bad.error_code


def sel(index: int, rpl: int) -> int:
    return index << 3 | rpl


GP, NP, SS = Vector.GP, Vector.NP, Vector.SS


@pytest.mark.parametrize(("selector", "cpl", "expected"), [
    (0, 1, 0), (3, 3, 3),
    (sel(1, 0), 1, sel(1, 0)), (sel(1, 1), 1, sel(1, 1)), (sel(1, 2), 1, (GP, sel(1, 0))),
    (sel(1, 3), 3, (GP, sel(1, 0))),
    (sel(1, 0), 3, (GP, sel(1, 0))), (sel(2, 3), 3, sel(2, 3)), (sel(2, 0), 1, sel(2, 0)), (sel(2, 0), 3, sel(2, 0)),
    (sel(3, 1), 1, sel(3, 1)), (sel(4, 1), 1, (GP, sel(4, 0))), (sel(6, 3), 3, sel(6, 3)),
    (sel(13, 1), 1, (GP, sel(13, 0))),
    (sel(7, 1), 1, sel(7, 1)), (sel(8, 1), 1, (NP, sel(8, 0))), (sel(8, 3), 3, (GP, sel(8, 0))),
    (sel(10, 3), 3, sel(10, 3)), (sel(15, 1), 1, (GP, sel(15, 0))), (sel(16, 1), 1, (GP, sel(16, 0))),
    (sel(512, 1), 1, (GP, sel(512, 0))), (sel(8191, 1), 1, (GP, sel(8191, 0))), (sel(1, 1) | 4, 1, (GP, sel(1, 0) | 4)),
    (xen.FLAT_RING1_DS, 1, xen.FLAT_RING1_DS), (xen.FLAT_RING3_DS, 3, xen.FLAT_RING3_DS),
    (xen.FLAT_RING1_DS, 3, (GP, 0xE020)), (xen.FLAT_RING3_DS & ~3, 1, xen.FLAT_RING3_DS & ~3),
    (xen.HYPERVISOR_DS, 1, (GP, 0xE010)), (xen.HYPERVISOR_DS | 1, 1, (GP, 0xE010)), (xen.TSS_SELECTOR, 1, (GP, 0xE040)),
])
def test_data_segments(gdt: Stage, selector: int, cpl: int, expected: object) -> None:
    assert outcome(segments.load_data, gdt.vcpu, selector, cpl) == expected


@pytest.mark.parametrize(("selector", "cpl", "expected"), [
    (0, 1, (GP, 0)), (1, 1, (GP, 0)), (sel(1, 1), 1, sel(1, 1)), (sel(1, 0), 1, (GP, sel(1, 0))),
    (sel(1, 3), 3, (GP, sel(1, 0))),
    (sel(2, 3), 3, sel(2, 3)), (sel(2, 1), 1, (GP, sel(2, 0))), (sel(2, 3), 1, (GP, sel(2, 0))),
    (sel(3, 1), 1, (GP, sel(3, 0))),
    (sel(7, 1), 1, (GP, sel(7, 0))), (sel(8, 1), 1, (SS, sel(8, 0))), (sel(10, 3), 3, sel(10, 3)),
    (sel(11, 2), 2, sel(11, 2)),
    (sel(15, 3), 3, (GP, sel(15, 0))), (sel(16, 1), 1, (GP, sel(16, 0))), (xen.FLAT_RING1_SS, 1, xen.FLAT_RING1_SS),
    (xen.FLAT_RING3_SS, 3, xen.FLAT_RING3_SS), (xen.FLAT_RING3_SS, 1, (GP, 0xE030)),
])
def test_stacks(gdt: Stage, selector: int, cpl: int, expected: object) -> None:
    assert outcome(segments.load_stack, gdt.vcpu, selector, cpl) == expected


@pytest.mark.parametrize(("selector", "expected"), [
    (0, (GP, 0)), (3, (GP, 0)), (sel(3, 1), sel(3, 1)), (sel(3, 0), (GP, sel(3, 0))), (sel(3, 3), (GP, sel(3, 0))),
    (sel(4, 1), sel(4, 1)), (sel(5, 3), sel(5, 3)), (sel(5, 1), (GP, sel(5, 0))), (sel(6, 1), sel(6, 1)),
    (sel(6, 3), sel(6, 3)),
    (sel(14, 1), (GP, sel(14, 0))), (sel(14, 3), sel(14, 3)), (sel(1, 1), (GP, sel(1, 0))), (sel(9, 1),
    (NP, sel(9, 0))),
    (sel(9, 3), (GP, sel(9, 0))), (sel(12, 2), sel(12, 2)), (sel(15, 3), (GP, sel(15, 0))), (sel(20, 1),
    (GP, sel(20, 0))),
    (xen.FLAT_RING1_CS, xen.FLAT_RING1_CS), (xen.FLAT_RING3_CS, xen.FLAT_RING3_CS),
    (xen.HYPERVISOR_CS | 1, (GP, 0xE008)),
])
def test_code(gdt: Stage, selector: int, expected: object) -> None:
    assert outcome(segments.load_code, gdt.vcpu, selector) == expected


def test_what_is_loaded_is_what_the_descriptor_says(gdt: Stage) -> None:
    assert segments.load_data(gdt.vcpu, sel(2, 3), 3) == SegmentCache(sel(2, 3), 0x2000, 0xFFFFFF, 0x00C0F300)
    assert segments.load_data(gdt.vcpu, xen.FLAT_RING3_DS, 3) == SegmentCache(
        xen.FLAT_RING3_DS, 0, xen.GUEST_SEGMENT_MAX - 1, 0x00C0F300)


@pytest.mark.parametrize("selector", [xen.FLAT_RING1_CS, xen.FLAT_RING1_DS, xen.FLAT_RING3_CS, xen.FLAT_RING3_DS])
def test_xens_flat_descriptors_are_in_the_gdt_as_they_are_known(stage: Stage, selector: int) -> None:
    words = stage.ram.read((1 << 12) + (selector & ~7) - 0xE000, 8)
    known = segments.descriptor(stage.vcpu, selector)
    assert known == (int.from_bytes(words[:4], "little"), int.from_bytes(words[4:], "little"))


# -- The LDT


def set_ldt(stage: Stage, base: int, *descriptors: int) -> None:
    for n, each in enumerate(descriptors):
        if base < NOWHERE:
            stage.put(base + 8 * n, each.to_bytes(8, "little"))
    stage.put(DATA, b"".join(v.to_bytes(4, "little") for v in (MmuExt.set_ldt, base, len(descriptors))))
    assert stage.call(Hypercall.mmuext_op, DATA, 1, 0, xen.DOMID_SELF) == 0


def test_selectors_of_the_ldt(stage: Stage) -> None:
    set_ldt(stage, SPARE, descriptor(0x5000, 0xFFF, 0xB2), descriptor(0, 0xFFFFF, 0xBA))
    assert segments.load_data(stage.vcpu, 0x05, 1).base == 0x5000
    assert segments.load_code(stage.vcpu, 0x0D).limit == xen.GUEST_SEGMENT_MAX - 1, "cut below Xen"
    assert outcome(segments.load_data, stage.vcpu, 0x15, 1) == (GP, 0x14), "behind its end"


@pytest.mark.parametrize("bad", [
    descriptor(0, 0xFFFFF, 0x9E), descriptor(0, 0xFFFFF, 0x92), descriptor(0xFFFFF000, 0, 0xB2)])
def test_an_ldt_that_was_not_checked_yet_gives_nothing_that_a_guest_may_not_have(stage: Stage, bad: int) -> None:
    """Conforming code of DPL 0 would pass every other test."""
    set_ldt(stage, SPARE, bad)
    assert outcome(segments.load_code, stage.vcpu, 0x05) == (GP, 0x04)
    assert outcome(segments.load_data, stage.vcpu, 0x05, 1) == (GP, 0x04)


def test_an_ldt_where_nothing_is(stage: Stage) -> None:
    set_ldt(stage, NOWHERE, 0, 0)
    assert segments.descriptor(stage.vcpu, 0x0D) is None


# -- On the way to the guest


@pytest.mark.parametrize(("attributes", "cpl", "kept"), [
    (0x00CFB300, 1, True), (0x00CFB300, 3, False), (0x00CFF300, 3, True), (0x00CFBB00, 3, False), (0x00CFBF00, 3, True),
    (0x00CFB700, 3, False), (0, 3, True)])
def test_an_outer_ring_keeps_no_segment_of_an_inner_one(stage: Stage, attributes: int, cpl: int, kept: bool) -> None:
    """Except conforming code; expand-down data has the same bit and is not (SDM 2, IRET)."""
    stage.enter(cpl)
    for seg in (Seg.DS, Seg.ES, Seg.FS, Seg.GS):
        stage.regs.load_segment(seg, SegmentCache(0x41, 0, 0, attributes))
    segments.leave_ring(stage.vcpu)
    for seg in (Seg.DS, Seg.ES, Seg.FS, Seg.GS):
        assert (stage.regs.selector(seg) == 0x41) == kept


@pytest.mark.parametrize("seg", [Seg.DS, Seg.ES, Seg.FS, Seg.GS])
def test_a_segment_that_went_bad_is_found(gdt: Stage, seg: Seg) -> None:
    assert segments.stale(gdt.vcpu) is None
    gdt.regs.load_segment(seg, SegmentCache(sel(8, 1)))
    assert segments.stale(gdt.vcpu) == seg


def test_good_segments_are_loaded_anew(gdt: Stage) -> None:
    gdt.regs.load_segment(Seg.GS, SegmentCache(sel(1, 1), 0xBAD, 0, 0))
    assert segments.stale(gdt.vcpu) is None
    assert gdt.regs.segment(Seg.GS).base == 0x1000


def test_an_error_names_itself() -> None:
    assert str(segments.SelectorError(Vector.NP, 0x40)) == "NP(0x40)"
