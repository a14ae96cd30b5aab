"""Debug registers of a guest (arch/x86/traps.c, set_debugreg)."""

from __future__ import annotations

from harness.abi import xen
from harness.abi.x86 import DR7_FIXED, DR7_GD
from harness.abi.xen import Errno
from harness.pv.state import Vcpu

_DR6_CLEAR, _DR6_SET = 0xFFFFEFFF, 0xFFFF0FF0
_DR7_CLEAR = 0xFFFF27FF


def do_set_debugreg(vcpu: Vcpu, register: int, value: int) -> int:
    """Hypercall 8. Breakpoints may only watch the guest's own addresses; GD and I/O breakpoints are refused."""
    if register <= 3:
        if value >= xen.HYPERVISOR_VIRT_START:
            return -Errno.EPERM
    elif register == 6:
        value = value & _DR6_CLEAR | _DR6_SET
    elif register == 7:
        if value & DR7_GD:
            return -Errno.EPERM
        if value:
            value = value & _DR7_CLEAR | DR7_FIXED
            if any(value >> shift & 3 == 2 for shift in range(16, 32, 2)):
                return -Errno.EPERM
    else:
        return -Errno.EINVAL
    vcpu.state.debug[register] = value
    vcpu.regs.set_debug(register, value or (DR7_FIXED if register == 7 else 0))
    return 0


def do_get_debugreg(vcpu: Vcpu, register: int) -> int:
    """Hypercall 9."""
    return vcpu.state.debug[register] if register <= 7 else -Errno.EINVAL
