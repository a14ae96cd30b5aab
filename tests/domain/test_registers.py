"""Registers without a CPU: what `Registers` promises, and what a descriptor becomes in a segment register."""

from __future__ import annotations

import pytest

from harness.abi.x86 import VM, Gpr, Seg
from harness.domain.registers import PlainRegisters, SegmentCache, from_descriptor, snapshot


@pytest.mark.parametrize(("low", "high", "base", "limit", "attributes"), [
    (0x0000FFFF, 0x00CF9B00, 0, 0xFFFFFFFF, 0x00C09B00),
    (0x0000C3FF, 0x00CFBA00, 0, 0xFC3FFFFF, 0x00C0BA00),
    (0x5678FFFF, 0x12409234, 0x12345678, 0xFFFF, 0x00409200),
    (0x0000FFFF, 0x000F9200, 0, 0xFFFFF, 0x00009200),
    (0x00000000, 0x00809200, 0, 0xFFF, 0x00809200),
    (0, 0, 0, 0, 0),
])
def test_a_descriptor_in_a_segment_register(low: int, high: int, base: int, limit: int, attributes: int) -> None:
    """Base and limit put together, the limit in bytes; of the high dword what is left (SDM 3, figure 3-8)."""
    assert from_descriptor(0x11, low, high) == SegmentCache(0x11, base, limit, attributes)


@pytest.mark.parametrize("ring", range(4))
def test_cpl_is_the_dpl_of_ss(ring: int) -> None:
    regs = PlainRegisters()
    cs, ss = SegmentCache(8 | ring, 0, 0, 0xC09B00 | ring << 13), SegmentCache(16 | ring, 0, 0, 0xC09300 | ring << 13)
    regs.enter(cs, 0x1234, ss, 0x5678, 0x202)
    assert (regs.cpl, regs.eip, regs.gpr[Gpr.ESP], regs.eflags) == (ring, 0x1234, 0x5678, 0x202)
    assert (regs.segment(Seg.CS), regs.segment(Seg.SS)) == (cs, ss)


def test_loading_a_segment_leaves_cpl_alone() -> None:
    regs = PlainRegisters()
    regs.load_segment(Seg.SS, SegmentCache(0x13, 0, 0, 0xC0F300))
    assert (regs.selector(Seg.SS), regs.cpl) == (0x13, 0)


def test_each_register_is_its_own() -> None:
    regs = PlainRegisters()
    for seg in Seg:
        regs.load_segment(seg, SegmentCache(0x10 + seg, 0x1000 * seg))
    assert [regs.selector(seg) for seg in Seg] == [0x10 + seg for seg in Seg]
    assert [regs.segment(seg).base for seg in Seg] == [0x1000 * seg for seg in Seg]
    for n in range(8):
        regs.set_debug(n, 0x100 + n)
    assert [regs.debug(n) for n in range(8)] == [0x100 + n for n in range(8)]


def test_the_linear_eip_is_behind_the_base_of_cs() -> None:
    regs = PlainRegisters(eip=0xFFFFFFFE)
    regs.load_segment(Seg.CS, SegmentCache(8, 0x1000))
    assert regs.base(Seg.CS) == 0x1000
    assert regs.linear_eip == 0xFFE


def test_tables() -> None:
    regs = PlainRegisters()
    regs.load_gdtr(0x1000, 0xEFFF)
    regs.load_idtr(0x2000, 0x7FF)
    regs.load_ldtr(SegmentCache(0x48))
    regs.load_tr(SegmentCache(0x40))
    assert (regs.gdtr(), regs.idtr()) == ((0x1000, 0xEFFF), (0x2000, 0x7FF))
    assert (regs.ldtr().selector, regs.tr().selector) == (0x48, 0x40)


def test_two_sets_of_registers_share_nothing() -> None:
    one, other = PlainRegisters(), PlainRegisters()
    one.gpr[0] = one.debug_registers[0] = 1
    one.load_segment(Seg.DS, SegmentCache(1))
    one.load_gdtr(1, 1)
    one.load_tr(SegmentCache(1))
    assert other == PlainRegisters()


@pytest.mark.parametrize(("eflags", "vm86"), [(2, False), (VM | 2, True)])
def test_vm86(eflags: int, vm86: bool) -> None:
    assert PlainRegisters(eflags=eflags).vm86 == vm86


def test_a_snapshot_names_everything() -> None:
    regs = PlainRegisters(gpr=[1, 2, 3, 4, 5, 6, 7, 8], eip=9, eflags=10, cr0=11, cr3=12, cr4=13)
    for seg in Seg:
        regs.load_segment(seg, SegmentCache(0x20 + seg))
    assert snapshot(regs) == {
        "eax": 1, "ecx": 2, "edx": 3, "ebx": 4, "esp": 5, "ebp": 6, "esi": 7, "edi": 8, "eip": 9, "eflags": 10,
        "es": 0x20, "cs": 0x21, "ss": 0x22, "ds": 0x23, "fs": 0x24, "gs": 0x25, "cr0": 11, "cr3": 12, "cr4": 13}
