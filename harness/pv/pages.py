"""Page types: what keeps a guest that writes its own page tables inside its own memory (xen/arch/x86/mm.c).

Each frame of the domain has one type at a time, and a count of what holds it in that type. A frame used as a page
table cannot be mapped writable, and a frame mapped writable cannot become a page table. A page table is checked as a
whole when it gets its type, and entry by entry afterwards; so is a page of descriptors.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntEnum

from harness.abi import xen
from harness.abi.x86 import (
    DESC_A,
    DESC_CODE,
    DESC_DC,
    DESC_G,
    DESC_P,
    DESC_S,
    PAGE_SHIFT,
    PAGE_SIZE,
    PTE_G,
    PTE_P,
    PTE_PS,
    PTE_RW,
    SYSTEM_CALL_GATE32,
    descriptor_base,
    descriptor_dpl,
    descriptor_limit,
)
from harness.domain.memory import Memory

_DISALLOWED = PTE_PS | PTE_G
"""Bits that a guest may not set in L1 and L2 entries: PS (PAT in an L1) and G (asm-x86/x86_32/page.h)."""
XEN_L2_SLOT = xen.HYPERVISOR_VIRT_START >> 22
_WORDS = struct.Struct("<1024I")


class PageType(IntEnum):
    """What a frame is used as."""

    NONE = 0
    L1 = 1
    L2 = 2
    GDT = 3
    LDT = 4
    WRITABLE = 5


# Plain numbers for the hot paths: looking up a member costs three times as much (Python 3.11).
_NONE, _L1, _L2, _WRITABLE = (int(kind) for kind in (PageType.NONE, PageType.L1, PageType.L2, PageType.WRITABLE))


class PageTables:
    """The frames of one domain: types, counts, pins. Frames are machine frame numbers.

    `flush` flushes the CPU's TLB: a frame that changes its type may still be mapped there as what it was.
    `xen_slots` are the directory entries from slot `XEN_L2_SLOT` on, put into every page directory.
    """

    def __init__(self, ram: Memory, flush: Callable[[], None]) -> None:
        frames = ram.size >> PAGE_SHIFT
        self._ram, self._flush = ram, flush
        self.owned = bytearray(frames)
        self.type = bytearray(frames)
        self.count = [0] * frames
        self.pinned = bytearray(frames)
        self.mapped = [0] * frames
        """How many entries map the frame in any way."""
        self.xen_slots: tuple[int, ...] = (0,) * (1024 - XEN_L2_SLOT)
        self.examined = 0
        """Entries looked at so far, for whoever must bound the work that a guest causes."""

    # -- References

    def owns(self, mfn: int) -> bool:
        """Whether the domain owns a frame."""
        return 0 <= mfn < len(self.owned) and self.owned[mfn] != 0

    def get_type(self, mfn: int, wanted: int) -> bool:
        """Hold a frame in a type, checking its contents if it had another. False if it cannot be had."""
        if not 0 <= mfn < len(self.owned) or not self.owned[mfn]:
            return False
        if self.count[mfn] == 0:
            if self.type[mfn] != _NONE and self.type[mfn] != wanted:
                self._flush()
            self.type[mfn] = wanted
            # Held while it is checked, so that a table that refers to itself meets its own type.
            self.count[mfn] = 1
            if wanted != _WRITABLE and not self._check(mfn, wanted):
                self.count[mfn] = 0
                self.type[mfn] = _NONE
                return False
            return True
        if self.type[mfn] != wanted:
            return False
        self.count[mfn] += 1
        return True

    def put_type(self, mfn: int) -> None:
        """Let go of a frame. With the last holder gone a page table lets go of what it maps.

        A list, not recursion: directories that map one another can be a chain as long as the domain has frames.
        """
        if self.count[mfn] > 1:
            self.count[mfn] -= 1
            return
        waiting = [mfn]
        while waiting:
            frame = waiting.pop()
            self.count[frame] -= 1
            if self.count[frame]:
                continue
            if self.type[frame] == _L1:
                for entry in self._entries(frame):
                    self._put_l1e(entry)
            elif self.type[frame] == _L2:
                below = (entry >> PAGE_SHIFT for entry in self._entries(frame)[:XEN_L2_SLOT] if entry & PTE_P)
                waiting += [other for other in below if other != frame]

    def _check(self, mfn: int, wanted: int) -> bool:
        if wanted == _L1:
            return self._take(mfn, 1024, self._get_l1e, self._put_l1e)
        if wanted == _L2:
            get, put = (lambda entry: self._get_l2e(entry, mfn)), (lambda entry: self._put_l2e(entry, mfn))
            if not self._take(mfn, XEN_L2_SLOT, get, put):
                return False
            slots = struct.pack(f"<{len(self.xen_slots)}I", *self.xen_slots)
            self._ram.write((mfn << PAGE_SHIFT) + 4 * XEN_L2_SLOT, slots)
            return True
        return self._check_descriptors(mfn)

    def _entries(self, mfn: int) -> tuple[int, ...]:
        self.examined += 1024
        return _WORDS.unpack(self._ram.read(mfn << PAGE_SHIFT, PAGE_SIZE))

    def _take(self, mfn: int, number: int, get: Callable[[int], bool], put: Callable[[int], None]) -> bool:
        entries = self._entries(mfn)[:number]
        for n, entry in enumerate(entries):
            if entry & PTE_P and not get(entry):
                for taken in entries[:n]:
                    put(taken)
                return False
        return True

    # -- Entries

    def _get_l1e(self, entry: int) -> bool:
        mfn = entry >> PAGE_SHIFT
        if entry & _DISALLOWED:
            return False
        if not (self.get_type(mfn, _WRITABLE) if entry & PTE_RW else self.owns(mfn)):
            return False
        self.mapped[mfn] += 1
        return True

    def _put_l1e(self, entry: int) -> None:
        if entry & PTE_P:
            self.mapped[entry >> PAGE_SHIFT] -= 1
            if entry & PTE_RW:
                self.put_type(entry >> PAGE_SHIFT)

    def _get_l2e(self, entry: int, directory: int) -> bool:
        if entry & _DISALLOWED:
            return False
        mfn = entry >> PAGE_SHIFT
        if mfn == directory:
            # A directory as its own page table: readable, never writable. It does not hold itself.
            return not entry & PTE_RW
        if self.owns(mfn) and self.type[mfn] == _L2 and self.count[mfn]:
            return not entry & PTE_RW and self.get_type(mfn, _L2)
        return self.get_type(mfn, _L1)

    def _put_l2e(self, entry: int, directory: int) -> None:
        mfn = entry >> PAGE_SHIFT
        if entry & PTE_P and mfn != directory:
            self.put_type(mfn)

    def update_l1(self, maddr: int, entry: int) -> bool:
        """Write one L1 entry at a machine address, if it maps nothing that it may not."""
        old = self._ram.words[maddr >> 2]
        if entry & PTE_P:
            if (old ^ entry) & (0xFFFFF000 | PTE_RW | PTE_P):
                if not self._get_l1e(entry):
                    return False
            elif entry & _DISALLOWED:
                return False
            else:
                self._ram.set_u32(maddr, entry)
                return True
        self._ram.set_u32(maddr, entry)
        self._put_l1e(old)
        return True

    def update_l2(self, maddr: int, entry: int) -> bool:
        """Write one L2 entry at a machine address. Xen's own slots cannot be written."""
        if (maddr & 0xFFF) >> 2 >= XEN_L2_SLOT:
            return False
        old = self._ram.u32(maddr)
        if entry & PTE_P and not self._get_l2e(entry, maddr >> PAGE_SHIFT):
            return False
        self._ram.set_u32(maddr, entry)
        self._put_l2e(old, maddr >> PAGE_SHIFT)
        return True

    def pin(self, mfn: int, wanted: int) -> bool:
        """Hold a page table in its type even while nothing uses it. False if it is pinned already or no such table."""
        if not self.owns(mfn) or self.pinned[mfn] or not self.get_type(mfn, wanted):
            return False
        self.pinned[mfn] = 1
        return True

    def unpin(self, mfn: int) -> bool:
        """The reverse of `pin`. False if it is not pinned."""
        if not self.owns(mfn) or not self.pinned[mfn]:
            return False
        self.pinned[mfn] = 0
        self.put_type(mfn)
        return True

    # -- Descriptors

    def _check_descriptors(self, mfn: int) -> bool:
        words = list(self._entries(mfn))
        for n in range(0, 1024, 2):
            checked = check_descriptor(words[n], words[n + 1])
            if checked is None:
                return False
            words[n : n + 2] = checked
        self._ram.write(mfn << PAGE_SHIFT, _WORDS.pack(*words))
        return True


