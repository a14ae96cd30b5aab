"""No guest reaches memory that it was not given, in any ring, by any kind of access, whatever its page tables say."""

from __future__ import annotations

import struct

import pytest

from harness.abi.x86 import CR0_ET, CR0_PE, CR0_PG, PTE_P, PTE_RW, PTE_US, Gpr, Seg
from harness.domain.exits import Reason
from harness.domain.registers import SegmentCache
from harness.machine.machine import PRIVATE
from harness.machine.trial import CODE, DIRECTORY, MEMORY, STACK, TABLE, Trial
from tests.machine.raw import asm

SECRET_FRAME = 0x5A000
SECRET = bytes(range(1, 65))
FULL = PTE_P | PTE_RW | PTE_US
# A frame that exists and was not given; the machine's own memory, in each of its pages; beyond RAM; the top of all.
PRIVATE_PAGES = tuple(PRIVATE + n * 0x1000 for n in (0, 1, 2, 3, 4, 7, 9, 10, 11, 12))
TARGETS = (SECRET_FRAME, *PRIVATE_PAGES, MEMORY, 0x7FFFF000, 0xFFFFF000)
WINDOW = 0x30000

ACCESSES = {
    "read": "mov eax, [0x30000]",
    "write": "mov dword ptr [0x30000], 0xdeadbeef",
    "read and write": "add dword ptr [0x30000], 1",
    "locked": "lock xadd [0x30000], eax",
    "fetch": "mov eax, 0x30000; jmp eax",
    "push": "mov esp, 0x30004; push 1",
    "pop": "mov esp, 0x30000; pop eax",
    "call": "mov esp, 0x30004; call next; next: nop",
    "string store": "mov edi, 0x30000; mov ecx, 4; rep stosd",
    "string load": "mov esi, 0x30000; lodsd",
    "string copy": "mov esi, 0x30000; mov edi, 0x9100; movsd",
    "fpu": "fld qword ptr [0x30000]",
    "fpu state": "fnsave [0x30000]",
    "sse state": "fxsave [0x30000]",
    "sgdt": "sgdt [0x30000]",
    "compare": "cmpxchg8b [0x30000]",
    "bit test": "mov eax, 0; bts dword ptr [0x30000], eax",
    "across the page": "mov eax, [0x2fffe]",
}


@pytest.fixture
def make(request: pytest.FixtureRequest):
    def build(code: str | bytes, ring: int, **options: object) -> Trial:
        machine = Trial(asm(code) if isinstance(code, str) else code, ring, **options)
        request.addfinalizer(machine.close)
        machine.put(SECRET_FRAME, SECRET)
        machine.nested.revoke(SECRET_FRAME >> 12)
        machine.flush_tlb()
        return machine

    return build


def unharmed(machine: Trial) -> bool:
    """The frame holds its secret, and no register does."""
    words = set(struct.unpack("<16I", SECRET))
    return machine.ram.read(SECRET_FRAME, 64) == SECRET and not words & set(machine.regs.gpr)


def private(machine: Trial) -> bytes:
    """The machine's own memory, without what the CPU keeps of an exit in it and of the tables that it walks."""
    memory = bytearray(machine._private[:])
    memory[0x2000:0x3000] = bytes(0x1000)
    memory[0x9000:] = bytes(byte & ~0x60 for byte in memory[0x9000:])
    return bytes(memory)


@pytest.mark.parametrize("ring", [0, 1, 3])
@pytest.mark.parametrize("target", TARGETS, ids=hex)
def test_own_page_tables_do_not_help(make, ring, target):
    for name, code in ACCESSES.items():
        machine = make(f"{code}; int 0x82", ring, paging=True)
        machine.map(WINDOW, target | FULL)
        machine.map(WINDOW - 0x1000, 0x9000 | FULL)
        machine.regs.cr4 = 0x600
        machine.flush_tlb()
        before = private(machine)
        seen = machine.exits()[0]
        assert seen.reason is Reason.NESTED_FAULT, f"{name}: {seen}"
        assert seen.address & ~0xFFF == target, name
        assert unharmed(machine), name
        assert private(machine) == before, name
        machine.close()


