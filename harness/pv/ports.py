"""Port I/O of a guest: permission in three steps, then a device or nothing (arch/x86/traps.c, guest_io_okay)."""

from __future__ import annotations

from harness.abi.x86 import DF, PFEC_U, PFEC_W, Gpr, Vector
from harness.code.decoder import Instruction
from harness.domain.memory import PageFaultError
from harness.domain.outcome import RESUME, RETIRE, Inject, Outcome
from harness.pv.access import copy_from_guest
from harness.pv.operands import load, store, write_register
from harness.pv.state import Vcpu

_GP0 = Inject(Vector.GP, 0)
_REP = 0xF3
_MOST_ITERATIONS = 1024
"""After so many EIP stays on the instruction, as for a pending preemption in Xen: budgets and timers get their turn."""


def guest_io_okay(vcpu: Vcpu, port: int, size: int) -> bool:
    """The virtual IOPL, then the guest's own bitmap. A kernel whose ring counts as 0 needs neither."""
    state = vcpu.state
    if vcpu.full and vcpu.kernel_mode:
        return True
    if state.iopl >= (1 if vcpu.kernel_mode else 3):
        return True
    if state.io_bitmap_ports > port + size:
        try:
            bits = int.from_bytes(copy_from_guest(vcpu, state.io_bitmap + (port >> 3), 2), "little")
        except PageFaultError:
            return False
        return bits >> (port & 7) & (1 << size) - 1 == 0
    return False


def read_port(vcpu: Vcpu, port: int, size: int) -> int:
    """What IN gives: a device that the administrator allows, else all ones."""
    value = vcpu.domain.ports.read(port, size) if vcpu.domain.ports else None
    if vcpu.listening:
        vcpu.note(f"in {port:#x}" + (": nothing there" if value is None else f" -> {value:#x}"))
    return (1 << 8 * size) - 1 if value is None else value


def write_port(vcpu: Vcpu, port: int, value: int, size: int) -> None:
    """What OUT does: to a device that the administrator allows, else nothing."""
    if vcpu.listening:
        vcpu.note(f"out {port:#x}, {value:#x}")
    if vcpu.domain.ports:
        vcpu.domain.ports.write(port, value, size)


def _operand_size(instruction: Instruction) -> int:
    """Bytes. Xen toggles the size at each 66 prefix, where silicon takes any number of them as one."""
    if not instruction.opcode & 1:
        return 1
    return 2 if instruction.prefixes.count(0x66) % 2 else 4


def emulate_io(vcpu: Vcpu, instruction: Instruction) -> Outcome:
    """IN and OUT, with the port in DX or as an immediate."""
    size, gpr = _operand_size(instruction), vcpu.regs.gpr
    port = gpr[Gpr.EDX] & 0xFFFF if instruction.immediate is None else instruction.immediate & 0xFF
    if not guest_io_okay(vcpu, port, size):
        return _GP0
    if instruction.opcode & 2:
        write_port(vcpu, port, gpr[Gpr.EAX] & (1 << 8 * size) - 1, size)
    else:
        write_register(vcpu, Gpr.EAX, read_port(vcpu, port, size), size)
    return RETIRE


def emulate_string_io(vcpu: Vcpu, instruction: Instruction) -> Outcome:
    """INS and OUTS with their REP forms: flat addresses, no segment, whatever the prefixes say; F2 repeats nothing.

    ECX of 0 does nothing, allowed or not. A page fault leaves the registers at the iteration that met it.
    """
    size, gpr = _operand_size(instruction), vcpu.regs.gpr
    port, into_memory = gpr[Gpr.EDX] & 0xFFFF, instruction.opcode < 0x6E
    index, repeated = Gpr.EDI if into_memory else Gpr.ESI, _REP in instruction.prefixes
    if repeated and not gpr[Gpr.ECX]:
        return RETIRE
    if not guest_io_okay(vcpu, port, size):
        return _GP0
    step = -size if vcpu.regs.eflags & DF else size
    for _ in range(_MOST_ITERATIONS):
        try:
            if into_memory:
                store(vcpu, gpr[index], read_port(vcpu, port, size).to_bytes(size, "little"))
            else:
                write_port(vcpu, port, int.from_bytes(load(vcpu, gpr[index], size), "little"), size)
        except PageFaultError as fault:
            user = 0 if vcpu.kernel_mode else PFEC_U
            return Inject(Vector.PF, user | (PFEC_W if into_memory else 0), fault.address)
        gpr[index] = (gpr[index] + step) & 0xFFFFFFFF
        if repeated:
            gpr[Gpr.ECX] -= 1
        if not repeated or not gpr[Gpr.ECX]:
            return RETIRE
    return RESUME
