"""The machine's own promises: entering any state, register frames, runs and their ends, what is given back."""

from __future__ import annotations

import gc
import resource
import struct
import threading

import pytest

from harness.abi.x86 import CF, DF, OF, SF, TF, ZF, Gpr, Seg, Vector
from harness.domain.exits import Exit, Reason
from harness.domain.registers import SegmentCache
from harness.machine import EngineError, Machine, RunEnd, layout
from harness.machine.layout import LayoutError
from harness.machine.machine import _nobody
from harness.machine.trial import CODE, MEMORY, STACK, Seen, Trial, flat
from tests.machine.raw import asm


@pytest.fixture
def make(request: pytest.FixtureRequest):
    """Builds trials and closes them."""

    def build(code: str | bytes, *arguments: object, **options: object) -> Trial:
        machine = Trial(asm(code) if isinstance(code, str) else code, *arguments, **options)
        request.addfinalizer(machine.close)
        return machine

    return build


# -- Building

@pytest.mark.parametrize("size", [0, -4096, 1, 4095, 4097, (2 << 30) + 4096])
def test_bad_sizes_are_refused(size):
    with pytest.raises(ValueError, match="multiple of 4096 up to 2 GiB"):
        Machine(size)


@pytest.mark.parametrize("size", [4096, 0x5000, 32 << 20])
def test_sizes_that_are_not_round_are_fine(size):
    machine = Machine(size)
    assert machine.ram.size == size
    machine.close()


@pytest.mark.parametrize(("name", "offset"), [("CPU_POINTER", 0x1C0), ("STATE_IN_CPU", 0x8A58)])
def test_a_build_with_another_layout_is_refused(monkeypatch, name, offset):
    monkeypatch.setattr(layout, name, offset)
    with pytest.raises(LayoutError, match=r"planted registers|no CPU object"):
        Machine(MEMORY)


def test_nothing_is_granted_at_first(make):
    machine = make("clts")
    machine.nested.revoke(0, MEMORY >> 12)
    machine.flush_tlb()
    seen = machine.exits()[0]
    assert (seen.reason, seen.address) == (Reason.NESTED_FAULT, CODE)


# -- Entering a state

@pytest.mark.parametrize("ring", [0, 1, 3])
def test_any_ring_can_be_entered(make, ring):
    machine = make("mov eax, cs; mov ecx, ss; int 0x82", ring)
    seen = machine.exits()[0]
    assert seen.cpl == ring
    assert (seen.gpr[Gpr.EAX], seen.gpr[Gpr.ECX]) == (flat(Seg.CS, ring).selector, flat(Seg.SS, ring).selector)


def test_registers_written_are_the_ones_that_code_sees(make):
    machine = make("mov [0x9100], eax; mov [0x9104], ecx; mov [0x9108], edx; mov [0x910c], ebx; mov [0x9110], ebp;"
                   "mov [0x9114], esi; mov [0x9118], edi; mov [0x911c], esp; int 0x82")
    values = [0x11111111 * n for n in range(1, 8)]
    order = (Gpr.EAX, Gpr.ECX, Gpr.EDX, Gpr.EBX, Gpr.EBP, Gpr.ESI, Gpr.EDI)
    for register, value in zip(order, values, strict=True):
        machine.regs.gpr[register] = value
    seen = machine.exits()[0]
    assert struct.unpack("<8I", machine.ram.read(0x9100, 32)) == (*values, STACK)
    assert [seen.gpr[register] for register in order] == values


def test_segment_bases_written_are_used(make):
    machine = make("mov eax, fs:[0x10]; mov ecx, [0x10]; int 0x82")
    machine.ram.set_u32(0x9110, 0xAAAA)
    machine.ram.set_u32(0x9210, 0xBBBB)
    machine.regs.load_segment(Seg.FS, SegmentCache(0x40, 0x9100, 0xFFFF, 0x0040F300))
    machine.regs.load_segment(Seg.DS, SegmentCache(0x48, 0x9200, 0xFFFF, 0x0040F300))
    seen = machine.exits()[0]
    assert (seen.gpr[Gpr.EAX], seen.gpr[Gpr.ECX]) == (0xAAAA, 0xBBBB)
    assert machine.regs.segment(Seg.FS) == SegmentCache(0x40, 0x9100, 0xFFFF, 0x0040F300)


