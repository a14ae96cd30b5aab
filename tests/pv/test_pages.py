"""Page types (xen/arch/x86/mm.c): what a guest's tables may hold, and that a refusal changes nothing."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from harness.abi import xen
from harness.abi.x86 import DESC_A, PTE_A, PTE_D, PTE_G, PTE_P, PTE_PS, PTE_RW, PTE_US
from harness.domain.memory import Memory
from harness.pv.pages import XEN_L2_SLOT, PageTables, PageType, check_descriptor, valid_code_selector
from tests.pv.stage import descriptor

TOTAL, FIRST = 64, 16
FOREIGN = 3
RO, RW = PTE_P, PTE_P | PTE_RW
NONE, L1, L2, GDT, LDT, WRITABLE = (PageType.NONE, PageType.L1, PageType.L2, PageType.GDT, PageType.LDT,
                                    PageType.WRITABLE)


class Frames:
    """Sixty-four frames of which the domain owns those from 16 on."""

    def __init__(self, total: int = TOTAL) -> None:
        self.ram = Memory(bytearray(total << 12))
        self.flushes = 0
        self.tables = PageTables(self.ram, self._flush)
        self.tables.owned[FIRST:total] = b"\1" * (total - FIRST)
        self.tables.xen_slots = tuple(range(0x1000, 0x1000 + 1024 - XEN_L2_SLOT))

    def _flush(self) -> None:
        self.flushes += 1

    def set(self, table: int, slot: int, entry: int) -> int:
        """Place an entry behind everybody's back; its machine address."""
        at = (table << 12) + 4 * slot
        self.ram.set_u32(at, entry)
        return at

    def entry(self, table: int, slot: int) -> int:
        """What a table holds."""
        return self.ram.u32((table << 12) + 4 * slot)

    def held(self, mfn: int) -> tuple[int, int]:
        """Type and count of a frame."""
        return self.tables.type[mfn], self.tables.count[mfn]

    def snapshot(self) -> tuple[object, ...]:
        """All that a refusal must leave alone: who holds what. (A frame that nobody holds has no type to speak of.)"""
        tables = self.tables
        return (list(tables.count), list(tables.mapped), bytes(tables.pinned),
                [kind if count else None for kind, count in zip(tables.type, tables.count, strict=True)])


@pytest.fixture
def frames() -> Frames:
    return Frames()


def pte(mfn: int, flags: int = RO) -> int:
    return mfn << 12 | flags


# -- Types and counts


@pytest.mark.parametrize("mfn", [0, FOREIGN, TOTAL, TOTAL + 1, 0xFFFFF, -1])
@pytest.mark.parametrize("wanted", [L1, L2, GDT, LDT, WRITABLE])
def test_a_frame_of_nobody_or_of_another_has_no_type(frames: Frames, mfn: int, wanted: PageType) -> None:
    assert not frames.tables.owns(mfn)
    assert not frames.tables.get_type(mfn, wanted)


@pytest.mark.parametrize("wanted", [L1, L2, GDT, LDT, WRITABLE])
def test_each_holder_counts(frames: Frames, wanted: PageType) -> None:
    for n in (1, 2, 3):
        assert frames.tables.get_type(20, wanted)
        assert frames.held(20) == (wanted, n)
    for n in (2, 1, 0):
        frames.tables.put_type(20)
        assert frames.tables.count[20] == n


@pytest.mark.parametrize("first", [L1, L2, GDT, LDT, WRITABLE])
@pytest.mark.parametrize("second", [L1, L2, GDT, LDT, WRITABLE])
def test_one_type_at_a_time(frames: Frames, first: PageType, second: PageType) -> None:
    assert frames.tables.get_type(20, first)
    assert frames.tables.get_type(20, second) == (first == second)
    assert frames.tables.type[20] == first


@pytest.mark.parametrize("first", [L1, L2, GDT, LDT, WRITABLE])
@pytest.mark.parametrize("second", [L1, L2, GDT, LDT, WRITABLE])
def test_a_frame_that_nobody_holds_can_become_anything_and_the_tlb_forgets_it(
        frames: Frames, first: PageType, second: PageType) -> None:
    frames.tables.get_type(20, first)
    frames.tables.put_type(20)
    frames.ram.write(20 << 12, bytes(4096))  # a directory has Xen's entries in it
    frames.flushes = 0
    assert frames.tables.get_type(20, second)
    assert frames.flushes == (first != second)


