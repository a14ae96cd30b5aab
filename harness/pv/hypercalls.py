"""Hypercalls: number in EAX, arguments in EBX ECX EDX ESI EDI, result in EAX (x86_32/entry.S, hypercall_table).

`TABLE` has one row a call. A handler takes the vCPU and its arguments and returns the result, negative for an error, or
an Outcome where the guest does not simply go on. A guest pointer that leads nowhere is -EFAULT, whatever the call.

To add a hypercall: write `do_name`, add its row.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter

from harness.abi import xen
from harness.abi.x86 import EFLAGS_FIXED, IF, NT, POPF_USER_MASK, RF, VM, Gpr, Seg
from harness.abi.xen import CallbackType, ConsoleIo, Errno, Hypercall, PhysdevOp, VersionCmd
from harness.domain.memory import PageFaultError
from harness.domain.outcome import RESUME, Block, Crash, Outcome
from harness.pv import segments
from harness.pv.access import check_range, copy_from_guest, copy_to_guest
from harness.pv.bounce import Interrupted, deliver_failsafe
from harness.pv.continuation import Continue, preempted
from harness.pv.debug import do_get_debugreg, do_set_debugreg
from harness.pv.events import do_event_channel_op, do_event_channel_op_compat
from harness.pv.fpu import do_fpu_taskswitch
from harness.pv.mmu import (
    do_memory_op,
    do_mmu_update,
    do_mmuext_op,
    do_set_gdt,
    do_update_descriptor,
    do_update_va_mapping,
    do_update_va_mapping_otherdomain,
)
from harness.pv.pages import valid_code_selector
from harness.pv.schedule import do_sched_op, do_sched_op_compat, do_set_timer_op, do_vcpu_op
from harness.pv.state import Callback, Trap, Vcpu

Result = int | Outcome | Continue
MAX_CONSOLE = 1 << 20
"""Console bytes kept for one guest; what a guest writes beyond is dropped."""
_CONSOLE_PART = 4096
_IRET_FLAGS = (POPF_USER_MASK | RF) & ~NT
"""Flags that the iret hypercall takes from its frame. With NT a kernel's next IRET would be a task switch."""

# -- Traps, stacks, callbacks


def fix_code_selector(selector: int) -> int:
    """A selector made safe for a return to the kernel: RPL 0 becomes 1 (asm-x86/desc.h, fixup_guest_code_selector)."""
    return selector if selector & 3 else selector | 1


def do_set_trap_table(vcpu: Vcpu, table: int) -> int | Continue:
    """Hypercall 0. A list that ends at address 0; NULL clears the whole table."""
    state = vcpu.state
    if not table:
        state.traps = [Trap() for _ in state.traps]
        vcpu.work += len(state.traps) // 8
        state.direct_gate = False
        return 0
    number = 0
    while True:
        entry = copy_from_guest(vcpu, table + 8 * number, xen.TRAP_INFO.size)
        vector, flags, cs, address = xen.TRAP_INFO.unpack(entry)
        if not address:
            break
        state.traps[vector] = Trap(flags, fix_code_selector(cs), address)
        if vector == 0x80:
            state.direct_gate = not flags & xen.TRAP_INFO_IF and valid_code_selector(fix_code_selector(cs))
        number += 1
        if preempted(vcpu):
            return Continue((table + 8 * number,))
    if vcpu.listening:
        vcpu.note(f"{number} entries")
    return 0


def do_stack_switch(vcpu: Vcpu, ss: int, esp: int) -> int:
    """Hypercall 3: the kernel's stack when an event comes from ring 3."""
    if ss & 3 != 1:
        return -Errno.EPERM
    vcpu.state.kernel_ss, vcpu.state.kernel_sp = ss, esp
    vcpu.ram.write(vcpu.domain.tss + 12, esp.to_bytes(4, "little") + ss.to_bytes(4, "little"))
    if vcpu.listening:
        vcpu.note(f"kernel stack {ss:#06x}:{esp:#010x}")
    return 0