def test_a_code_segment_with_a_base_has_eip_relative_to_it(make):
    machine = make("nop")
    machine.put(0x20000 + 0x40, asm("in al, 0x80; clts"))
    machine.regs.enter(SegmentCache(0x41, 0x20000, 0xFFFF, 0x0040BB00), 0x40, flat(Seg.SS, 1), STACK, 0x1002)
    seen = machine.exits(2)
    assert [(s.reason, s.at + CODE) for s in seen] == [(Reason.SCANNED, 0x40), (Reason.EXCEPTION, 0x42)]


def test_16_bit_code_runs_as_such(make):
    machine = make(b"\xb8\x34\x12\xcd\x82")  # mov ax, 0x1234; int 0x82
    machine.regs.gpr[Gpr.EAX] = 0xFFFF0000
    machine.regs.enter(SegmentCache(0x41, 0, 0xFFFFF, 0x000FBB00), CODE, flat(Seg.SS, 1), STACK, 2)
    seen = machine.exits()[0]
    assert (seen.gpr[Gpr.EAX], seen.at) == (0xFFFF1234, 3)


def test_tables_read_back_as_loaded(make):
    regs = make("nop").regs
    regs.load_gdtr(0xFC000000, 0xEFFF)
    regs.load_idtr(0xFF1C0000, 0x7FF)
    regs.load_tr(SegmentCache(0xE040, 0xFC3FF000, 103, 0x8900))
    regs.load_ldtr(SegmentCache(0xE048, 0xFC000000, 0x17, 0x8200))
    assert (regs.gdtr(), regs.idtr()) == ((0xFC000000, 0xEFFF), (0xFF1C0000, 0x7FF))
    assert regs.tr() == SegmentCache(0xE040, 0xFC3FF000, 103, 0x8900)
    assert regs.ldtr() == SegmentCache(0xE048, 0xFC000000, 0x17, 0x8200)


def test_sgdt_in_ring_1_shows_the_table_that_was_loaded(make):
    machine = make("sgdt [0x9100]; int 0x82")
    machine.regs.load_gdtr(0xFC000000, 0xEFFF)
    machine.exits()
    assert machine.ram.read(0x9100, 6) == struct.pack("<HI", 0xEFFF, 0xFC000000)


# SDM 1 section 3.4.3.1, by hand for each operation.
@pytest.mark.parametrize(
    ("code", "flags"),
    [
        ("xor eax, eax", ZF | 4),
        ("mov eax, 0x7fffffff; inc eax", OF | SF | 4 | 0x10),
        ("xor eax, eax; sub eax, 1", CF | SF | 4 | 0x10),
        ("mov eax, 0x80000000; add eax, eax", CF | OF | ZF | 4),
        ("stc; std", CF | DF),
        ("mov eax, 1; shl eax, 31", SF | 4),
        ("mov eax, 3; cmp eax, 3", ZF | 4),
    ],
)
@pytest.mark.parametrize("exit_", ["clts", "int 0x82", "cpuid", "in al, 0x80"])
def test_flags_are_right_at_every_kind_of_exit(make, code, flags, exit_):
    machine = make(f"{code}; {exit_}", eflags=0x1002)
    known = CF | 4 | 0x10 | ZF | SF | OF | DF
    if "shl" in code:
        known &= ~(OF | 0x10)  # undefined for counts above 1
    assert machine.exits()[0].eflags & known == flags & known


@pytest.mark.parametrize("flags", [0, CF, ZF | SF, OF, DF, CF | 4 | 0x10 | ZF | SF | OF | DF])
def test_flags_written_at_an_exit_are_the_ones_that_code_sees(make, flags):
    machine = make("xor eax, eax; clts; pushfd; pop eax; int 0x82")

    def answer(_seen: Seen) -> None:
        machine.skip()
        machine.regs.eflags = flags | 2

    assert machine.exits(2, answer)[1].gpr[Gpr.EAX] & 0xCD5 == flags


def test_flags_written_before_a_run_are_the_ones_that_code_sees(make):
    machine = make("pushfd; pop eax; int 0x82")
    machine.regs.eflags = CF | ZF | SF | OF | DF | 2
    assert machine.exits()[0].gpr[Gpr.EAX] & 0xCD5 == CF | ZF | SF | OF | DF


