"""Sensitive instructions that do not fault in ring 1: the holes that paravirtualization is about.

By default they run on the CPU and leak or drop what silicon would. `--audit` says so, once for each address, and lets
them run. `--policy full` gives those that can be corrected their virtual result. One row a kind of instruction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.abi import xen
from harness.abi.x86 import (
    CR0_TS,
    DESC_CODE,
    DESC_DC,
    DESC_RW,
    DESC_S,
    IF,
    IOPL,
    IOPL_SHIFT,
    POPF_USER_MASK,
    PUSHF_MASK,
    RF,
    SELECTOR_RPL,
    ZF,
    Gpr,
    Seg,
    descriptor_dpl,
    descriptor_limit,
)
from harness.code.decoder import Instruction
from harness.domain.outcome import NATIVE, RESUME, RETIRE, Inject, Outcome
from harness.domain.record import AuditFinding
from harness.pv import segments
from harness.pv.operands import linear_address, load, read_rm, store, write_register, write_rm
from harness.pv.state import Vcpu

Emulator = Callable[[Vcpu, Instruction], Outcome]
Saw = Callable[[Vcpu, Instruction], str]


@dataclass(frozen=True, slots=True)
class Row:
    """`saw`: what the instruction saw or lost. `instead`: what a ported kernel uses. `full`: the virtual result."""

    saw: Saw
    instead: str
    full: Emulator | None = None


# -- Descriptor-table registers


def _store_table(vcpu: Vcpu, instruction: Instruction, base: int, limit: int) -> Outcome:
    assert instruction.memory is not None
    if instruction.operand_size == 16:
        base &= 0xFFFFFF
    store(vcpu, linear_address(vcpu, instruction.memory),
          (limit & 0xFFFF).to_bytes(2, "little") + base.to_bytes(4, "little"))
    return RETIRE


def full_sgdt(vcpu: Vcpu, instruction: Instruction) -> Outcome:
    """SGDT: the virtual GDTR."""
    return _store_table(vcpu, instruction, *vcpu.state.virtual.gdtr)


def full_sidt(vcpu: Vcpu, instruction: Instruction) -> Outcome:
    """SIDT: the virtual IDTR."""
    return _store_table(vcpu, instruction, *vcpu.state.virtual.idtr)


def _store_word(vcpu: Vcpu, instruction: Instruction, value: int) -> Outcome:
    """A register takes the operand size, zero-extended; memory always 16 bits."""
    size = 2 if instruction.memory is not None or instruction.operand_size == 16 else 4
    write_rm(vcpu, instruction, value, size)
    return RETIRE


def full_sldt(vcpu: Vcpu, instruction: Instruction) -> Outcome:
    """SLDT: the virtual LDTR."""
    return _store_word(vcpu, instruction, vcpu.state.virtual.ldtr)


def full_str(vcpu: Vcpu, instruction: Instruction) -> Outcome:
    """STR: the virtual TR."""
    return _store_word(vcpu, instruction, vcpu.state.virtual.tr)


def emulate_smsw(vcpu: Vcpu, instruction: Instruction) -> Outcome:
    """SMSW: the real CR0, all of it into a 32-bit register as silicon does (Unicorn 2.1.4 writes only 16 bits)."""
    return _store_word(vcpu, instruction, vcpu.regs.cr0)


def full_smsw(vcpu: Vcpu, instruction: Instruction) -> Outcome:
    """SMSW: the virtual CR0."""
    return _store_word(vcpu, instruction, vcpu.state.virtual.cr0 & ~CR0_TS | vcpu.state.control[0] & CR0_TS)


# -- Flags


def _push(vcpu: Vcpu, size: int, *values: int) -> None:
    """Push values of `size` bytes, the first one first: all of them or, if there is no room, none."""
    regs = vcpu.regs
    esp = (regs.gpr[Gpr.ESP] - size * len(values)) & 0xFFFFFFFF
    words = (value & (1 << 8 * size) - 1 for value in reversed(values))
    store(vcpu, (regs.base(Seg.SS) + esp) & 0xFFFFFFFF, b"".join(w.to_bytes(size, "little") for w in words))
    regs.gpr[Gpr.ESP] = esp


def _peek(vcpu: Vcpu, size: int, index: int = 0) -> int:
    """The word at an index from the top of the stack."""
    regs = vcpu.regs
    where = (regs.base(Seg.SS) + regs.gpr[Gpr.ESP] + size * index) & 0xFFFFFFFF
    return int.from_bytes(load(vcpu, where, size), "little")


def _drop(vcpu: Vcpu, size: int) -> None:
    vcpu.regs.gpr[Gpr.ESP] = (vcpu.regs.gpr[Gpr.ESP] + size) & 0xFFFFFFFF


def virtual_eflags(vcpu: Vcpu) -> int:
    """EFLAGS as the guest believes it: the virtual IF and IOPL."""
    return vcpu.regs.eflags & ~(IF | IOPL) | (0 if vcpu.mask else IF) | vcpu.state.iopl << IOPL_SHIFT


def _load_flags(vcpu: Vcpu, image: int, size: int) -> None:
    """What POPF and IRET at virtual CPL 0 do; from ring 3 the virtual IOPL decides over IF."""
    state, kernel = vcpu.state, vcpu.kernel_mode
    changed = POPF_USER_MASK if size == 4 else POPF_USER_MASK & 0xFFFF
    vcpu.regs.eflags = (vcpu.regs.eflags & ~changed | image & changed) & ~RF
    if kernel or state.iopl == 3:
        vcpu.mask = 0 if image & IF else 1
    if kernel:
        state.iopl = image >> IOPL_SHIFT & 3


def full_pushf(vcpu: Vcpu, instruction: Instruction) -> Outcome:
    """PUSHF: the virtual IF and IOPL."""
    _push(vcpu, instruction.operand_size // 8, virtual_eflags(vcpu) & PUSHF_MASK)
    return RETIRE


def full_popf(vcpu: Vcpu, instruction: Instruction) -> Outcome:
    """POPF: the virtual IF and IOPL."""
    size = instruction.operand_size // 8
    image = _peek(vcpu, size)
    _drop(vcpu, size)
    _load_flags(vcpu, image, size)
    return RETIRE


def full_iret(vcpu: Vcpu, instruction: Instruction) -> Outcome:
    """IRET: the virtual IF; a selector of RPL 0 is one of ring 1. RF comes back, other than by POPF (SDM 2, IRET)."""
    if not vcpu.kernel_mode:
        return NATIVE
    size, regs = instruction.operand_size // 8, vcpu.regs
    eip, cs, flags = (_peek(vcpu, size, n) for n in range(3))
    cs = _raise_rpl(cs & 0xFFFF)
    esp, stack = (regs.gpr[Gpr.ESP] + 3 * size) & 0xFFFFFFFF, regs.segment(Seg.SS)
    outer = cs & SELECTOR_RPL > 1
    if outer:
        esp, ss = _peek(vcpu, size, 3), _peek(vcpu, size, 4) & 0xFFFF
    try:
        code = segments.load_code(vcpu, cs)
        if outer:
            stack = segments.load_stack(vcpu, ss, cs & SELECTOR_RPL)
    except segments.SelectorError as bad:
        return Inject(bad.vector, bad.error_code)
    _load_flags(vcpu, flags, size)
    regs.enter(code, eip, stack, esp, regs.eflags | flags & RF)
    segments.leave_ring(vcpu)
    return RESUME


# -- Selectors


def _raise_rpl(selector: int) -> int:
    """RPL 0 of a kernel that believes itself in ring 0 is RPL 1 here. CS and SS cannot be null with either."""
    return selector | 1 if selector & SELECTOR_RPL == 0 else selector


def _shown(vcpu: Vcpu, seg: int) -> int:
    """A segment register as a kernel that believes itself in ring 0 expects it."""
    selector = vcpu.regs.selector(seg)
    if seg in (Seg.CS, Seg.SS) and vcpu.kernel_mode and selector & SELECTOR_RPL == 1:
        return selector & ~SELECTOR_RPL
    return selector


_PUSHED = {0x06: Seg.ES, 0x0E: Seg.CS, 0x16: Seg.SS, 0x1E: Seg.DS, 0x0FA0: Seg.FS, 0x0FA8: Seg.GS}
_POPPED = {0x07: Seg.ES, 0x17: Seg.SS, 0x1F: Seg.DS, 0x0FA1: Seg.FS, 0x0FA9: Seg.GS}
_LOADED = {0xC4: Seg.ES, 0xC5: Seg.DS, 0x0FB2: Seg.SS, 0x0FB4: Seg.FS, 0x0FB5: Seg.GS}


def full_push_seg(vcpu: Vcpu, instruction: Instruction) -> Outcome:
    """PUSH CS, PUSH SS: RPL 0."""
    seg = _PUSHED[instruction.opcode]
    if seg not in (Seg.CS, Seg.SS) or not vcpu.kernel_mode:
        return NATIVE
    _push(vcpu, instruction.operand_size // 8, _shown(vcpu, seg))
    return RETIRE


def full_mov_from_seg(vcpu: Vcpu, instruction: Instruction) -> Outcome:
    """MOV from CS or SS: RPL 0."""
    if instruction.reg not in (Seg.CS, Seg.SS) or not vcpu.kernel_mode:
        return NATIVE
    return _store_word(vcpu, instruction, _shown(vcpu, instruction.reg))


def _load_ss(vcpu: Vcpu, selector: int) -> Inject | None:
    try:
        vcpu.regs.load_segment(Seg.SS, segments.load_stack(vcpu, _raise_rpl(selector), vcpu.regs.cpl))
    except segments.SelectorError as bad:
        return Inject(bad.vector, bad.error_code)
    return None


def full_mov_to_seg(vcpu: Vcpu, instruction: Instruction) -> Outcome:
    """MOV to SS with RPL 0: ring 1's. No event comes before the next instruction, which loads ESP (SDM 2, MOV)."""
    if instruction.reg != Seg.SS or not vcpu.kernel_mode:
        return NATIVE
    bad = _load_ss(vcpu, read_rm(vcpu, instruction, 2))
    if bad:
        return bad
    vcpu.shadow_next = True
    return RETIRE


