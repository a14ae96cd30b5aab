"""A guest's linear addresses, walked as the CPU walks them (SDM 3, section 4.3)."""

from __future__ import annotations

import itertools

import pytest

from harness.abi.x86 import PFEC_P, PFEC_W, PTE_A, PTE_D, PTE_P, PTE_PS, PTE_RW, PTE_US
from harness.domain.memory import LinearMemory, Memory, PageFaultError

TOTAL = 1 << 23
ROOT, TABLE, FIRST, SECOND = 0x1000, 0x2000, 0x10000, 0x20000
BASE = 0x00400000
"""Linear: slot 1 of the directory. Its pages 0 and 1 are FIRST and SECOND, in this order and not side by side."""
LARGE = 0x00800000
FLAGS = PTE_P | PTE_RW


@pytest.fixture
def memory() -> Memory:
    return Memory(bytearray(TOTAL))


@pytest.fixture
def linear(memory: Memory) -> LinearMemory:
    memory.set_u32(ROOT + 4, TABLE | FLAGS)
    memory.set_u32(ROOT + 8, 0x00400000 | FLAGS | PTE_PS)
    memory.set_u32(TABLE, FIRST | FLAGS)
    memory.set_u32(TABLE + 4, SECOND | FLAGS)
    space = LinearMemory(memory)
    space.load_root(ROOT)
    return space


def fault(space: LinearMemory, address: int, *, write: bool = False) -> tuple[int, int]:
    """The page fault of an access: address and error code."""
    with pytest.raises(PageFaultError) as caught:
        space.translate(address, write=write)
    return caught.value.address, caught.value.error_code


# -- Machine memory


def test_dwords_are_little_endian(memory: Memory) -> None:
    memory.set_u32(0x100, 0x12345678)
    assert memory.read(0x100, 4) == b"\x78\x56\x34\x12"
    assert memory.u32(0x101) == 0x123456
    assert memory.words[0x40] == 0x12345678
    memory.write(0x102, b"ab")
    assert memory.read(0x100, 5) == b"\x78\x56ab\0"


# -- Translation


@pytest.mark.parametrize(("address", "maddr"), [
    (BASE, FIRST), (BASE + 0xFFF, FIRST + 0xFFF), (BASE + 0x1000, SECOND), (BASE + 0x1234, SECOND + 0x234),
    (LARGE, 0x400000), (LARGE + 0x3FFFFF, 0x7FFFFF), (LARGE + 0x123456, 0x523456)])
def test_translation(linear: LinearMemory, address: int, maddr: int) -> None:
    assert linear.translate(address) == maddr
    assert linear.translate(address, write=True) == maddr


def test_without_paging_an_address_is_itself(memory: Memory) -> None:
    space = LinearMemory(memory)
    assert space.translate(0x1234, write=True) == 0x1234
    assert space.entry(0x1234) == (0, 0)
    assert space.user_can(0x1234, write=True)


@pytest.mark.parametrize(("pde", "pte"), list(itertools.product([0, PTE_P, PTE_P | PTE_RW], repeat=2)))
@pytest.mark.parametrize("write", [False, True])
def test_both_levels_must_allow_an_access(linear: LinearMemory, pde: int, pte: int, write: bool) -> None:
    """With CR0.WP a supervisor's write needs RW at both levels."""
    linear.memory.set_u32(ROOT + 4, TABLE | pde)
    linear.memory.set_u32(TABLE, FIRST | pte)
    present, writable = pde & pte & PTE_P, pde & pte & PTE_RW
    if present and (writable or not write):
        assert linear.translate(BASE, write=write) == FIRST
    else:
        assert fault(linear, BASE, write=write) == (BASE, (PFEC_P if present else 0) | (PFEC_W if write else 0))


def test_a_large_page_may_be_read_only(linear: LinearMemory) -> None:
    linear.memory.set_u32(ROOT + 8, 0x00400000 | PTE_P | PTE_PS)
    assert linear.translate(LARGE) == 0x400000
    assert fault(linear, LARGE, write=True) == (LARGE, PFEC_P | PFEC_W)