# -- L1 tables


def test_an_l1_table_holds_what_it_maps(frames: Frames) -> None:
    frames.set(20, 0, pte(30))
    frames.set(20, 1, pte(31, RW))
    frames.set(20, 1023, pte(31, RW))
    frames.set(20, 2, pte(32, PTE_RW))  # not present: any frame, any bits
    frames.set(20, 3, pte(FOREIGN, PTE_RW | PTE_PS))
    assert frames.tables.pin(20, L1)
    assert frames.held(30) == (NONE, 0)
    assert frames.held(31) == (WRITABLE, 2)
    assert frames.held(32) == (NONE, 0)
    assert [frames.tables.mapped[n] for n in (30, 31, 32)] == [1, 2, 0]
    assert frames.tables.unpin(20)
    assert frames.tables.count[31] == 0
    assert [frames.tables.mapped[n] for n in (30, 31, 32)] == [0, 0, 0]


BAD_L1 = {
    "a foreign frame": lambda f: pte(FOREIGN),
    "a frame beyond memory": lambda f: pte(TOTAL),
    "the last frame there is": lambda f: 0xFFFFF001,
    "PS, which is PAT here": lambda f: pte(30, RO | PTE_PS),
    "a global page": lambda f: pte(30, RO | PTE_G),
    "itself, writable": lambda f: pte(20, RW),
    "a page directory, writable": lambda f: pte(40, RW),
    "another page table, writable": lambda f: pte(41, RW),
    "a page of the GDT, writable": lambda f: pte(42, RW),
    "a page of the LDT, writable": lambda f: pte(43, RW),
}


def _occupied(frames: Frames) -> None:
    for mfn, kind in ((40, L2), (41, L1), (42, GDT), (43, LDT)):
        assert frames.tables.get_type(mfn, kind)


@pytest.mark.parametrize("bad", BAD_L1.values(), ids=BAD_L1)
def test_a_bad_entry_refuses_a_whole_l1_table(frames: Frames, bad: Callable[[Frames], int]) -> None:
    _occupied(frames)
    frames.set(20, 0, pte(30, RW))
    frames.set(20, 1, pte(31))
    frames.set(20, 500, bad(frames))
    frames.set(20, 501, pte(33, RW))  # behind the bad one: never taken, so not to be given back
    before = frames.snapshot()
    assert not frames.tables.pin(20, L1)
    assert frames.snapshot() == before


@pytest.mark.parametrize("bad", BAD_L1.values(), ids=BAD_L1)
def test_a_bad_entry_is_refused_in_a_live_l1_table(frames: Frames, bad: Callable[[Frames], int]) -> None:
    _occupied(frames)
    frames.set(20, 7, pte(30, RW))
    assert frames.tables.pin(20, L1)
    before = frames.snapshot()
    assert not frames.tables.update_l1((20 << 12) + 28, bad(frames))
    assert frames.entry(20, 7) == pte(30, RW)
    assert frames.snapshot() == before


@pytest.mark.parametrize("mfn", [20, 40, 41, 42, 43])
def test_tables_may_be_mapped_read_only(frames: Frames, mfn: int) -> None:
    _occupied(frames)
    assert frames.tables.pin(20, L1)
    assert frames.tables.update_l1(20 << 12, pte(mfn))
    assert frames.tables.mapped[mfn] == 1


