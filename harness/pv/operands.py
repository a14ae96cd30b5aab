"""Where an instruction's operands are: registers by number, memory by its effective address (SDM 2 section 2.1)."""

from __future__ import annotations

from harness.abi.x86 import PAGE_SIZE, PFEC_P, PFEC_W, PTE_P
from harness.code.decoder import Instruction, MemoryOperand
from harness.domain.memory import PageFaultError
from harness.pv.access import copy_from_guest, copy_to_guest
from harness.pv.state import Vcpu


def linear_address(vcpu: Vcpu, operand: MemoryOperand) -> int:
    """The linear address of a memory operand."""
    gpr = vcpu.regs.gpr
    offset = operand.displacement
    if operand.base is not None:
        offset += gpr[operand.base]
    if operand.index is not None:
        offset += gpr[operand.index] * operand.scale
    offset &= 0xFFFF if operand.address_size == 16 else 0xFFFFFFFF
    base = vcpu.regs.base(operand.segment) if operand.segment is not None else 0
    return (base + offset) & 0xFFFFFFFF


def load(vcpu: Vcpu, linear: int, size: int) -> bytes:
    """What an instruction of the guest reads from memory. Raises PageFaultError."""
    _check_user(vcpu, linear, size, write=False)
    return copy_from_guest(vcpu, linear, size)


def store(vcpu: Vcpu, linear: int, data: bytes) -> None:
    """What an instruction of the guest writes to memory: all or nothing. Raises PageFaultError."""
    _check_user(vcpu, linear, len(data), write=True)
    copy_to_guest(vcpu, linear, data)


def _check_user(vcpu: Vcpu, linear: int, size: int, *, write: bool) -> None:
    """Ring 3 reaches its kernel's pages no better by an instruction that is emulated (U/S, SDM 3 section 4.6)."""
    if vcpu.regs.cpl != 3:
        return
    for at in (linear, (linear & ~(PAGE_SIZE - 1)) + PAGE_SIZE):
        if at < linear + size and not vcpu.linear.user_can(at & 0xFFFFFFFF, write=write):
            entry, _ = vcpu.linear.entry(at & 0xFFFFFFFF)
            raise PageFaultError(at & 0xFFFFFFFF, (PFEC_P if entry & PTE_P else 0) | (PFEC_W if write else 0))


def read_register(vcpu: Vcpu, number: int, size: int) -> int:
    """A general register by number; AH to BH for the upper four of the 8-bit ones."""
    if size == 1 and number >= 4:
        return vcpu.regs.gpr[number - 4] >> 8 & 0xFF
    return vcpu.regs.gpr[number] & (1 << 8 * size) - 1


def write_register(vcpu: Vcpu, number: int, value: int, size: int) -> None:
    """Set a general register, or its low part of `size` bytes."""
    gpr = vcpu.regs.gpr
    if size == 1 and number >= 4:
        gpr[number - 4] = gpr[number - 4] & ~0xFF00 | (value & 0xFF) << 8
        return
    kept = (1 << 8 * size) - 1
    gpr[number] = gpr[number] & ~kept & 0xFFFFFFFF | value & kept


def read_rm(vcpu: Vcpu, instruction: Instruction, size: int) -> int:
    """The r/m operand. Raises PageFaultError."""
    if instruction.memory is None:
        return read_register(vcpu, instruction.rm, size)
    return int.from_bytes(load(vcpu, linear_address(vcpu, instruction.memory), size), "little")


def write_rm(vcpu: Vcpu, instruction: Instruction, value: int, size: int) -> None:
    """Set the r/m operand. Raises PageFaultError."""
    if instruction.memory is None:
        write_register(vcpu, instruction.rm, value, size)
        return
    store(vcpu, linear_address(vcpu, instruction.memory), (value & (1 << 8 * size) - 1).to_bytes(size, "little"))
