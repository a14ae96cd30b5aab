"""Memory management hypercalls (arch/x86/mm.c, common/memory.c): every change of a mapping is checked here."""

from __future__ import annotations

import struct
from collections.abc import Callable

from harness.abi import xen
from harness.abi.x86 import PAGE_SHIFT, PAGE_SIZE, PTE_A, PTE_P
from harness.abi.xen import DOMID_SELF, Errno, MemoryOp, MmuExt
from harness.domain.memory import PageFaultError
from harness.domain.registers import SegmentCache
from harness.pv import segments
from harness.pv.access import check_range, copy_from_guest, copy_to_guest, u32_from_guest
from harness.pv.continuation import RESUMED, Continue, preempted
from harness.pv.pages import PageType, check_descriptor
from harness.pv.state import Vcpu

_L1 = int(PageType.L1)
_OWN_FRAMES = xen.FIRST_RESERVED_GDT_PAGE
_MOST_DESCRIPTORS_A_PAGE = PAGE_SIZE // 8
_ENTRIES_AN_ITEM = 64
"""Page-table entries checked or let go for one item of work (pv.continuation)."""

# -- Frames and tables


def write_m2p(vcpu: Vcpu, mfn: int, pfn: int) -> None:
    """Set the machine-to-physical entry of a frame."""
    vcpu.ram.set_u32(vcpu.domain.m2p + 4 * mfn, pfn)


def fill_frame(vcpu: Vcpu, mfn: int, contents: bytes) -> bool:
    """Fill one of the guest's ordinary pages. False if it is not one."""
    pages = vcpu.domain.pages
    if not pages.get_type(mfn, PageType.WRITABLE):
        return False
    vcpu.ram.write(mfn << PAGE_SHIFT, contents)
    pages.put_type(mfn)
    return True


def new_guest_table(vcpu: Vcpu, mfn: int) -> bool:
    """Load another page directory. False if the frame cannot be one."""
    pages, state = vcpu.domain.pages, vcpu.state
    if not pages.get_type(mfn, PageType.L2):
        return False
    old, state.guest_table = state.guest_table, mfn
    if state.ldt_entries:
        # The LDT is a linear address: its pages are looked up anew in the new space (new_guest_cr3).
        unmap_ldt(vcpu)
    segments.forget(vcpu)
    vcpu.cpu.load_cr3(mfn << PAGE_SHIFT)
    pages.put_type(old)
    return True


def update_entry(vcpu: Vcpu, maddr: int, value: int) -> bool:
    """Write a dword of the guest's memory: a page-table entry with all checks, or plain data. False if refused."""
    pages, mfn = vcpu.domain.pages, maddr >> PAGE_SHIFT
    if value >> 32 or not pages.owns(mfn):
        return False
    kind = PageType(pages.type[mfn])
    if kind not in (PageType.L1, PageType.L2):
        kind = PageType.WRITABLE
    if not pages.get_type(mfn, kind):
        return False
    if kind == PageType.L1:
        done = pages.update_l1(maddr, value)
    elif kind == PageType.L2:
        done = pages.update_l2(maddr, value)
    else:
        vcpu.ram.set_u32(maddr, value)
        done = True
    pages.put_type(mfn)
    return done


def do_mmu_update(vcpu: Vcpu, requests: int, count: int, done_pointer: int, domid: int) -> int | Continue:
    """Hypercall 1. Stops at the first entry that fails; *done is how many were completed."""
    return _each(vcpu, _update, xen.MMU_UPDATE, requests, count, done_pointer, domid)