def full_pop_seg(vcpu: Vcpu, instruction: Instruction) -> Outcome:
    """POP SS with RPL 0: ring 1's, with the shadow of MOV to SS."""
    if _POPPED[instruction.opcode] != Seg.SS or not vcpu.kernel_mode:
        return NATIVE
    size = instruction.operand_size // 8
    selector = _peek(vcpu, size) & 0xFFFF
    bad = _load_ss(vcpu, selector)
    if bad:
        return bad
    _drop(vcpu, size)
    vcpu.shadow_next = True
    return RETIRE


def full_load_far(vcpu: Vcpu, instruction: Instruction) -> Outcome:
    """LSS with RPL 0: ring 1's."""
    if _LOADED[instruction.opcode] != Seg.SS or not vcpu.kernel_mode or instruction.memory is None:
        return NATIVE
    size = instruction.operand_size // 8
    data = load(vcpu, linear_address(vcpu, instruction.memory), size + 2)
    bad = _load_ss(vcpu, int.from_bytes(data[size:], "little"))
    if bad:
        return bad
    write_register(vcpu, instruction.reg, int.from_bytes(data[:size], "little"), size)
    return RETIRE


def full_far_ret(vcpu: Vcpu, instruction: Instruction) -> Outcome:
    """RETF to a selector of RPL 0: ring 1's."""
    if not vcpu.kernel_mode:
        return NATIVE
    size, regs = instruction.operand_size // 8, vcpu.regs
    eip, cs = _peek(vcpu, size), _peek(vcpu, size, 1) & 0xFFFF
    if cs & SELECTOR_RPL:
        return NATIVE
    try:
        code = segments.load_code(vcpu, _raise_rpl(cs))
    except segments.SelectorError as bad:
        return Inject(bad.vector, bad.error_code)
    _drop(vcpu, 2 * size + (instruction.immediate or 0))
    regs.load_segment(Seg.CS, code)
    regs.eip = eip
    return RESUME