@pytest.mark.parametrize(("old", "new", "counts", "mapped"), [
    (0, 0, (0, 0), (0, 0)),
    (0, pte(31), (0, 0), (0, 1)),
    (0, pte(31, RW), (0, 1), (0, 1)),
    (pte(30, RW), 0, (0, 0), (0, 0)),
    (pte(30), pte(30, RW), (1, 0), (1, 0)),
    (pte(30, RW), pte(30), (0, 0), (1, 0)),
    (pte(30, RW), pte(31, RW), (0, 1), (0, 1)),
    (pte(30, RW), pte(30, RW | PTE_US | PTE_A | PTE_D), (1, 0), (1, 0)),
    (pte(30, RW), pte(30, PTE_RW), (0, 0), (0, 0)),
])
def test_an_l1_update_moves_the_counts(
        frames: Frames, old: int, new: int, counts: tuple[int, int], mapped: tuple[int, int]) -> None:
    at = frames.set(20, 9, old)
    assert frames.tables.pin(20, L1)
    assert frames.tables.update_l1(at, new)
    assert frames.entry(20, 9) == new
    assert (frames.tables.count[30], frames.tables.count[31]) == counts
    assert (frames.tables.mapped[30], frames.tables.mapped[31]) == mapped


@pytest.mark.parametrize("bit", [PTE_PS, PTE_G])
def test_bits_that_are_not_for_guests_do_not_slip_in_with_the_same_frame(frames: Frames, bit: int) -> None:
    at = frames.set(20, 0, pte(30))
    assert frames.tables.pin(20, L1)
    assert not frames.tables.update_l1(at, pte(30, RO | bit))
    assert frames.entry(20, 0) == pte(30)


def test_a_frame_mapped_writable_is_no_table(frames: Frames) -> None:
    frames.set(20, 0, pte(30, RW))
    assert frames.tables.pin(20, L1)
    for kind in (L1, L2, GDT, LDT):
        assert not frames.tables.get_type(30, kind)
    assert frames.tables.update_l1(20 << 12, pte(30))
    assert frames.tables.pin(30, L1)


# -- Page directories


def test_a_directory_holds_its_tables_and_gets_xens_slots(frames: Frames) -> None:
    frames.set(21, 0, pte(30, RW))
    frames.set(20, 5, pte(21, RW | PTE_US))
    frames.set(20, 6, pte(21, RW))
    frames.set(20, XEN_L2_SLOT, pte(22, RW))  # the guest's idea of Xen's part is overwritten
    assert frames.tables.pin(20, L2)
    assert frames.held(21) == (L1, 2)
    assert frames.held(22) == (NONE, 0)
    assert frames.held(30) == (WRITABLE, 1)
    assert tuple(frames.entry(20, n) for n in range(XEN_L2_SLOT, 1024)) == frames.tables.xen_slots
    assert frames.tables.unpin(20)
    assert [frames.tables.count[n] for n in (20, 21, 30)] == [0, 0, 0]


BAD_L2 = {
    "a foreign frame": lambda f: pte(FOREIGN, RW),
    "a frame beyond memory": lambda f: pte(0xFFFFF, RW),
    "a page of 4 MiB": lambda f: pte(30, RW | PTE_PS),
    "a global entry": lambda f: pte(30, RW | PTE_G),
    "a frame that is mapped writable": lambda f: pte(31, RW),
    "a table with a bad entry": lambda f: pte(32, RW),
    "a page of the GDT": lambda f: pte(42, RW),
    "itself, writable": lambda f: pte(20, RW),
    "another directory, writable": lambda f: pte(40, RW),
}


def _surroundings(frames: Frames) -> None:
    _occupied(frames)
    assert frames.tables.get_type(31, WRITABLE)
    frames.set(32, 0, pte(33, RW))
    frames.set(32, 900, pte(FOREIGN))


@pytest.mark.parametrize("bad", BAD_L2.values(), ids=BAD_L2)
def test_a_bad_entry_refuses_a_whole_directory(frames: Frames, bad: Callable[[Frames], int]) -> None:
    _surroundings(frames)
    frames.set(21, 0, pte(34, RW))
    frames.set(20, 0, pte(21, RW))
    frames.set(20, 1, pte(21, RW))
    frames.set(20, 2, pte(20))
    frames.set(20, 3, pte(40))
    frames.set(20, 900, bad(frames))
    before = frames.snapshot()
    assert not frames.tables.pin(20, L2)
    assert frames.snapshot() == before


@pytest.mark.parametrize("bad", BAD_L2.values(), ids=BAD_L2)
def test_a_bad_entry_is_refused_in_a_live_directory(frames: Frames, bad: Callable[[Frames], int]) -> None:
    _surroundings(frames)
    at = frames.set(20, 8, pte(21, RW))
    assert frames.tables.pin(20, L2)
    before = frames.snapshot()
    assert not frames.tables.update_l2(at, bad(frames))
    assert frames.entry(20, 8) == pte(21, RW)
    assert frames.snapshot() == before


