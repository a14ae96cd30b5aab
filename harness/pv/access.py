"""How the hypervisor reaches a guest's memory on its behalf: never its own, and never by trust."""

from __future__ import annotations

from harness.abi import xen
from harness.abi.x86 import PFEC_W
from harness.domain.memory import PageFaultError
from harness.pv.state import Vcpu


def check_range(linear: int, size: int, *, write: bool = False) -> None:
    """Raise PageFaultError unless a linear range lies below Xen (access_ok, asm-x86/x86_32/uaccess.h).

    Nothing wraps here: an array whose end passes 4 GiB lies beyond Xen like any other.
    """
    if linear + size > xen.HYPERVISOR_VIRT_START:
        raise PageFaultError(linear & 0xFFFFFFFF, PFEC_W if write else 0)


def copy_from_guest(vcpu: Vcpu, linear: int, size: int) -> bytes:
    """Bytes at a guest's pointer. Raises PageFaultError, which a hypercall turns into -EFAULT."""
    check_range(linear, size)
    return vcpu.linear.read(linear, size) if size else b""


def copy_to_guest(vcpu: Vcpu, linear: int, data: bytes) -> None:
    """Store at a guest's pointer. Raises PageFaultError."""
    check_range(linear, len(data), write=True)
    vcpu.linear.write(linear, data)


def u32_from_guest(vcpu: Vcpu, linear: int) -> int:
    """The dword at a guest's pointer. Raises PageFaultError."""
    return int.from_bytes(copy_from_guest(vcpu, linear, 4), "little")
