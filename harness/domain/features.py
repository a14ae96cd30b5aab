"""What the CPU tells of itself: CPUID leaves and model-specific registers, each a row.

The leaves describe the CPU that the guest really runs on, an Intel one of the time with what the engine executes
faithfully; nothing is announced that does not work (no APIC, no MTRR, no AMD-V, no RDRAND).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from harness.abi.x86 import MSR_EFER, MSR_SYSENTER_CS, MSR_SYSENTER_EIP, MSR_SYSENTER_ESP

VENDOR = b"GenuineIntel"
BRAND = b"Emulated x86 CPU of harness".ljust(48, b"\0")

# CPUID.1:EDX (SDM 2, CPUID, table 3-11)
FPU, VME, DE, PSE, TSC, MSR, PAE, MCE, CX8, APIC, SEP, MTRR, PGE, MCA, CMOV = (
    1 << n for n in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15))
CLFSH, MMX, FXSR, SSE, SSE2 = (1 << n for n in (19, 23, 24, 25, 26))
# CPUID.1:ECX
SSE3, SSSE3, CX16, SSE41, SSE42, POPCNT = (1 << n for n in (0, 9, 13, 19, 20, 23))

FEATURES_EDX = (
    FPU | VME | DE | PSE | TSC | MSR | PAE | CX8 | SEP | PGE | CMOV | CLFSH | MMX | FXSR | SSE | SSE2
)
FEATURES_ECX = SSE3
SIGNATURE = 0x00000F41
"""Family 15, model 4, stepping 1: a Pentium 4 of 2004."""
HIDDEN_FROM_PV_EDX = VME | DE | PSE | PGE | SEP | MTRR
"""What Xen's emulated CPUID takes out of leaf 1 for an unprivileged guest (3.0.2 on, arch/x86/traps.c)."""

Leaf = tuple[int, int, int, int]
"""EAX, EBX, ECX, EDX."""


def _text(part: bytes) -> Leaf:
    a, b, c, d = struct.unpack("<4I", part)
    return a, b, c, d


_VENDOR_WORDS = struct.unpack("<3I", VENDOR)
CPUID: dict[int, Leaf] = {
    0: (2, _VENDOR_WORDS[0], _VENDOR_WORDS[2], _VENDOR_WORDS[1]),
    1: (SIGNATURE, 8 << 8, FEATURES_ECX, FEATURES_EDX),
    2: (0x00000001, 0, 0, 0),
    0x80000000: (0x80000004, 0, 0, 0),
    0x80000001: (0, 0, 0, 0),
    0x80000002: _text(BRAND[0:16]),
    0x80000003: _text(BRAND[16:32]),
    0x80000004: _text(BRAND[32:48]),
}


def cpuid(leaf: int) -> Leaf:
    """CPUID of the CPU. A leaf beyond the last basic one answers as the last basic one (SDM 2, CPUID)."""
    return CPUID.get(leaf, CPUID[2])


def pv_cpuid(leaf: int) -> Leaf:
    """CPUID as Xen's forced emulation filters it."""
    eax, ebx, ecx, edx = cpuid(leaf)
    if leaf == 1:
        return eax, ebx, ecx, edx & ~HIDDEN_FROM_PV_EDX
    return eax, ebx, ecx, edx


@dataclass(frozen=True, slots=True)
class Msr:
    """A model-specific register: its name and what it reads as at reset."""

    name: str
    value: int = 0


MSR_TSC, MSR_APIC_BASE, MSR_MISC_ENABLE, MSR_PAT = 0x10, 0x1B, 0x1A0, 0x277
MSRS: dict[int, Msr] = {
    MSR_TSC: Msr("IA32_TIME_STAMP_COUNTER"),
    MSR_APIC_BASE: Msr("IA32_APIC_BASE", 0xFEE00100),
    0x8B: Msr("IA32_BIOS_SIGN_ID"),
    MSR_SYSENTER_CS: Msr("IA32_SYSENTER_CS"),
    MSR_SYSENTER_ESP: Msr("IA32_SYSENTER_ESP"),
    MSR_SYSENTER_EIP: Msr("IA32_SYSENTER_EIP"),
    MSR_MISC_ENABLE: Msr("IA32_MISC_ENABLE", 1),
    MSR_PAT: Msr("IA32_PAT", 0x0007040600070406),
    MSR_EFER: Msr("IA32_EFER"),
}
"""The machine's MSRs. An access to any other is #GP(0)."""
