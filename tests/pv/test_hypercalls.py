"""Hypercalls: number, arguments, result, and every error that Xen has for them (xen/arch/x86, xen/common)."""

from __future__ import annotations

import struct

import pytest

from harness.abi import xen
from harness.abi.x86 import AC, CF, ID, IF, IOPL, NT, RF, TF, VIF, VIP, VM, Gpr, Seg, Vector
from harness.abi.xen import CallbackType, ConsoleIo, Errno, Hypercall, PhysdevOp, VersionCmd, VmAssist
from harness.domain.outcome import BLOCK, RESUME, Crash, Inject, Shutdown
from harness.domain.registers import SegmentCache
from harness.pv import hypercalls
from harness.pv.continuation import MOST_WORK, Continue
from harness.pv.state import Callback, Trap, Vcpu
from tests.pv.stage import CODE, DATA, HANDLER, NOWHERE, PAGE, SPARE, STACK_TOP, Stage, descriptor

BAD_POINTERS = [NOWHERE, 0xFC000000, 0xFFFFFFFF]

# -- The call itself

KNOWN = {*range(11), *range(12, 20), *range(21, 25), 26, 28, 29, 30, 32, 33, 35, 36}


def test_the_table_has_the_calls_that_it_should() -> None:
    assert set(hypercalls.TABLE) == KNOWN


@pytest.mark.parametrize("number", [*sorted(set(range(64)) - KNOWN), 64, 65, 0x80000000, 0xFFFFFFFF])
def test_every_other_number_is_enosys(stage: Stage, number: int) -> None:
    assert stage.call(number) == -Errno.ENOSYS


@pytest.mark.parametrize("number", [Hypercall.platform_op, Hypercall.sysctl, Hypercall.domctl])
def test_control_interfaces_are_for_the_privileged(stage: Stage, number: int) -> None:
    assert stage.call(number, DATA) == -Errno.EPERM


def test_eip_moves_past_the_call_and_eax_holds_the_result(stage: Stage) -> None:
    stage.regs.gpr[Gpr.EBP] = 0x5555
    kept = [stage.regs.gpr[n] for n in (Gpr.EBP, Gpr.ESP)]
    assert stage.hypercall(Hypercall.xen_version, 0, 0) is RESUME
    assert stage.regs.eip == CODE + 2
    assert stage.regs.gpr[Gpr.EAX] == 0x00030000
    assert [stage.regs.gpr[n] for n in (Gpr.EBP, Gpr.ESP)] == kept
    assert stage.vcpu.seen.kind == "hypercall"
    assert stage.vcpu.seen.handler is hypercalls.do_xen_version
    assert stage.vcpu.seen.result == 0x30000


def test_an_error_is_a_negative_dword(stage: Stage) -> None:
    stage.hypercall(99)
    assert stage.regs.gpr[Gpr.EAX] == 0xFFFFFFDA


@pytest.mark.parametrize("arguments", range(6))
def test_arguments_come_in_their_registers(stage: Stage, arguments: int) -> None:
    seen: list[tuple[int, ...]] = []

    def handler(_vcpu: Vcpu, *values: int) -> int:
        seen.append(values)
        return 7

    rows = list(stage.vcpu.rows)
    rows[40] = hypercalls.Row("mine", handler, arguments)
    stage.vcpu.rows = rows
    assert stage.call(40, 11, 12, 13, 14, 15) == 7
    assert seen == [(11, 12, 13, 14, 15)[:arguments]]
    assert stage.domain.hypercalls == {"mine": 1}


def test_calls_are_counted_and_told(stage: Stage) -> None:
    stage.vcpu.listening = True
    stage.call(Hypercall.stack_switch, xen.FLAT_RING1_SS, 0x1000)
    stage.call(99)
    assert stage.vcpu.seen.call == ("ni_hypercall", ())
    stage.call(Hypercall.stack_switch, xen.FLAT_RING1_SS, 0x1000)
    assert stage.vcpu.seen.call == ("stack_switch", (xen.FLAT_RING1_SS, 0x1000))
    assert stage.domain.hypercalls == {"stack_switch": 2, "ni_hypercall": 1}
    assert "kernel stack 0xe021:0x00001000" in stage.vcpu.seen.notes


# -- set_trap_table