def do_set_callbacks(vcpu: Vcpu, event_cs: int, event_eip: int, failsafe_cs: int, failsafe_eip: int) -> int:
    """Hypercall 4."""
    vcpu.state.event = Callback(fix_code_selector(event_cs & 0xFFFF), event_eip)
    vcpu.state.failsafe = Callback(fix_code_selector(failsafe_cs & 0xFFFF), failsafe_eip)
    return 0


def do_callback_op(vcpu: Vcpu, command: int, pointer: int) -> int:
    """Hypercall 30: one callback at a time."""
    if command == xen.CallbackOp.register:
        kind, flags, cs, eip = xen.CALLBACK_REGISTER.unpack(copy_from_guest(vcpu, pointer, xen.CALLBACK_REGISTER.size))
        callback = Callback(fix_code_selector(cs & 0xFFFF), eip, flags & xen.CALLBACKF_MASK_EVENTS != 0)
        if kind == CallbackType.event:
            vcpu.state.event = callback
        elif kind == CallbackType.failsafe:
            vcpu.state.failsafe = callback
        else:
            return -Errno.EINVAL
        return 0
    if command == xen.CallbackOp.unregister:
        copy_from_guest(vcpu, pointer, xen.CALLBACK_UNREGISTER.size)
        return -Errno.EINVAL
    return -Errno.ENOSYS


def do_nmi_op(vcpu: Vcpu, command: int, pointer: int) -> int:
    """Hypercall 28: NMIs belong to the first domain."""
    del vcpu, command, pointer
    return -Errno.EINVAL


# -- What Xen says and lets say


def do_console_io(vcpu: Vcpu, command: int, count: int, buffer: int) -> int | Continue:
    """Hypercall 18. Writing is allowed to every domain, as in a verbose build; there is nothing to read."""
    if command == ConsoleIo.write:
        check_range(buffer, count)
        console = vcpu.domain.console
        for at in range(0, count, _CONSOLE_PART):
            part = copy_from_guest(vcpu, buffer + at, min(_CONSOLE_PART, count - at))
            console += part[: MAX_CONSOLE - len(console)]
            rest = count - at - len(part)
            if preempted(vcpu) and rest:
                return Continue((command, rest, buffer + at + len(part)))
        if vcpu.listening:
            vcpu.note(f"{count} bytes")
        return 0
    if command == ConsoleIo.read:
        check_range(buffer, count)
        return 0
    return -Errno.ENOSYS


_COMPILE_INFO = (b"CPython", b"harness", b"localdomain", b"2006-12-19")
_VERSION_DATA: dict[int, bytes] = {
    VersionCmd.extraversion: xen.XEN_EXTRAVERSION.encode().ljust(xen.EXTRAVERSION_SIZE, b"\0"),
    VersionCmd.compile_info: xen.COMPILE_INFO.pack(*_COMPILE_INFO),
    VersionCmd.capabilities: xen.XEN_CAPABILITIES.encode().ljust(xen.CAPABILITIES_SIZE, b"\0"),
    VersionCmd.changeset: b"unavailable".ljust(xen.CHANGESET_SIZE, b"\0"),
    VersionCmd.platform_parameters: xen.PLATFORM_PARAMETERS.pack(xen.HYPERVISOR_VIRT_START),
    VersionCmd.guest_handle: bytes(16),
}


def do_xen_version(vcpu: Vcpu, command: int, buffer: int) -> int:
    """Hypercall 17. Also the cheapest call: guests use it to have a pending event delivered."""
    if command == VersionCmd.version:
        return xen.XEN_VERSION
    if command == VersionCmd.pagesize:
        return 4096
    if command == VersionCmd.get_features:
        index, _ = xen.FEATURE_INFO.unpack(copy_from_guest(vcpu, buffer, xen.FEATURE_INFO.size))
        if index:
            return -Errno.EINVAL
        features = 0
        if vcpu.domain.state.vm_assist >> xen.VmAssist.pae_extended_cr3 & 1:
            features |= 1 << xen.XENFEAT_PAE_PGDIR_ABOVE_4GB
        copy_to_guest(vcpu, buffer, xen.FEATURE_INFO.pack(index, features))
        return 0
    if command in _VERSION_DATA:
        copy_to_guest(vcpu, buffer, _VERSION_DATA[command])
        return 0
    return -Errno.ENOSYS


