"""The time record of a vCPU in shared_info: what a guest adds its TSC to (arch/x86/time.c, update_vcpu_system_time).

TSC and system time are the same number here, so the scale is one: shift up by one, multiply by a half.
"""

from __future__ import annotations

from harness.abi import xen
from harness.pv.state import Vcpu

_SHIFT, _HALF = 1, 0x80000000


def update_time(vcpu: Vcpu) -> None:
    """Renew the record. Xen does it when a vCPU gets the CPU back and at its timer; `version` stays even."""
    at, now = vcpu.shared + xen.VCPU_INFO_TIME, vcpu.domain.clock.now
    version = vcpu.ram.u32(at + xen.VCPU_TIME_VERSION) + 2 & 0xFFFFFFFE
    vcpu.ram.write(at, xen.VCPU_TIME.pack(version, now, now, _HALF, _SHIFT))