def trap_table(stage: Stage, *entries: tuple[int, int, int, int], at: int = DATA) -> int:
    stage.put(at, b"".join(xen.TRAP_INFO.pack(*entry) for entry in entries) + bytes(8))
    return stage.call(Hypercall.set_trap_table, at)


@pytest.mark.parametrize(("cs", "stored"), [
    (0xE019, 0xE019), (0xE018, 0xE019), (0x08, 0x09), (0x0A, 0x0A), (0x0B, 0x0B), (0, 1)])
def test_set_trap_table_fixes_selectors_silently(stage: Stage, cs: int, stored: int) -> None:
    assert trap_table(stage, (13, 1, cs, HANDLER), (255, 7, cs, 1)) == 0
    assert stage.state.traps[13] == Trap(1, stored, HANDLER)
    assert stage.state.traps[255] == Trap(7, stored, 1)


def test_a_table_ends_at_address_0(stage: Stage) -> None:
    assert trap_table(stage, (1, 0, 0xE019, HANDLER), (2, 0, 0xE019, 0), (3, 0, 0xE019, HANDLER)) == 0
    assert [stage.state.traps[n].address for n in (1, 2, 3)] == [HANDLER, 0, 0]


def test_null_clears_the_table(stage: Stage) -> None:
    trap_table(stage, (13, 0, 0xE019, HANDLER), (0x80, 3, 0xE019, HANDLER))
    assert stage.state.direct_gate
    assert stage.call(Hypercall.set_trap_table, 0) == 0
    assert all(trap == Trap() for trap in stage.state.traps)
    assert not stage.state.direct_gate


@pytest.mark.parametrize(("flags", "cs", "direct"), [
    (3, 0xE019, True), (0, 0xE019, True), (3 | xen.TRAP_INFO_IF, 0xE019, False), (3, 0x08, True), (3, 0x09, True),
    (3, 0xE009, False), (3, 0xE008, False), (3, 0x0B, False), (3, 0x0D, True)])
def test_vector_0x80_gets_a_gate_of_its_own(stage: Stage, flags: int, cs: int, direct: bool) -> None:
    """Not if events are to be masked, which no gate can do; not into Xen's segments."""
    assert trap_table(stage, (0x80, flags, cs, HANDLER)) == 0
    assert stage.state.direct_gate == direct


def test_a_later_entry_takes_the_gate_back(stage: Stage) -> None:
    assert trap_table(stage, (0x80, 3, 0xE019, HANDLER), (0x80, 7, 0xE019, HANDLER)) == 0
    assert not stage.state.direct_gate


@pytest.mark.parametrize("pointer", BAD_POINTERS)
def test_set_trap_table_pointer(stage: Stage, pointer: int) -> None:
    assert stage.call(Hypercall.set_trap_table, pointer) == -Errno.EFAULT


def test_a_table_that_runs_into_nothing_keeps_what_was_read(stage: Stage) -> None:
    stage.map(SPARE + 0x1000, 0)
    stage.put(SPARE + 0xFF8, xen.TRAP_INFO.pack(13, 0, 0xE019, HANDLER))
    assert stage.call(Hypercall.set_trap_table, SPARE + 0xFF8) == -Errno.EFAULT
    assert stage.state.traps[13].address == HANDLER


def same_page_everywhere(stage: Stage) -> int:
    """4 MiB of addresses that all lead to the page at SPARE."""
    stage.put(SPARE + 0x1000, struct.pack("<1024I", *[stage.mfn(SPARE) << 12 | PAGE] * 1024))
    table = stage.read_only(SPARE + 0x1000)
    stage.put(DATA, struct.pack("<QQ", (stage.state.guest_table << 12) + 20, table << 12 | PAGE))
    assert stage.call(Hypercall.mmu_update, DATA, 1, 0, xen.DOMID_SELF) == 0
    stage.cpu.flush_tlb()
    return 5 << 22


def test_a_table_without_an_end_is_read_in_pieces(stage: Stage) -> None:
    table = same_page_everywhere(stage)
    stage.put(SPARE, xen.TRAP_INFO.pack(13, 0, 0xE019, HANDLER) * 512)
    stage.vcpu.listening = True
    assert stage.hypercall(Hypercall.set_trap_table, table) is RESUME
    assert stage.regs.eip == CODE
    assert stage.regs.gpr[Gpr.EAX] == Hypercall.set_trap_table
    assert stage.regs.gpr[Gpr.EBX] == table + 8 * MOST_WORK
    assert "the rest follows: EIP stays on the call" in stage.vcpu.seen.notes
    assert stage.go_on(CODE) == -Errno.EFAULT, "at the end of the 4 MiB"


