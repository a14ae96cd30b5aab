"""The CPU's registers in place: `domain.Registers` on Unicorn's own state.

Offsets are in `layout`. Rules that the CPU keeps between its fields are kept here: lazy flags, and the summary of the
state (hflags) by which translated code is chosen.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, MutableSequence
from typing import cast

from harness.abi.x86 import ARITHMETIC_FLAGS, CR0_PE, RF, VM
from harness.abi.x86 import DF as DF_FLAG
from harness.domain.registers import SegmentCache
from harness.machine import layout
from harness.machine.layout import (
    CC_DST,
    CC_OP,
    CC_OP_EFLAGS,
    CC_SRC,
    CR,
    DF,
    DR,
    EFLAGS,
    EIP,
    GDT,
    HFLAGS,
    IDT,
    LDT,
    SEG_BASE,
    SEG_FLAGS,
    SEG_SIZE,
    SEGS,
    TR,
)

_SEGMENT = struct.Struct("<IIQII")
_CS_AND_SS = struct.Struct("<IIQIIIIQII")
_PLACE = struct.Struct("<QQQQQIiI")
"""From EIP to hflags: EIP, EFLAGS, cc_dst, cc_src, cc_src2, cc_op, df, hflags."""
_CS, _SS = SEGS + SEG_SIZE, SEGS + 2 * SEG_SIZE
_KEPT_IN_EFLAGS = 0xFFFFFFFF & ~(ARITHMETIC_FLAGS | DF_FLAG)

# Indexes into the state seen as 32-bit words.
_EIP, _EFLAGS, _CC_SRC, _CC_DST, _CC_OP, _DF, _HFLAGS = (
    offset >> 2 for offset in (EIP, EFLAGS, CC_SRC, CC_DST, CC_OP, DF, HFLAGS))
_CR0, _CR2, _CR3, _CR4 = ((CR + 8 * n) >> 2 for n in (0, 2, 3, 4))
_CS_FLAGS, _SS_FLAGS = (_CS + SEG_FLAGS) >> 2, (_SS + SEG_FLAGS) >> 2
_SELECTORS = tuple((SEGS + SEG_SIZE * n) >> 2 for n in range(6))
_BASE = tuple((SEGS + SEG_SIZE * n + SEG_BASE) >> 2 for n in range(6))
_ES_BASE, _CS_BASE, _SS_BASE, _DS_BASE = _BASE[:4]

_RECOMPUTED = (
    layout.HF_CPL | layout.HF_CS32 | layout.HF_SS32 | layout.HF_ADDSEG | layout.HF_PE
    | layout.HF_TF | layout.HF_MP_EM_TS | layout.HF_IOPL | layout.HF_VM | layout.HF_LMA | layout.HF_CS64
    | layout.HF_OSFXSR
)
_FROM_EFLAGS = layout.HF_TF | layout.HF_IOPL | layout.HF_VM
_CR4_OSFXSR = 1 << 9


class CpuState:
    """Registers of one CPU, read and written in place. Valid while its guest is stopped in an exit.

    `compute_eflags` asks the engine for EFLAGS while the arithmetic flags are still lazy.
    """

    def __init__(self, state: memoryview, compute_eflags: Callable[[], int]) -> None:
        self._compute_eflags = compute_eflags
        self.debug_loaded: Callable[[], None] = lambda: None
        self._look_at(state)

    def _look_at(self, state: memoryview) -> None:
        self.bytes = state
        self.words = state.cast("I")
        self.gpr: MutableSequence[int] = cast("MutableSequence[int]", state[:64].cast("Q"))

    def detach(self) -> None:
        """Keep the present values and let go of the engine, which is about to be freed."""
        self.eflags = self.eflags
        self._look_at(memoryview(bytearray(self.bytes)))

    @property
    def eip(self) -> int:
        """Instruction pointer, relative to CS's base."""
        return self.words[_EIP]

    @eip.setter
    def eip(self, value: int) -> None:
        self.words[_EIP] = value & 0xFFFFFFFF

    @property
    def linear_eip(self) -> int:
        """Where the instruction is: EIP and CS's base."""
        return self.words[_EIP] + self.words[_CS_BASE] & 0xFFFFFFFF

    @property
    def cpl(self) -> int:
        """The ring that the CPU runs in."""
        return self.words[_HFLAGS] & 3

    @property
    def vm86(self) -> bool:
        """Whether EFLAGS.VM is set."""
        return self.words[_EFLAGS] & VM != 0

    @property
    def eflags(self) -> int:
        """EFLAGS, with the lazy flags made real."""
        words = self.words
        if words[_CC_OP] != CC_OP_EFLAGS:
            return self._compute_eflags()
        direction = DF_FLAG if words[_DF] >> 31 else 0
        return words[_EFLAGS] & _KEPT_IN_EFLAGS | words[_CC_SRC] & ARITHMETIC_FLAGS | direction | 2

    @eflags.setter
    def eflags(self, value: int) -> None:
        words = self.words
        words[_EFLAGS] = value & _KEPT_IN_EFLAGS | 2
        words[_CC_DST] = 0
        words[_CC_SRC] = value & ARITHMETIC_FLAGS
        words[_CC_OP] = CC_OP_EFLAGS
        words[_DF] = 0xFFFFFFFF if value & DF_FLAG else 1
        words[_HFLAGS] = words[_HFLAGS] & ~_FROM_EFLAGS | value & _FROM_EFLAGS

    def settle_flags(self) -> None:
        """Before a run: the engine begins one with the flags that stand in EFLAGS itself (observed on 2.1.4)."""
        self.words[_EFLAGS] = self.eflags

    def take_resume_flag(self) -> bool:
        """EFLAGS.RF, which is clear afterwards. The engine itself keeps it too long (observed on 2.1.4)."""
        was = self.words[_EFLAGS] & RF != 0
        self.words[_EFLAGS] &= ~RF
        return was

    @property
    def cr0(self) -> int:
        """CR0 of the CPU."""
        return self.words[_CR0]

    @cr0.setter
    def cr0(self, value: int) -> None:
        self.words[_CR0] = value
        self.refresh()

    @property
    def cr2(self) -> int:
        """CR2 of the CPU."""
        return self.words[_CR2]

    @property
    def cr3(self) -> int:
        """CR3 of the CPU. Writing it does not flush the TLB: that is the machine's `load_cr3`."""
        return self.words[_CR3]

    @cr3.setter
    def cr3(self, value: int) -> None:
        self.words[_CR3] = value

    @property
    def cr4(self) -> int:
        """CR4 of the CPU."""
        return self.words[_CR4]

    @cr4.setter
    def cr4(self, value: int) -> None:
        self.words[_CR4] = value
        self.refresh()

    def frame(self) -> tuple[int, int, int, int, int]:
        """What an interrupt pushes, from the top of the stack up: EIP, CS, EFLAGS, ESP, SS."""
        words = self.words
        return words[_EIP], words[_CS >> 2] & 0xFFFF, self.eflags, self.gpr[4], words[_SS >> 2] & 0xFFFF

    def selector(self, seg: int) -> int:
        """The visible part of a segment register."""
        return self.words[_SELECTORS[seg]] & 0xFFFF

    def base(self, seg: int) -> int:
        """Where a segment begins (linear)."""
        return self.words[_BASE[seg]]

    def segment(self, seg: int) -> SegmentCache:
        """The whole of a segment register."""
        return self._get(SEGS + SEG_SIZE * seg)

    def load_segment(self, seg: int, cache: SegmentCache) -> None:
        """Load a segment register without any check."""
        self._put(SEGS + SEG_SIZE * seg, cache)
        self.refresh()

    def enter(self, cs: SegmentCache, eip: int, ss: SegmentCache, esp: int, eflags: int) -> None:
        """Go to another place and ring: CPL becomes SS's DPL, as the CPU keeps it."""
        words = self.words
        _CS_AND_SS.pack_into(self.bytes, _CS, cs.selector, 0, cs.base, cs.limit, cs.attributes,
                             ss.selector, 0, ss.base, ss.limit, ss.attributes)
        self.gpr[4] = esp
        hflags = words[_HFLAGS] & ~(_RECOMPUTED | layout.HF_INHIBIT_IRQ) | self._summary(
            cs.attributes, ss.attributes, eflags)
        _PLACE.pack_into(self.bytes, EIP, eip, eflags & _KEPT_IN_EFLAGS | 2, 0, eflags & ARITHMETIC_FLAGS, 0,
                         CC_OP_EFLAGS, -1 if eflags & DF_FLAG else 1, hflags)

    def set_debug(self, index: int, value: int) -> None:
        """Load a debug register. The engine looks at one only when its own guest loads it (observed on 2.1.4)."""
        self.words[(DR + 8 * index) >> 2] = value
        self.debug_loaded()

    def debug(self, index: int) -> int:
        """A debug register of the CPU."""
        return self.words[(DR + 8 * index) >> 2]

    def load_gdtr(self, base: int, limit: int) -> None:
        """Load GDTR: base (linear) and limit (bytes)."""
        self._put(GDT, SegmentCache(0, base, limit, 0))

    def load_idtr(self, base: int, limit: int) -> None:
        """Load IDTR: base (linear) and limit (bytes)."""
        self._put(IDT, SegmentCache(0, base, limit, 0))

    def load_ldtr(self, cache: SegmentCache) -> None:
        """Load LDTR."""
        self._put(LDT, cache)

    def load_tr(self, cache: SegmentCache) -> None:
        """Load TR. Its type must be 9, available: with 11, busy, an inter-privilege transfer aborts the process."""
        self._put(TR, cache)

    def gdtr(self) -> tuple[int, int]:
        """Base (linear) and limit (bytes)."""
        cache = self._get(GDT)
        return cache.base, cache.limit

    def idtr(self) -> tuple[int, int]:
        """Base (linear) and limit (bytes)."""
        cache = self._get(IDT)
        return cache.base, cache.limit

    def ldtr(self) -> SegmentCache:
        """LDTR with its cache."""
        return self._get(LDT)

    def tr(self) -> SegmentCache:
        """TR with its cache."""
        return self._get(TR)

    def _get(self, offset: int) -> SegmentCache:
        selector, _, base, limit, flags = _SEGMENT.unpack_from(self.bytes, offset)
        return SegmentCache(selector & 0xFFFF, base & 0xFFFFFFFF, limit, flags & 0x00F0FF00)

    def _put(self, offset: int, cache: SegmentCache) -> None:
        _SEGMENT.pack_into(self.bytes, offset, cache.selector, 0, cache.base, cache.limit, cache.attributes)

    def refresh(self) -> None:
        """Recompute hflags from segments, EFLAGS and control registers, as the CPU does on every load (32-bit part)."""
        words = self.words
        words[_HFLAGS] = words[_HFLAGS] & ~_RECOMPUTED | self._summary(
            words[_CS_FLAGS], words[_SS_FLAGS], words[_EFLAGS])

    def _summary(self, cs: int, ss: int, eflags: int) -> int:
        """What hflags say of CS's and SS's attributes, EFLAGS and, as they stand, bases and control registers."""
        words = self.words
        cr0 = words[_CR0]
        summary = (
            ss >> 13 & layout.HF_CPL
            | cs >> 18 & layout.HF_CS32
            | ss >> 17 & layout.HF_SS32
            | (cr0 & CR0_PE) << 7
            | (cr0 & 0xE) << 8
            | eflags & _FROM_EFLAGS
            | (layout.HF_OSFXSR if words[_CR4] & _CR4_OSFXSR else 0)
        )
        if not cr0 & CR0_PE or not cs & 1 << 22 or words[_ES_BASE] or words[_SS_BASE] or words[_DS_BASE]:
            summary |= layout.HF_ADDSEG
        return summary
