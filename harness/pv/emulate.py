"""Emulation of privileged instructions in ring 1: #GP(0) -> decode -> one function a row.

After emulate_privileged_op (xen/arch/x86/traps.c).
`TABLE` is Xen 3.0.4's list; what is not on it is bounced to the guest as #GP(0), HLT included. `FULL` adds what
`--policy full` gives a kernel that was not ported: every other privileged instruction with its correct virtual result.

To add an instruction: write its function, add its row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.abi.x86 import (
    CR0_AM,
    CR0_CD,
    CR0_EM,
    CR0_MP,
    CR0_NE,
    CR0_NW,
    CR0_PE,
    CR0_PG,
    CR0_TS,
    CR0_WP,
    CR4_PGE,
    CR4_PSE,
    DESC_P,
    MSR_EFER,
    PAGE_SHIFT,
    SELECTOR_TI,
    SYSTEM_LDT,
    SYSTEM_TSS32_AVAILABLE,
    Gpr,
    Vector,
)
from harness.code.decoder import Instruction
from harness.domain.features import MSR_TSC, MSRS
from harness.domain.outcome import RETIRE, Inject, Outcome
from harness.pv import debug, hypercall_page, mmu, ports, schedule, segments
from harness.pv.bounce import set_cr2
from harness.pv.fpu import do_fpu_taskswitch
from harness.pv.operands import linear_address, load, read_rm
from harness.pv.state import Vcpu

Emulator = Callable[[Vcpu, Instruction], Outcome]

GP0 = Inject(Vector.GP, 0)
MAX_PREFIXES = 7
"""One more ends Xen's prefix loop as an unknown opcode."""
HYPERVISOR_MSR = 0x40000000
"""Writing a frame here fills it with the hypercall page (3.0.4, wrmsr_hypervisor_regs)."""


@dataclass(frozen=True, slots=True)
class Row:
    """One instruction: its function, the ModRM.reg values it takes (None: any or no ModRM), kernel only or not.

    `memory`: only with an operand in memory. With a register the opcode is another instruction (XSETBV, VMRUN, ...).
    """

    emulate: Emulator
    regs: frozenset[int] | None = None
    kernel_only: bool = True
    memory: bool = False

    def fits(self, instruction: Instruction) -> bool:
        """Whether an instruction of this row's opcode is this row's."""
        if self.memory and instruction.memory is None:
            return False
        return self.regs is None or instruction.reg in self.regs


# -- Flags and the FPU


def emulate_cli(vcpu: Vcpu, _instruction: Instruction) -> Outcome:
    """CLI with enough virtual IOPL: accepted, and nothing happens (the guest was to use the upcall mask)."""
    return RETIRE if _iopl_allows(vcpu) else GP0


def emulate_sti(vcpu: Vcpu, _instruction: Instruction) -> Outcome:
    """STI: as CLI."""
    return RETIRE if _iopl_allows(vcpu) else GP0


def _iopl_allows(vcpu: Vcpu) -> bool:
    return vcpu.state.iopl >= (1 if vcpu.kernel_mode else 3)


def emulate_clts(vcpu: Vcpu, _instruction: Instruction) -> Outcome:
    """CLTS."""
    do_fpu_taskswitch(vcpu, 0)
    return RETIRE


def emulate_wbinvd(_vcpu: Vcpu, _instruction: Instruction) -> Outcome:
    """WBINVD: ignored for a domain without hardware."""
    return RETIRE


# -- Control and debug registers

_CR4_HIDDEN = CR4_PSE | CR4_PGE


def visible_cr0(vcpu: Vcpu) -> int:
    """CR0 as MOV shows it: the real one, with the virtual TS."""
    return vcpu.regs.cr0 & ~CR0_TS | vcpu.state.control[0] & CR0_TS