def test_the_number_of_entries_is_told(stage: Stage) -> None:
    stage.vcpu.listening = True
    trap_table(stage, (13, 0, 0xE019, HANDLER))
    assert stage.vcpu.seen.notes == ["1 entries"]


# -- stack_switch, callbacks, nmi


@pytest.mark.parametrize(("ss", "result"), [
    (0xE021, 0), (0x11, 0), (0xE020, -Errno.EPERM), (0xE022, -Errno.EPERM), (0xE023, -Errno.EPERM), (0, -Errno.EPERM)])
def test_stack_switch(stage: Stage, ss: int, result: int) -> None:
    before = stage.ram.read(stage.domain.tss + 12, 8)
    assert stage.call(Hypercall.stack_switch, ss, 0x12345678) == result
    if result:
        assert stage.ram.read(stage.domain.tss + 12, 8) == before
    else:
        assert (stage.state.kernel_ss, stage.state.kernel_sp) == (ss, 0x12345678)
        assert stage.ram.read(stage.domain.tss + 12, 8) == struct.pack("<II", 0x12345678, ss)


def test_set_callbacks(stage: Stage) -> None:
    assert stage.call(Hypercall.set_callbacks, 0x10008, 0x1000, 0xE019, 0x2000) == 0
    assert stage.state.event == Callback(0x09, 0x1000)
    assert stage.state.failsafe == Callback(0xE019, 0x2000)


@pytest.mark.parametrize(("kind", "flags", "name", "masks"), [
    (CallbackType.event, 0, "event", False), (CallbackType.failsafe, 0, "failsafe", False),
    (CallbackType.failsafe, xen.CALLBACKF_MASK_EVENTS, "failsafe", True)])
def test_callback_op_registers_one(stage: Stage, kind: int, flags: int, name: str, masks: bool) -> None:
    stage.put(DATA, xen.CALLBACK_REGISTER.pack(kind, flags, 0x30008, HANDLER))
    assert stage.call(Hypercall.callback_op, 0, DATA) == 0
    assert getattr(stage.state, name) == Callback(0x09, HANDLER, masks)


@pytest.mark.parametrize(("command", "kind", "pointer", "result"), [
    (0, CallbackType.nmi, DATA, -Errno.EINVAL), (0, CallbackType.sysenter, DATA, -Errno.EINVAL),
    (0, 0xFFFF, DATA, -Errno.EINVAL), (0, 0, NOWHERE, -Errno.EFAULT), (1, 0, DATA, -Errno.EINVAL),
    (1, 0, NOWHERE, -Errno.EFAULT), (2, 0, DATA, -Errno.ENOSYS), (0xFFFFFFFF, 0, DATA, -Errno.ENOSYS)])
def test_callback_op_refuses(stage: Stage, command: int, kind: int, pointer: int, result: int) -> None:
    stage.put(DATA, xen.CALLBACK_REGISTER.pack(kind, 0, 0xE019, HANDLER))
    assert stage.call(Hypercall.callback_op, command, pointer) == result
    assert (stage.state.event, stage.state.failsafe) == (Callback(), Callback())


@pytest.mark.parametrize("command", [0, 1])
def test_nmis_belong_to_the_first_domain(stage: Stage, command: int) -> None:
    assert stage.call(Hypercall.nmi_op, command, DATA) == -Errno.EINVAL


def test_fpu_taskswitch_is_always_0(stage: Stage) -> None:
    assert stage.call(Hypercall.fpu_taskswitch, 1) == 0
    assert stage.call(Hypercall.fpu_taskswitch, 0) == 0


# -- console_io


def test_console_output(stage: Stage) -> None:
    stage.vcpu.listening = True
    stage.put(SPARE + 0xFFE, b"hello")
    assert stage.call(Hypercall.console_io, ConsoleIo.write, 5, SPARE + 0xFFE) == 0
    assert stage.domain.console == b"hello"
    assert stage.vcpu.seen.notes == ["5 bytes"]


