"""What to do with each exit of a paravirtualized guest (arch/x86/traps.c): the first of the two decisions.

`handle` says what the exit was and hands it to the one function that deals with it; that returns an Outcome.
"""

from __future__ import annotations

from harness.abi import xen
from harness.abi.x86 import (
    ERROR_EXT,
    ERROR_IDT,
    MAX_INSTRUCTION_LENGTH,
    PAGE_SIZE,
    PFEC_P,
    PFEC_RSVD,
    PFEC_U,
    PFEC_W,
    VECTORS_WITH_ERROR_CODE,
    Gpr,
    Vector,
)
from harness.code.decoder import Instruction, TruncatedError
from harness.domain.exits import Exit, Reason
from harness.domain.features import cpuid, pv_cpuid
from harness.domain.kinds import EXCEPTION_KINDS
from harness.domain.memory import PageFaultError
from harness.domain.outcome import RESUME, RETIRE, Crash, Inject, Outcome
from harness.pv import bounce, fpu, mmu, writable
from harness.pv.emulate import emulate_privileged_op
from harness.pv.hypercalls import hypercall
from harness.pv.silent import sensitive
from harness.pv.state import Vcpu

_GATES_OF_DPL_3 = (Vector.BP, Vector.OF)
_DB, _UD, _NM, _GP, _PF = map(int, (Vector.DB, Vector.UD, Vector.NM, Vector.GP, Vector.PF))
"""As plain numbers: every exit is compared with them, and looking a member up costs as much as a call."""
_HYPERVISOR_CPUID = 0x40000000


def handle(vcpu: Vcpu, exit_: Exit) -> Outcome:
    """Deal with one exit. `vcpu.seen` then says what it was and who dealt with it."""
    if vcpu.regs.vm86:
        vcpu.seen.kind, vcpu.seen.handler = "engine", do_unexpected
        return Crash("IRET entered VM86 mode: the engine cannot keep ring 1 out of it, where silicon would")
    return _HANDLERS[exit_.reason](vcpu, exit_)


# -- Software interrupts


def do_software_interrupt(vcpu: Vcpu, exit_: Exit) -> Outcome:
    """INT n: a hypercall, the guest's own gate, or #GP from a gate of DPL 0 (Xen's real IDT)."""
    vector, cpl, seen = exit_.vector, vcpu.regs.cpl, vcpu.seen
    if vcpu.listening:
        seen.raised = f"int {vector:#04x}"
    if vector == xen.HYPERCALL_VECTOR and cpl == 1:
        seen.kind = "hypercall"
        return hypercall(vcpu)
    state = vcpu.state
    if vector == 0x80 and state.direct_gate and cpl <= state.traps[vector].flags & xen.TRAP_INFO_DPL:
        seen.kind, seen.handler = "gate", bounce.through_gate
        return bounce.through_gate(vcpu, vector, exit_.length) or RESUME
    if vector in _GATES_OF_DPL_3:
        seen.kind, seen.handler = EXCEPTION_KINDS[vector], do_trap
        return do_trap(vcpu, exit_)
    seen.kind, seen.handler = "gp", do_general_protection
    if vcpu.listening:
        seen.raised = f"#GP({vector * 8 + ERROR_IDT:#x})"
    return do_general_protection(vcpu, vector * 8 + ERROR_IDT, exit_.length)


# -- Exceptions


def do_exception(vcpu: Vcpu, exit_: Exit) -> Outcome:
    """Any exception that the CPU raised."""
    vector, seen = exit_.vector, vcpu.seen
    seen.kind = EXCEPTION_KINDS.get(vector, "engine")
    if vcpu.listening:
        code = f"({exit_.error_code:#x})" if vector in VECTORS_WITH_ERROR_CODE else ""
        seen.raised = f"#{seen.kind.upper()}{code}" + (f" cr2 {exit_.address:#010x}" if vector == Vector.PF else "")
    if vector == _GP:
        seen.handler = do_general_protection
        return do_general_protection(vcpu, exit_.error_code)
    if vector == _PF:
        seen.handler = do_page_fault
        return do_page_fault(vcpu, exit_.address, exit_.error_code)
    if vector == _NM:
        seen.handler = fpu.do_device_not_available
        return fpu.do_device_not_available(vcpu)
    if vector == _UD:
        seen.handler = do_invalid_op
        return do_invalid_op(vcpu)
    if vector == _DB:
        seen.handler = do_debug
        return do_debug(vcpu, exit_)
    seen.handler = do_trap
    return do_trap(vcpu, exit_)


def do_trap(vcpu: Vcpu, exit_: Exit) -> Outcome:
    """An exception that is the guest's alone. What no guest is ever given ends the domain."""
    vector = exit_.vector
    if vector not in EXCEPTION_KINDS or vector in (Vector.DF, Vector.MC):
        return Crash(f"vector {vector} at {vcpu.regs.eip:#010x}, which no guest can be given")
    error_code = exit_.error_code if vector in VECTORS_WITH_ERROR_CODE else None
    return Inject(vector, error_code, advance=exit_.length if vector in _GATES_OF_DPL_3 else 0)