def emulate_read_cr(vcpu: Vcpu, instruction: Instruction) -> Outcome:
    """MOV from CR0, CR2, CR3, CR4."""
    state = vcpu.state
    if instruction.reg == 0:
        value = state.virtual.cr0 | state.control[0] & CR0_TS if vcpu.full else visible_cr0(vcpu)
    elif instruction.reg == 2:
        value = state.control[2]
    elif instruction.reg == 3:
        value = state.guest_table << 12
    else:
        value = state.virtual.cr4 if vcpu.full else vcpu.regs.cr4 & ~_CR4_HIDDEN
    vcpu.regs.gpr[instruction.rm] = value
    if vcpu.listening:
        vcpu.note(f"cr{instruction.reg} reads {value:#010x}")
    return RETIRE


def emulate_write_cr(vcpu: Vcpu, instruction: Instruction) -> Outcome:
    """MOV to CR0 (TS only), CR2, CR3 (validated), CR4 (only what it already is)."""
    value = vcpu.regs.gpr[instruction.rm]
    if vcpu.listening:
        vcpu.note(f"cr{instruction.reg} <- {value:#010x}")
    if instruction.reg == 0:
        if (value ^ vcpu.regs.cr0) & ~CR0_TS:
            return GP0
        do_fpu_taskswitch(vcpu, value & CR0_TS)
        return RETIRE
    if instruction.reg == 2:
        set_cr2(vcpu, value)
        return RETIRE
    if instruction.reg == 3:
        return RETIRE if mmu.new_guest_table(vcpu, value >> 12) else GP0
    return RETIRE if value == vcpu.regs.cr4 & ~_CR4_HIDDEN else GP0


def emulate_read_dr(vcpu: Vcpu, instruction: Instruction) -> Outcome:
    """MOV from a debug register, by get_debugreg; its last 255 values mean failure."""
    value = debug.do_get_debugreg(vcpu, instruction.reg) & 0xFFFFFFFF
    if value > 0xFFFFFF00:
        return GP0
    vcpu.regs.gpr[instruction.rm] = value
    return RETIRE


def emulate_write_dr(vcpu: Vcpu, instruction: Instruction) -> Outcome:
    """MOV to a debug register, by set_debugreg."""
    return GP0 if debug.do_set_debugreg(vcpu, instruction.reg, vcpu.regs.gpr[instruction.rm]) else RETIRE


# -- Model-specific registers


def read_msr(vcpu: Vcpu, number: int) -> int | None:
    """What an MSR reads as, or None where there is none."""
    if number == MSR_TSC:
        return vcpu.domain.clock.now
    if vcpu.full and number in vcpu.state.virtual.msrs:
        return vcpu.state.virtual.msrs[number]
    return MSRS[number].value if number in MSRS else None


def emulate_rdmsr(vcpu: Vcpu, _instruction: Instruction) -> Outcome:
    """RDMSR: the machine's own registers, and Xen's."""
    number = vcpu.regs.gpr[Gpr.ECX]
    value = 0 if number == HYPERVISOR_MSR else read_msr(vcpu, number)
    if value is None:
        return GP0
    vcpu.regs.gpr[Gpr.EAX], vcpu.regs.gpr[Gpr.EDX] = value & 0xFFFFFFFF, value >> 32
    return RETIRE


def emulate_wrmsr(vcpu: Vcpu, _instruction: Instruction) -> Outcome:
    """WRMSR: ignored, whatever the register, but for the one that asks for a hypercall page.

    A frame that is not an ordinary page of the guest's is #GP(0): Xen says so in its log only, which no guest can read.
    """
    gpr = vcpu.regs.gpr
    if gpr[Gpr.ECX] == HYPERVISOR_MSR:
        return RETIRE if mmu.fill_frame(vcpu, gpr[Gpr.EAX] >> PAGE_SHIFT, hypercall_page.contents()) else GP0
    if vcpu.listening:
        vcpu.note(f"msr {gpr[Gpr.ECX]:#x}: write ignored")
    return RETIRE


_IO = Row(ports.emulate_io, kernel_only=False)
_STRING_IO = Row(ports.emulate_string_io, kernel_only=False)
_CR = frozenset({0, 2, 3, 4})

