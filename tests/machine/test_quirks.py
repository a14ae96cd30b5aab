"""What Unicorn 2.1.4 does unlike silicon: each quirk shown on the engine as it is, with what covers it beside it.

A test here that fails says that the engine has changed, and which cover to look at again. Silicon's behaviour is that
of the Intel SDM, volume 2 for the instruction unless another place is named.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from unicorn import UC_ARCH_X86, UC_HOOK_INSN_INVALID, UC_HOOK_INTR, UC_MODE_32, Uc, UcError
from unicorn.x86_const import UC_X86_REG_EIP, UC_X86_REG_SS

from harness.abi import svm
from harness.abi.x86 import CR4_PCE, IOPL_SHIFT, PTE_P, PTE_RW, PTE_US, Gpr, Seg, Vector
from harness.domain.exits import Reason
from harness.domain.registers import SegmentCache
from harness.machine import layout
from harness.machine.engine import Engine
from harness.machine.ram import private
from harness.machine.trial import CODE, STACK, TABLE, Seen, Trial
from tests.machine.raw import Raw, asm, first

GP, UD, DB, PF = (svm.EXIT_EXCEPTION + vector for vector in (Vector.GP, Vector.UD, Vector.DB, Vector.PF))
CLTS = b"\x0f\x06"
TSS = 0x8000


@contextmanager
def trial(code: bytes | str, ring: int = 1, *, iopl: int = 0, paging: bool = False) -> Iterator[Trial]:
    machine = Trial(asm(code) if isinstance(code, str) else code, ring, eflags=iopl << IOPL_SHIFT | 2, paging=paging)
    try:
        yield machine
    finally:
        machine.close()


@contextmanager
def raw(code: bytes | str, ring: int = 1, *, eflags: int = 2, paging: bool = False) -> Iterator[Raw]:
    machine = Raw(code, ring, eflags=eflags, paging=paging)
    try:
        yield machine
    finally:
        machine.close()


def fault(seen: Seen) -> tuple[int, int, int]:
    """Vector, error code and place of an exit that must be an exception."""
    assert seen.reason is Reason.EXCEPTION
    return seen.vector, seen.error_code, seen.at


def covered(code: bytes | str, ring: int = 1, *, iopl: int = 0) -> Seen:
    """The first exit of some code on the machine with its covers."""
    with trial(code, ring, iopl=iopl) as machine:
        return machine.exits()[0]


# -- Input and output

IO = ("in al, 0x80", "in eax, dx", "out 0x80, al", "out dx, ax", "insb", "outsd")


@pytest.mark.parametrize("instruction", IO)
@pytest.mark.parametrize("ring", [1, 3])
def test_quirk_io_never_faults(instruction: str, ring: int) -> None:
    code = asm(f"mov esi, 0x9000; mov edi, 0x9000; {instruction}")
    assert first(code + CLTS, ring) == (GP, len(code))


def test_quirk_io_is_not_intercepted() -> None:
    with raw("in al, 0x80; clts") as machine:
        machine.intercept_only(0x7B)
        machine.ram.write(0, b"\xff" * 0x3000)
        assert machine.codes_of() == [(GP, 2)]


@pytest.mark.parametrize("instruction", IO)
@pytest.mark.parametrize("ring", [1, 3])
def test_cover_io_without_a_map_is_a_fault_above_iopl(instruction: str, ring: int) -> None:
    assert fault(covered(instruction, ring, iopl=ring - 1)) == (Vector.GP, 0, 0)


@pytest.mark.parametrize("instruction", IO)
@pytest.mark.parametrize("ring", [1, 3])
def test_cover_io_is_told_at_iopl(instruction: str, ring: int) -> None:
    seen = covered(instruction, ring, iopl=ring)
    assert (seen.reason, seen.kind, seen.at) == (Reason.SCANNED, "io", 0)


def with_map(code: str, bits: dict[int, int], *, limit: int, base: int = 104) -> Seen:
    """First exit in ring 3 with a TSS whose map is zero but for some bytes."""
    with trial(code, 3) as machine:
        machine.put(TSS + 102, struct.pack("<H", base))
        for byte, value in bits.items():
            machine.put(TSS + base + byte, bytes([value]))
        machine.regs.load_tr(SegmentCache(0x40, TSS, limit, 0x8900))
        return machine.exits()[0]


# SDM 1 section 18.5.2: all bits of the ports touched must be clear; two bytes are read, and both lie within the limit.
@pytest.mark.parametrize(
    ("code", "bits", "allowed"),
    [
        ("in al, 0x80", {}, True),
        ("in al, 0x80", {0x10: 0x01}, False),
        ("in al, 0x80", {0x10: 0xFE, 0xF: 0xFF, 0x11: 0xFF}, True),
        ("in ax, 0x87", {0x11: 0x01}, False),
        ("in ax, 0x87", {0x10: 0x80}, False),
        ("in ax, 0x87", {0x10: 0x7F, 0x11: 0xFE}, True),
        ("in eax, 0x84", {0x10: 0x80}, False),
        ("in eax, 0x84", {0x10: 0x0F, 0x11: 0xFF}, True),
        ("mov edx, 0x10080; out dx, al", {0x10: 0x01}, False),
        ("mov edx, 0x10080; out dx, al", {0x10: 0xFE}, True),
        ("mov edx, 0x80; outsd", {0x10: 0x08}, False),
        ("mov edx, 0x80; insb", {0x10: 0x02}, True),
    ],
)
def test_cover_io_goes_by_the_map_of_the_tss(code: str, bits: dict[int, int], allowed: bool) -> None:
    seen = with_map(code, bits, limit=0x7FFF)
    assert (seen.reason is Reason.SCANNED) is allowed
    assert allowed or (seen.vector, seen.error_code) == (Vector.GP, 0)


@pytest.mark.parametrize(("limit", "allowed"), [(104 + 0x11, True), (104 + 0x10, False), (104, False)])
def test_cover_io_beyond_the_limit_of_the_tss_is_a_fault(limit: int, allowed: bool) -> None:
    seen = with_map("in al, 0x80", {}, limit=limit)
    assert (seen.reason is Reason.SCANNED) is allowed


def test_cover_io_in_virtual_8086_mode_goes_by_the_map_whatever_iopl_is() -> None:
    with trial("nop", 3) as machine:
        machine.put(0x5000, b"\xe4\x80")
        real = [SegmentCache(selector, selector << 4, 0xFFFF, 0xF300) for selector in (0x500, 0x700)]
        machine.regs.enter(real[0], 0, real[1], 0x100, 0x23002)
        seen = machine.exits()[0]
    assert (seen.reason, seen.vector, seen.error_code) == (Reason.EXCEPTION, Vector.GP, 0)


# -- Events


def test_quirk_no_exception_goes_through_an_idt() -> None:
    with raw("clts") as machine:
        machine.put(0x6000, struct.pack("<II", 0x0008_0000 | STACK, 0x8E00) * 256)
        machine.regs.load_idtr(0x6000, 0x7FF)
        machine.change(layout.INTERCEPT_EXCEPTIONS, "<I", 0)
        assert machine.codes_of() == [(Vector.GP - 0x100, 0)]


def test_quirk_without_guest_mode_invalid_opcodes_have_a_hook_of_their_own() -> None:
    uc, seen = Uc(UC_ARCH_X86, UC_MODE_32), []
    uc.mem_map(0x1000, 0x1000)
    uc.mem_write(0x1000, b"\x0f\x0b")
    uc.hook_add(UC_HOOK_INTR, lambda _uc, number, _data: seen.append(number))
    uc.hook_add(UC_HOOK_INSN_INVALID, lambda _uc, _data: seen.append("invalid"))
    with pytest.raises(UcError):
        uc.emu_start(0x1000, 0x1800)
    assert seen == ["invalid"]


def test_quirk_without_guest_mode_int_n_shows_eip_behind_it() -> None:
    uc, seen = Uc(UC_ARCH_X86, UC_MODE_32), []
    uc.mem_map(0x1000, 0x1000)
    uc.mem_write(0x1000, b"\xcd\x82\x90")

    def stop(uc: Uc, number: int, _data: object) -> None:
        seen.append((number, uc.reg_read(UC_X86_REG_EIP)))
        uc.emu_stop()

    uc.hook_add(UC_HOOK_INTR, stop)
    uc.emu_start(0x1000, 0x1800)
    assert seen == [(0x82, 0x1002)]


def test_quirk_without_guest_mode_the_second_fault_is_a_double_fault() -> None:
    uc, seen = Uc(UC_ARCH_X86, UC_MODE_32), []
    uc.mem_map(0x1000, 0x1000)
    uc.mem_write(0x1000, b"\xb8\x30\x12\x00\x00\x8e\xd8" + b"\x8e\xd8" * 2)  # mov eax, 0x1230; mov ds, eax

    def skip(uc: Uc, number: int, _data: object) -> None:
        seen.append(number)
        uc.reg_write(UC_X86_REG_EIP, uc.reg_read(UC_X86_REG_EIP) + 2)

    uc.hook_add(UC_HOOK_INTR, skip)
    uc.emu_start(0x1000, 0x1800)
    assert seen == [13, 8]


def test_cover_faults_repeat_without_a_phantom_double_fault() -> None:
    with trial("mov eax, 0x1230" + "; mov ds, eax" * 50) as machine:
        seen = machine.exits(50)
    assert [fault(s) for s in seen] == [(Vector.GP, 0x1230, 5 + 2 * n) for n in range(50)]


def test_cover_a_page_fault_after_a_page_fault_is_one() -> None:
    with trial("mov eax, [0x5a000]; mov eax, [0x5b000]; clts", paging=True) as machine:
        machine.map(0x5A000, 0)
        machine.map(0x5B000, 0)
        seen = machine.exits(3)
    assert [(s.vector, s.address) for s in seen[:2]] == [(Vector.PF, 0x5A000), (Vector.PF, 0x5B000)]
    assert seen[2].vector == Vector.GP


def test_quirk_int_n_ignores_the_dpl_of_its_gate() -> None:
    """Silicon raises #GP(8 n + 2) before the interrupt (SDM 3 section 6.12.1.1). That is left to whoever handles it."""
    with raw("int 0x82", 3) as machine:
        machine.put(0x6000 + 8 * 0x82, struct.pack("<II", 0x0008_9000, 0x8E00))
        machine.regs.load_idtr(0x6000, 0x7FF)
        assert machine.codes_of() == [(svm.EXIT_SWINT, 0)]