def do_vm_assist(vcpu: Vcpu, command: int, kind: int) -> int:
    """Hypercall 21. Type 2 makes page-table writes work by themselves; the others are accepted without effect."""
    if kind > xen.VmAssist.pae_extended_cr3:
        return -Errno.EINVAL
    state = vcpu.domain.state
    if command == xen.VmAssistCmd.enable:
        state.vm_assist |= 1 << kind
        return 0
    if command == xen.VmAssistCmd.disable:
        state.vm_assist &= ~(1 << kind)
        return 0
    return -Errno.ENOSYS


# -- Physical devices


def do_physdev_op(vcpu: Vcpu, command: int, pointer: int) -> int:
    """Hypercall 33: the virtual IOPL and the I/O bitmap; the rest is for domains with hardware."""
    state = vcpu.state
    if command == PhysdevOp.irq_unmask_notify:
        return 0
    if command == PhysdevOp.irq_status_query:
        irq, _ = xen.PHYSDEV_IRQ_STATUS_QUERY.unpack(copy_from_guest(vcpu, pointer, 8))
        if irq >= 256:
            return -Errno.EINVAL
        copy_to_guest(vcpu, pointer, xen.PHYSDEV_IRQ_STATUS_QUERY.pack(irq, 0))
        return 0
    if command == PhysdevOp.set_iopl:
        (iopl,) = xen.PHYSDEV_SET_IOPL.unpack(copy_from_guest(vcpu, pointer, 4))
        if iopl > 3:
            return -Errno.EINVAL
        state.iopl = iopl
        if vcpu.listening:
            vcpu.note(f"virtual IOPL {iopl}")
        return 0
    if command == PhysdevOp.set_iobitmap:
        bitmap, ports = xen.PHYSDEV_SET_IOBITMAP.unpack(copy_from_guest(vcpu, pointer, 8))
        if ports > xen.MAX_IO_PORTS or bitmap + xen.IOBITMAP_SIZE > xen.HYPERVISOR_VIRT_START:
            return -Errno.EINVAL
        state.io_bitmap, state.io_bitmap_ports = bitmap, ports
        return 0
    if PhysdevOp.apic_read <= command <= PhysdevOp.free_irq_vector:
        return -Errno.EPERM
    return -Errno.EINVAL


def do_physdev_op_compat(vcpu: Vcpu, pointer: int) -> int:
    """Hypercall 19: the command and its argument in one structure."""
    command = int.from_bytes(copy_from_guest(vcpu, pointer, xen.PHYSDEV_OP_SIZE)[:4], "little")
    return do_physdev_op(vcpu, command, pointer + xen.PHYSDEV_OP_UNION)


# -- iret


def do_iret(vcpu: Vcpu) -> Outcome:
    """Hypercall 23: return by a frame on the kernel's stack: EAX EIP CS EFLAGS, and ESP SS if to an outer ring.

    ESP is a linear address, whatever SS's base. A frame that cannot be read or names ring 0 crashes the domain. A
    selector that the CPU refuses is the failsafe callback's, as is one of DS, ES, FS, GS.
    """
    regs = vcpu.regs
    esp = regs.gpr[Gpr.ESP]
    try:
        check_range(esp, xen.IRET_FRAME_SIZE)
        frame = memoryview(copy_from_guest(vcpu, esp, 16)).cast("I")
        eax, eip, cs, flags = frame[0], frame[1], frame[2] & 0xFFFF, frame[3]
        if flags & VM:
            return Crash("iret to VM86 mode is not supported")
        if cs & 3 == 0:
            return Crash(f"iret to ring 0 (cs {cs:#06x})")
        target, ss = esp + 16, regs.selector(Seg.SS)
        if cs & 3 > 1:
            outer = memoryview(copy_from_guest(vcpu, esp + 16, 8)).cast("I")
            target, ss = outer[0], outer[1] & 0xFFFF
    except PageFaultError as fault:
        return Crash(f"iret with an unreadable frame at {fault.address:#010x}")
    regs.gpr[Gpr.EAX] = eax
    vcpu.mask = 0 if flags & IF else 1
    flags = flags & _IRET_FLAGS | IF | EFLAGS_FIXED
    try:
        code = segments.load_code(vcpu, cs)
        stack = segments.load_stack(vcpu, ss, cs & 3)
    except segments.SelectorError as bad:
        if vcpu.listening:
            vcpu.note(f"to {cs:#06x}:{eip:#010x}, {ss:#06x}:{target:#010x}: {bad}")
        return deliver_failsafe(vcpu, Interrupted(eip, cs, flags, target, ss)) or RESUME
    regs.enter(code, eip, stack, target, flags)
    segments.leave_ring(vcpu)
    return RESUME