def test_a_directory_update_moves_the_counts(frames: Frames) -> None:
    frames.set(20, 8, pte(21, RW))
    assert frames.tables.pin(20, L2)
    assert frames.tables.update_l2((20 << 12) + 32, pte(22, RW))
    assert (frames.tables.count[21], frames.tables.count[22]) == (0, 1)
    assert frames.tables.update_l2((20 << 12) + 32, 0)
    assert frames.tables.count[22] == 0


@pytest.mark.parametrize("slot", [XEN_L2_SLOT, 1016, 1023])
@pytest.mark.parametrize("entry", [0, pte(21, RW)])
def test_xens_slots_are_not_written(frames: Frames, slot: int, entry: int) -> None:
    assert frames.tables.pin(20, L2)
    before = frames.entry(20, slot)
    assert not frames.tables.update_l2((20 << 12) + 4 * slot, entry)
    assert frames.entry(20, slot) == before


def test_the_last_slot_of_the_guests_is_its_own(frames: Frames) -> None:
    assert frames.tables.pin(20, L2)
    assert frames.tables.update_l2((20 << 12) + 4 * (XEN_L2_SLOT - 1), pte(21, RW))


def test_a_directory_can_map_itself_read_only_and_does_not_hold_itself(frames: Frames) -> None:
    frames.set(20, 100, pte(20))
    assert frames.tables.pin(20, L2)
    assert frames.held(20) == (L2, 1)
    assert frames.tables.update_l2((20 << 12) + 404, pte(20))
    assert frames.tables.update_l2((20 << 12) + 404, 0)
    assert frames.held(20) == (L2, 1)
    assert frames.tables.unpin(20)
    assert frames.tables.count[20] == 0


def test_directories_that_map_each_other_hold_each_other(frames: Frames) -> None:
    assert frames.tables.pin(20, L2)
    assert frames.tables.pin(21, L2)
    assert frames.tables.update_l2(20 << 12, pte(21))
    assert frames.tables.update_l2(21 << 12, pte(20))
    assert frames.tables.unpin(20)
    assert frames.tables.unpin(21)
    # A circle holds itself, as in Xen: neither may become writable while the other maps it as a table.
    assert frames.held(20) == (L2, 1)
    assert frames.held(21) == (L2, 1)
    assert not frames.tables.get_type(20, WRITABLE)
    # Opened at one place, it falls apart.
    assert frames.tables.update_l2(20 << 12, 0)
    assert (frames.tables.count[20], frames.tables.count[21]) == (0, 0)


def test_a_directory_is_not_taken_for_a_page_table(frames: Frames) -> None:
    """One that is not checked yet would be checked as an L1, and Xen's slots would not pass."""
    assert frames.tables.pin(21, L2)
    assert frames.tables.unpin(21)
    frames.set(20, 0, pte(21))
    assert not frames.tables.pin(20, L2)


def test_a_chain_of_directories_as_long_as_memory_is_let_go_without_recursion() -> None:
    """Recursion would end in Python's limit, and in Xen it was XSA-240."""
    length = 1200
    frames = Frames(FIRST + length)
    for n in range(FIRST, FIRST + length):
        if n > FIRST:
            frames.set(n, 0, pte(n - 1))
        assert frames.tables.pin(n, L2)
    for n in range(FIRST, FIRST + length - 1):
        assert frames.tables.unpin(n)
    assert frames.tables.count[FIRST] == 1
    assert frames.tables.unpin(FIRST + length - 1)
    assert sum(frames.tables.count) == 0


def test_work_is_counted(frames: Frames) -> None:
    """By this a hypercall knows how much it has done (pv.continuation)."""
    frames.tables.pin(20, L1)
    assert frames.tables.examined == 1024
    frames.tables.unpin(20)
    assert frames.tables.examined == 2048


# -- Pins