def test_cover_int_n_is_told_with_vector_length_and_ring() -> None:
    for ring in (1, 3):
        seen = covered("int 0x82", ring)
        assert (seen.reason, seen.vector, seen.length, seen.at, seen.cpl) == (Reason.SOFTWARE_INT, 0x82, 2, 0, ring)


def test_quirk_int3_and_into_exit_like_int_n() -> None:
    assert first("int3") == (svm.EXIT_SWINT, 0)
    assert first("mov al, 0x7f; inc al; into") == (svm.EXIT_SWINT, 4)


def test_cover_int3_and_into_are_told_by_their_vectors() -> None:
    breakpoint_, overflow = covered("int3"), covered("mov al, 0x7f; inc al; into")
    assert (breakpoint_.vector, breakpoint_.length) == (Vector.BP, 1)
    assert (overflow.vector, overflow.length) == (Vector.OF, 1)
    prefixed = covered(b"\x66\xcc")
    assert (prefixed.vector, prefixed.length) == (Vector.BP, 2)
    assert (covered(b"\x66\xcd\x80").vector, covered(b"\x66\xcd\x80").length) == (0x80, 3)


def test_quirk_icebp_is_an_invalid_opcode() -> None:
    assert first(b"\xf1") == (UD, 0)


def test_cover_icebp_is_a_debug_trap_of_one_byte() -> None:
    seen = covered(b"\xf1")
    assert (seen.reason, seen.vector, seen.at, seen.length) == (Reason.EXCEPTION, Vector.DB, 0, 1)


