"""What the CPU tells of itself (SDM 2, CPUID), and what Xen's emulated CPUID tells a guest."""

from __future__ import annotations

import struct

import pytest

from harness.domain.features import BRAND, MSRS, cpuid, pv_cpuid

VME, DE, PSE, SEP, MTRR, PGE = 1, 2, 3, 11, 12, 13


def edx(*leaf: int) -> int:
    return leaf[3]


def test_leaf_0_is_the_vendor_in_the_order_ebx_edx_ecx() -> None:
    most, ebx, ecx, edx = cpuid(0)
    assert most == 2
    assert struct.pack("<3I", ebx, edx, ecx) == b"GenuineIntel"


def test_the_brand_fills_three_leaves() -> None:
    leaves = [cpuid(n) for n in (0x80000002, 0x80000003, 0x80000004)]
    assert b"".join(struct.pack("<4I", *leaf) for leaf in leaves) == BRAND
    assert len(BRAND) == 48
    assert cpuid(0x80000000)[0] == 0x80000004


@pytest.mark.parametrize("leaf", [3, 4, 0x40000000, 0x80000005, 0xFFFFFFFF])
def test_a_leaf_beyond_the_last_answers_as_the_last_basic_one(leaf: int) -> None:
    assert cpuid(leaf) == cpuid(2)


@pytest.mark.parametrize(("bit", "offered"), [
    (0, True),  # FPU
    (4, True),  # TSC
    (5, True),  # MSR
    (8, True),  # CX8
    (15, True),  # CMOV
    (24, True),  # FXSR
    (25, True),  # SSE
    (7, False),  # MCE
    (9, False),  # APIC
    (12, False),  # MTRR
    (14, False),  # MCA
    (28, False),  # HTT: one processor
])
def test_features_of_leaf_1(bit: int, offered: bool) -> None:
    assert edx(*cpuid(1)) >> bit & 1 == offered


@pytest.mark.parametrize("bit", range(32))
def test_forced_emulation_hides_what_a_guest_may_not_use(bit: int) -> None:
    """VME DE PSE PGE SEP, and MTRR from all but the first domain (arch/x86/traps.c)."""
    real, shown = edx(*cpuid(1)) >> bit & 1, edx(*pv_cpuid(1)) >> bit & 1
    assert shown == (0 if bit in (VME, DE, PSE, PGE, SEP, MTRR) else real)


@pytest.mark.parametrize("leaf", [0, 2, 7, 0x80000000, 0x80000001, 0x80000002])
def test_other_leaves_are_as_they_are(leaf: int) -> None:
    assert pv_cpuid(leaf) == cpuid(leaf)
    assert pv_cpuid(1)[:3] == cpuid(1)[:3]


@pytest.mark.parametrize(("number", "value"), [
    (0x10, 0), (0x8B, 0), (0x174, 0), (0x175, 0), (0x176, 0), (0xC0000080, 0),
    (0x1B, 0xFEE00100),  # APIC base, BSP; not enabled: there is none
    (0x277, 0x0007040600070406),  # PAT at reset (SDM 3, table 11-12)
])
def test_model_specific_registers_at_reset(number: int, value: int) -> None:
    assert MSRS[number].value == value
    assert MSRS[number].name.startswith("IA32_")