# -- Refused


def do_ni_hypercall(vcpu: Vcpu) -> int:
    """Not implemented."""
    del vcpu
    return -Errno.ENOSYS


def do_privileged(vcpu: Vcpu) -> int:
    """For the first domain only."""
    del vcpu
    return -Errno.EPERM


# -- multicall


def do_multicall(vcpu: Vcpu, calls: int, number: int) -> Result:
    """Hypercall 13: a list of calls, one after the other, each result in its entry. One that fails stops nothing.

    A call that blocks takes effect after the list; one that ends the domain, at once.
    """
    if vcpu.in_multicall:
        return -Errno.EINVAL
    check_range(calls, xen.MULTICALL_ENTRY.size * number)
    vcpu.in_multicall = True
    try:
        return _each(vcpu, calls, number)
    finally:
        vcpu.in_multicall = False


def _each(vcpu: Vcpu, calls: int, number: int) -> Result:
    blocked: Block | None = None
    size = xen.MULTICALL_ENTRY.size
    for done in range(number):
        at = calls + size * done
        operation, _, *arguments = xen.MULTICALL_ENTRY.unpack(copy_from_guest(vcpu, at, size))
        row = vcpu.rows[operation] if operation < xen.NR_HYPERCALLS else NOT_IMPLEMENTED
        result = call(vcpu, row, arguments[: row.arguments])
        if isinstance(result, Continue):
            rest = struct.pack(f"<{len(result.arguments)}I", *result.arguments)
            copy_to_guest(vcpu, at + xen.MULTICALL_ARGS, rest)
            return Continue((at, number - done))
        if isinstance(result, Block):
            blocked, result = result, 0
        elif not isinstance(result, int):
            return result
        copy_to_guest(vcpu, at + xen.MULTICALL_RESULT, (result & 0xFFFFFFFF).to_bytes(4, "little"))
        if preempted(vcpu) and done + 1 < number:
            return Continue((at + size, number - done - 1))
    if vcpu.listening:
        vcpu.note(f"{number} calls")
    return blocked or 0


# -- The table


@dataclass(frozen=True, slots=True)
class Row:
    """One hypercall: its name, its handler, how many registers it takes."""

    name: str
    handler: Callable[..., Result]
    arguments: int


def _row(number: Hypercall, handler: Callable[..., Result], arguments: int) -> tuple[int, Row]:
    return number, Row(number.name, handler, arguments)


NOT_IMPLEMENTED = Row("ni_hypercall", do_ni_hypercall, 0)