def test_cover_a_debug_exception_after_an_interrupt_has_no_length() -> None:
    """A length would say INT1."""
    with trial("int 0x80; push 0x102; popfd; nop; nop") as machine:
        seen = machine.exits(2)[1]
    assert (seen.vector, seen.at, seen.length) == (Vector.DB, 9, 0)


# -- Instructions


def test_quirk_lock_is_ignored_by_what_cannot_take_it() -> None:
    assert first(b"\xf0\xfa" + CLTS, eflags=1 << IOPL_SHIFT | 2) == (GP, 2)  # cli
    assert first(b"\xf0\xf4") == (GP, 0)  # hlt
    assert first(b"\xf0\x89\xc0" + CLTS) == (GP, 3)  # mov eax, eax


@pytest.mark.parametrize("code", ["f0fa", "f0f4", "f089c0", "f00f06", "f090", "f001c0", "f0cd80", "f0e480", "f3f0fa"])
def test_cover_lock_on_what_cannot_take_it_is_an_invalid_opcode(code: str) -> None:
    assert fault(covered(bytes.fromhex(code) + CLTS, iopl=1)) == (Vector.UD, 0, 0)


def test_cover_lock_where_it_belongs_runs() -> None:
    with trial("mov eax, 5; lock add [0x9000], eax; lock xadd [0x9000], eax; clts") as machine:
        seen = machine.exits()[0]
    assert seen.vector == Vector.GP
    assert machine.ram.u32(0x9000) == 10


