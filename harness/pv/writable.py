"""Page-table writes that Xen does for a guest that asked for it (vm_assist type 2; arch/x86/mm.c, ptwr_do_page_fault).

A kernel writes to its page tables as if they were its own; the write faults, the new entry is checked, and the
instruction is completed. Instructions that compilers use for it are known; another one is the guest's page fault.
"""

from __future__ import annotations

from collections.abc import Callable

from harness.abi.x86 import AF, ARITHMETIC_FLAGS, CF, OF, PAGE_SHIFT, PF, SF, ZF, Gpr, Seg
from harness.code.decoder import Instruction
from harness.pv.operands import linear_address, read_register, write_register
from harness.pv.pages import PageType
from harness.pv.state import Vcpu

_ALU: dict[int, Callable[[int, int], int]] = {
    1: lambda old, operand: old | operand,
    4: lambda old, operand: old & operand,
    6: lambda old, operand: old ^ operand,
}
"""OR, AND, XOR by their number in the opcode map."""


def write_page_table(vcpu: Vcpu, instruction: Instruction, linear: int) -> bool:
    """Complete an instruction that writes a dword of an L1 page table. False if it is not one, or not allowed."""
    entry, _ = vcpu.linear.entry(linear)
    mfn = entry >> PAGE_SHIFT
    pages = vcpu.domain.pages
    if linear & 3 or not pages.owns(mfn) or pages.type[mfn] != PageType.L1 or not pages.count[mfn]:
        return False
    where = mfn << PAGE_SHIFT | linear & 0xFFC
    old = vcpu.ram.u32(where)
    result = _store(vcpu, instruction, old, linear)
    if result is None:
        return False
    new, finish = result
    if not pages.update_l1(where, new):
        return False
    finish()
    if vcpu.listening:
        vcpu.note(f"entry at {linear:#010x}: {old:#010x} -> {new:#010x}")
    return True


_Done = tuple[int, Callable[[], None]]


def _store(vcpu: Vcpu, instruction: Instruction, old: int, linear: int) -> _Done | None:
    """The dword that an instruction would store over `old`, and what else it does once that is done."""
    opcode, memory = instruction.opcode, instruction.memory
    if opcode == 0xAB and instruction.operand_size == 32 and not instruction.rep:
        if (vcpu.regs.base(Seg.ES) + vcpu.regs.gpr[Gpr.EDI]) & 0xFFFFFFFF != linear:
            return None
        return vcpu.regs.gpr[Gpr.EAX], lambda: _step(vcpu, Gpr.EDI)
    if memory is None or linear_address(vcpu, memory) != linear or instruction.operand_size != 32:
        return None
    operand = read_register(vcpu, max(instruction.reg, 0), 4)
    immediate = instruction.immediate or 0
    if opcode == 0x89:
        return operand, _nothing
    if opcode == 0xA3:
        return vcpu.regs.gpr[Gpr.EAX], _nothing
    if opcode == 0xC7:
        return immediate, _nothing
    if opcode == 0x87:
        return operand, lambda: write_register(vcpu, instruction.reg, old, 4)
    if opcode in (0x09, 0x21, 0x31):
        return _alu(vcpu, opcode >> 3, old, operand)
    if opcode in (0x81, 0x83) and instruction.reg in _ALU:
        extended = immediate | 0xFFFFFF00 if opcode == 0x83 and immediate & 0x80 else immediate
        return _alu(vcpu, instruction.reg, old, extended & 0xFFFFFFFF)
    if opcode == 0x0FBA and instruction.reg in (5, 6):
        bit = 1 << (immediate & 31)
        return (old | bit if instruction.reg == 5 else old & ~bit), lambda: _carry(vcpu, old & bit != 0)
    if opcode == 0x0FB1:
        return _compare_exchange(vcpu, old, operand)
    return None


def _nothing() -> None:
    pass


def _step(vcpu: Vcpu, register: int) -> None:
    backwards = vcpu.regs.eflags & 0x400
    vcpu.regs.gpr[register] = (vcpu.regs.gpr[register] + (-4 if backwards else 4)) & 0xFFFFFFFF


def _carry(vcpu: Vcpu, carry: bool) -> None:
    vcpu.regs.eflags = vcpu.regs.eflags & ~CF | (CF if carry else 0)


def _result_flags(value: int) -> int:
    parity = PF if (value & 0xFF).bit_count() % 2 == 0 else 0
    return parity | (0 if value else ZF) | (SF if value >> 31 else 0)


def _alu(vcpu: Vcpu, operation: int, old: int, operand: int) -> _Done:
    new = _ALU[operation](old, operand)

    def finish() -> None:
        vcpu.regs.eflags = vcpu.regs.eflags & ~ARITHMETIC_FLAGS | _result_flags(new)

    return new, finish


def _compare_exchange(vcpu: Vcpu, old: int, operand: int) -> _Done:
    """CMPXCHG: the flags are those of EAX minus the old value (SDM 2, CMPXCHG)."""
    eax = vcpu.regs.gpr[Gpr.EAX]
    difference = (eax - old) & 0xFFFFFFFF
    flags = _result_flags(difference) | (CF if eax < old else 0) | (AF if eax & 0xF < old & 0xF else 0)
    if ((eax ^ old) & (eax ^ difference)) >> 31:
        flags |= OF

    def finish() -> None:
        vcpu.regs.eflags = vcpu.regs.eflags & ~ARITHMETIC_FLAGS | flags
        if eax != old:
            vcpu.regs.gpr[Gpr.EAX] = old

    return (operand if eax == old else old), finish