def do_general_protection(vcpu: Vcpu, error_code: int, length: int = 2) -> Outcome:
    """#GP: a software interrupt that Xen's gates refused, a privileged instruction, or the guest's own fault."""
    if error_code & ERROR_EXT:
        return Crash(f"#GP({error_code:#x}) from an event outside the guest")
    if error_code & ERROR_IDT:
        trap = vcpu.state.traps[error_code >> 3]
        if trap.flags & xen.TRAP_INFO_DPL >= vcpu.regs.cpl:
            return Inject(error_code >> 3, advance=length)
        return Inject(Vector.GP, error_code)
    if error_code:
        return Inject(Vector.GP, error_code)
    fetched = fetch(vcpu)
    if isinstance(fetched, Instruction):
        try:
            return emulate_privileged_op(vcpu, fetched)
        except PageFaultError as fault:
            return page_fault_of(vcpu, fault)
    return fetched or Inject(Vector.GP, 0)


def fetch(vcpu: Vcpu) -> Instruction | Inject | None:
    """The instruction at EIP; a page fault if it cannot be read; None if it does not decode."""
    regs = vcpu.regs
    eip = regs.linear_eip
    seen = vcpu.seen
    cached = vcpu.decoder.cached(eip)
    try:
        if cached is not None and vcpu.linear.fetch(eip, cached.length) == cached.raw:
            seen.instruction = cached
            return cached
        seen.instruction = vcpu.decoder.decode(eip, vcpu.linear.fetch(eip, MAX_INSTRUCTION_LENGTH))
    except PageFaultError as fault:
        return page_fault_of(vcpu, fault)
    except TruncatedError:
        missing = (eip & ~(PAGE_SIZE - 1)) + PAGE_SIZE & 0xFFFFFFFF
        return page_fault_of(vcpu, PageFaultError(missing, 0))
    return seen.instruction


def page_fault_of(vcpu: Vcpu, fault: PageFaultError) -> Inject:
    """The page fault that an access on a guest's behalf met, as the guest would have met it."""
    user = 0 if vcpu.kernel_mode else PFEC_U
    return Inject(Vector.PF, fault.error_code | user, fault.address)


def do_page_fault(vcpu: Vcpu, linear: int, error_code: int) -> Outcome:
    """#PF: Xen's own areas first, then page-table writes that it does for the guest, then the guest's handler."""
    if error_code & PFEC_RSVD:
        return Crash(f"reserved bits in a page table that maps {linear:#010x}")
    if linear >= xen.HYPERVISOR_VIRT_START:
        outcome = _fault_in_xen(vcpu, linear, error_code)
        if outcome is not None:
            return outcome
    elif (
        error_code == PFEC_P | PFEC_W
        and vcpu.kernel_mode
        and vcpu.domain.state.vm_assist >> xen.VmAssist.writable_pagetables & 1
    ):
        fetched = fetch(vcpu)
        if isinstance(fetched, Instruction) and writable.write_page_table(vcpu, fetched, linear):
            vcpu.seen.handler = writable.write_page_table
            return RETIRE
    return Inject(Vector.PF, error_code, linear)


def _fault_in_xen(vcpu: Vcpu, linear: int, error_code: int) -> Outcome | None:
    """A fault at or above Xen. GDT and LDT pages fault as the CPU reads them; the rest is beyond the guest's segments.

    The CPU reads an LDT page that is not there yet. A fault on one that is there is the guest's own access to it.
    """
    offset = linear - xen.LDT_VIRT_START
    if 0 <= offset < 8 * xen.MAX_LDT_ENTRIES and not error_code & PFEC_P:
        if mmu.map_ldt_page(vcpu, offset & ~(PAGE_SIZE - 1)):
            return RESUME
        return Inject(Vector.PF, error_code, (vcpu.state.ldt_base + offset) & 0xFFFFFFFF)
    offset = linear - xen.GDT_VIRT_START
    if 0 <= offset < PAGE_SIZE * xen.FIRST_RESERVED_GDT_PAGE and not error_code & PFEC_W:
        return Inject(Vector.GP, offset & ~7)
    if linear >= xen.GUEST_SEGMENT_MAX:
        # The flat segments end here: silicon raises #GP where this CPU, which knows no limits, looks for a page.
        return Inject(Vector.GP, 0)
    return None