def test_quirk_rdpmc_has_pce_the_wrong_way_round() -> None:
    for pce, expected in ((0, UD), (CR4_PCE, GP)):
        with raw("rdpmc") as machine:
            machine.intercept_only()
            machine.regs.cr4 = pce
            assert machine.codes_of() == [(expected, 0)]


def test_cover_rdpmc_faults_above_ring_0_unless_pce_is_set() -> None:
    for ring in (1, 3):
        assert fault(covered("rdpmc", ring)) == (Vector.GP, 0, 0)
        with trial("rdpmc", ring) as machine:
            machine.regs.cr4 = CR4_PCE
            assert machine.exits()[0].reason is Reason.RDPMC
    assert covered("rdpmc", 0).reason is Reason.RDPMC


def test_cover_other_faults_with_pce_set_stay_what_they_are() -> None:
    with trial("clts") as machine:
        machine.regs.cr4 = CR4_PCE
        assert fault(machine.exits()[0]) == (Vector.GP, 0, 0)


def test_quirk_unknown_msrs_read_0_and_take_any_value() -> None:
    with raw("mov eax, -1; mov edx, -1; mov ecx, 0x12345; rdmsr; wrmsr; hlt", 0) as machine:
        assert machine.codes_of() == [(svm.EXIT_HLT, 19)]
        assert (machine.regs.gpr[Gpr.EAX], machine.regs.gpr[Gpr.EDX]) == (0, 0)


@pytest.mark.parametrize("ring", [1, 3])
@pytest.mark.parametrize("instruction", ["rdmsr", "wrmsr"])
def test_cover_msrs_fault_above_ring_0_so_that_ours_are_the_only_ones(instruction: str, ring: int) -> None:
    assert fault(covered(f"mov ecx, 0x12345; {instruction}", ring)) == (Vector.GP, 0, 5)


@pytest.mark.parametrize("code", ["0f34", "0f05"])
@pytest.mark.parametrize("ring", [0, 1, 3])
def test_quirk_sysenter_and_syscall_do_nothing(code: str, ring: int) -> None:
    assert first(bytes.fromhex(code) + b"\x0f\x0b", ring) == (UD, 2)