TABLE: dict[int, Row] = {
    0xFA: Row(emulate_cli, kernel_only=False),
    0xFB: Row(emulate_sti, kernel_only=False),
    **dict.fromkeys((0xE4, 0xE5, 0xE6, 0xE7, 0xEC, 0xED, 0xEE, 0xEF), _IO),
    **dict.fromkeys((0x6C, 0x6D, 0x6E, 0x6F), _STRING_IO),
    0x0F06: Row(emulate_clts),
    0x0F09: Row(emulate_wbinvd),
    0x0F20: Row(emulate_read_cr, _CR),
    0x0F21: Row(emulate_read_dr),
    0x0F22: Row(emulate_write_cr, _CR),
    0x0F23: Row(emulate_write_dr),
    0x0F30: Row(emulate_wrmsr),
    0x0F32: Row(emulate_rdmsr),
}
"""What Xen 3.0.4 emulates, by opcode (xen/arch/x86/traps.c, emulate_privileged_op)."""


# -- What `--policy full` adds: correct virtual results


def full_cli(vcpu: Vcpu, _instruction: Instruction) -> Outcome:
    """CLI: the virtual IF is cleared, as ring 0 or enough IOPL would."""
    if not vcpu.kernel_mode and vcpu.state.iopl < 3:
        return GP0
    vcpu.mask = 1
    return RETIRE


def full_sti(vcpu: Vcpu, _instruction: Instruction) -> Outcome:
    """STI: the virtual IF is set; an event that waits is delivered after the next instruction."""
    if not vcpu.kernel_mode and vcpu.state.iopl < 3:
        return GP0
    if vcpu.mask:
        vcpu.mask = 0
        vcpu.shadow_next = True
    return RETIRE


def full_hlt(vcpu: Vcpu, instruction: Instruction) -> Outcome:
    """HLT: wait for an event."""
    return schedule.halt(vcpu, instruction.length)


def full_write_cr(vcpu: Vcpu, instruction: Instruction) -> Outcome:
    """MOV to CR0 and CR4 change the virtual registers; paging and protection cannot be turned off."""
    if instruction.reg in (2, 3):
        return emulate_write_cr(vcpu, instruction)
    value = vcpu.regs.gpr[instruction.rm]
    if instruction.reg == 4:
        if value & ~_CR4_DEFINED:
            return GP0
        vcpu.state.virtual.cr4 = value
        return RETIRE
    return RETIRE if _write_virtual_cr0(vcpu, value) else GP0


_CR0_FIXED = CR0_PE | CR0_PG
_CR0_VIRTUAL = CR0_MP | CR0_EM | CR0_NE | CR0_WP | CR0_AM | CR0_CD | CR0_NW
_CR0_REAL = CR0_MP | CR0_EM
"""What the FPU instructions look at: the CPU's own register has it too (SDM 3, table 2-2)."""
_CR4_DEFINED = 0x7FF


def _write_virtual_cr0(vcpu: Vcpu, value: int) -> bool:
    if value & _CR0_FIXED != _CR0_FIXED or (value & CR0_NW and not value & CR0_CD):
        return False
    virtual = vcpu.state.virtual
    virtual.cr0 = virtual.cr0 & ~_CR0_VIRTUAL | value & _CR0_VIRTUAL
    vcpu.regs.cr0 = vcpu.regs.cr0 & ~_CR0_REAL | value & _CR0_REAL
    do_fpu_taskswitch(vcpu, value & CR0_TS)
    return True


def full_lmsw(vcpu: Vcpu, instruction: Instruction) -> Outcome:
    """LMSW: bits 3:0 of CR0; PE cannot be cleared (SDM 2, LMSW)."""
    value = read_rm(vcpu, instruction, 2) & 0xF
    _write_virtual_cr0(vcpu, vcpu.state.virtual.cr0 & ~0xE | value & 0xE)
    return RETIRE


