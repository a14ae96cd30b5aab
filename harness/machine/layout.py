"""Where Unicorn keeps the CPU: offsets into its state, found by planting values and checked before anything runs.

Reading and writing the state in place costs half of what Unicorn's register calls do, and some of it (error codes,
segment attributes, nested paging) no call reaches. The price is that these offsets belong to one build of Unicorn:
`locate` finds the state by a signature and refuses to go on when it is not where this table says. Only this file and
`state.py` know them. Measured on Unicorn 2.1.4, x86-64 (CPUX86State of its QEMU 5.0.1 core).
"""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass

# Offsets in the CPU state, in bytes from regs[0]; the name is QEMU's.
REGS, EIP, EFLAGS, CC_DST, CC_SRC, CC_OP, DF, HFLAGS, HFLAGS2 = 0, 128, 136, 144, 152, 168, 172, 176, 180
SEGS, LDT, TR, GDT, IDT = 184, 328, 352, 376, 400
"""A segment is 24 bytes: selector (32 bits), pad, base (64), limit (32), flags (32)."""
SEG_SIZE, SEG_BASE, SEG_LIMIT, SEG_FLAGS = 24, 8, 16, 20
CR, A20, EFER, FPSTT = 424, 496, 592, 604
ERROR_CODE, EXCEPTION_IS_INT, EXCEPTION_NEXT_EIP, DR, OLD_EXCEPTION = 5384, 5388, 5392, 5400, 5496
POINTERS = (5464, 5496)
"""Host pointers of the debug machinery: never copied."""
VM_VMCB, TSC_OFFSET, INTERCEPT, INTERCEPT_CR, INTERCEPT_DR, INTERCEPT_EXCEPTIONS = 5504, 5512, 5520, 5528, 5532, 5536
NESTED_CR3, NESTED_PG_MODE = 5544, 5552
STATE_SIZE = 5568

OF_THE_MACHINE = ((HFLAGS2, HFLAGS2 + 4), POINTERS, (VM_VMCB, STATE_SIZE))
"""What no guest changes, and no image of a machine carries: host pointers, and how guest mode was entered."""

CPU_POINTER = 0x1B8
"""Offset of the pointer to the CPU object in Unicorn's handle."""
STATE_IN_CPU = 0x8A50
INTERRUPT_REQUEST = 0x1C
"""Pending interrupts, 32 bits, in the CPU object."""

EMU_COUNTER, EMU_COUNT = 0x558, 0x560
"""Instructions started since `uc_emu_start`, and where it is to stop: 64 bits each, in Unicorn's handle."""

# Lazy flags: with this operation the arithmetic flags are all in cc_src.
CC_OP_EFLAGS = 1

# hflags (QEMU target/i386/cpu.h)
HF_CPL, HF_INHIBIT_IRQ, HF_CS32, HF_SS32, HF_ADDSEG, HF_PE, HF_TF, HF_MP_EM_TS = (
    3, 1 << 3, 1 << 4, 1 << 5, 1 << 6, 1 << 7, 1 << 8, 7 << 9)
HF_IOPL, HF_LMA, HF_CS64, HF_VM, HF_SVME, HF_GUEST, HF_OSFXSR = (
    3 << 12, 1 << 14, 1 << 15, 1 << 17, 1 << 20, 1 << 21, 1 << 22)
HF2_NPT = 1 << 6
NESTED_LEVELS_4 = 7
"""Nested page mode: PAE, long mode, no-execute enable: 4-level tables whatever the host stub used."""

PLANTED = tuple(0x51C0_FFE0 + n for n in range(4))


class LayoutError(Exception):
    """This build of Unicorn keeps its state elsewhere. The message says what was looked for."""


@dataclass(frozen=True, slots=True)
class Located:
    """Host addresses of Unicorn's handle, of the CPU object and of its state."""

    handle: int
    cpu: int
    state: int


def locate(handle: int) -> Located:
    """Find the CPU state of a Unicorn handle in which EAX, ECX, EDX, EBX hold `PLANTED`.

    Raises LayoutError. Reads through /proc/self/mem, so that a wrong guess is an error and not a crash.
    """
    signature = struct.pack("<4Q", *PLANTED)
    try:
        memory = os.open("/proc/self/mem", os.O_RDONLY)
    except OSError as problem:
        raise LayoutError(f"cannot look at the process's own memory: {problem}") from problem
    try:
        cpu = int.from_bytes(os.pread(memory, 8, handle + CPU_POINTER), "little")
        found = os.pread(memory, len(signature), cpu + STATE_IN_CPU)
    except OSError as problem:
        raise LayoutError(f"no CPU object at handle + {CPU_POINTER:#x}: {problem}") from problem
    finally:
        os.close(memory)
    if found != signature:
        raise LayoutError(f"planted registers are not at CPU + {STATE_IN_CPU:#x}")
    return Located(handle, cpu, cpu + STATE_IN_CPU)


def view(address: int, size: int) -> memoryview:
    """A writable view of host memory, in bytes."""
    return memoryview((ctypes.c_char * size).from_address(address)).cast("B")