# IA32_SYSENTER_CS is 0, and EFER.SCE is clear.
@pytest.mark.parametrize(("code", "vector"), [("0f34", Vector.GP), ("0f35", Vector.GP), ("0f05", Vector.UD),
                                              ("0f07", Vector.UD)])
@pytest.mark.parametrize("ring", [1, 3])
def test_cover_fast_system_calls_are_not_offered(code: str, vector: Vector, ring: int) -> None:
    assert fault(covered(bytes.fromhex(code), ring)) == (vector, 0, 0)


@pytest.mark.parametrize("ring", [1, 3])
def test_quirk_smsw_to_a_register_writes_16_bits(ring: int) -> None:
    with raw("mov eax, -1; smsw eax; clts", ring) as machine:
        machine.codes_of()
        assert machine.regs.gpr[Gpr.EAX] == 0xFFFF0011


def test_cover_smsw_is_told() -> None:
    seen = covered("smsw eax")
    assert (seen.reason, seen.kind, seen.at, seen.length) == (Reason.SCANNED, "smsw", 0, 3)


@pytest.mark.parametrize("code", ["0fc7f0", "0fc7f8"])
def test_quirk_random_numbers_are_given_and_differ(code: str) -> None:
    values = set()
    for _ in range(3):
        with raw(bytes.fromhex(code) + CLTS) as machine:
            assert machine.codes_of() == [(GP, 3)]
            values.add(machine.regs.gpr[Gpr.EAX])
    assert len(values) > 1


@pytest.mark.parametrize("code", ["0fc7f0", "0fc7f8", "660fc7f0", "0fc7f3"])
def test_cover_random_numbers_are_not_offered(code: str) -> None:
    assert fault(covered(bytes.fromhex(code))) == (Vector.UD, 0, 0)


def test_quirk_rdtscp_exits_as_rdtsc() -> None:
    assert first("rdtscp") == first("rdtsc") == (svm.EXIT_RDTSC, 0)


def test_cover_rdtscp_is_told_apart() -> None:
    assert covered("rdtsc").reason is Reason.RDTSC
    assert covered("rdtscp").reason is Reason.RDTSCP


def test_quirk_segment_limits_are_not_enforced() -> None:
    """What a limit would keep from a guest, paging and nested paging must."""
    with raw("mov eax, [0x9000]; clts") as machine:
        machine.regs.load_segment(Seg.DS, SegmentCache(0xE021, 0, 0xFFF, 0x0040B300))
        assert machine.codes_of() == [(GP, 5)]
    with raw("mov eax, [0x9000]; clts") as machine:
        machine.regs.load_segment(Seg.DS, SegmentCache())
        assert machine.codes_of() == [(GP, 5)]


def test_quirk_mov_cr1_in_ring_1_is_a_general_protection_fault() -> None:
    assert first(bytes.fromhex("0f20c8")) == (GP, 0)


def test_quirk_lock_mov_from_cr0_is_mov_from_cr8() -> None:
    """AMD's alternative encoding; #UD on Intel. In ring 1 LOCK is refused before it comes to that."""
    with raw(b"\xf0\x0f\x20\xc0\xf4", 0) as machine:
        machine.change(layout.INTERCEPT_CR, "<H", 1 << 8)
        assert machine.codes_of() == [(svm.EXIT_CR_READ + 8, 0)]
    assert fault(covered(b"\xf0\x0f\x20\xc0")) == (Vector.UD, 0, 0)


@pytest.mark.parametrize("ring", [0, 1, 3])
@pytest.mark.parametrize("code", [f"0f01{n:02x}" for n in (0xD8, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, 0xC1, 0xC2, 0xC4)])
def test_virtualization_instructions_are_invalid_opcodes(code: str, ring: int) -> None:
    """VMRUN, VMMCALL, VMLOAD, VMSAVE, STGI, CLGI (EFER.SVME is clear); VMCALL, VMLAUNCH, VMXOFF."""
    assert first(bytes.fromhex(code), ring) == (UD, 0)


