"""Memory management hypercalls (arch/x86/mm.c, common/memory.c): effects, errors, and calls that would never end."""

from __future__ import annotations

import struct

import pytest

from harness.abi import xen
from harness.abi.x86 import PAGE_SIZE, PTE_A, PTE_D, PTE_P, PTE_PS, PTE_RW, PTE_US, Gpr, Seg
from harness.abi.xen import DOMID_SELF, Errno, Hypercall, MemoryOp, MmuExt
from harness.domain.outcome import RESUME, Inject
from harness.domain.registers import SegmentCache
from harness.pv import mmu
from harness.pv.continuation import MOST_WORK, RESUMED
from harness.pv.pages import XEN_L2_SLOT, PageType
from tests.pv.stage import CODE, DATA, NOWHERE, PAGE, SPARE, Stage, descriptor

NORMAL, MACHPHYS = xen.MMU_NORMAL_PT_UPDATE, xen.MMU_MACHPHYS_UPDATE
DONE = DATA + 0x800
FOREIGN_FRAME = 2
"""Xen's own TSS."""


def mmu_update(stage: Stage, *entries: tuple[int, int], done: int = DONE, domid: int = DOMID_SELF) -> int:
    stage.put(DATA, b"".join(struct.pack("<QQ", *entry) for entry in entries))
    return stage.call(Hypercall.mmu_update, DATA, len(entries), done, domid)


def mmuext(stage: Stage, *operations: tuple[int, int, int], done: int = DONE, domid: int = DOMID_SELF) -> int:
    stage.put(DATA, b"".join(struct.pack("<III", *each) for each in operations))
    return stage.call(Hypercall.mmuext_op, DATA, len(operations), done, domid)


def new_table(stage: Stage, linear: int, *entries: tuple[int, int]) -> int:
    """A read-only page with entries in it, to become a table; its frame."""
    for slot, entry in entries:
        stage.words(linear + 4 * slot, entry)
    return stage.read_only(linear)


def new_directory(stage: Stage, linear: int) -> int:
    """A directory like the present one; its frame."""
    present = [(slot, stage.ram.u32((stage.state.guest_table << 12) + 4 * slot)) for slot in range(XEN_L2_SLOT)]
    return new_table(stage, linear, *present)


# -- mmu_update


def test_mmu_update_maps_what_it_is_told(stage: Stage) -> None:
    where, other = stage.entry_at(SPARE), stage.mfn(SPARE + 0x1000)
    assert mmu_update(stage, (where, other << 12 | PAGE), (where | NORMAL, other << 12 | PTE_P)) == 0
    assert stage.ram.u32(where) == other << 12 | PTE_P
    assert stage.get_words(DONE, 1) == (2,)


def test_mmu_update_sets_the_machine_to_physical_table(stage: Stage) -> None:
    mfn = stage.mfn(SPARE)
    assert mmu_update(stage, (mfn << 12 | MACHPHYS, 0x1234)) == 0
    assert stage.ram.u32(stage.domain.m2p + 4 * mfn) == 0x1234


def test_mmu_update_of_an_ordinary_page_is_a_plain_write(stage: Stage) -> None:
    assert mmu_update(stage, (stage.maddr(SPARE) + 8, 0xCAFE)) == 0
    assert stage.get_words(SPARE + 8, 1) == (0xCAFE,)
    assert stage.pages.count[stage.mfn(SPARE)] == 1, "held by its mapping, as before"


def test_mmu_update_of_a_directory(stage: Stage) -> None:
    table = new_table(stage, SPARE, (0, stage.mfn(DATA) << 12 | PAGE))
    slot = (stage.state.guest_table << 12) + 4 * 5
    assert mmu_update(stage, (slot, table << 12 | PAGE | PTE_US)) == 0
    stage.cpu.flush_tlb()
    assert stage.mfn(5 << 22) == stage.mfn(DATA)
    assert mmu_update(stage, (slot, 0)) == 0
    assert stage.pages.count[table] == 0


BAD_UPDATES = {
    "a foreign frame's contents": lambda s: (FOREIGN_FRAME << 12, 0),
    "beyond memory": lambda s: (0xFFFFF000, 0),
    "beyond 4 GiB": lambda s: (1 << 40, 0),
    "a value of 33 bits": lambda s: (s.entry_at(SPARE), 1 << 32),
    "a page table, writable": lambda s: (s.entry_at(SPARE), s.entry_at(SPARE) & ~0xFFF | PAGE),
    "a frame of Xen's, readable": lambda s: (s.entry_at(SPARE), FOREIGN_FRAME << 12 | PTE_P),
    "4 MiB at once": lambda s: ((s.state.guest_table << 12), PTE_P | PTE_RW | PTE_PS),
    "Xen's part of a directory": lambda s: ((s.state.guest_table << 12) + 4 * 1008, 0),
    "command 2": lambda s: (s.entry_at(SPARE) | 2, 0),
    "command 3": lambda s: (s.entry_at(SPARE) | 3, 0),
    "the M2P entry of a foreign frame": lambda s: (FOREIGN_FRAME << 12 | MACHPHYS, 0),
    "the M2P entry of no frame": lambda s: (0xFFFFF000 | MACHPHYS, 0),
    "an M2P value of 33 bits": lambda s: (s.mfn(SPARE) << 12 | MACHPHYS, 1 << 32),
}