@pytest.mark.parametrize(("command", "count", "buffer", "result"), [
    (0, 0, DATA, 0), (0, 1, NOWHERE, -Errno.EFAULT), (0, 0xFFFFFFFF, DATA, -Errno.EFAULT),
    (0, 0xFFFFFFFF, 0xFFFFFFFF, -Errno.EFAULT), (0, 1, 0xFC000000, -Errno.EFAULT), (1, 100, DATA, 0),
    (1, 0xFFFFFFFF, DATA, -Errno.EFAULT), (1, 1, 0xFC000000, -Errno.EFAULT), (2, 0, DATA, -Errno.ENOSYS),
    (0xFFFFFFFF, 0, DATA, -Errno.ENOSYS)])
def test_console_io(stage: Stage, command: int, count: int, buffer: int, result: int) -> None:
    assert stage.call(Hypercall.console_io, command, count, buffer) == result
    assert stage.domain.console == b""


def test_a_console_has_room_for_so_much(stage: Stage) -> None:
    buffer = same_page_everywhere(stage)
    stage.put(SPARE, b"x" * 4096)
    for _ in range(2):
        assert stage.call(Hypercall.console_io, ConsoleIo.write, hypercalls.MAX_CONSOLE - 1, buffer) == 0
    assert len(stage.domain.console) == hypercalls.MAX_CONSOLE


def test_long_output_goes_on(stage: Stage) -> None:
    buffer = same_page_everywhere(stage)
    stage.vcpu.work = MOST_WORK - 2
    rest = hypercalls.do_console_io(stage.vcpu, ConsoleIo.write, 0x3001, buffer)
    assert rest == Continue((ConsoleIo.write, 0x1001, buffer + 0x2000))
    stage.vcpu.work = MOST_WORK - 2
    assert hypercalls.do_console_io(stage.vcpu, ConsoleIo.write, 0x2000, buffer) == 0, "nothing is left to go on with"


# -- xen_version


@pytest.mark.parametrize(("command", "text", "size"), [
    (VersionCmd.extraversion, b".4-1", 16), (VersionCmd.capabilities, b"xen-3.0-x86_32", 1024),
    (VersionCmd.changeset, b"unavailable", 64), (VersionCmd.guest_handle, b"", 16)])
def test_version_texts(stage: Stage, command: int, text: bytes, size: int) -> None:
    stage.put(SPARE, b"\xff" * 2048)
    assert stage.call(Hypercall.xen_version, command, SPARE) == 0
    assert stage.get(SPARE, size + 1) == text.ljust(size, b"\0") + b"\xff"


def test_compile_info_is_four_texts(stage: Stage) -> None:
    stage.put(SPARE, b"\xff" * 200)
    assert stage.call(Hypercall.xen_version, VersionCmd.compile_info, SPARE) == 0
    info = stage.get(SPARE, 145)
    assert info[-1] == 0xFF, "144 bytes"
    for start in (0, 64, 80, 112):
        assert info[start] not in (0, 0xFF)


def test_version_numbers(stage: Stage) -> None:
    assert stage.call(Hypercall.xen_version, VersionCmd.version, NOWHERE) == 0x00030000
    assert stage.call(Hypercall.xen_version, VersionCmd.pagesize, 0) == 4096
    assert stage.call(Hypercall.xen_version, VersionCmd.platform_parameters, DATA) == 0
    assert stage.get_words(DATA, 1) == (0xFC000000,)


@pytest.mark.parametrize(("assist", "features"), [(0, 0), (1 << VmAssist.pae_extended_cr3, 16), (7, 0)])
def test_features(stage: Stage, assist: int, features: int) -> None:
    stage.domain.state.vm_assist = assist
    stage.words(DATA, 0, 0xFFFFFFFF)
    assert stage.call(Hypercall.xen_version, VersionCmd.get_features, DATA) == 0
    assert stage.get_words(DATA, 2) == (0, features)


def test_only_one_word_of_features(stage: Stage) -> None:
    stage.words(DATA, 1, 0)
    assert stage.call(Hypercall.xen_version, VersionCmd.get_features, DATA) == -Errno.EINVAL


@pytest.mark.parametrize("command", [VersionCmd.extraversion, VersionCmd.compile_info, VersionCmd.capabilities,
                                     VersionCmd.changeset, VersionCmd.platform_parameters, VersionCmd.get_features])
