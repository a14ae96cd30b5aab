"""The constants of abi/ as an include file for guests: `python -m harness.abi.include asm/xen_constants.inc`.

Enumerators get the prefix that the C headers give them; other constants keep their names.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterator
from enum import IntEnum
from itertools import starmap
from pathlib import Path

from harness.abi import x86, xen

HEADER = """\
; Generated from harness/abi/ by `python -m harness.abi.include`: do not edit.
; Xen 3.0.4, x86_32; offsets and sizes are bytes.
"""


def _prefixed(prefix: str) -> Callable[[str], str]:
    return lambda name: prefix + name.rstrip("_")


def _upper(prefix: str) -> Callable[[str], str]:
    return lambda name: prefix + name.upper()


ENUMERATIONS: dict[type[IntEnum], Callable[[str], str]] = {
    xen.Hypercall: _prefixed("__HYPERVISOR_"),
    xen.Errno: _prefixed(""),
    xen.CallbackOp: _prefixed("CALLBACKOP_"),
    xen.CallbackType: _prefixed("CALLBACKTYPE_"),
    xen.NmiOp: _prefixed("XENNMI_"),
    xen.MmuExt: _upper("MMUEXT_"),
    xen.VmAssistCmd: _prefixed("VMASST_CMD_"),
    xen.VmAssist: lambda name: "VMASST_TYPE_" + name.replace("four", "4"),
    xen.MemoryOp: _prefixed("XENMEM_"),
    xen.SchedOp: _prefixed("SCHEDOP_"),
    xen.ShutdownReason: _prefixed("SHUTDOWN_"),
    xen.VcpuOp: _prefixed("VCPUOP_"),
    xen.Runstate: _prefixed("RUNSTATE_"),
    xen.EventOp: _prefixed("EVTCHNOP_"),
    xen.ChannelStatus: _prefixed("EVTCHNSTAT_"),
    xen.Virq: _upper("VIRQ_"),
    xen.PhysdevOp: _prefixed("PHYSDEVOP_"),
    xen.ConsoleIo: _prefixed("CONSOLEIO_"),
    xen.VersionCmd: _prefixed("XENVER_"),
    xen.GrantOp: _prefixed("GNTTABOP_"),
    xen.GrantStatus: _prefixed("GNTST_"),
    xen.ElfNote: _prefixed("XEN_ELFNOTE_"),
    x86.Vector: _prefixed("VECTOR_"),
}

EFLAGS = ("CF", "PF", "AF", "ZF", "SF", "TF", "IF", "DF", "OF", "IOPL", "NT", "RF", "VM", "AC", "ID")
X86_PREFIXES = ("EFLAGS_", "CR0_", "CR4_", "PAGE_", "PTE_", "PFEC_", "ERROR_", "SELECTOR_", "MSR_", "DR6_", "DR7_")

ALIASES = tuple(
    (f"FLAT_{role}_{segment}", getattr(xen, f"FLAT_{ring}_{segment}"))
    for role, ring in (("KERNEL", "RING1"), ("USER", "RING3"))
    for segment in ("CS", "DS", "SS")
)
"""Linux's names for the flat selectors (public/arch-x86_32.h)."""


def _enumeration(enumeration: type[IntEnum]) -> Iterator[tuple[str, int]]:
    name = ENUMERATIONS[enumeration]
    return ((name(member.name), member.value) for member in enumeration)


def _of_xen() -> Iterator[tuple[str, int]]:
    for name, value in vars(xen).items():
        if isinstance(value, int):
            yield name, value
        elif isinstance(value, struct.Struct):
            yield f"{name}_SIZE", value.size
        elif isinstance(value, type) and issubclass(value, IntEnum) and value is not IntEnum:
            yield from _enumeration(value)
    yield from ALIASES
    yield from ((f"USER_REGS_{name.upper()}", offset) for name, offset in xen.USER_REGS_OFFSETS)


def _of_x86() -> Iterator[tuple[str, int]]:
    yield from _enumeration(x86.Vector)
    yield from ((f"EFLAGS_{name}", getattr(x86, name)) for name in EFLAGS)
    yield from ((name, value) for name, value in vars(x86).items() if name.startswith(X86_PREFIXES))


def constants() -> dict[str, int]:
    """Every constant by the name it has in a guest.

    ValueError: one name stands for two values.
    """
    found: dict[str, int] = {}
    for source in (_of_xen, _of_x86):
        for name, value in source():
            if found.setdefault(name, value) != value:
                raise ValueError(f"{name} is both {found[name]:#x} and {value:#x}")
    return found


def _line(name: str, value: int) -> str:
    return f"{name} = {value if value < 10 else hex(value)}\n"


def render() -> str:
    """The text of the include file."""
    return HEADER + "".join(starmap(_line, constants().items()))


def main() -> None:
    """Write the include file to the path given."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m harness.abi.include FILE")
    Path(sys.argv[1]).write_text(render(), encoding="ascii")


if __name__ == "__main__":
    main()