def entries(stage: Stage) -> list[int]:
    """The page table under the guest's memory, without what the CPU marks in it."""
    words = struct.unpack("<1024I", stage.ram.read(stage.entry_at(SPARE) & ~0xFFF, PAGE_SIZE))
    return [word & ~(PTE_A | PTE_D) for word in words]


@pytest.mark.parametrize("bad", BAD_UPDATES.values(), ids=BAD_UPDATES)
def test_mmu_update_stops_at_the_first_that_fails(stage: Stage, bad: object) -> None:
    where = stage.entry_at(SPARE + 0x2000)
    before, table = stage.ram.u32(where), entries(stage)
    good = (stage.entry_at(SPARE + 0x1000), 0)
    assert mmu_update(stage, good, bad(stage), (where, 0)) == -Errno.EINVAL  # type: ignore[operator]
    assert stage.get_words(DONE, 1) == (1,)
    assert stage.ram.u32(where) == before
    table[(good[0] & 0xFFF) // 4] = 0
    assert entries(stage) == table


def test_an_entry_in_a_descriptor_page_is_refused(stage: Stage) -> None:
    gdt = stage.own_gdt(descriptor(0, 0xFFFFF, 0xBA))
    assert mmu_update(stage, (gdt + 8, 0)) == -Errno.EINVAL


@pytest.mark.parametrize("call", [mmu_update, mmuext])
@pytest.mark.parametrize("domid", [0, 1, xen.DOMID_IO, xen.DOMID_XEN, 0xFFFFFFFF])
def test_there_is_no_other_domain(stage: Stage, call: object, domid: int) -> None:
    assert call(stage, domid=domid) == -Errno.EINVAL  # type: ignore[operator]


@pytest.mark.parametrize("number", [Hypercall.mmu_update, Hypercall.mmuext_op])
@pytest.mark.parametrize(("array", "count", "done"), [
    (NOWHERE, 1, 0), (0xFC000000, 1, 0), (0xFFFFFFF8, 1, 0), (DATA, 0x7FFFFFFF, 0), (DATA, 0xFFFFFFFF, 0),
    (DATA, 0, NOWHERE), (DATA, 0, 0xFC000000), (DATA, RESUMED, NOWHERE), (0xFFFFFFFF, 0xFFFFFFFF, 0)])
def test_bad_pointers(stage: Stage, number: int, array: int, count: int, done: int) -> None:
    assert stage.call(number, array, count, done, DOMID_SELF) == -Errno.EFAULT


def test_a_bad_pointer_half_way_leaves_what_was_done(stage: Stage) -> None:
    stage.remap(SPARE + 0x1000, 0)
    where = stage.entry_at(SPARE + 0x3000)
    entry = struct.pack("<QQ", where, 0)
    stage.put(SPARE + 0xFF0, entry)
    assert stage.call(Hypercall.mmu_update, SPARE + 0xFF0, 2, DONE, DOMID_SELF) == -Errno.EFAULT
    assert stage.get_words(DONE, 1) == (1,)
    assert stage.ram.u32(where) == 0


def test_done_is_not_asked_for(stage: Stage) -> None:
    assert mmu_update(stage, done=0) == 0


def test_notes(stage: Stage) -> None:
    stage.vcpu.listening = True
    mmu_update(stage, (stage.entry_at(SPARE), 0))
    assert stage.vcpu.seen.notes == ["1 of 1 entries"]
    stage.vcpu.seen.notes.clear()
    mmuext(stage, (MmuExt.tlb_flush_local, 0, 0), (99, 0x10, 0))
    assert stage.vcpu.seen.notes == ["tlb_flush_local(0x0)", "99(0x10)", "1 of 2 entries"]


# -- Calls that would never end


def all_of_one_page(stage: Stage) -> int:
    """Four MiB of addresses that all lead to the one page: 256 Ki entries of 16 bytes for the price of two frames."""
    entry = stage.mfn(SPARE) << 12 | PTE_P
    table = new_table(stage, SPARE + 0x1000, *((slot, entry) for slot in range(1024)))
    assert mmu_update(stage, ((stage.state.guest_table << 12) + 4 * 5, table << 12 | PAGE)) == 0
    stage.cpu.flush_tlb()
    return 5 << 22


def test_a_long_mmu_update_is_made_in_pieces(stage: Stage) -> None:
    array = all_of_one_page(stage)
    nothing = struct.pack("<QQ", stage.maddr(DATA + 0x100), 7)
    stage.put(SPARE, nothing * 256)
    count, eip = 10_000, stage.regs.eip
    assert stage.hypercall(Hypercall.mmu_update, array, count, DONE, DOMID_SELF) is RESUME
    gpr = stage.regs.gpr
    done = stage.get_words(DONE, 1)[0]
    assert 0 < done <= MOST_WORK
    assert stage.regs.eip == eip, "EIP stays on the int 0x82"
    assert gpr[Gpr.EAX] == Hypercall.mmu_update
    assert [gpr[n] for n in (Gpr.EBX, Gpr.ECX, Gpr.EDX, Gpr.ESI)] == [
        array + 16 * done, count - done | RESUMED, DONE, DOMID_SELF]
    assert stage.call(Hypercall.mmu_update, array, count, DONE, DOMID_SELF) == 0
    assert stage.get_words(DONE, 1) == (count,)


def test_the_work_of_a_table_counts_for_what_it_is(stage: Stage) -> None:
    """Pinning and unpinning one table again and again: a thousand entries each time, thousands of times in one call."""
    table = new_table(stage, SPARE)
    array = SPARE + 0x2000
    pair = struct.pack("<III", MmuExt.pin_l1_table, table, 0) + struct.pack("<III", MmuExt.unpin_table, table, 0)
    stage.put(array, pair * 1000)
    before = stage.pages.examined
    assert stage.hypercall(Hypercall.mmuext_op, array, 2000, DONE, DOMID_SELF) is RESUME
    assert stage.get_words(DONE, 1)[0] < 400
    assert stage.pages.examined - before < 1024 * 400
    assert stage.go_on(CODE) == 0
    assert stage.get_words(DONE, 1) == (2000,)


def test_a_call_that_goes_on_adds_to_what_was_done(stage: Stage) -> None:
    stage.words(DONE, 5)
    stage.put(DATA, struct.pack("<QQ", stage.entry_at(SPARE), 0))
    assert stage.call(Hypercall.mmu_update, DATA, 1 | RESUMED, DONE, DOMID_SELF) == 0
    assert stage.get_words(DONE, 1) == (6,)
    assert stage.call(Hypercall.mmu_update, DATA, 1, DONE, DOMID_SELF) == 0
    assert stage.get_words(DONE, 1) == (1,), "a new call begins anew"


def test_a_count_that_overflows_is_cut(stage: Stage) -> None:
    stage.words(DONE, 0xFFFFFFFF)
    stage.put(DATA, struct.pack("<QQ", stage.entry_at(SPARE), 0))
    assert stage.call(Hypercall.mmu_update, DATA, 1 | RESUMED, DONE, DOMID_SELF) == 0
    assert stage.get_words(DONE, 1) == (0,)


# -- update_va_mapping


def update_va(stage: Stage, linear: int, low: int, high: int = 0, flags: int = 0) -> int:
    return stage.call(Hypercall.update_va_mapping, linear, low, high, flags)


@pytest.mark.parametrize(("flags", "flushes"), [
    (xen.UVMF_NONE, 0), (xen.UVMF_TLB_FLUSH, 1), (xen.UVMF_INVLPG, 1), (xen.UVMF_TLB_FLUSH | xen.UVMF_ALL, 1),
    (xen.UVMF_INVLPG | xen.UVMF_ALL, 1), (xen.UVMF_INVLPG | DATA, 1), (3, 0)])
def test_update_va_mapping_flushes_as_told(stage: Stage, flags: int, flushes: int) -> None:
    before = stage.cpu.flushes
    assert update_va(stage, SPARE, stage.mfn(SPARE) << 12 | PTE_P, 0, flags) == 0
    assert stage.ram.u32(stage.entry_at(SPARE)) == stage.mfn(SPARE) << 12 | PTE_P
    assert stage.cpu.flushes - before == flushes


@pytest.mark.parametrize("pointer", [NOWHERE, 0xFC000000, 0xFFFFFFF8])
def test_a_bad_mask_of_vcpus(stage: Stage, pointer: int) -> None:
    assert update_va(stage, SPARE, 0, 0, xen.UVMF_TLB_FLUSH | pointer) == -Errno.EFAULT


@pytest.mark.parametrize(("linear", "low", "high"), [
    (0xFC000000, 0, 0), (0xFFFFFFFF, 0, 0), (SPARE, 0, 1), (SPARE, FOREIGN_FRAME << 12 | PTE_P, 0),
    (SPARE, 0xFFFFF001, 0), (NOWHERE, 0, 0)])
def test_update_va_mapping_refuses(stage: Stage, linear: int, low: int, high: int) -> None:
    assert update_va(stage, linear, low, high) == -Errno.EINVAL


def test_a_linear_map_of_tables_is_no_way_to_write_directories(stage: Stage) -> None:
    """Through a directory that maps itself the leaf of an address is an entry of that directory."""
    root = stage.state.guest_table
    assert mmu_update(stage, ((root << 12) + 4 * 6, root << 12 | PTE_P)) == 0
    stage.cpu.flush_tlb()
    window = 6 << 22
    assert stage.entry_at(window) >> 12 == root
    assert update_va(stage, window, stage.mfn(DATA) << 12 | PAGE) == -Errno.EINVAL


def test_other_domains_are_for_the_privileged(stage: Stage) -> None:
    assert stage.call(Hypercall.update_va_mapping_otherdomain, SPARE, 0, 0, 0, DOMID_SELF) == -Errno.EPERM


# -- mmuext_op


def test_pin_and_unpin(stage: Stage) -> None:
    table, directory = new_table(stage, SPARE), new_directory(stage, SPARE + 0x1000)
    assert mmuext(stage, (MmuExt.pin_l1_table, table, 0), (MmuExt.pin_l2_table, directory, 0)) == 0
    assert (stage.pages.pinned[table], stage.pages.pinned[directory]) == (1, 1)
    assert mmuext(stage, (MmuExt.unpin_table, directory, 0), (MmuExt.unpin_table, table, 0)) == 0
    assert (stage.pages.count[table], stage.pages.count[directory]) == (0, 0)
    assert stage.get_words(DONE, 1) == (2,)


def test_new_baseptr(stage: Stage) -> None:
    old, directory = stage.state.guest_table, new_directory(stage, SPARE)
    held = stage.pages.count[old]
    assert mmuext(stage, (MmuExt.new_baseptr, directory, 0)) == 0
    assert (stage.state.guest_table, stage.regs.cr3) == (directory, directory << 12)
    assert stage.cpu.linear.root == directory << 12
    assert (stage.pages.count[directory], stage.pages.count[old]) == (1, held - 1)
    assert mmuext(stage, (MmuExt.new_baseptr, directory, 0)) == 0, "the same again"
    assert stage.pages.count[directory] == 1


@pytest.mark.parametrize("command", [MmuExt.tlb_flush_local, MmuExt.tlb_flush_all, MmuExt.invlpg_local,
                                     MmuExt.invlpg_all, MmuExt.tlb_flush_multi, MmuExt.invlpg_multi])
def test_flushes(stage: Stage, command: int) -> None:
    before = stage.cpu.flushes
    assert mmuext(stage, (command, SPARE, DATA)) == 0
    assert stage.cpu.flushes == before + 1


@pytest.mark.parametrize("command", [MmuExt.tlb_flush_multi, MmuExt.invlpg_multi])
def test_a_mask_that_cannot_be_read(stage: Stage, command: int) -> None:
    assert mmuext(stage, (command, SPARE, NOWHERE)) == -Errno.EFAULT


BAD_OPERATIONS = {
    "pin a foreign frame": lambda s: (MmuExt.pin_l1_table, FOREIGN_FRAME, 0),
    "pin no frame": lambda s: (MmuExt.pin_l2_table, 0xFFFFFFFF, 0),
    "pin a writable page": lambda s: (MmuExt.pin_l1_table, s.mfn(SPARE), 0),
    "pin what is pinned": lambda s: (MmuExt.pin_l2_table, s.state.guest_table, 0),
    "pin a PAE table": lambda s: (MmuExt.pin_l3_table, s.mfn(SPARE), 0),
    "pin a 64-bit table": lambda s: (MmuExt.pin_l4_table, s.mfn(SPARE), 0),
    "unpin what is not pinned": lambda s: (MmuExt.unpin_table, s.mfn(SPARE), 0),
    "a base that is no directory": lambda s: (MmuExt.new_baseptr, s.mfn(SPARE), 0),
    "a base that is nothing": lambda s: (MmuExt.new_baseptr, 0, 0),
    "flush the cache, without hardware": lambda s: (MmuExt.flush_cache, 0, 0),
    "a 64-bit user base": lambda s: (MmuExt.new_user_baseptr, s.state.guest_table, 0),
    "REASSIGN_PAGE of 3.0.0": lambda s: (14, s.mfn(SPARE), 0),
    "command 16": lambda s: (16, 0, 0),
    "command 4 Gi - 1": lambda s: (0xFFFFFFFF, 0, 0),
    "an LDT at an odd address": lambda s: (MmuExt.set_ldt, SPARE + 8, 1),
    "an LDT of 8193": lambda s: (MmuExt.set_ldt, SPARE, 8193),
    "an LDT that reaches Xen": lambda s: (MmuExt.set_ldt, 0xFBFFF000, 513),
    "an LDT beyond Xen": lambda s: (MmuExt.set_ldt, 0xFFFFF000, 1),
    "an LDT of 4 Gi - 1 entries": lambda s: (MmuExt.set_ldt, SPARE, 0xFFFFFFFF),
}


@pytest.mark.parametrize("bad", BAD_OPERATIONS.values(), ids=BAD_OPERATIONS)
def test_mmuext_stops_at_the_first_that_fails(stage: Stage, bad: object) -> None:
    root, flushes = stage.state.guest_table, stage.cpu.flushes
    assert mmuext(stage, (MmuExt.tlb_flush_local, 0, 0), bad(stage),
    (MmuExt.tlb_flush_local, 0, 0)  # type: ignore[operator]
                  ) == -Errno.EINVAL
    assert stage.get_words(DONE, 1) == (1,)
    assert stage.state.guest_table == root
    assert stage.cpu.flushes == flushes + 1


# -- The LDT


def ldt(stage: Stage, *descriptors: int, entries: int | None = None) -> int:
    """A read-only LDT at SPARE, announced but not used; its frame."""
    stage.put(SPARE, struct.pack(f"<{len(descriptors)}Q", *descriptors))
    frame = stage.read_only(SPARE)
    assert mmuext(stage, (MmuExt.set_ldt, SPARE, len(descriptors) if entries is None else entries)) == 0
    return frame


def private(stage: Stage, linear: int) -> int:
    """The entry of the per-domain page table for an address."""
    return stage.ram.u32(stage.domain.private_l1 + (linear >> 10 & 0xFFC))


READ = 0  # of a page that is not there, by the CPU itself


def test_an_ldt_is_looked_at_when_it_is_first_used(stage: Stage) -> None:
    frame = ldt(stage, descriptor(0, 0xFFFFF, 0xF2))
    assert stage.regs.ldtr() == SegmentCache(xen.LDT_SELECTOR, xen.LDT_VIRT_START, 7, 0x8200)
    assert (stage.pages.count[frame], private(stage, xen.LDT_VIRT_START)) == (0, 0)
    assert stage.fault(14, READ, xen.LDT_VIRT_START + 4) is RESUME
    assert stage.pages.type[frame] == PageType.LDT
    assert stage.pages.count[frame] == 1
    assert private(stage, xen.LDT_VIRT_START) == frame << 12 | PTE_P | PTE_A, "readable only"
    assert stage.get_words(SPARE, 2)[1] >> 8 & 1, "marked accessed as it was checked"


def test_a_bad_ldt_is_a_page_fault_at_the_guests_own_address(stage: Stage) -> None:
    ldt(stage, 0, descriptor(0, 0xFFFFF, 0x92))
    assert stage.fault(14, READ, xen.LDT_VIRT_START + 8) == Inject(14, READ, SPARE + 8)


@pytest.mark.parametrize("offset", [PAGE_SIZE, 0xFFFC])
def test_beyond_the_ldt(stage: Stage, offset: int) -> None:
    ldt(stage, 0)
    assert stage.fault(14, READ, xen.LDT_VIRT_START + offset) == Inject(14, READ, SPARE + offset)


def test_an_ldt_in_a_writable_page_is_refused(stage: Stage) -> None:
    assert mmuext(stage, (MmuExt.set_ldt, SPARE, 1)) == 0
    assert stage.fault(14, READ, xen.LDT_VIRT_START) == Inject(14, READ, SPARE)


def test_an_ldt_where_nothing_is(stage: Stage) -> None:
    assert mmuext(stage, (MmuExt.set_ldt, NOWHERE, 1)) == 0
    assert stage.fault(14, READ, xen.LDT_VIRT_START) == Inject(14, READ, NOWHERE)


@pytest.mark.parametrize("error_code", [3, 7, 1, 5])
def test_the_guests_own_access_to_a_present_ldt_page_is_not_mapped_again(stage: Stage, error_code: int) -> None:
    """It would be for ever: the fault comes back, and each time the page is held once more."""
    frame = ldt(stage, 0)
    assert stage.fault(14, READ, xen.LDT_VIRT_START) is RESUME
    assert stage.fault(14, error_code, xen.LDT_VIRT_START) == Inject(13, 0)
    assert stage.pages.count[frame] == 1


def test_a_new_ldt_lets_the_old_pages_go(stage: Stage) -> None:
    frame = ldt(stage, 0)
    stage.fault(14, READ, xen.LDT_VIRT_START)
    assert mmuext(stage, (MmuExt.set_ldt, 0, 0)) == 0
    assert stage.regs.ldtr() == SegmentCache(0, xen.LDT_VIRT_START, 0, 0)
    assert private(stage, xen.LDT_VIRT_START) == 0
    assert stage.pages.count[frame] == 0
    assert stage.remap(SPARE, PAGE) == 0


def test_a_new_address_space_looks_the_ldt_up_anew(stage: Stage) -> None:
    frame = ldt(stage, 0)
    directory = new_directory(stage, SPARE + 0x1000)
    stage.fault(14, READ, xen.LDT_VIRT_START)
    assert mmuext(stage, (MmuExt.new_baseptr, directory, 0)) == 0
    assert private(stage, xen.LDT_VIRT_START) == 0
    assert stage.pages.count[frame] == 0
    assert stage.vcpu.reload


def test_an_ldt_page_in_use_cannot_become_writable(stage: Stage) -> None:
    ldt(stage, 0)
    stage.fault(14, READ, xen.LDT_VIRT_START)
    assert stage.remap(SPARE, PAGE) == -Errno.EINVAL


# -- set_gdt


def test_set_gdt(stage: Stage) -> None:
    gdt = stage.own_gdt(descriptor(0, 0xFFFFF, 0xB2))
    assert (stage.state.gdt_frames, stage.state.gdt_entries) == ([gdt >> 12], 512)
    assert private(stage, xen.GDT_VIRT_START) == gdt | PTE_P | PTE_A
    assert stage.pages.type[gdt >> 12] == PageType.GDT
    assert stage.call(Hypercall.set_gdt, NOWHERE, 0) == 0, "no frames: nothing is read"
    assert private(stage, xen.GDT_VIRT_START) == 0
    assert stage.pages.count[gdt >> 12] == 0


def test_set_gdt_takes_as_many_frames_as_the_entries_need(stage: Stage) -> None:
    frames = [stage.read_only(SPARE + n * PAGE_SIZE) for n in range(14)]
    stage.words(DATA, *frames)
    for entries, number in ((1, 1), (512, 1), (513, 2), (7168, 14)):
        assert stage.call(Hypercall.set_gdt, DATA, entries) == 0
        assert stage.state.gdt_frames == frames[:number]
    assert stage.call(Hypercall.set_gdt, DATA, 7169) == -Errno.EINVAL


def test_xens_own_page_of_the_gdt_stays(stage: Stage) -> None:
    before = private(stage, xen.GDT_VIRT_START + 14 * PAGE_SIZE)
    stage.own_gdt()
    assert private(stage, xen.GDT_VIRT_START + 14 * PAGE_SIZE) == before != 0


@pytest.mark.parametrize("bad", [FOREIGN_FRAME, 0xFFFFF, 0xFFFFFFFF])
def test_a_bad_frame_leaves_the_gdt_as_it_was(stage: Stage, bad: int) -> None:
    gdt, good = stage.own_gdt(), stage.read_only(SPARE)
    stage.words(DATA, good, bad)
    assert stage.call(Hypercall.set_gdt, DATA, 1024) == -Errno.EINVAL
    assert stage.state.gdt_frames == [gdt >> 12]
    assert stage.pages.count[good] == 0


@pytest.mark.parametrize(("pointer", "entries", "error"), [
    (NOWHERE, 1, Errno.EFAULT), (0xFC000000, 1, Errno.EFAULT), (0xFFFFFFFC, 7168, Errno.EFAULT),
    (DATA, 0xFFFFFFFF, Errno.EINVAL)])
def test_set_gdt_refuses(stage: Stage, pointer: int, entries: int, error: Errno) -> None:
    assert stage.call(Hypercall.set_gdt, pointer, entries) == -error


# -- update_descriptor


def update_descriptor(stage: Stage, maddr: int, both: int, high_address: int = 0) -> int:
    return stage.call(Hypercall.update_descriptor, maddr, high_address, both & 0xFFFFFFFF, both >> 32)


GOOD = descriptor(0, 0xFC3FF, 0xB3)


def test_update_descriptor_in_the_gdt(stage: Stage) -> None:
    gdt = stage.own_gdt(0)
    assert update_descriptor(stage, gdt + 8, descriptor(0, 0xFFFFF, 0xB2)) == 0
    assert stage.ram.read(gdt + 8, 8) == GOOD.to_bytes(8, "little")
    assert stage.vcpu.reload, "segment registers are loaded again on the way back"
    assert stage.pages.count[gdt >> 12] == 1


def test_update_descriptor_in_an_ordinary_page(stage: Stage) -> None:
    assert update_descriptor(stage, stage.maddr(SPARE), GOOD) == 0
    assert stage.get(SPARE, 8) == GOOD.to_bytes(8, "little")


def test_update_descriptor_in_an_ldt_in_use(stage: Stage) -> None:
    frame = ldt(stage, 0)
    stage.fault(14, READ, xen.LDT_VIRT_START)
    assert update_descriptor(stage, frame << 12, GOOD) == 0
    assert stage.get(SPARE, 8) == GOOD.to_bytes(8, "little")


BAD_DESCRIPTORS = {
    "ring 0": lambda s: (s.maddr(SPARE), descriptor(0, 0xFFFFF, 0x9A), 0),
    "an odd address": lambda s: (s.maddr(SPARE) + 4, GOOD, 0),
    "beyond 4 GiB": lambda s: (s.maddr(SPARE), GOOD, 1),
    "Xen's page": lambda s: (1 << 12, GOOD, 0),
    "beyond memory": lambda s: (0xFFFFFFF8, GOOD, 0),
    "a page table": lambda s: (s.entry_at(SPARE) & ~7, GOOD, 0),
    "a page directory": lambda s: (s.state.guest_table << 12, 0, 0),
}


@pytest.mark.parametrize("bad", BAD_DESCRIPTORS.values(), ids=BAD_DESCRIPTORS)
def test_update_descriptor_refuses(stage: Stage, bad: object) -> None:
    maddr, both, high_address = bad(stage)  # type: ignore[operator]
    before = bytes(stage.ram.buffer)
    assert update_descriptor(stage, maddr, both, high_address) == -Errno.EINVAL
    assert bytes(stage.ram.buffer) == before


# -- memory_op

EXTENTS, ARGUMENT = DATA + 0x400, DATA


def reservation(stage: Stage, command: int, *frames: int, extents: int = EXTENTS, number: int | None = None,
                order: int = 0, bits: int = 0, domid: int = DOMID_SELF, start: int = 0) -> int:
    stage.words(EXTENTS, *frames)
    stage.put(ARGUMENT, xen.MEMORY_RESERVATION.pack(extents, len(frames) if number is None else number, order, bits,
                                                    domid))
    return stage.call(Hypercall.memory_op, command | start << 4, ARGUMENT)


def give_back(stage: Stage, *pages: int) -> list[int]:
    """Unmap pages and return their frames to Xen; the frames."""
    frames = [stage.mfn(page) for page in pages]
    for page in pages:
        assert stage.map(page, 0) == 0
    assert reservation(stage, MemoryOp.decrease_reservation, *frames) == len(frames)
    return frames


def test_decrease_then_increase(stage: Stage) -> None:
    before = stage.state, stage.domain.state.allocated
    (frame,) = give_back(stage, SPARE)
    pfn = SPARE >> 12
    assert not stage.pages.owns(frame)
    assert frame not in stage.cpu.nested.reachable  # type: ignore[attr-defined]
    assert stage.domain.state.allocated == before[1] - 1
    assert stage.domain.state.p2m[pfn] == -1
    assert stage.map(SPARE, frame << 12 | PTE_P) == -Errno.EINVAL
    stage.ram.write(frame << 12, b"somebody else's secret")
    assert reservation(stage, MemoryOp.increase_reservation, 0) == 1
    assert stage.get_words(EXTENTS, 1) == (frame,)
    assert stage.pages.owns(frame)
    assert stage.cpu.nested.reachable[frame]  # type: ignore[attr-defined]
    assert stage.map(SPARE, frame << 12 | PAGE) == 0
    assert stage.get(SPARE, PAGE_SIZE) == bytes(PAGE_SIZE), "cleared"


def test_populate_says_where(stage: Stage) -> None:
    (frame,) = give_back(stage, SPARE)
    assert reservation(stage, MemoryOp.populate_physmap, SPARE >> 12) == 1
    assert stage.get_words(EXTENTS, 1) == (frame,)
    assert stage.domain.state.p2m[SPARE >> 12] == frame
    assert stage.ram.u32(stage.domain.m2p + 4 * frame) == SPARE >> 12


def test_populate_where_something_is(stage: Stage) -> None:
    (frame,) = give_back(stage, SPARE)
    there = stage.mfn(DATA)
    assert reservation(stage, MemoryOp.populate_physmap, DATA >> 12) == 1
    assert stage.domain.state.p2m[DATA >> 12] == there
    assert stage.ram.u32(stage.domain.m2p + 4 * frame) == DATA >> 12


def test_increase_without_a_list(stage: Stage) -> None:
    give_back(stage, SPARE)
    assert reservation(stage, MemoryOp.increase_reservation, extents=0, number=1) == 1


def test_a_domain_gets_no_more_than_it_may_have(stage: Stage) -> None:
    assert reservation(stage, MemoryOp.increase_reservation, 0) == 0, "nothing is free"
    stage.domain.state.free_frames.append(FOREIGN_FRAME)
    assert reservation(stage, MemoryOp.increase_reservation, 0) == 0, "and it has all it may have"


def test_populate_beyond_the_end(stage: Stage) -> None:
    give_back(stage, SPARE)
    assert reservation(stage, MemoryOp.populate_physmap, stage.frames.pages) == 0
    assert len(stage.domain.state.free_frames) == 1


def test_some_is_better_than_none(stage: Stage) -> None:
    frames = [stage.mfn(SPARE), stage.mfn(SPARE + 0x1000)]
    stage.map(SPARE, 0)
    assert reservation(stage, MemoryOp.decrease_reservation, *frames) == 1, "the second is still mapped"


@pytest.mark.parametrize("frame", [
    lambda s: FOREIGN_FRAME, lambda s: 0xFFFFFFFF, lambda s: s.mfn(SPARE), lambda s: s.state.guest_table,
    lambda s: s.entry_at(SPARE) >> 12, lambda s: s.domain.state.shared_info],
    ids=["foreign", "none", "mapped", "directory", "table", "shared_info"])
def test_what_is_not_taken_back(stage: Stage, frame: object) -> None:
    assert reservation(stage, MemoryOp.decrease_reservation, frame(stage)) == 0  # type: ignore[operator]


def test_a_pinned_table_is_unpinned_and_taken(stage: Stage) -> None:
    frame = new_table(stage, SPARE)
    mmuext(stage, (MmuExt.pin_l1_table, frame, 0))
    stage.map(SPARE, 0)
    assert reservation(stage, MemoryOp.decrease_reservation, frame) == 1


def test_a_lie_about_where_a_frame_was_costs_the_liar_only(stage: Stage) -> None:
    frame = stage.mfn(SPARE)
    mmu_update(stage, (frame << 12 | MACHPHYS, 0xFFFFFFFF))
    give_back(stage, SPARE)
    assert stage.domain.state.p2m[SPARE >> 12] == frame


@pytest.mark.parametrize(("details", "result"), [
    ({"number": 2, "start": 3}, -Errno.EINVAL),
    ({"number": 2, "start": 2}, 2),
    ({"number": 1, "domid": 0}, -Errno.EPERM),
    ({"number": 1, "domid": 5}, -Errno.EPERM),
    ({"number": 5, "order": 1}, 0),
    ({"number": 5, "order": 1, "start": 3}, 3),
    ({"number": 1, "bits": 30}, -Errno.ENOMEM),
    ({"number": 0, "bits": 31}, 0),
    ({"number": 0, "bits": 32}, 0),
    ({"number": 1, "extents": NOWHERE}, 0),
    ({"number": 1, "extents": 0xFFFFFFFC}, 0),
    ({"number": 1, "extents": 0}, 0),
    ({"number": 0xFFFFFFFF}, 0),
])
@pytest.mark.parametrize("command", [MemoryOp.decrease_reservation, MemoryOp.populate_physmap])
def test_reservation_rules(stage: Stage, command: int, details: dict[str, int], result: int) -> None:
    stage.domain.state.max_pages += 1
    assert reservation(stage, command, **details) == result  # type: ignore[arg-type]


def test_a_long_reservation_goes_on_by_its_command(stage: Stage) -> None:
    """MEMOP_CMD_BITS is 4: above them stands the extent to begin with."""
    stage.vcpu.work = 0
    frames = [stage.mfn(SPARE + n * PAGE_SIZE) for n in range(4)]
    for n in range(4):
        stage.map(SPARE + n * PAGE_SIZE, 0)
    stage.words(EXTENTS, *frames)
    stage.put(ARGUMENT, xen.MEMORY_RESERVATION.pack(EXTENTS, 4, 0, 0, DOMID_SELF))
    stage.vcpu.work = MOST_WORK - 2
    rest = mmu.do_memory_op(stage.vcpu, MemoryOp.decrease_reservation, ARGUMENT)
    assert rest == mmu.Continue((MemoryOp.decrease_reservation | 2 << 4, ARGUMENT))
    assert stage.call(Hypercall.memory_op, MemoryOp.decrease_reservation | 2 << 4, ARGUMENT) == 4


@pytest.mark.parametrize(("command", "answer"), [
    (MemoryOp.current_reservation, 255), (MemoryOp.maximum_reservation, 256)])
def test_how_much_there_is(stage: Stage, command: int, answer: int) -> None:
    give_back(stage, SPARE)
    stage.put(ARGUMENT, DOMID_SELF.to_bytes(2, "little"))
    assert stage.call(Hypercall.memory_op, command, ARGUMENT) == answer
    stage.put(ARGUMENT, bytes(2))
    assert stage.call(Hypercall.memory_op, command, ARGUMENT) == -Errno.EPERM
    assert stage.call(Hypercall.memory_op, command, NOWHERE) == -Errno.EFAULT


def test_maximum_ram_page(stage: Stage) -> None:
    assert stage.call(Hypercall.memory_op, MemoryOp.maximum_ram_page, 0) == stage.frames.total


@pytest.mark.parametrize(("limit", "given"), [(0, 0), (1, 1), (0xFFFFFFFF, 1)])
def test_machphys_mfn_list(stage: Stage, limit: int, given: int) -> None:
    stage.put(ARGUMENT, xen.MACHPHYS_MFN_LIST.pack(limit, EXTENTS, 99))
    assert stage.call(Hypercall.memory_op, MemoryOp.machphys_mfn_list, ARGUMENT) == 0
    assert stage.get_words(ARGUMENT, 3) == (limit, EXTENTS, given)
    assert stage.get_words(EXTENTS, 1) == ((stage.domain.m2p >> 12) if given else 0,)


def test_machphys_mapping(stage: Stage) -> None:
    assert stage.call(Hypercall.memory_op, MemoryOp.machphys_mapping, ARGUMENT) == 0
    assert stage.get_words(ARGUMENT, 3) == (0xFC000000, 0xFC400000, stage.frames.total - 1)


@pytest.mark.parametrize("command", [MemoryOp.increase_reservation, MemoryOp.decrease_reservation,
                                     MemoryOp.populate_physmap, MemoryOp.machphys_mfn_list,
                                     MemoryOp.machphys_mapping])
@pytest.mark.parametrize("pointer", [NOWHERE, 0xFC000000, 0xFFFFFFFF])
def test_memory_op_pointers(stage: Stage, command: int, pointer: int) -> None:
    assert stage.call(Hypercall.memory_op, command, pointer) == -Errno.EFAULT


@pytest.mark.parametrize("command", [7, 8, 9, 10, 11, 13, 14, 15, 0xFFFFFFFF])
def test_memory_op_that_is_not_there(stage: Stage, command: int) -> None:
    assert stage.call(Hypercall.memory_op, command, ARGUMENT) == -Errno.ENOSYS


def test_fill_frame_only_fills_ordinary_pages(stage: Stage) -> None:
    assert mmu.fill_frame(stage.vcpu, stage.mfn(SPARE), b"text".ljust(PAGE_SIZE))
    assert stage.get(SPARE, 4) == b"text"
    assert not mmu.fill_frame(stage.vcpu, stage.entry_at(SPARE) >> 12, bytes(PAGE_SIZE))
    assert not mmu.fill_frame(stage.vcpu, FOREIGN_FRAME, bytes(PAGE_SIZE))


def test_segments_are_looked_at_again_when_their_tables_change(stage: Stage) -> None:
    stage.vcpu.reload = False
    stage.own_gdt(descriptor(0, 0xFFFFF, 0xB2))
    assert not stage.vcpu.reload
    mmuext(stage, (MmuExt.set_ldt, 0, 0))
    assert stage.vcpu.reload
    assert stage.regs.selector(Seg.CS) == xen.FLAT_RING1_CS
    assert stage.regs.eip == CODE
