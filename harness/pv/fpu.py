"""Lazy FPU switching: the virtual TS, the real one, and the fault between them (arch/x86/i387.c, traps.c).

The FPU is the vCPU's own as long as one domain runs, so there is nothing to save; the flags move as in Xen.
"""

from __future__ import annotations

from harness.abi.x86 import CR0_EM, CR0_TS, Vector
from harness.domain.outcome import RESUME, Inject, Resume
from harness.pv.state import Vcpu


def do_fpu_taskswitch(vcpu: Vcpu, set_: int) -> int:
    """Hypercall 5, and what CLTS comes to. Clearing reaches the real TS only if the vCPU has used the FPU already."""
    state, regs = vcpu.state, vcpu.regs
    if vcpu.listening:
        vcpu.note(f"virtual TS {1 if state.control[0] & CR0_TS else 0} -> {1 if set_ else 0}")
    if set_:
        state.control[0] |= CR0_TS
        regs.cr0 |= CR0_TS
    else:
        state.control[0] &= ~CR0_TS
        if state.fpu_dirtied:
            regs.cr0 &= ~CR0_TS
    return 0


def do_device_not_available(vcpu: Vcpu) -> Resume | Inject:
    """#NM: give the vCPU its FPU; the guest sees the fault only if its own TS was set, which clears that.

    With EM, which only `--policy full` lets a guest set, there is no FPU to give: the fault is the guest's.
    """
    state = vcpu.state
    if vcpu.regs.cr0 & CR0_EM:
        return Inject(Vector.NM)
    vcpu.regs.cr0 &= ~CR0_TS
    state.fpu_dirtied = True
    if state.control[0] & CR0_TS:
        state.control[0] &= ~CR0_TS
        return Inject(Vector.NM)
    if vcpu.listening:
        vcpu.note("first use: FPU given, the guest sees nothing")
    return RESUME