def full_far_call(vcpu: Vcpu, instruction: Instruction) -> Outcome:
    """CALL far: the pushed CS shows RPL 0. A call gate, or a selector that ring 1 may not call, is the CPU's own."""
    size, regs = instruction.operand_size // 8, vcpu.regs
    if not vcpu.kernel_mode:
        return NATIVE
    if instruction.memory is None:
        offset, selector = instruction.immediate or 0, int.from_bytes(instruction.raw[-2:], "little")
    else:
        data = load(vcpu, linear_address(vcpu, instruction.memory), size + 2)
        offset, selector = int.from_bytes(data[:size], "little"), int.from_bytes(data[size:], "little")
    found = segments.descriptor(vcpu, selector)
    if found is None or not found[1] & DESC_S or selector & SELECTOR_RPL > 1:
        return NATIVE
    try:
        code = segments.load_code(vcpu, selector & ~SELECTOR_RPL | 1)
    except segments.SelectorError as bad:
        return Inject(bad.vector, bad.error_code)
    _push(vcpu, size, _shown(vcpu, Seg.CS), regs.eip + instruction.length)
    regs.load_segment(Seg.CS, code)
    regs.eip = offset
    return RESUME


# -- Asking about descriptors


def _visible(vcpu: Vcpu, selector: int) -> tuple[int, int] | None:
    """A descriptor that LAR and LSL may tell of at virtual CPL 0; one of DPL 0 is Xen's own and stays hidden."""
    if selector & ~SELECTOR_RPL == 0:
        return None
    found = segments.descriptor(vcpu, selector)
    if found is None:
        return None
    high = found[1]
    conforming = high & DESC_S and high & DESC_CODE and high & DESC_DC
    dpl = descriptor_dpl(high)
    if not conforming and (dpl == 0 or selector & SELECTOR_RPL > dpl):
        return None
    return found