def test_the_trap_flag_set_at_an_exit_traps_after_one_instruction(make):
    machine = make("clts; nop; nop; nop")

    def answer(_seen: Seen) -> None:
        machine.skip()
        machine.regs.eflags |= TF

    seen = machine.exits(2, answer)[1]
    assert (seen.vector, seen.at, seen.length) == (Vector.DB, 3, 0)


def test_an_event_is_delivered_by_entering_its_handler(make):
    """Ring 3 to ring 1 and back, as a bounce does it; nothing else of the CPU moves."""
    machine = make("mov eax, 7; int 0x80; inc eax; int 0x81", 3)
    machine.put(CODE + 0x100, asm("pop ecx; int 0x82"))

    def answer(seen: Seen) -> None:
        if seen.vector == 0x80:
            machine.ram.set_u32(0xA000 - 4, seen.at + seen.length + CODE)
            machine.regs.enter(flat(Seg.CS, 1), CODE + 0x100, flat(Seg.SS, 1), 0xA000 - 4, 2)
        else:
            machine.go(3, machine.regs.gpr[Gpr.ECX])

    seen = machine.exits(3, answer)
    assert [(s.vector, s.cpl) for s in seen] == [(0x80, 3), (0x82, 1), (0x81, 3)]
    assert seen[1].gpr[Gpr.ESP] == 0xA000
    assert (seen[2].gpr[Gpr.EAX], seen[2].gpr[Gpr.ESP]) == (8, STACK)


@pytest.mark.parametrize("selector", [0x1230, 0x5674, 0xFFFC])
def test_error_codes_name_the_selector(make, selector):
    """SDM 3 section 6.13: index and table, with the two low bits for EXT and IDT."""
    seen = make(f"mov eax, {selector | 3}; mov ds, eax").exits()[0]
    assert (seen.vector, seen.error_code) == (Vector.GP, selector)


def test_a_segment_that_is_not_present_says_so(make):
    machine = make("mov eax, 0x13; mov ds, eax", 3)
    machine.regs.load_gdtr(0x6000, 0xFF)
    machine.put(0x6010, struct.pack("<II", 0xFFFF, 0x00CF7200))
    seen = machine.exits()[0]
    assert (seen.vector, seen.error_code) == (Vector.NP, 0x10)


# -- Running

def test_a_handler_that_says_so_lets_the_cpu_execute_a_scanned_instruction(make):
    machine = make("mov eax, -1; in al, 0x80; clts", eflags=0x1002)
    seen = machine.exits(2, lambda _seen: True)
    assert [(s.reason, s.at) for s in seen] == [(Reason.SCANNED, 5), (Reason.EXCEPTION, 7)]


def test_a_stop_at_a_scanned_instruction_leaves_it_to_be_done(make):
    """Neither executed nor skipped; `seen` lets it run without another exit."""
    machine = make("push ds; push ds; int 0x82")
    machine.watch({"push_seg"})
    places = []

    def handler(exit_: Exit) -> bool:
        places.append((exit_.reason, machine.regs.eip - CODE, machine.regs.gpr[Gpr.ESP]))
        machine.stop()
        return True

    assert machine.run(handler) is RunEnd.STOPPED
    machine.run(handler, seen=True)
    machine.run(handler, seen=True)
    assert places == [(Reason.SCANNED, 0, STACK), (Reason.SCANNED, 1, STACK - 4), (Reason.SOFTWARE_INT, 2, STACK - 8)]


def test_an_exception_in_a_handler_comes_out_with_its_traceback(make):
    machine = make("clts; clts; in al, 0x80", eflags=0x1002)

    def fail(_seen: Seen) -> None:
        raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted") as caught:
        machine.exits(2, fail)
    assert caught.traceback[-1].name == "fail"
    machine.skip()
    assert machine.exits(3)[2].at == 4, "and the machine runs on"


def test_an_exception_in_the_handler_of_a_scanned_instruction_comes_out(make):
    machine = make("in al, 0x80; clts", eflags=0x1002)

    def fail(_seen: Seen) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        machine.exits(2, fail)