def full_load_table(vcpu: Vcpu, instruction: Instruction) -> Outcome:
    """LGDT, LIDT: the virtual register, which SGDT and SIDT then report."""
    assert instruction.memory is not None
    data = load(vcpu, linear_address(vcpu, instruction.memory), 6)
    limit, base = int.from_bytes(data[:2], "little"), int.from_bytes(data[2:], "little")
    if instruction.operand_size == 16:
        base &= 0xFFFFFF
    if instruction.reg == 2:
        vcpu.state.virtual.gdtr = (base, limit)
    else:
        vcpu.state.virtual.idtr = (base, limit)
    return RETIRE


def full_invlpg(vcpu: Vcpu, _instruction: Instruction) -> Outcome:
    """INVLPG."""
    vcpu.cpu.flush_tlb()
    return RETIRE


def full_load_system(vcpu: Vcpu, instruction: Instruction) -> Outcome:
    """LLDT, LTR: the virtual register, which SLDT and STR then report. A selector is checked as far as it can be."""
    selector = read_rm(vcpu, instruction, 2)
    wanted = SYSTEM_LDT if instruction.reg == 2 else SYSTEM_TSS32_AVAILABLE
    if selector & ~3 == 0:
        if instruction.reg == 3:
            return GP0
        vcpu.state.virtual.ldtr = selector
        return RETIRE
    found = None if selector & SELECTOR_TI else segments.descriptor(vcpu, selector)
    if found is None or found[1] >> 8 & 0x1F != wanted:
        return Inject(Vector.GP, selector & ~3)
    if not found[1] & DESC_P:
        return Inject(Vector.NP, selector & ~3)
    if instruction.reg == 2:
        vcpu.state.virtual.ldtr = selector
    else:
        vcpu.state.virtual.tr = selector
    return RETIRE


def full_wrmsr(vcpu: Vcpu, instruction: Instruction) -> Outcome:
    """WRMSR: the virtual register; one that does not exist is #GP(0)."""
    gpr = vcpu.regs.gpr
    number = gpr[Gpr.ECX]
    if number == HYPERVISOR_MSR:
        return emulate_wrmsr(vcpu, instruction)
    if number not in MSRS or (number == MSR_EFER and gpr[Gpr.EAX]):
        return GP0
    vcpu.state.virtual.msrs[number] = gpr[Gpr.EDX] << 32 | gpr[Gpr.EAX]
    return RETIRE


FULL: dict[int, tuple[Row, ...]] = {
    0xFA: (Row(full_cli, kernel_only=False),),
    0xFB: (Row(full_sti, kernel_only=False),),
    0xF4: (Row(full_hlt),),
    0x0F00: (Row(full_load_system, frozenset({2, 3})),),
    0x0F01: (
        Row(full_load_table, frozenset({2, 3}), memory=True),
        Row(full_lmsw, frozenset({6})),
        Row(full_invlpg, frozenset({7}), memory=True),
    ),
    0x0F08: (Row(emulate_wbinvd),),
    0x0F22: (Row(full_write_cr, _CR),),
    0x0F30: (Row(full_wrmsr),),
}
"""By opcode; the first row whose ModRM.reg fits is taken, before `TABLE`."""


def row_for(vcpu: Vcpu, instruction: Instruction) -> Row | None:
    """The row that would emulate an instruction under the vCPU's policy, or None if it is bounced."""
    if vcpu.full:
        for row in FULL.get(instruction.opcode, ()):
            if row.fits(instruction):
                return row
    known = TABLE.get(instruction.opcode)
    return known if known is not None and known.fits(instruction) else None


def emulate_privileged_op(vcpu: Vcpu, instruction: Instruction) -> Outcome:
    """Emulate an instruction that raised #GP(0); Inject #GP(0) if it is not for this guest to have."""
    own = vcpu.emulators.get(instruction.opcode)
    row = Row(own, kernel_only=False) if own else row_for(vcpu, instruction)
    if row is None or len(instruction.prefixes) > MAX_PREFIXES or (row.kernel_only and not vcpu.kernel_mode):
        return GP0
    vcpu.seen.handler = row.emulate
    return row.emulate(vcpu, instruction)