def test_pins(frames: Frames) -> None:
    assert not frames.tables.unpin(20), "not pinned"
    assert frames.tables.pin(20, L1)
    assert not frames.tables.pin(20, L1), "pinned already"
    assert not frames.tables.pin(20, L2), "of another type"
    assert frames.held(20) == (L1, 1)
    assert frames.tables.unpin(20)
    assert frames.tables.pin(20, L2)


@pytest.mark.parametrize("mfn", [FOREIGN, TOTAL, 0xFFFFF])
def test_nobody_pins_what_is_not_his(frames: Frames, mfn: int) -> None:
    assert not frames.tables.pin(mfn, L1)
    assert not frames.tables.unpin(mfn)


def test_a_pinned_table_in_use_survives_its_pin(frames: Frames) -> None:
    frames.set(20, 0, pte(21, RW))
    assert frames.tables.pin(21, L1)
    assert frames.tables.pin(20, L2)
    assert frames.tables.unpin(21)
    assert frames.held(21) == (L1, 1)


# -- Descriptor pages


@pytest.mark.parametrize("kind", [GDT, LDT])
def test_a_page_of_descriptors_is_checked_as_a_whole(frames: Frames, kind: PageType) -> None:
    frames.ram.write(20 << 12, struct.pack("<2Q", 0, descriptor(0, 0xFFFFF, 0xBA)))
    assert frames.tables.get_type(20, kind)
    stored = struct.unpack("<2Q", frames.ram.read(20 << 12, 16))
    assert stored == (0, descriptor(0, 0xFC3FF, 0xBB)), "cut below Xen, and accessed"


@pytest.mark.parametrize("kind", [GDT, LDT])
def test_one_bad_descriptor_refuses_the_page(frames: Frames, kind: PageType) -> None:
    frames.ram.write((20 << 12) + 0xFF8, struct.pack("<Q", descriptor(0, 0xFFFFF, 0x9A)))
    assert not frames.tables.get_type(20, kind)
    assert frames.held(20) == (NONE, 0)


