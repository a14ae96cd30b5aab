"""The hypercall page: one 32-byte stub a number (arch/x86/x86_32/traps.c, hypercall_page_initialise)."""

from __future__ import annotations

from harness.abi import xen
from harness.abi.x86 import PAGE_SIZE


def contents() -> bytes:
    """The page's bytes. The stub of iret is entered by a jump and never comes back."""
    page = bytearray(PAGE_SIZE)
    for number in range(PAGE_SIZE // xen.HYPERCALL_STUB_SIZE):
        stub = xen.HYPERCALL_STUB_HEAD + number.to_bytes(4, "little") + xen.HYPERCALL_STUB_TAIL
        if number == xen.Hypercall.iret:
            stub = xen.HYPERCALL_IRET_STUB
        at = number * xen.HYPERCALL_STUB_SIZE
        page[at : at + len(stub)] = stub
    return bytes(page)