@pytest.mark.parametrize("pointer", BAD_POINTERS)
def test_version_pointers(stage: Stage, command: int, pointer: int) -> None:
    assert stage.call(Hypercall.xen_version, command, pointer) == -Errno.EFAULT


@pytest.mark.parametrize("command", [9, 0xFFFFFFFF])
def test_version_that_is_not_there(stage: Stage, command: int) -> None:
    assert stage.call(Hypercall.xen_version, command, DATA) == -Errno.ENOSYS


# -- vm_assist


@pytest.mark.parametrize("kind", [0, 1, 2, 3])
def test_vm_assist(stage: Stage, kind: int) -> None:
    assert stage.call(Hypercall.vm_assist, 0, kind) == 0
    assert stage.domain.state.vm_assist == 1 << kind
    assert stage.call(Hypercall.vm_assist, 1, kind) == 0
    assert stage.domain.state.vm_assist == 0


@pytest.mark.parametrize(("command", "kind", "result"), [
    (0, 4, -Errno.EINVAL), (0, 0xFFFFFFFF, -Errno.EINVAL), (2, 0, -Errno.ENOSYS), (2, 4, -Errno.EINVAL)])
def test_vm_assist_refuses(stage: Stage, command: int, kind: int, result: int) -> None:
    assert stage.call(Hypercall.vm_assist, command, kind) == result


# -- physdev_op, in both its forms


def physdev(stage: Stage, compat: bool, command: int, argument: bytes = b"") -> int:
    if compat:
        stage.put(DATA, struct.pack("<I", command) + argument.ljust(12, b"\0"))
        return stage.call(Hypercall.physdev_op_compat, DATA)
    stage.put(DATA + 4, argument.ljust(12, b"\0"))
    return stage.call(Hypercall.physdev_op, command, DATA + 4)