@pytest.mark.parametrize("entry", [0x00800000 | FLAGS, 0xFFFFF000 | FLAGS])
def test_a_page_beyond_memory_is_a_fault(linear: LinearMemory, entry: int) -> None:
    linear.memory.set_u32(TABLE, entry)
    assert fault(linear, BASE) == (BASE, PFEC_P)


def test_a_table_beyond_memory_is_a_fault(linear: LinearMemory) -> None:
    linear.memory.set_u32(ROOT + 4, 0xFFFFF000 | FLAGS)
    assert fault(linear, BASE, write=True) == (BASE, PFEC_W)
    assert linear.entry(BASE) == (0, 0)


def test_a_fault_says_where_and_why() -> None:
    assert str(PageFaultError(0x1234, 3)) == "page fault at 0x00001234, error code 3"


# -- Accessed and dirty


@pytest.mark.parametrize(("write", "leaf"), [(False, PTE_A), (True, PTE_A | PTE_D)])
def test_a_walk_marks_what_it_used(linear: LinearMemory, write: bool, leaf: int) -> None:
    linear.translate(BASE, write=write)
    linear.translate(LARGE, write=write)
    memory = linear.memory
    assert memory.u32(ROOT + 4) == TABLE | FLAGS | PTE_A
    assert memory.u32(TABLE) == FIRST | FLAGS | leaf
    assert memory.u32(ROOT + 8) == 0x00400000 | FLAGS | PTE_PS | leaf
    assert memory.u32(TABLE + 4) == SECOND | FLAGS


def test_a_walk_that_fails_marks_nothing(linear: LinearMemory) -> None:
    linear.memory.set_u32(TABLE, FIRST | PTE_P)
    fault(linear, BASE, write=True)
    assert linear.memory.u32(TABLE) == FIRST | PTE_P


def test_writing_what_was_read_before_is_a_walk_of_its_own(linear: LinearMemory) -> None:
    linear.translate(BASE)
    linear.translate(BASE, write=True)
    assert linear.memory.u32(TABLE) & PTE_D


# -- What is remembered


def test_translations_are_kept_until_a_flush(linear: LinearMemory) -> None:
    linear.read(BASE, 1)
    linear.write(BASE, b"a")
    linear.memory.set_u32(TABLE, 0)
    assert linear.read(BASE, 1) == b"a"
    linear.write(BASE, b"b")
    linear.flush()
    for write in (False, True):
        assert fault(linear, BASE, write=write)[0] == BASE


def test_another_root_is_another_space(linear: LinearMemory) -> None:
    linear.translate(BASE)
    linear.load_root(0x3000)
    assert fault(linear, BASE) == (BASE, 0)


def test_entry_is_never_remembered(linear: LinearMemory) -> None:
    assert linear.entry(BASE) == (FIRST | FLAGS, TABLE)
    assert linear.entry(BASE + 0x1ABC) == (SECOND | FLAGS, TABLE + 4)
    assert linear.entry(LARGE + 0x5000) == (0x00400000 | FLAGS | PTE_PS, ROOT + 8)
    assert linear.entry(0) == (0, 0)
    linear.memory.set_u32(TABLE, 0)
    assert linear.entry(BASE) == (0, TABLE)


# -- Ring 3


@pytest.mark.parametrize("pde", [FLAGS, FLAGS | PTE_US, PTE_P | PTE_US, PTE_RW | PTE_US])
@pytest.mark.parametrize("pte", [FLAGS, FLAGS | PTE_US, PTE_P | PTE_US, PTE_RW | PTE_US])
def test_ring_3_needs_the_user_bit_at_both_levels(linear: LinearMemory, pde: int, pte: int) -> None:
    linear.memory.set_u32(ROOT + 4, TABLE | pde)
    linear.memory.set_u32(TABLE, FIRST | pte)
    both = pde & pte
    assert linear.user_can(BASE, write=False) == (both & (PTE_P | PTE_US) == PTE_P | PTE_US)
    assert linear.user_can(BASE, write=True) == (both & (PTE_P | PTE_US | PTE_RW) == PTE_P | PTE_US | PTE_RW)