@pytest.mark.parametrize("code", ["0f01c8", "0f01c9", "8ec8"])
def test_what_the_cpu_has_not_is_an_invalid_opcode(code: str) -> None:
    """MONITOR, MWAIT, MOV to CS."""
    assert fault(covered(bytes.fromhex(code))) == (Vector.UD, 0, 0)


def test_quirk_xsetbv_above_ring_0_is_a_general_protection_fault() -> None:
    """Silicon says #UD while CR4.OSXSAVE is clear, in any ring (SDM 2, XSETBV)."""
    assert first(bytes.fromhex("0f01d1")) == (GP, 0)
    assert fault(covered(bytes.fromhex("0f01d1"))) == (Vector.UD, 0, 0)


def test_sixteen_bytes_are_a_general_protection_fault() -> None:
    assert fault(covered(b"\x66" * 15 + b"\x90")) == (Vector.GP, 0, 0)


def test_divide_error_is_at_the_instruction() -> None:
    assert fault(covered("xor ecx, ecx; div ecx")) == (Vector.DE, 0, 2)


@pytest.mark.parametrize(("iopl", "at"), [(0, 0), (1, 2)])
def test_cli_and_sti_go_by_iopl(iopl: int, at: int) -> None:
    assert fault(covered("cli; sti; clts", iopl=iopl)) == (Vector.GP, 0, at)


@pytest.mark.parametrize("code", ["push 0x3202; popfd", "push 0x3202; push cs; push done; iretd; done: nop"])
def test_popf_and_iret_drop_if_and_iopl_above_ring_0(code: str) -> None:
    """Table 4-15 of the SDM: at CPL > IOPL neither changes."""
    with trial(b"\x90") as machine:
        descriptors = struct.pack("<II", 0x0000FFFF, 0x00CFBB00)
        machine.put(0x6000 + 0xE018, descriptors)
        machine.regs.load_gdtr(0x6000, 0xEFFF)
        machine.put(CODE, asm(code + "; clts"))
        assert machine.exits()[0].eflags & 0x3200 == 0


def test_trap_flag_is_a_debug_exception_after_the_next_instruction() -> None:
    with trial("push 0x102; popfd; nop; nop") as machine:
        assert fault(machine.exits()[0])[::2] == (Vector.DB, 7)


# -- State


def test_quirk_register_calls_do_not_change_rings() -> None:
    """Which is why rings are changed in place."""
    uc = Uc(UC_ARCH_X86, UC_MODE_32)
    with pytest.raises(UcError):
        uc.reg_write(UC_X86_REG_SS, 0xE021)


def test_quirk_lazy_flags_are_not_in_eflags() -> None:
    """EFLAGS itself lacks them while cc_op says so: `CpuState.eflags` asks the engine then."""
    with trial("xor eax, eax; sub eax, 1; clts") as machine:
        machine.exits()
        stored = machine.regs.words[layout.EFLAGS >> 2]
        assert machine.regs.eflags & 0x8D5 == 0x95  # CF PF AF SF
        assert machine.regs.words[layout.CC_OP >> 2] != layout.CC_OP_EFLAGS or stored & 0x8D5 == 0


def test_quirk_far_transfer_from_ring_3_with_a_busy_tss_would_end_the_process() -> None:
    """So TR is of the available type; a call gate through it then works, to ring 1."""
    with trial(b"\x9a\0\0\0\0\x43\0", 3) as machine:
        gdt = 0x6000
        machine.put(gdt + 0x40, struct.pack("<II", 0x0019_9800, 0xEC00))
        machine.put(gdt + 0x18, struct.pack("<II", 0x0000FFFF, 0x00CFBB00))
        machine.put(gdt + 0x20, struct.pack("<II", 0x0000FFFF, 0x00CFB300))
        machine.put(TSS + 12, struct.pack("<II", 0x9800, 0x21))
        machine.put(0x9800, CLTS)
        machine.regs.load_gdtr(gdt, 0xFFFF)
        machine.regs.load_tr(SegmentCache(0x48, TSS, 103, 0x8900))
        seen = machine.exits()[0]
    assert (seen.vector, seen.at + CODE, seen.cpl) == (Vector.GP, 0x9800, 1)