def valid_code_selector(selector: int) -> bool:
    """Whether a guest may enter its kernel by this selector (VALID_CODESEL: flat, or its own with RPL 1)."""
    if selector == xen.FLAT_RING1_CS:
        return True
    own = selector >> 3 < xen.FIRST_RESERVED_GDT_ENTRY or selector & 4
    return bool(own) and selector & 3 == 1


def check_descriptor(low: int, high: int) -> tuple[int, int] | None:
    """A descriptor as Xen stores it, or None if a guest may not have it (xen/arch/x86/x86_32/mm.c, check_descriptor).

    DPL 0 is refused. Page-granular limits are cut below Xen; byte-granular ones must fit. Of the system types only a
    32-bit call gate into the guest's own kernel is accepted. What is not present can do no harm. The accessed bit is
    set on the way: the CPU would write it through a mapping that is read-only (a #PF, observed on Unicorn 2.1.4).
    """
    if not high & DESC_P:
        return low, high
    if descriptor_dpl(high) == 0:
        return None
    if not high & DESC_S:
        gate = high >> 8 & 0xF == SYSTEM_CALL_GATE32 and not high & 0xE0 and valid_code_selector(low >> 16)
        return (low, high) if gate else None
    base = descriptor_base(low, high)
    if base >= xen.GUEST_SEGMENT_MAX - PAGE_SIZE:
        return None
    size = descriptor_limit(low, high) + 1
    if high & (DESC_CODE | DESC_DC) == DESC_DC:
        # Expand-down: it reaches from its limit up to 4 GiB, and must begin beyond them instead.
        too_far = (base + size) & 0xFFFFFFFF > base
        room = -(base & ~(PAGE_SIZE - 1)) & 0xFFFFFFFF
    else:
        too_far = base + size > xen.GUEST_SEGMENT_MAX
        room = xen.GUEST_SEGMENT_MAX - base
    if too_far:
        if not high & DESC_G:
            return None
        pages = (room >> PAGE_SHIFT) - 1
        low, high = low & 0xFFFF0000 | pages & 0xFFFF, high & ~0xF0000 | pages & 0xF0000
    return low, high | DESC_A