@pytest.mark.parametrize("ring", [0, 1, 3])
@pytest.mark.parametrize("target", TARGETS, ids=hex)
def test_without_paging_either(make, ring, target):
    for code in (f"mov eax, [{target:#x}]", f"mov dword ptr [{target:#x}], 1", f"mov eax, {target:#x}; jmp eax"):
        machine = make(f"{code}; int 0x82", ring)
        before = private(machine)
        seen = machine.exits()[0]
        assert (seen.reason, seen.address) == (Reason.NESTED_FAULT, target)
        assert unharmed(machine)
        assert private(machine) == before
        machine.close()


@pytest.mark.parametrize("ring", [0, 1, 3])
@pytest.mark.parametrize("base", [PRIVATE, SECRET_FRAME], ids=hex)
def test_segment_bases_do_not_help(make, ring, base):
    machine = make("mov eax, fs:[4]; int 0x82", ring)
    machine.regs.load_segment(Seg.FS, SegmentCache(0x43, base, 0xFFFFFFFF, 0x00CFF300))
    seen = machine.exits()[0]
    assert (seen.reason, seen.address) == (Reason.NESTED_FAULT, base + 4)
    assert unharmed(machine)


@pytest.mark.parametrize("ring", [0, 1, 3])
@pytest.mark.parametrize("target", TARGETS, ids=hex)
def test_a_page_table_there_is_not_walked(make, ring, target):
    """A forged directory entry names the frame as a table: the walk itself leaves."""
    machine = make("mov eax, [0x400000]; int 0x82", ring, paging=True)
    machine.put(DIRECTORY + 4, struct.pack("<I", target | FULL))
    machine.flush_tlb()
    before = private(machine)
    seen = machine.exits()[0]
    assert seen.reason is Reason.NESTED_FAULT
    assert seen.address & ~0xFFF == target
    assert unharmed(machine)
    assert private(machine) == before


@pytest.mark.parametrize("ring", [0, 1, 3])
@pytest.mark.parametrize("target", TARGETS, ids=hex)
def test_a_page_directory_there_is_not_walked(make, ring, target):
    machine = make("mov eax, [0x9000]; int 0x82", ring, paging=True)
    machine.regs.cr3 = target
    machine._engine.flush_tlb()
    before = private(machine)
    seen = machine.exits()[0]
    assert (seen.reason, seen.address & ~0xFFF) == (Reason.NESTED_FAULT, target)
    assert private(machine) == before


def test_a_large_page_over_it_does_not_help(make):
    machine = make("mov eax, [0x5a000 + 0x400000]; int 0x82", 0, paging=True)
    machine.put(DIRECTORY + 4, struct.pack("<I", 0 | FULL | 0x80))
    machine.regs.cr4 = 0x10
    machine.flush_tlb()
    seen = machine.exits()[0]
    assert (seen.reason, seen.address) == (Reason.NESTED_FAULT, SECRET_FRAME)
    assert unharmed(machine)


def test_ring_0_cannot_load_a_directory_from_there(make):
    """What no paravirtualized guest gets to, and any later ring-0 guest will try."""
    machine = make(f"mov eax, {PRIVATE + 0x9000:#x}; mov cr3, eax; nop; int 0x82", 0, paging=True)
    seen = machine.exits()[0]
    assert seen.reason is Reason.NESTED_FAULT
    assert seen.address & ~0xFFF == PRIVATE + 0x9000


def test_descriptor_tables_there_are_not_read(make):
    for ring in (0, 1, 3):
        machine = make("mov eax, 0x13; mov ds, eax; int 0x82", ring)
        machine.regs.load_gdtr(SECRET_FRAME, 0xFFFF)
        seen = machine.exits()[0]
        assert seen.reason is Reason.NESTED_FAULT
        assert seen.address & ~0xFFF == SECRET_FRAME