@pytest.fixture(params=[False, True], ids=["physdev_op", "physdev_op_compat"])
def compat(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.mark.parametrize("iopl", range(4))
def test_set_iopl(stage: Stage, compat: bool, iopl: int) -> None:
    stage.vcpu.listening = True
    assert physdev(stage, compat, PhysdevOp.set_iopl, struct.pack("<I", iopl)) == 0
    assert stage.state.iopl == iopl
    assert f"virtual IOPL {iopl}" in stage.vcpu.seen.notes
    assert stage.regs.eflags & IOPL == 0, "the real one stays 0"


@pytest.mark.parametrize("iopl", [4, 0xFFFFFFFF])
def test_set_iopl_refuses(stage: Stage, compat: bool, iopl: int) -> None:
    assert physdev(stage, compat, PhysdevOp.set_iopl, struct.pack("<I", iopl)) == -Errno.EINVAL
    assert stage.state.iopl == 0


@pytest.mark.parametrize(("bitmap", "ports", "result"), [
    (SPARE, 65536, 0), (NOWHERE, 0, 0), (SPARE, 65537, -Errno.EINVAL), (SPARE, 0xFFFFFFFF, -Errno.EINVAL),
    (0xFBFFE000, 1, 0), (0xFBFFE001, 1, -Errno.EINVAL), (0xFFFFFFFF, 1, -Errno.EINVAL)])
def test_set_iobitmap(stage: Stage, compat: bool, bitmap: int, ports: int, result: int) -> None:
    assert physdev(stage, compat, PhysdevOp.set_iobitmap, struct.pack("<II", bitmap, ports)) == result
    assert (stage.state.io_bitmap, stage.state.io_bitmap_ports) == ((0, 0) if result else (bitmap, ports))


@pytest.mark.parametrize(("irq", "result"), [(0, 0), (255, 0), (256, -Errno.EINVAL), (0xFFFFFFFF, -Errno.EINVAL)])
def test_irq_status(stage: Stage, compat: bool, irq: int, result: int) -> None:
    assert physdev(stage, compat, PhysdevOp.irq_status_query, struct.pack("<II", irq, 0xFF)) == result
    assert stage.get_words(DATA + 8, 1) == (0xFF if result else 0,)


@pytest.mark.parametrize(("command", "result"), [
    (PhysdevOp.irq_unmask_notify, 0), (PhysdevOp.apic_read, -Errno.EPERM), (PhysdevOp.apic_write, -Errno.EPERM),
    (PhysdevOp.alloc_irq_vector, -Errno.EPERM), (PhysdevOp.free_irq_vector, -Errno.EPERM), (0, -Errno.EINVAL),
    (3, -Errno.EINVAL), (12, -Errno.EINVAL), (0xFFFFFFFF, -Errno.EINVAL)])
def test_the_rest_of_physdev_op(stage: Stage, compat: bool, command: int, result: int) -> None:
    assert physdev(stage, compat, command) == result


@pytest.mark.parametrize("pointer", BAD_POINTERS)
def test_physdev_pointers(stage: Stage, pointer: int) -> None:
    assert stage.call(Hypercall.physdev_op_compat, pointer) == -Errno.EFAULT
    for command in (PhysdevOp.set_iopl, PhysdevOp.set_iobitmap, PhysdevOp.irq_status_query):
        assert stage.call(Hypercall.physdev_op, command, pointer) == -Errno.EFAULT


# -- iret

FRAME = STACK_TOP - 0x100


def iret(stage: Stage, cs: int, flags: int, *outer: int, eip: int = HANDLER) -> object:
    stage.words(FRAME, 0xEA, eip, cs, flags, *outer)
    stage.regs.gpr[Gpr.ESP] = FRAME
    return stage.hypercall(Hypercall.iret)


@pytest.mark.parametrize(("flags", "mask"), [(0, 1), (IF, 0), (CF, 1), (IF | CF, 0)])
def test_iret_to_ring_1(stage: Stage, flags: int, mask: int) -> None:
    stage.vcpu.mask = 1 - mask
    assert iret(stage, xen.FLAT_RING1_CS, flags) is RESUME
    regs = stage.regs
    assert (regs.eip, regs.selector(Seg.CS), regs.cpl) == (HANDLER, xen.FLAT_RING1_CS, 1)
    assert (regs.gpr[Gpr.ESP], regs.gpr[Gpr.EAX]) == (FRAME + 16, 0xEA)
    assert regs.eflags == flags | IF | 2
    assert stage.vcpu.mask == mask


def test_iret_to_ring_3(stage: Stage) -> None:
    assert iret(stage, xen.FLAT_RING3_CS, IF, 0x1234, xen.FLAT_RING3_SS) is RESUME
    regs = stage.regs
    assert (regs.eip, regs.selector(Seg.CS), regs.selector(Seg.SS), regs.cpl) == (
        HANDLER, xen.FLAT_RING3_CS, xen.FLAT_RING3_SS, 3)
    assert regs.gpr[Gpr.ESP] == 0x1234
    assert [regs.segment(seg) for seg in (Seg.DS, Seg.ES, Seg.FS, Seg.GS)] == [SegmentCache()] * 4


def test_iret_to_ring_2(stage: Stage) -> None:
    stage.own_gdt(descriptor(0, 0xFFFFF, 0xDA), descriptor(0, 0xFFFFF, 0xD2))
    assert iret(stage, 0x0A, IF, 0x1234, 0x12) is RESUME
    assert (stage.regs.cpl, stage.regs.gpr[Gpr.ESP]) == (2, 0x1234)


@pytest.mark.parametrize(("image", "loaded"), [
    (IOPL, 0), (NT, 0), (VIF | VIP, 0), (1 << 3 | 1 << 5 | 1 << 15 | 0xFFC00000, 0),
    (TF | RF | AC | ID, TF | RF | AC | ID)])
def test_flags_that_iret_takes(stage: Stage, image: int, loaded: int) -> None:
    assert iret(stage, xen.FLAT_RING1_CS, image) is RESUME
    assert stage.regs.eflags == loaded | IF | 2


def test_only_the_selector_of_the_cs_slot_counts(stage: Stage) -> None:
    """Above it is the saved upcall mask of a bounce frame."""
    assert iret(stage, xen.FLAT_RING1_CS | 0xFF << 16, 0) is RESUME
    assert stage.regs.selector(Seg.CS) == xen.FLAT_RING1_CS


@pytest.mark.parametrize("cs", [0xE018, 0xE008, 0, 8])
def test_iret_to_ring_0_crashes(stage: Stage, cs: int) -> None:
    result = iret(stage, cs, 0)
    assert isinstance(result, Crash)
    assert "ring 0" in result.reason


def test_iret_to_vm86_crashes(stage: Stage) -> None:
    result = iret(stage, xen.FLAT_RING3_CS, VM, 0, 0)
    assert isinstance(result, Crash)
    assert "VM86" in result.reason


@pytest.mark.parametrize("esp", [NOWHERE, 0xFC000000 - 39, 0xFC000000, 0xFFFFFFF8])
def test_iret_with_an_unreadable_frame_crashes(stage: Stage, esp: int) -> None:
    stage.regs.gpr[Gpr.ESP] = esp
    result = stage.hypercall(Hypercall.iret)
    assert isinstance(result, Crash)
    assert "frame" in result.reason


def test_the_outer_half_of_the_frame_counts_too(stage: Stage) -> None:
    stage.map(SPARE + 0x1000, 0)
    stage.words(SPARE + 0xFF0, 0, HANDLER, xen.FLAT_RING3_CS, 0)
    stage.regs.gpr[Gpr.ESP] = SPARE + 0xFF0
    assert isinstance(stage.hypercall(Hypercall.iret), Crash)


def test_iret_looks_at_esp_and_not_at_ss(stage: Stage) -> None:
    stage.regs.load_segment(Seg.SS, SegmentCache(xen.FLAT_RING1_SS, 0x1000, 0xFFFFFFFF, 0x00C0B300))
    assert iret(stage, xen.FLAT_RING1_CS, 0) is RESUME
    assert stage.regs.eip == HANDLER


@pytest.mark.parametrize(("cs", "outer"), [
    (0x7F9, ()), (xen.FLAT_RING1_DS, ()), (xen.FLAT_RING3_CS, (0x1234, xen.FLAT_RING1_SS)),
    (xen.FLAT_RING3_CS, (0x1234, 0)), (0x1B, (0x1234, xen.FLAT_RING3_SS))])
def test_a_selector_that_iret_cannot_load_is_the_failsafe_callbacks(
        stage: Stage, cs: int, outer: tuple[int, ...]) -> None:
    stage.vcpu.listening = True
    stage.call(Hypercall.set_callbacks, xen.FLAT_RING1_CS, 0, xen.FLAT_RING1_CS, SPARE)
    stage.call(Hypercall.stack_switch, xen.FLAT_RING1_SS, SPARE + 0x3000)
    assert iret(stage, cs, CF, *outer) is RESUME
    rest = (cs | 1 << 16, CF | 2, *outer) if outer else (cs | 1 << 16, CF | 2)
    words = (0xE021, 0xE021, 0xE021, 0xE021, HANDLER, *rest)
    top = SPARE + 0x3000 if outer else FRAME + 16
    assert stage.regs.gpr[Gpr.ESP] == top - 4 * len(words)
    assert stage.get_words(top - 4 * len(words), len(words)) == words
    assert stage.regs.eip == SPARE
    assert stage.regs.gpr[Gpr.EAX] == 0xEA
    assert stage.vcpu.seen.notes


def test_without_a_failsafe_callback_it_crashes(stage: Stage) -> None:
    result = iret(stage, 0x7F9, 0)
    assert isinstance(result, Crash)
    assert "failsafe" in result.reason


# -- multicall


def entry(number: int, *arguments: int) -> bytes:
    return xen.MULTICALL_ENTRY.pack(number, 0xAAAAAAAA, *arguments, *[0] * (6 - len(arguments)))


def multicall(stage: Stage, *entries: bytes, at: int = DATA) -> object:
    stage.put(at, b"".join(entries))
    return stage.hypercall(Hypercall.multicall, at, len(entries))


def results(stage: Stage, number: int, at: int = DATA) -> list[int]:
    return [int.from_bytes(stage.get(at + 32 * n + 4, 4), "little") for n in range(number)]


VERSION = entry(Hypercall.xen_version, 0, 0)


def test_multicall_is_sequential_and_keeps_results_in_place(stage: Stage) -> None:
    stage.vcpu.listening = True
    assert multicall(stage, VERSION, entry(99), entry(Hypercall.vm_assist, 0, 2), entry(0xFFFFFFFF),
                     entry(Hypercall.xen_version, 1, NOWHERE), entry(Hypercall.get_debugreg, 6)) is RESUME
    assert stage.regs.gpr[Gpr.EAX] == 0
    assert results(stage, 6) == [0x30000, 0xFFFFFFDA, 0, 0xFFFFFFDA, 0xFFFFFFF2, 0xFFFF0FF0]
    assert stage.domain.state.vm_assist == 4
    assert "6 calls" in stage.vcpu.seen.notes


def test_nested_multicall_is_refused(stage: Stage) -> None:
    multicall(stage, entry(Hypercall.multicall, DATA, 1), VERSION)
    assert results(stage, 2) == [0xFFFFFFEA, 0x30000]
    assert not stage.vcpu.in_multicall


@pytest.mark.parametrize(("calls", "number"), [
    (NOWHERE, 1), (0xFC000000, 1), (DATA, 0x08000000), (DATA, 0xFFFFFFFF), (0xFFFFFFE0, 1), (0xFBFFFFE0, 2)])
def test_a_bad_list(stage: Stage, calls: int, number: int) -> None:
    assert stage.call(Hypercall.multicall, calls, number) == -Errno.EFAULT
    assert not stage.vcpu.in_multicall


def test_no_calls(stage: Stage) -> None:
    assert stage.call(Hypercall.multicall, NOWHERE, 0) == 0


def test_a_list_that_cannot_be_written(stage: Stage) -> None:
    stage.put(SPARE, VERSION)
    stage.read_only(SPARE)
    assert stage.call(Hypercall.multicall, SPARE, 1) == -Errno.EFAULT


def test_block_takes_effect_after_the_list(stage: Stage) -> None:
    stage.vcpu.mask = 1
    assert multicall(stage, entry(Hypercall.sched_op, 1, 0), VERSION) is BLOCK
    assert results(stage, 2) == [0, 0x30000]
    assert stage.vcpu.mask == 0
    assert stage.state.blocked
    assert stage.regs.gpr[Gpr.EAX] == 0


def test_shutdown_takes_effect_at_once(stage: Stage) -> None:
    assert multicall(stage, entry(Hypercall.sched_op_compat, 2, 0), VERSION) == Shutdown("poweroff")
    assert results(stage, 2) == [0xAAAAAAAA] * 2


def test_a_long_list_goes_on(stage: Stage) -> None:
    """Results must have a place each, so the list is as long as memory; the work of one exit is set nearly done."""
    stage.put(SPARE, VERSION * 256)
    stage.vcpu.work = MOST_WORK - 100
    rest = hypercalls.do_multicall(stage.vcpu, SPARE, 256)
    assert rest == Continue((SPARE + 32 * 100, 156))
    assert results(stage, 101, SPARE) == [0x30000] * 100 + [0xAAAAAAAA]
    assert not stage.vcpu.in_multicall
    assert stage.call(Hypercall.multicall, SPARE + 32 * 100, 156) == 0
    assert results(stage, 256, SPARE) == [0x30000] * 256


def test_the_last_of_a_list_needs_no_going_on(stage: Stage) -> None:
    stage.put(SPARE, VERSION)
    stage.vcpu.work = MOST_WORK - 1
    assert hypercalls.do_multicall(stage.vcpu, SPARE, 1) == 0


def test_a_long_call_in_a_list_goes_on_within_it(stage: Stage) -> None:
    """Its entry then says what is left, and the list begins with it."""
    table = same_page_everywhere(stage)
    long = table + 0x200000 + 8
    stage.put(SPARE, xen.TRAP_INFO.pack(13, 0, 0xE019, HANDLER) * 512)
    at = SPARE + 0x4000
    assert multicall(stage, VERSION, entry(Hypercall.set_trap_table, long), VERSION, at=at) is RESUME
    assert stage.regs.eip == CODE
    assert [stage.regs.gpr[n] for n in (Gpr.EAX, Gpr.EBX, Gpr.ECX)] == [Hypercall.multicall, at + 32, 2]
    assert results(stage, 3, at) == [0x30000, 0xAAAAAAAA, 0xAAAAAAAA]
    assert stage.get_words(at + 32 + 8, 1) == (long + 8 * (MOST_WORK - 1),)
    assert stage.go_on(CODE) == 0
    assert results(stage, 3, at) == [0x30000, 0xFFFFFFF2, 0x30000]


# -- Where a call may come from


def test_a_hypercall_from_ring_3_is_a_general_protection_fault(stage: Stage) -> None:
    stage.enter(3)
    assert stage.hypercall(Hypercall.xen_version, 0, 0) == Inject(Vector.GP, 0x412)
    assert stage.regs.eip == CODE
    assert stage.domain.hypercalls == {}