def do_invalid_op(vcpu: Vcpu) -> Outcome:
    """#UD: the guest's, unless it is CPUID behind Xen's prefix."""
    regs = vcpu.regs
    try:
        code = vcpu.linear.fetch(regs.linear_eip, 7)
    except PageFaultError as fault:
        return page_fault_of(vcpu, fault)
    if code == xen.EMULATE_PREFIX + b"\x0f\xa2":
        vcpu.seen.handler = emulate_forced_cpuid
        emulate_forced_cpuid(vcpu)
        regs.eip += 7
        return RESUME
    return Inject(Vector.UD)


def emulate_forced_cpuid(vcpu: Vcpu) -> None:
    """CPUID as Xen wants a guest to see it."""
    leaf = vcpu.regs.gpr[Gpr.EAX]
    if _HYPERVISOR_CPUID <= leaf <= _HYPERVISOR_CPUID + 2:
        answers = (
            (_HYPERVISOR_CPUID + 2, *(int.from_bytes(b"XenVMMXenVMM"[n : n + 4], "little") for n in (0, 4, 8))),
            (xen.XEN_VERSION, 0, 0, 0),
            (1, 0x40000000, 0, 0),
        )
        _answer(vcpu, answers[leaf - _HYPERVISOR_CPUID])
    else:
        _answer(vcpu, pv_cpuid(leaf))


def _answer(vcpu: Vcpu, values: tuple[int, ...]) -> None:
    gpr = vcpu.regs.gpr
    gpr[Gpr.EAX], gpr[Gpr.EBX], gpr[Gpr.ECX], gpr[Gpr.EDX] = values


def do_debug(vcpu: Vcpu, exit_: Exit) -> Outcome:
    """#DB: DR6 goes to the virtual one. INT1 is a trap: EIP moves past it."""
    vcpu.state.debug[6] = vcpu.regs.debug(6)
    return Inject(Vector.DB, advance=exit_.length)


# -- Intercepted instructions


def do_cpuid(vcpu: Vcpu, _exit: Exit) -> Outcome:
    """CPUID without a prefix: what the CPU says, in ring 1 as in ring 0."""
    vcpu.seen.kind, vcpu.seen.handler = "cpuid", do_cpuid
    _answer(vcpu, cpuid(vcpu.regs.gpr[Gpr.EAX]))
    return _past(vcpu)


def do_rdtsc(vcpu: Vcpu, _exit: Exit) -> Outcome:
    """RDTSC: virtual time."""
    vcpu.seen.kind, vcpu.seen.handler = "rdtsc", do_rdtsc
    now, gpr = vcpu.domain.clock.now, vcpu.regs.gpr
    gpr[Gpr.EAX], gpr[Gpr.EDX] = now & 0xFFFFFFFF, now >> 32 & 0xFFFFFFFF
    return _past(vcpu)


def do_not_offered(vcpu: Vcpu, _exit: Exit) -> Outcome:
    """An instruction of a later CPU than CPUID announces."""
    vcpu.seen.kind, vcpu.seen.handler = "ud", do_not_offered
    return Inject(Vector.UD)


def _past(vcpu: Vcpu) -> Outcome:
    fetched = fetch(vcpu)
    if isinstance(fetched, Instruction):
        return RETIRE
    return fetched or Crash("an intercepted instruction that does not decode")


def do_scanned(vcpu: Vcpu, exit_: Exit) -> Outcome:
    """An instruction that the block scan found."""
    fetched = fetch(vcpu)
    if not isinstance(fetched, Instruction):
        return fetched or Inject(Vector.UD)
    vcpu.seen.kind, vcpu.seen.handler = "sensitive", sensitive
    try:
        return sensitive(vcpu, exit_.kind, fetched)
    except PageFaultError as fault:
        return page_fault_of(vcpu, fault)


def do_nested_fault(vcpu: Vcpu, exit_: Exit) -> Outcome:
    """An access to machine memory that is not the domain's. Page types make this impossible; it ends the domain."""
    vcpu.seen.kind, vcpu.seen.handler = "nested", do_nested_fault
    return Crash(f"an access to machine address {exit_.address:#x}, which is not the domain's")


def do_unexpected(vcpu: Vcpu, exit_: Exit) -> Outcome:
    """An exit of the engine that nothing asked for."""
    vcpu.seen.kind, vcpu.seen.handler = "engine", do_unexpected
    return Crash(f"the engine left with exit code {exit_.vector:#x} at {vcpu.regs.eip:#010x}")


_HANDLERS = {
    Reason.EXCEPTION: do_exception,
    Reason.SOFTWARE_INT: do_software_interrupt,
    Reason.CPUID: do_cpuid,
    Reason.RDTSC: do_rdtsc,
    Reason.RDTSCP: do_not_offered,
    Reason.RDPMC: do_unexpected,
    Reason.HLT: do_unexpected,
    Reason.SCANNED: do_scanned,
    Reason.NESTED_FAULT: do_nested_fault,
    Reason.SLICE: do_unexpected,
    Reason.OTHER: do_unexpected,
}
"""Who deals with which reason; every one has its row."""