def test_quirk_the_first_block_of_an_engine_has_no_callback() -> None:
    """The machine's own stub is always the first; the first block of each run is looked at by hand all the same."""
    engine, memory, blocks = Engine(), private(0x10000), []
    engine.map(0, memory)
    engine.on_block(lambda at, size: blocks.append(at))
    engine.on_interrupt(lambda number: engine.stop())
    memory[0x1000:0x1003] = b"\xb8\x00\xcc"
    engine.start(0x1002)
    assert blocks == []
    engine.close()


# -- Paging


def test_quirk_a_page_walk_asks_for_write_permission_on_the_tables() -> None:
    """So frames that hold page tables are granted writable, and protected by the guest's own entries."""
    with trial("mov eax, [0x5a000]; clts", paging=True) as machine:
        machine.nested.revoke(TABLE >> 12)
        machine.nested.grant(TABLE >> 12, writable=False)
        machine.flush_tlb()
        seen = machine.exits()[0]
    assert seen.reason is Reason.NESTED_FAULT
    assert seen.address & ~0xFFF == TABLE


def test_quirk_a_descriptor_is_marked_accessed_through_the_guests_own_pages() -> None:
    """A read-only page of descriptors without the accessed bit is a page fault at the load, error code 3."""
    with trial("mov eax, 0x11; mov ds, eax; clts", paging=True) as machine:
        machine.put(0x6010, struct.pack("<II", 0x0000FFFF, 0x00CFB200))
        machine.regs.load_gdtr(0x6000, 0xFF)
        machine.map(0x6000, 0x6000 | PTE_P)
        assert fault(machine.exits()[0]) == (Vector.PF, 3, 5)
        assert machine.seen[0].address & ~0xFFF == 0x6000


@pytest.mark.parametrize(
    ("ring", "flags", "access", "code"),
    [
        # SDM 3 sections 4.6 and 4.7: rings 0 to 2 are supervisors; CR0.WP is set.
        (1, PTE_P, "mov eax, [0x5a000]", None),
        (1, PTE_P, "mov [0x5a000], eax", 3),
        (1, PTE_P | PTE_RW, "mov [0x5a000], eax", None),
        (1, 0, "mov eax, [0x5a000]", 0),
        (1, 0, "mov [0x5a000], eax", 2),
        (3, PTE_P | PTE_RW, "mov eax, [0x5a000]", 5),
        (3, PTE_P | PTE_RW, "mov [0x5a000], eax", 7),
        (3, PTE_P | PTE_US, "mov eax, [0x5a000]", None),
        (3, PTE_P | PTE_US, "mov [0x5a000], eax", 7),
        (3, PTE_P | PTE_RW | PTE_US, "mov [0x5a000], eax", None),
        (3, 0, "mov eax, [0x5a000]", 4),
        (3, 0, "mov [0x5a000], eax", 6),
    ],
)
def test_paging_checks_ring_and_write_permission(ring: int, flags: int, access: str, code: int | None) -> None:
    with trial(f"{access}; clts", ring, paging=True) as machine:
        machine.map(0x5A000, 0x5A000 | flags if flags else 0)
        seen = machine.exits()[0]
    if code is None:
        assert fault(seen) == (Vector.GP, 0, 5)
    else:
        assert fault(seen) == (Vector.PF, code, 0)
        assert seen.address == 0x5A000


@pytest.mark.parametrize("bit", [1 << 3, 1 << 2])
def test_fpu_is_not_available_with_ts_or_em(bit: int) -> None:
    with trial("fninit; clts") as machine:
        machine.regs.cr0 |= bit
        assert fault(machine.exits()[0]) == (Vector.NM, 0, 0)