def test_ring_3_and_a_large_page(linear: LinearMemory) -> None:
    assert not linear.user_can(LARGE, write=False)
    linear.memory.set_u32(ROOT + 8, 0x00400000 | PTE_P | PTE_US | PTE_PS)
    assert linear.user_can(LARGE, write=False)
    assert not linear.user_can(LARGE, write=True)


# -- Reading and writing


@pytest.mark.parametrize("offset", [0, 0x10, 0xFFC, 0xFFD, 0xFFF])
def test_bytes_go_where_their_pages_are(linear: LinearMemory, offset: int) -> None:
    linear.write(BASE + offset, b"wxyz")
    here = min(4, 0x1000 - offset)
    assert linear.memory.read(FIRST + offset, here) + linear.memory.read(SECOND, 4 - here) == b"wxyz"
    assert linear.read(BASE + offset, 4) == b"wxyz"
    assert linear.u32(BASE + offset) == int.from_bytes(b"wxyz", "little")


def test_a_write_is_all_or_nothing(linear: LinearMemory) -> None:
    linear.memory.set_u32(TABLE + 4, SECOND | PTE_P)
    with pytest.raises(PageFaultError) as caught:
        linear.write(BASE + 0xFFE, b"wxyz")
    assert (caught.value.address, caught.value.error_code) == (BASE + 0x1000, PFEC_P | PFEC_W)
    assert linear.memory.read(FIRST + 0xFFE, 2) == bytes(2)


def test_a_read_faults_at_the_first_byte_that_is_not_there(linear: LinearMemory) -> None:
    with pytest.raises(PageFaultError) as caught:
        linear.read(BASE + 0x1FFE, 4)
    assert caught.value.address == BASE + 0x2000


def test_a_range_that_passes_4_gib_goes_on_at_0(linear: LinearMemory) -> None:
    memory = linear.memory
    memory.set_u32(ROOT + 4 * 1023, TABLE | FLAGS)
    memory.set_u32(ROOT, TABLE | FLAGS)
    memory.set_u32(TABLE + 4 * 1023, SECOND | FLAGS)
    linear.write(0xFFFFFFFE, b"wxyz")
    assert memory.read(SECOND + 0xFFE, 2) + memory.read(FIRST, 2) == b"wxyz"
    assert linear.read(0xFFFFFFFE, 4) == b"wxyz"
    assert linear.fetch(0xFFFFFFFE, 4) == b"wxyz"


# -- Instruction bytes


@pytest.mark.parametrize("warm", [False, True])
def test_fetch(linear: LinearMemory, warm: bool) -> None:
    linear.memory.write(FIRST + 0xFF0, bytes(range(16)))
    linear.memory.write(SECOND, bytes(range(16, 32)))
    if warm:
        linear.read(BASE, 1)
    assert linear.fetch(BASE + 0xFF0) == bytes(range(15))
    assert linear.fetch(BASE + 0xFF8) == bytes(range(8, 23))
    assert linear.fetch(BASE + 0xFF1, 15) == bytes(range(1, 16))


def test_fetch_is_shorter_where_the_next_page_is_not_there(linear: LinearMemory) -> None:
    linear.memory.write(SECOND + 0xFFC, b"abcd")
    assert linear.fetch(BASE + 0x1FFC) == b"abcd"


def test_fetch_faults_at_the_first_byte(linear: LinearMemory) -> None:
    with pytest.raises(PageFaultError) as caught:
        linear.fetch(BASE + 0x2FFF)
    assert caught.value.address == BASE + 0x2FFF


def test_one_page_is_forgotten_and_no_other(memory: Memory, linear: LinearMemory) -> None:
    for page in (BASE, BASE + 0x1000):
        linear.translate(page)
        linear.translate(page, write=True)
    memory.set_u32(TABLE, 0)
    memory.set_u32(TABLE + 4, 0)
    linear.forget(BASE + 0x123)
    assert fault(linear, BASE) == (BASE, 0)
    assert fault(linear, BASE, write=True) == (BASE, PFEC_W)
    assert linear.translate(BASE + 0x1000) == linear.translate(BASE + 0x1000, write=True) == SECOND