TABLE: dict[int, Row] = dict((
    _row(Hypercall.set_trap_table, do_set_trap_table, 1),
    _row(Hypercall.mmu_update, do_mmu_update, 4),
    _row(Hypercall.set_gdt, do_set_gdt, 2),
    _row(Hypercall.stack_switch, do_stack_switch, 2),
    _row(Hypercall.set_callbacks, do_set_callbacks, 4),
    _row(Hypercall.fpu_taskswitch, do_fpu_taskswitch, 1),
    _row(Hypercall.sched_op_compat, do_sched_op_compat, 2),
    _row(Hypercall.platform_op, do_privileged, 0),
    _row(Hypercall.set_debugreg, do_set_debugreg, 2),
    _row(Hypercall.get_debugreg, do_get_debugreg, 1),
    _row(Hypercall.update_descriptor, do_update_descriptor, 4),
    _row(Hypercall.memory_op, do_memory_op, 2),
    _row(Hypercall.multicall, do_multicall, 2),
    _row(Hypercall.update_va_mapping, do_update_va_mapping, 4),
    _row(Hypercall.set_timer_op, do_set_timer_op, 2),
    _row(Hypercall.event_channel_op_compat, do_event_channel_op_compat, 1),
    _row(Hypercall.xen_version, do_xen_version, 2),
    _row(Hypercall.console_io, do_console_io, 3),
    _row(Hypercall.physdev_op_compat, do_physdev_op_compat, 1),
    _row(Hypercall.vm_assist, do_vm_assist, 2),
    _row(Hypercall.update_va_mapping_otherdomain, do_update_va_mapping_otherdomain, 5),
    _row(Hypercall.iret, do_iret, 0),
    _row(Hypercall.vcpu_op, do_vcpu_op, 3),
    _row(Hypercall.mmuext_op, do_mmuext_op, 4),
    _row(Hypercall.nmi_op, do_nmi_op, 2),
    _row(Hypercall.sched_op, do_sched_op, 2),
    _row(Hypercall.callback_op, do_callback_op, 2),
    _row(Hypercall.event_channel_op, do_event_channel_op, 2),
    _row(Hypercall.physdev_op, do_physdev_op, 2),
    _row(Hypercall.sysctl, do_privileged, 0),
    _row(Hypercall.domctl, do_privileged, 0),
))

ROWS: list[Row] = [
    TABLE.get(n, Row(Hypercall(n).name, do_ni_hypercall, 0) if n in Hypercall._value2member_map_ else NOT_IMPLEMENTED)
    for n in range(xen.NR_HYPERCALLS)
]
"""By number; what is not in `TABLE` is -ENOSYS."""

_ARGUMENTS = (Gpr.EBX, Gpr.ECX, Gpr.EDX, Gpr.ESI, Gpr.EDI)
_TAKE: tuple[Callable[..., tuple[int, ...]], ...] = (
    lambda _gpr: (),
    lambda gpr: (gpr[Gpr.EBX],),
    itemgetter(3, 1),
    itemgetter(3, 1, 2),
    itemgetter(3, 1, 2, 6),
    itemgetter(3, 1, 2, 6, 7),
)
"""The first n argument registers, from the sequence of general registers."""


def call(vcpu: Vcpu, row: Row, arguments: tuple[int, ...] | list[int]) -> Result:
    """Make one call and count it."""
    counts = vcpu.domain.hypercalls
    counts[row.name] = counts.get(row.name, 0) + 1
    try:
        return row.handler(vcpu, *arguments)
    except PageFaultError:
        return -Errno.EFAULT


def hypercall(vcpu: Vcpu) -> Outcome:
    """What `int 0x82` from ring 1 asks for. EIP moves past the instruction first."""
    regs = vcpu.regs
    gpr, number, eip = regs.gpr, regs.gpr[0], regs.eip
    regs.eip = eip + 2
    vcpu.work = 0
    row = vcpu.rows[number] if number < xen.NR_HYPERCALLS else NOT_IMPLEMENTED
    vcpu.seen.handler = row.handler
    if vcpu.listening:
        vcpu.seen.call = (row.name, tuple(gpr[n] for n in _ARGUMENTS[: row.arguments]))
    result = call(vcpu, row, _TAKE[row.arguments](gpr))
    if isinstance(result, int):
        gpr[0] = result & 0xFFFFFFFF
        vcpu.seen.result = result
        return RESUME
    if isinstance(result, Continue):
        regs.eip = eip
        for register, argument in zip(_ARGUMENTS, result.arguments, strict=False):
            gpr[register] = argument
        if vcpu.listening:
            vcpu.note("the rest follows: EIP stays on the call")
        return RESUME
    if isinstance(result, Block):
        gpr[0] = 0
    return result