FLAT, CUT = descriptor(0, 0xFFFFF, 0xBA), descriptor(0, 0xFC3FF, 0xBB)
GATE = 0x0000EC0000000000  # P, DPL 3, 32-bit call gate
DESCRIPTORS: dict[str, tuple[int, int | None]] = {
    "the null descriptor": (0, 0),
    "not present: anything": (descriptor(0xFFFFF000, 0xFFFFF, 0x1A), descriptor(0xFFFFF000, 0xFFFFF, 0x1A)),
    "not present, a TSS": (descriptor(0, 0x67, 0x09), descriptor(0, 0x67, 0x09)),
    "code of DPL 0": (descriptor(0, 0xFFFFF, 0x9A), None),
    "data of DPL 0": (descriptor(0, 0xFFFFF, 0x92), None),
    "code of DPL 1, 4 GiB": (FLAT, CUT),
    "code of DPL 2, 4 GiB": (descriptor(0, 0xFFFFF, 0xDA), descriptor(0, 0xFC3FF, 0xDB)),
    "code of DPL 3, 4 GiB": (descriptor(0, 0xFFFFF, 0xFA), descriptor(0, 0xFC3FF, 0xFB)),
    "conforming code of DPL 0": (descriptor(0, 0xFFFFF, 0x9E), None),
    "exactly up to Xen's end": (descriptor(0, 0xFC3FF, 0xB2), descriptor(0, 0xFC3FF, 0xB3)),
    "a page more": (descriptor(0, 0xFC400, 0xB2), descriptor(0, 0xFC3FF, 0xB3)),
    "a page less": (descriptor(0, 0xFC3FE, 0xB2), descriptor(0, 0xFC3FE, 0xB3)),
    "a base of 16 MiB": (descriptor(0x1000000, 0xFFFFF, 0xB2), descriptor(0x1000000, 0xFB3FF, 0xB3)),
    "an odd base": (descriptor(0x1234, 0xFFFFF, 0xB2), descriptor(0x1234, 0xFC3FD, 0xB3)),
    "the highest base": (descriptor(0xFC3FEFFF, 0xFFFFF, 0xB2), descriptor(0xFC3FEFFF, 0, 0xB3)),
    "a base a page below Xen's end": (descriptor(0xFC3FF000, 0, 0xB2), None),
    "a base in Xen": (descriptor(0xFFFFF000, 0, 0xB2), None),
    "bytes, within": (descriptor(0xFC300000, 0xFFFFF, 0xB2, 4), descriptor(0xFC300000, 0xFFFFF, 0xB3, 4)),
    "bytes, one too many": (descriptor(0xFC300001, 0xFFFFF, 0xB2, 4), None),
    "16-bit code": (descriptor(0x10000, 0xFFFF, 0xBA, 0), descriptor(0x10000, 0xFFFF, 0xBB, 0)),
    # Expand-down reaches from the limit up: limit 0 is nearly 4 GiB, limit 0xFFFFF pages is nothing.
    "expand-down, everything": (descriptor(0, 0, 0xB6), descriptor(0, 0xFFFFF, 0xB7)),
    "expand-down, nothing": (descriptor(0, 0xFFFFF, 0xB6), descriptor(0, 0xFFFFF, 0xB7)),
    "expand-down in bytes": (descriptor(0, 0xFFFF, 0xB6, 4), None),
    "expand-down, a base": (descriptor(0x1000000, 0, 0xB6), descriptor(0x1000000, 0xFEFFF, 0xB7)),
    "expand-down, beginning behind 4 GiB": (descriptor(0x1000000, 0xFEFFF, 0xB6), descriptor(0x1000000, 0xFEFFF, 0xB7)),
    "a call gate into the flat kernel": (GATE | 0xE019 << 16, GATE | 0xE019 << 16),
    "a call gate into an own segment": (GATE | 0x0009 << 16, GATE | 0x0009 << 16),
    "a call gate into the LDT": (GATE | 0x000D << 16, GATE | 0x000D << 16),
    "a call gate into Xen": (GATE | 0xE008 << 16, None),
    "a call gate into Xen with RPL 1": (GATE | 0xE009 << 16, None),
    "a call gate with RPL 0": (GATE | 0x0008 << 16, None),
    "a call gate with reserved bits": (GATE | 0x20 << 32 | 0xE019 << 16, None),
    "a call gate of DPL 0": (0x00008C0000000000 | 0xE019 << 16, None),
    "a 16-bit call gate": (0x0000E40000000000 | 0xE019 << 16, None),
    "an interrupt gate": (0x0000EE0000000000 | 0xE019 << 16, None),
    "a trap gate": (0x0000EF0000000000 | 0xE019 << 16, None),
    "a task gate": (0x0000E50000000000 | 0x0008 << 16, None),
    "an LDT": (descriptor(0, 0xFFF, 0xE2), None),
    "an available TSS": (descriptor(0, 0x67, 0xE9), None),
    "a busy TSS": (descriptor(0, 0x67, 0xEB), None),
}


@pytest.mark.parametrize(("given", "stored"), DESCRIPTORS.values(), ids=DESCRIPTORS)
def test_descriptors(given: int, stored: int | None) -> None:
    checked = check_descriptor(given & 0xFFFFFFFF, given >> 32)
    assert (None if checked is None else checked[1] << 32 | checked[0]) == stored


def test_a_checked_descriptor_stays_as_it_is() -> None:
    for given, stored in DESCRIPTORS.values():
        if stored is not None:
            again = check_descriptor(stored & 0xFFFFFFFF, stored >> 32)
            assert again == (stored & 0xFFFFFFFF, stored >> 32), hex(given)


def test_call_gates_are_not_marked_accessed() -> None:
    """Bit 8 of a system descriptor is part of its type."""
    checked = check_descriptor(0xE0190000, GATE >> 32)
    assert checked is not None
    assert not checked[1] & DESC_A


@pytest.mark.parametrize(("selector", "valid"), [
    (0xE019, True), (0xE018, False), (0xE01B, False), (0xE021, False), (0xE008, False), (0xE009, False),
    (0x0009, True), (0x0008, False), (0x000A, False), (0x000B, False),
    (0xDFF9, True), (0xE001, False), (0x000D, True), (0xFFFD, True), (0xFFFC, False)])
def test_code_selectors(selector: int, valid: bool) -> None:
    assert valid_code_selector(selector) == valid
    assert xen.FIRST_RESERVED_GDT_ENTRY == 0xE000 >> 3