def test_a_frame_taken_away_is_gone_at_once(make):
    machine = make("again: mov eax, [0x30000]; clts; jmp again", 1)

    def answer(_seen: object) -> None:
        machine.nested.revoke(0x30)
        machine.flush_tlb()
        machine.skip()

    seen = machine.exits(2, answer)
    assert [s.reason for s in seen] == [Reason.EXCEPTION, Reason.NESTED_FAULT]
    assert seen[1].address == 0x30000


def test_code_in_a_frame_taken_away_does_not_run_on(make):
    machine = make("mov eax, 0x30000; jmp eax", 1)
    machine.put(0x30000, asm("again: clts; jmp 0x30000", base=0x30000))

    def answer(_seen: object) -> None:
        machine.nested.revoke(0x30)
        machine.flush_tlb()
        machine.skip()

    seen = machine.exits(2, answer)
    assert (seen[1].reason, seen[1].address & ~0xFFF) == (Reason.NESTED_FAULT, 0x30000)


def test_a_frame_given_read_only_is_read_and_not_written(make):
    machine = make("mov eax, [0x5a000]; mov [0x5a000], ecx; int 0x82", 0)
    machine.nested.grant(SECRET_FRAME >> 12, writable=False)
    machine.flush_tlb()
    seen = machine.exits()[0]
    assert (seen.reason, seen.at, seen.address) == (Reason.NESTED_FAULT, 5, SECRET_FRAME)
    assert seen.gpr[Gpr.EAX] == 0x04030201
    assert machine.ram.read(SECRET_FRAME, 64) == SECRET


def test_grants_are_what_was_granted(make):
    nested = make("nop", 1).nested
    nested.revoke(0, 256)
    nested.grant(3, 2)
    nested.grant(9, writable=False)
    assert [n for n in range(256) if nested.granted(n)] == [3, 4, 9]
    assert not nested.granted(256)
    assert not nested.granted(PRIVATE >> 12)
    flags = nested.flags()
    nested.revoke(0, 256)
    nested.set_flags(flags)
    assert nested.flags() == flags
    assert (flags[3], flags[9], flags[10]) == (7, 5, 0)


def test_the_guest_stays_in_the_ring_that_it_was_given(make):
    """Every way up that the CPU knows, tried from rings 1 and 3 with descriptors of ring 0 within reach."""
    gdt = 0x6000
    ways = (
        "mov eax, 0x10; mov ss, eax",
        "push 0x10; pop ss",
        "push 0x2; push 8; push ring0; iretd",
        "push 8; push ring0; retf",
        "push 0x10; push 0x9000; push 0x2; push 8; push ring0; iretd",
        "push 0x10; push 0x9000; push 8; push ring0; retf",
    )
    for ring in (1, 3):
        for way in ways:
            machine = make(f"{way}; int 0x82; ring0: int 0x83", ring)
            machine.put(gdt + 8, struct.pack("<IIII", 0xFFFF, 0x00CF9B00, 0xFFFF, 0x00CF9300))
            machine.regs.load_gdtr(gdt, 0xFF)
            seen = machine.exits()[0]
            assert seen.cpl == ring
            assert seen.reason is Reason.EXCEPTION, way
            machine.close()


def test_paging_cannot_be_switched_off_from_ring_1(make):
    machine = make("xor eax, eax; mov cr0, eax; int 0x82", 1, paging=True)
    seen = machine.exits()[0]
    assert (seen.vector, seen.at) == (13, 2)
    assert machine.regs.cr0 & (CR0_PG | CR0_PE | CR0_ET) == CR0_PG | CR0_PE | CR0_ET


def test_stack_and_code_of_the_trial_are_where_the_tests_think():
    assert len({WINDOW >> 12, SECRET_FRAME >> 12, STACK >> 12, CODE >> 12, DIRECTORY >> 12, TABLE >> 12}) == 6