def _each(vcpu: Vcpu, act: Callable[..., bool], layout: struct.Struct, array: int, count: int, done_pointer: int,
          domid: int) -> int | Continue:
    """What mmu_update and mmuext_op share: an array of operations, taken in order until one fails.

    The top bit of `count` says that *done has what was completed before, as Xen's own continuation leaves it.
    """
    if domid != DOMID_SELF:
        return -Errno.EINVAL
    before = u32_from_guest(vcpu, done_pointer) if count & RESUMED and done_pointer else 0
    count &= ~RESUMED
    check_range(array, layout.size * count)
    done, result, pages = 0, 0, vcpu.domain.pages
    try:
        while done < count:
            examined = pages.examined
            if not act(vcpu, *layout.unpack(copy_from_guest(vcpu, array + layout.size * done, layout.size))):
                result = -Errno.EINVAL
                break
            done += 1
            if preempted(vcpu, 1 + (pages.examined - examined) // _ENTRIES_AN_ITEM):
                break
    except PageFaultError:
        result = -Errno.EFAULT
    if vcpu.listening:
        vcpu.note(f"{done} of {count} entries")
    if done_pointer:
        copy_to_guest(vcpu, done_pointer, (before + done & 0xFFFFFFFF).to_bytes(4, "little"))
    if result or done == count:
        return result
    return Continue((array + layout.size * done, count - done | RESUMED, done_pointer, domid))


def _update(vcpu: Vcpu, pointer: int, value: int) -> bool:
    """One entry of mmu_update: {address and command, value}."""
    command, maddr = pointer & xen.MMU_COMMAND_MASK, pointer & ~xen.MMU_COMMAND_MASK
    if command == xen.MMU_NORMAL_PT_UPDATE:
        return update_entry(vcpu, maddr, value)
    if command == xen.MMU_MACHPHYS_UPDATE:
        mfn = maddr >> PAGE_SHIFT
        if value >> 32 or not vcpu.domain.pages.owns(mfn):
            return False
        write_m2p(vcpu, mfn, value)
        return True
    return False


def do_update_va_mapping(vcpu: Vcpu, linear: int, low: int, high: int, flags: int) -> int:
    """Hypercall 14: one L1 entry by the linear address that it maps, then a flush as asked."""
    if linear >= xen.HYPERVISOR_VIRT_START or high:
        return -Errno.EINVAL
    _, where = vcpu.linear.entry(linear)
    pages = vcpu.domain.pages
    # What the directory in use names is held in its type already; of a directory that names itself it is another.
    result = 0 if where and pages.type[where >> PAGE_SHIFT] == _L1 and pages.update_l1(where, low) else -Errno.EINVAL
    return _flush_as_told(vcpu, linear, flags, result)


def _flush_as_told(vcpu: Vcpu, linear: int, flags: int, result: int) -> int:
    kind, where = flags & xen.UVMF_FLUSHTYPE_MASK, flags & ~xen.UVMF_FLUSHTYPE_MASK
    if kind in (xen.UVMF_TLB_FLUSH, xen.UVMF_INVLPG):
        if where not in (xen.UVMF_LOCAL, xen.UVMF_ALL):
            try:
                u32_from_guest(vcpu, where)
            except PageFaultError:
                return -Errno.EFAULT
        if kind == xen.UVMF_INVLPG:
            vcpu.cpu.invalidate(linear)
        else:
            vcpu.cpu.flush_tlb()
    return result


def do_update_va_mapping_otherdomain(vcpu: Vcpu, linear: int, low: int, high: int, flags: int, domid: int) -> int:
    """Hypercall 22: this domain is not privileged, and there is no other."""
    del vcpu, linear, low, high, flags, domid
    return -Errno.EPERM


# -- mmuext_op


def do_mmuext_op(vcpu: Vcpu, operations: int, count: int, done_pointer: int, domid: int) -> int | Continue:
    """Hypercall 26. Stops at the first operation that fails; *done is how many were completed."""
    return _each(vcpu, _extended, xen.MMUEXT_OP, operations, count, done_pointer, domid)


def _extended(vcpu: Vcpu, command: int, first: int, second: int) -> bool:
    """One operation of mmuext_op: {command, frame or linear address, count or pointer}."""
    pages = vcpu.domain.pages
    if vcpu.listening:
        name = MmuExt(command).name if command in MmuExt._value2member_map_ else str(command)
        vcpu.note(f"{name}({first:#x})")
    if command == MmuExt.pin_l1_table:
        return pages.pin(first, PageType.L1)
    if command == MmuExt.pin_l2_table:
        return pages.pin(first, PageType.L2)
    if command == MmuExt.unpin_table:
        return pages.unpin(first)
    if command == MmuExt.new_baseptr:
        return new_guest_table(vcpu, first)
    if command in (MmuExt.tlb_flush_local, MmuExt.invlpg_local, MmuExt.tlb_flush_all, MmuExt.invlpg_all):
        vcpu.cpu.flush_tlb()
        return True
    if command in (MmuExt.tlb_flush_multi, MmuExt.invlpg_multi):
        u32_from_guest(vcpu, second)
        vcpu.cpu.flush_tlb()
        return True
    if command == MmuExt.set_ldt:
        return set_ldt(vcpu, first, second)
    return False


def set_ldt(vcpu: Vcpu, base: int, entries: int) -> bool:
    """MMUEXT_SET_LDT: a page-aligned linear address. Its pages are mapped and checked as they are first used."""
    if base & (PAGE_SIZE - 1) or entries > xen.MAX_LDT_ENTRIES:
        return False
    if entries and base + 8 * entries > xen.HYPERVISOR_VIRT_START:
        return False
    unmap_ldt(vcpu)
    state = vcpu.state
    state.ldt_base, state.ldt_entries = base, entries
    segments.forget(vcpu)
    attributes = 0x8200 if entries else 0
    vcpu.regs.load_ldtr(
        SegmentCache(xen.LDT_SELECTOR if entries else 0, xen.LDT_VIRT_START, max(8 * entries - 1, 0), attributes))
    return True


def map_ldt_page(vcpu: Vcpu, offset: int) -> bool:
    """Make the LDT page at a byte offset visible to the CPU, if it holds only what a guest may have. It is not yet."""
    state, domain = vcpu.state, vcpu.domain
    if offset >= 8 * state.ldt_entries:
        return False
    entry, _ = vcpu.linear.entry(state.ldt_base + offset)
    if not entry & PTE_P or not domain.pages.get_type(entry >> PAGE_SHIFT, PageType.LDT):
        return False
    vcpu.ram.set_u32(_private_entry(vcpu, xen.LDT_VIRT_START + offset), entry & ~0xFFF | PTE_P | PTE_A)
    return True


def unmap_ldt(vcpu: Vcpu) -> None:
    """Take every LDT page back."""
    for offset in range(0, 8 * xen.MAX_LDT_ENTRIES, PAGE_SIZE):
        where = _private_entry(vcpu, xen.LDT_VIRT_START + offset)
        entry = vcpu.ram.u32(where)
        if entry & PTE_P:
            vcpu.ram.set_u32(where, 0)
            vcpu.domain.pages.put_type(entry >> PAGE_SHIFT)
    vcpu.cpu.flush_tlb()


def _private_entry(vcpu: Vcpu, linear: int) -> int:
    """Machine address of the entry that maps an address of the per-domain area."""
    return vcpu.domain.private_l1 + (linear >> 10 & 0xFFC)


# -- Descriptors


def do_set_gdt(vcpu: Vcpu, frame_list: int, entries: int) -> int:
    """Hypercall 2: the guest's own pages of its GDT, by machine frame."""
    if entries > xen.FIRST_RESERVED_GDT_ENTRY:
        return -Errno.EINVAL
    number = -(-entries // _MOST_DESCRIPTORS_A_PAGE)
    frames = struct.unpack(f"<{number}I", copy_from_guest(vcpu, frame_list, 4 * number))
    return 0 if set_gdt_frames(vcpu, list(frames), entries) else -Errno.EINVAL


def set_gdt_frames(vcpu: Vcpu, frames: list[int], entries: int) -> bool:
    """Put checked frames under the GDT. False, and nothing changed, if one may not be there."""
    pages, state = vcpu.domain.pages, vcpu.state
    for n, mfn in enumerate(frames):
        if not pages.get_type(mfn, PageType.GDT):
            for taken in frames[:n]:
                pages.put_type(taken)
            return False
    for mfn in state.gdt_frames:
        pages.put_type(mfn)
    state.gdt_frames, state.gdt_entries = frames, entries
    for n in range(_OWN_FRAMES):
        entry = frames[n] << PAGE_SHIFT | PTE_P | PTE_A if n < len(frames) else 0
        vcpu.ram.set_u32(_private_entry(vcpu, xen.GDT_VIRT_START + n * PAGE_SIZE), entry)
    segments.forget(vcpu)
    vcpu.cpu.flush_tlb()
    return True


def do_update_descriptor(vcpu: Vcpu, low_address: int, high_address: int, low: int, high: int) -> int:
    """Hypercall 10: one descriptor, by machine address, in a GDT, LDT or ordinary page."""
    pages, mfn = vcpu.domain.pages, low_address >> PAGE_SHIFT
    checked = check_descriptor(low, high)
    if high_address or low_address & 7 or checked is None or not pages.owns(mfn):
        return -Errno.EINVAL
    kind = PageType(pages.type[mfn])
    held = kind in (PageType.GDT, PageType.LDT) and pages.count[mfn] > 0
    if not held and not pages.get_type(mfn, PageType.WRITABLE):
        return -Errno.EINVAL
    vcpu.ram.write(low_address, struct.pack("<II", *checked))
    if not held:
        pages.put_type(mfn)
    segments.forget(vcpu)
    return 0


# -- memory_op


def do_memory_op(vcpu: Vcpu, command: int, argument: int) -> int | Continue:
    """Hypercall 12. Reservations change one page at a time; the rest asks."""
    operation = command & xen.MEMORY_OP_MASK
    start = command >> xen.MEMORY_OP_START_SHIFT
    state = vcpu.domain.state
    if operation in (MemoryOp.increase_reservation, MemoryOp.decrease_reservation, MemoryOp.populate_physmap):
        return _reservation(vcpu, operation, start, argument)
    if operation == MemoryOp.maximum_ram_page:
        return vcpu.ram.size >> PAGE_SHIFT
    if operation in (MemoryOp.current_reservation, MemoryOp.maximum_reservation):
        (domid,) = xen.DOMID.unpack(copy_from_guest(vcpu, argument, 2))
        if domid != DOMID_SELF:
            return -Errno.EPERM
        return state.allocated if operation == MemoryOp.current_reservation else state.max_pages
    if operation == MemoryOp.machphys_mfn_list:
        return _machphys_mfn_list(vcpu, argument)
    if operation == MemoryOp.machphys_mapping:
        mapping = (xen.MACH2PHYS_VIRT_START, xen.MACH2PHYS_VIRT_END, (vcpu.ram.size >> PAGE_SHIFT) - 1)
        copy_to_guest(vcpu, argument, xen.MACHPHYS_MAPPING.pack(*mapping))
        return 0
    return -Errno.ENOSYS


def _machphys_mfn_list(vcpu: Vcpu, argument: int) -> int:
    """The frames that hold the machine-to-physical table, one each 4 MiB of it: a single one here is not whole."""
    limit, pointer, _ = xen.MACHPHYS_MFN_LIST.unpack(copy_from_guest(vcpu, argument, xen.MACHPHYS_MFN_LIST.size))
    frames = min(limit, 1)
    if frames:
        copy_to_guest(vcpu, pointer, (vcpu.domain.m2p >> PAGE_SHIFT).to_bytes(4, "little"))
    copy_to_guest(vcpu, argument, xen.MACHPHYS_MFN_LIST.pack(limit, pointer, frames))
    return 0


def _reservation(vcpu: Vcpu, operation: int, start: int, argument: int) -> int | Continue:
    number: int
    extents, number, order, bits, domid = xen.MEMORY_RESERVATION.unpack(
        copy_from_guest(vcpu, argument, xen.MEMORY_RESERVATION.size))
    if start > number:
        return -Errno.EINVAL
    if domid != DOMID_SELF:
        return -Errno.EPERM
    if order:
        # More than a page at a time is for domains with hardware: nothing is done, and that is no error.
        return start
    if 0 < bits < 31:
        return -Errno.ENOMEM
    action = _decrease if operation == MemoryOp.decrease_reservation else _increase
    for n in range(start, number):
        try:
            if extents or operation != MemoryOp.increase_reservation:
                check_range(extents + 4 * n, 4)
            if not action(vcpu, extents + 4 * n if extents else 0, operation == MemoryOp.populate_physmap):
                return n
        except PageFaultError:
            return n
        if preempted(vcpu) and n + 1 < number:
            return Continue((operation | n + 1 << xen.MEMORY_OP_START_SHIFT, argument))
    return number


def _increase(vcpu: Vcpu, where: int, populate: bool) -> bool:
    """One more frame; its number is stored at `where`, which for populate_physmap first says at which pfn."""
    domain, state = vcpu.domain, vcpu.domain.state
    if not state.free_frames or state.allocated >= state.max_pages:
        return False
    pfn = u32_from_guest(vcpu, where) if populate else -1
    if populate and pfn >= len(state.p2m):
        return False
    mfn = state.free_frames[-1]
    if where:
        copy_to_guest(vcpu, where, mfn.to_bytes(4, "little"))
    state.free_frames.pop()
    state.allocated += 1
    domain.pages.owned[mfn] = 1
    vcpu.ram.write(mfn << PAGE_SHIFT, bytes(PAGE_SIZE))
    vcpu.cpu.nested.grant(mfn)
    if populate:
        write_m2p(vcpu, mfn, pfn)
        if state.p2m[pfn] < 0:
            state.p2m[pfn] = mfn
    return True


def _decrease(vcpu: Vcpu, where: int, _populate: bool) -> bool:
    """Give the frame named at `where` back. One that is still mapped or held as a table is not taken."""
    domain, state = vcpu.domain, vcpu.domain.state
    mfn = u32_from_guest(vcpu, where)
    pages = domain.pages
    if not pages.owns(mfn) or mfn == state.shared_info:
        return False
    if pages.pinned[mfn]:
        pages.unpin(mfn)
    if pages.count[mfn] or pages.mapped[mfn]:
        return False
    pages.owned[mfn] = 0
    vcpu.cpu.nested.revoke(mfn)
    vcpu.cpu.flush_tlb()
    state.free_frames.append(mfn)
    state.allocated -= 1
    # Where the guest says that the frame was: looking for it would take as long as the domain is large.
    pfn = vcpu.ram.u32(domain.m2p + 4 * mfn)
    if pfn < len(state.p2m) and state.p2m[pfn] == mfn:
        state.p2m[pfn] = -1
    return True

