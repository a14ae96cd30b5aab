"""IA-32: control bits, vectors, descriptors and page-table entries (Intel SDM volumes 2 and 3)."""

from __future__ import annotations

import struct
from enum import IntEnum

# EFLAGS (SDM 3 section 2.3)
CF, PF, AF, ZF, SF, TF, IF, DF, OF = 1 << 0, 1 << 2, 1 << 4, 1 << 6, 1 << 7, 1 << 8, 1 << 9, 1 << 10, 1 << 11
IOPL_SHIFT = 12
IOPL, NT, RF, VM, AC, VIF, VIP, ID = 3 << 12, 1 << 14, 1 << 16, 1 << 17, 1 << 18, 1 << 19, 1 << 20, 1 << 21
EFLAGS_FIXED = 1 << 1
ARITHMETIC_FLAGS = CF | PF | AF | ZF | SF | OF
PUSHF_MASK = 0x00FCFFFF
"""What PUSHFD stores of EFLAGS: VM and RF read as 0 (SDM 2, PUSHF)."""
POPF_USER_MASK = ARITHMETIC_FLAGS | TF | DF | NT | AC | ID
"""What POPFD and IRETD change at CPL > IOPL (SDM 2, table 4-15)."""

# CR0 and CR4 (SDM 3 section 2.5)
CR0_PE, CR0_MP, CR0_EM, CR0_TS, CR0_ET, CR0_NE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 5
CR0_WP, CR0_AM, CR0_NW, CR0_CD, CR0_PG = 1 << 16, 1 << 18, 1 << 29, 1 << 30, 1 << 31
CR4_VME, CR4_PVI, CR4_TSD, CR4_DE, CR4_PSE, CR4_PAE, CR4_MCE, CR4_PGE, CR4_PCE = (1 << n for n in range(9))
CR4_OSFXSR, CR4_OSXMMEXCPT = 1 << 9, 1 << 10

# Page-table entries, 32-bit paging (SDM 3 section 4.3)
PAGE_SIZE = 4096
PAGE_SHIFT = 12
PTE_P, PTE_RW, PTE_US, PTE_PWT, PTE_PCD, PTE_A, PTE_D, PTE_PS, PTE_G = (1 << n for n in range(9))
PTE_FLAGS = 0xFFF

# Page-fault error code (SDM 3 section 4.7)
PFEC_P, PFEC_W, PFEC_U, PFEC_RSVD, PFEC_ID = 1, 2, 4, 8, 16

# Error codes that carry a selector or a vector (SDM 3 section 6.13)
ERROR_EXT, ERROR_IDT, ERROR_TI = 1, 2, 4


class Vector(IntEnum):
    """Exceptions and NMI (SDM 3 table 6-1)."""

    DE = 0
    DB = 1
    NMI = 2
    BP = 3
    OF = 4
    BR = 5
    UD = 6
    NM = 7
    DF = 8
    TS = 10
    NP = 11
    SS = 12
    GP = 13
    PF = 14
    MF = 16
    AC = 17
    MC = 18
    XM = 19


VECTORS_WITH_ERROR_CODE = frozenset({Vector.DF, Vector.TS, Vector.NP, Vector.SS, Vector.GP, Vector.PF, Vector.AC})


class Seg(IntEnum):
    """Segment registers in their encoding order (SDM 2 table B-8)."""

    ES = 0
    CS = 1
    SS = 2
    DS = 3
    FS = 4
    GS = 5


class Gpr(IntEnum):
    """General registers in their encoding order."""

    EAX = 0
    ECX = 1
    EDX = 2
    EBX = 3
    ESP = 4
    EBP = 5
    ESI = 6
    EDI = 7


# Selectors and descriptors (SDM 3 section 3.4)
SELECTOR_RPL = 3
SELECTOR_TI = 4
DESCRIPTOR = struct.Struct("<II")
"""A descriptor as its low and its high dword."""
# High dword
DESC_TYPE_SHIFT = 8
DESC_A, DESC_RW, DESC_DC, DESC_CODE = 1 << 8, 1 << 9, 1 << 10, 1 << 11
"""Accessed; writable data or readable code; expand-down data or conforming code; code."""
DESC_S, DESC_DPL_SHIFT, DESC_P = 1 << 12, 13, 1 << 15
DESC_AVL, DESC_L, DESC_DB, DESC_G = 1 << 20, 1 << 21, 1 << 22, 1 << 23
SYSTEM_LDT, SYSTEM_TSS32_AVAILABLE, SYSTEM_TSS32_BUSY, SYSTEM_CALL_GATE32 = 2, 9, 11, 12


def descriptor_dpl(high: int) -> int:
    """DPL of a descriptor, from its high dword."""
    return high >> DESC_DPL_SHIFT & 3


def descriptor_base(low: int, high: int) -> int:
    """Segment base (linear)."""
    return low >> 16 | (high & 0xFF) << 16 | high & 0xFF000000


def descriptor_limit(low: int, high: int) -> int:
    """Segment limit in bytes: the offset of the last one."""
    limit = low & 0xFFFF | high & 0xF0000
    return limit << 12 | 0xFFF if high & DESC_G else limit


# 32-bit task state segment (SDM 3 figure 7-2)
TSS_ESP0, TSS_SS0, TSS_ESP1, TSS_SS1, TSS_IO_MAP_BASE = 4, 8, 12, 16, 102
TSS_SIZE = 104

# Model-specific registers used here (SDM 4)
MSR_TSC, MSR_SYSENTER_CS, MSR_SYSENTER_ESP, MSR_SYSENTER_EIP, MSR_EFER = 0x10, 0x174, 0x175, 0x176, 0xC0000080
EFER_SVME = 1 << 12
EFER_NXE = 1 << 11
EFER_LMA = 1 << 10
EFER_LME = 1 << 8

MAX_INSTRUCTION_LENGTH = 15

# Debug registers (SDM 3 section 17.2)
DR6_BS, DR6_BD, DR6_FIXED = 1 << 14, 1 << 13, 0xFFFF0FF0
DR7_FIXED, DR7_GD = 0x400, 1 << 13