def test_an_exit_without_a_handler_is_our_error():
    machine = Machine(MEMORY)
    machine.nested.grant(0, 256)
    machine.regs.enter(flat(Seg.CS, 1), CODE, flat(Seg.SS, 1), STACK, 2)
    machine.ram.write(CODE, b"\x0f\x06")
    with pytest.raises(EngineError, match="nobody to handle it"):
        machine.run(_nobody)
    machine.close()


def test_code_at_every_address_runs_through_where_until_might_be(make):
    """`until` would become a HLT there."""
    machine = make("nop")
    machine.put(CODE, b"\x90" * 4096 + asm("int 0x82"))
    assert machine.exits()[0].at == 4096


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100, 4095, 10_000])
def test_slices_end_exactly_and_repeat(make, count):
    # Of the three instructions of the loop one is INC ECX.
    ends = []
    for _ in range(2):
        machine = make("again: inc ecx; nop; jmp again")
        assert machine.exits(count=count) == []
        assert machine.ended is RunEnd.SLICE
        assert machine.executed == count
        ends.append((machine.regs.gpr[Gpr.ECX], machine.regs.eip - CODE))
    assert ends == [((count + 2) // 3, (0, 1, 2)[count % 3])] * 2


def test_slices_add_up_however_they_are_cut(make):
    whole, cut = (make("again: inc ecx; dec edx; xor esi, ecx; jmp again") for _ in range(2))
    whole.exits(count=1000)
    for count in (1, 9, 90, 400, 500):
        cut.exits(count=count)
    assert (list(whole.regs.gpr), whole.regs.eip) == (list(cut.regs.gpr), cut.regs.eip)


def test_a_slice_runs_on_across_exits_and_counts_what_faulted(make):
    machine = make("again: clts; inc ecx; jmp again")
    seen = machine.exits(1000, count=30)
    assert (machine.ended, machine.executed) == (RunEnd.SLICE, 30)
    assert (len(seen), machine.regs.gpr[Gpr.ECX]) == (10, 10)


def test_code_that_ran_uncounted_is_counted_afterwards(make):
    """Translated without a count it would ignore a later one."""
    machine = make("again: inc ecx; cmp ecx, 5; jne again; clts; jmp again")
    machine.exits(1)
    machine.skip()
    machine.exits(2, count=12)
    assert (machine.ended, machine.executed) == (RunEnd.SLICE, 12)


def test_uncounted_after_counted_runs_to_its_exit(make):
    machine = make("mov ecx, 100000; again: dec ecx; jnz again; int 0x82")
    machine.exits(count=10)
    assert machine.exits()[0].vector == 0x82
    assert machine.executed == 0


def test_a_stop_from_another_thread_ends_an_endless_loop(make):
    machine = make("again: jmp again")
    over = threading.Event()

    def stopper() -> None:
        while not over.wait(0.002):
            machine.stop()

    thread = threading.Thread(target=stopper)
    thread.start()
    try:
        assert machine.exits() == []
        assert machine.ended is RunEnd.STOPPED
    finally:
        over.set()
        thread.join()


# -- Giving back

def test_a_closed_machine_can_still_be_read():
    machine = Trial(asm("mov eax, 0x12345678; stc; clts"))
    machine.exits()
    machine.close()
    machine.close()
    assert machine.regs.gpr[Gpr.EAX] == 0x12345678
    assert machine.regs.eflags & CF
    assert machine.ram.read(CODE, 1) == b"\xb8"


def test_200_machines_leave_nothing_behind():
    """One that stayed would keep 3 MiB and a GiB of address space."""

    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    def live(number: int) -> None:
        for _ in range(number):
            machine = Trial(asm("in al, 0x80; clts"), eflags=0x1002)
            machine.exits(2)
            machine.close()

    live(10)
    gc.collect()
    before = resident()
    live(200)
    gc.collect()
    assert resident() - before < 64 << 20


def test_a_machine_that_nobody_closed_goes_with_the_collector():
    def address_space() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * resource.getpagesize()

    gc.collect()
    before = address_space()
    for _ in range(5):
        Trial(b"\x0f\x06").exits()
    gc.collect()
    assert address_space() - before < 2 << 30, "each keeps a GiB of address space"
