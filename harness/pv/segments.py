"""Selectors and descriptors of a guest: what loading one does (SDM 2, MOV; SDM 3 section 5.5)."""

from __future__ import annotations

from harness.abi import xen
from harness.abi.x86 import (
    DESC_A,
    DESC_CODE,
    DESC_DC,
    DESC_P,
    DESC_RW,
    DESC_S,
    DESCRIPTOR,
    SELECTOR_RPL,
    SELECTOR_TI,
    Seg,
    Vector,
    descriptor_dpl,
)
from harness.domain.memory import PageFaultError
from harness.domain.registers import SegmentCache, from_descriptor
from harness.pv.pages import check_descriptor
from harness.pv.state import Vcpu

NULL = SegmentCache()

_FLAT = {selector | SELECTOR_RPL: (both & 0xFFFFFFFF, both >> 32 | DESC_A) for selector, both in xen.FLAT_DESCRIPTORS}
_LIMIT_OF_GDT = 0xEFFF


class SelectorError(Exception):
    """A selector that cannot be loaded: the exception it raises, with its error code."""

    def __init__(self, vector: int, error_code: int) -> None:
        super().__init__(f"{Vector(vector).name}({error_code:#x})")
        self.vector, self.error_code = vector, error_code


def descriptor(vcpu: Vcpu, selector: int) -> tuple[int, int] | None:
    """The descriptor of a selector as its two dwords, or None where there is none."""
    flat = _FLAT.get(selector | SELECTOR_RPL)
    if flat is not None:
        return flat
    index, state = selector >> 3, vcpu.state
    if selector & SELECTOR_TI:
        if index >= state.ldt_entries:
            return None
        where = state.ldt_base + 8 * index
    else:
        if 8 * index > _LIMIT_OF_GDT:
            return None
        where = xen.GDT_VIRT_START + 8 * index
    try:
        low, high = DESCRIPTOR.unpack(vcpu.linear.read(where, 8))
    except PageFaultError:
        return None
    # An LDT page is checked when the CPU first uses it; read from the guest's own copy it may not have been yet.
    return check_descriptor(low, high) if selector & SELECTOR_TI else (low, high)


def forget(vcpu: Vcpu) -> None:
    """Descriptors may have changed: GDT, LDT or the page tables under them did.

    The registers follow on the way back to the guest, where Xen pops them all (x86_32/entry.S, restore_all_guest).
    """
    vcpu.reload = True


def load_data(vcpu: Vcpu, selector: int, cpl: int) -> SegmentCache:
    """What loading DS, ES, FS or GS gives at a privilege level. Raises SelectorError."""
    if selector & ~SELECTOR_RPL == 0:
        return SegmentCache(selector)
    found = descriptor(vcpu, selector)
    if found is None:
        raise SelectorError(Vector.GP, selector & ~3)
    high = found[1]
    readable = high & DESC_S and (not high & DESC_CODE or high & DESC_RW)
    conforming = high & DESC_CODE and high & DESC_DC
    if not readable or (not conforming and max(cpl, selector & 3) > descriptor_dpl(high)):
        raise SelectorError(Vector.GP, selector & ~3)
    if not high & DESC_P:
        raise SelectorError(Vector.NP, selector & ~3)
    return from_descriptor(selector, *found)


def load_stack(vcpu: Vcpu, selector: int, cpl: int) -> SegmentCache:
    """What loading SS gives at a privilege level. Raises SelectorError."""
    found = descriptor(vcpu, selector)
    if selector & ~SELECTOR_RPL == 0 or found is None:
        raise SelectorError(Vector.GP, selector & ~3)
    high = found[1]
    writable = high & DESC_S and high & DESC_RW and not high & DESC_CODE
    if not writable or selector & 3 != cpl or descriptor_dpl(high) != cpl:
        raise SelectorError(Vector.GP, selector & ~3)
    if not high & DESC_P:
        raise SelectorError(Vector.SS, selector & ~3)
    return from_descriptor(selector, *found)


def load_code(vcpu: Vcpu, selector: int) -> SegmentCache:
    """What IRET to a selector gives: CPL becomes its RPL. Raises SelectorError."""
    found = descriptor(vcpu, selector)
    if selector & ~SELECTOR_RPL == 0 or found is None:
        raise SelectorError(Vector.GP, selector & ~3)
    high, rpl = found[1], selector & 3
    if not (high & DESC_S and high & DESC_CODE):
        raise SelectorError(Vector.GP, selector & ~3)
    dpl = descriptor_dpl(high)
    if dpl > rpl if high & DESC_DC else dpl != rpl:
        raise SelectorError(Vector.GP, selector & ~3)
    if not high & DESC_P:
        raise SelectorError(Vector.NP, selector & ~3)
    return from_descriptor(selector, *found)


def leave_ring(vcpu: Vcpu) -> None:
    """Null the data segments that the ring just entered may not keep: a conforming one it may (SDM 2, IRET)."""
    regs = vcpu.regs
    for seg in (Seg.DS, Seg.ES, Seg.FS, Seg.GS):
        loaded = regs.segment(seg).attributes
        conforming = loaded & DESC_CODE and loaded & DESC_DC
        if loaded and not conforming and descriptor_dpl(loaded) < regs.cpl:
            regs.load_segment(seg, NULL)


def stale(vcpu: Vcpu) -> Seg | None:
    """The first data segment register whose selector could not be loaded again, or None; good ones are reloaded.

    Xen's exit path pops DS, ES, FS and GS; a descriptor changed since then is noticed there.
    """
    for seg in (Seg.DS, Seg.ES, Seg.FS, Seg.GS):
        selector = vcpu.regs.selector(seg)
        try:
            vcpu.regs.load_segment(seg, load_data(vcpu, selector, vcpu.regs.cpl))
        except SelectorError:
            return seg
    return None