_LAR_SYSTEM = frozenset({1, 2, 3, 4, 5, 9, 11, 12})
_LSL_SYSTEM = frozenset({1, 2, 3, 9, 11})


def _answer(vcpu: Vcpu, zero: bool) -> Outcome:
    flags = vcpu.regs.eflags
    vcpu.regs.eflags = flags | ZF if zero else flags & ~ZF
    return RETIRE


def full_lar(vcpu: Vcpu, instruction: Instruction) -> Outcome:
    """LAR at virtual CPL 0."""
    found = _visible(vcpu, read_rm(vcpu, instruction, 2))
    if found is None or not (found[1] & DESC_S or found[1] >> 8 & 0xF in _LAR_SYSTEM):
        return _answer(vcpu, False)
    write_register(vcpu, instruction.reg, found[1] & 0x00F0FF00, instruction.operand_size // 8)
    return _answer(vcpu, True)


def full_lsl(vcpu: Vcpu, instruction: Instruction) -> Outcome:
    """LSL at virtual CPL 0: a limit that Xen has cut is shown whole."""
    found = _visible(vcpu, read_rm(vcpu, instruction, 2))
    if found is None or not (found[1] & DESC_S or found[1] >> 8 & 0xF in _LSL_SYSTEM):
        return _answer(vcpu, False)
    limit = descriptor_limit(*found)
    whole = 0xFFFFFFFF if limit == xen.GUEST_SEGMENT_MAX - 1 else limit
    write_register(vcpu, instruction.reg, whole, instruction.operand_size // 8)
    return _answer(vcpu, True)


def full_verr(vcpu: Vcpu, instruction: Instruction) -> Outcome:
    """VERR at virtual CPL 0. Whether the segment is present is not asked (SDM 2, VERR)."""
    found = _visible(vcpu, read_rm(vcpu, instruction, 2))
    high = found[1] if found else 0
    return _answer(vcpu, bool(high & DESC_S and (not high & DESC_CODE or high & DESC_RW)))


def full_verw(vcpu: Vcpu, instruction: Instruction) -> Outcome:
    """VERW at virtual CPL 0: as VERR."""
    found = _visible(vcpu, read_rm(vcpu, instruction, 2))
    high = found[1] if found else 0
    return _answer(vcpu, bool(high & DESC_S and not high & DESC_CODE and high & DESC_RW))


# -- What an audit says


def _saw_table(name: str) -> Saw:
    def saw(vcpu: Vcpu, _instruction: Instruction) -> str:
        base, limit = vcpu.regs.gdtr() if name == "GDTR" else vcpu.regs.idtr()
        return f"the real {name}: base {base:#010x}, limit {limit:#x}"
    return saw


def _saw_flags(vcpu: Vcpu, _instruction: Instruction) -> str:
    flags = vcpu.regs.eflags
    return (f"the real IF {1 if flags & IF else 0} (virtual {0 if vcpu.mask else 1}) "
            f"and IOPL {flags >> IOPL_SHIFT & 3} (virtual {vcpu.state.iopl})")


def _lost_flags(index: int) -> Saw:
    def saw(vcpu: Vcpu, instruction: Instruction) -> str:
        image = _peek(vcpu, instruction.operand_size // 8, index)
        lost = [f"IF {1 if image & IF else 0}"]
        if image & IOPL:
            lost.append(f"IOPL {image >> IOPL_SHIFT & 3}")
        return f"lost without a fault: {', '.join(lost)}"
    return saw


def _saw_selector(vcpu: Vcpu, instruction: Instruction) -> str:
    seg = _PUSHED.get(instruction.opcode, instruction.reg)
    selector = vcpu.regs.selector(seg)
    return f"{Seg(seg).name} {selector:#06x}: ring {selector & 3} shows"


def _asked(vcpu: Vcpu, instruction: Instruction) -> str:
    return f"selector {read_rm(vcpu, instruction, 2):#06x} judged with the real CPL {vcpu.regs.cpl}"


def _judged(vcpu: Vcpu, _instruction: Instruction) -> str:
    return f"loaded with the real CPL {vcpu.regs.cpl}: a selector of DPL 0 would fault"


def _transferred(vcpu: Vcpu, _instruction: Instruction) -> str:
    return f"gate and target judged with the real CPL {vcpu.regs.cpl}; CS keeps RPL {vcpu.regs.cpl}"


TABLE: dict[str, Row] = {
    "sgdt": Row(_saw_table("GDTR"), "keep the GDT given to set_gdt", full_sgdt),
    "sidt": Row(_saw_table("IDTR"), "keep the table given to set_trap_table", full_sidt),
    "sldt": Row(lambda v, _i: f"the real LDTR: {v.regs.ldtr().selector:#06x}", "keep what MMUEXT_SET_LDT was given",
                full_sldt),
    "str": Row(lambda v, _i: f"the real TR: {v.regs.tr().selector:#06x}", "keep what stack_switch was given", full_str),
    "smsw": Row(lambda v, _i: f"the real CR0: {v.regs.cr0:#010x}", "MOV from CR0, which is emulated", full_smsw),
    "pushf": Row(_saw_flags, "vcpu_info.evtchn_upcall_mask", full_pushf),
    "popf": Row(_lost_flags(0), "vcpu_info.evtchn_upcall_mask", full_popf),
    "iret": Row(_lost_flags(2), "the iret hypercall, or evtchn_upcall_mask before IRET", full_iret),
    "lar": Row(_asked, "the guest's own copy of its descriptors", full_lar),
    "lsl": Row(_asked, "the guest's own copy of its descriptors", full_lsl),
    "verr": Row(_asked, "the guest's own copy of its descriptors", full_verr),
    "verw": Row(_asked, "the guest's own copy of its descriptors", full_verw),
    "push_seg": Row(_saw_selector, "FLAT_KERNEL_CS and FLAT_KERNEL_DS as constants", full_push_seg),
    "mov_from_seg": Row(_saw_selector, "FLAT_KERNEL_CS and FLAT_KERNEL_DS as constants", full_mov_from_seg),
    "pop_seg": Row(_judged, "selectors of RPL 1 and up, and a failsafe callback", full_pop_seg),
    "mov_to_seg": Row(_judged, "selectors of RPL 1 and up, and a failsafe callback", full_mov_to_seg),
    "load_far": Row(_judged, "selectors of RPL 1 and up", full_load_far),
    "far_call": Row(_transferred, "a near call, or a call gate of DPL 1 and up", full_far_call),
    "far_jmp": Row(_transferred, "a near jump"),
    "far_ret": Row(_transferred, "the iret hypercall", full_far_ret),
}
"""By kind (code/sensitive.py). INT n always exits; its gates are in pv/traps.py."""

FULL_KINDS = frozenset(kind for kind, row in TABLE.items() if row.full)
AUDIT_KINDS = frozenset(TABLE)


def sensitive(vcpu: Vcpu, kind: str, instruction: Instruction) -> Outcome:
    """Handle a sensitive instruction that was intercepted, by policy."""
    row = TABLE[kind]
    if vcpu.audit and vcpu.kernel_mode:
        report(vcpu, row, instruction)
    if vcpu.full and row.full:
        vcpu.seen.handler = row.full
        return row.full(vcpu, instruction)
    if kind == "smsw":
        vcpu.seen.handler = emulate_smsw
        return emulate_smsw(vcpu, instruction)
    return NATIVE


def report(vcpu: Vcpu, row: Row, instruction: Instruction) -> None:
    """Record an audit finding, once for each address."""
    eip = instruction.address
    if eip in vcpu.findings:
        return
    saw = row.saw(vcpu, instruction)
    vcpu.findings[eip] = AuditFinding(eip, vcpu.regs.cpl, instruction.raw, instruction.text, saw, row.instead)
    if vcpu.listening:
        vcpu.note(f"audit: {saw}; use {row.instead}")


