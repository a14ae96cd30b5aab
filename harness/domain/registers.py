"""The registers of a CPU as policy sees them: a protocol, and a plain implementation for tests without a CPU."""

from __future__ import annotations

from collections.abc import MutableSequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from harness.abi.x86 import EFLAGS_FIXED, VM, Gpr, Seg, descriptor_base, descriptor_dpl, descriptor_limit


class SegmentCache(NamedTuple):
    """A loaded segment register: selector, base and limit (linear, bytes), high dword of its descriptor.

    `attributes` is 0 for a null selector.
    """

    selector: int = 0
    base: int = 0
    limit: int = 0
    attributes: int = 0


def from_descriptor(selector: int, low: int, high: int) -> SegmentCache:
    """What the CPU keeps of a descriptor when `selector` is loaded."""
    return SegmentCache(selector, descriptor_base(low, high), descriptor_limit(low, high), high & 0x00F0FF00)


class Registers(Protocol):
    """A CPU's registers, read and written in place. All values are unsigned 32-bit."""

    gpr: MutableSequence[int]
    """EAX ECX EDX EBX ESP EBP ESI EDI, by `abi.x86.Gpr`."""

    @property
    def eip(self) -> int: ...
    @eip.setter
    def eip(self, value: int) -> None: ...
    @property
    def linear_eip(self) -> int:
        """Where the instruction is: EIP and CS's base."""

    @property
    def eflags(self) -> int: ...
    @eflags.setter
    def eflags(self, value: int) -> None: ...
    @property
    def cpl(self) -> int: ...
    @property
    def vm86(self) -> bool:
        """Whether EFLAGS.VM is set."""

    @property
    def cr0(self) -> int: ...
    @cr0.setter
    def cr0(self, value: int) -> None: ...
    @property
    def cr3(self) -> int: ...
    @cr3.setter
    def cr3(self, value: int) -> None: ...
    @property
    def cr4(self) -> int: ...
    @cr4.setter
    def cr4(self, value: int) -> None: ...

    def frame(self) -> tuple[int, int, int, int, int]:
        """What an interrupt pushes, from the top of the stack up: EIP, CS, EFLAGS, ESP, SS."""

    def selector(self, seg: int) -> int:
        """The visible part of a segment register."""

    def base(self, seg: int) -> int:
        """Where a segment begins (linear)."""

    def segment(self, seg: int) -> SegmentCache:
        """The whole of a segment register."""

    def load_segment(self, seg: int, cache: SegmentCache) -> None:
        """Load a segment register without any check. CPL is not touched."""

    def enter(self, cs: SegmentCache, eip: int, ss: SegmentCache, esp: int, eflags: int) -> None:
        """Go to another place, and ring: CPL becomes SS's DPL."""

    def set_debug(self, index: int, value: int) -> None:
        """Load a debug register of the CPU."""

    def debug(self, index: int) -> int:
        """A debug register of the CPU."""

    def load_gdtr(self, base: int, limit: int) -> None: ...
    def load_idtr(self, base: int, limit: int) -> None: ...
    def load_tr(self, cache: SegmentCache) -> None: ...
    def load_ldtr(self, cache: SegmentCache) -> None: ...
    def gdtr(self) -> tuple[int, int]:
        """Base (linear) and limit (bytes)."""

    def idtr(self) -> tuple[int, int]: ...
    def ldtr(self) -> SegmentCache: ...
    def tr(self) -> SegmentCache: ...


def snapshot(regs: Registers) -> dict[str, int]:
    """Register values by lower-case name, as records and expectations spell them."""
    values = {name.name.lower(): regs.gpr[name] for name in Gpr}
    values["eip"], values["eflags"] = regs.eip, regs.eflags
    for seg in (Seg.CS, Seg.SS, Seg.DS, Seg.ES, Seg.FS, Seg.GS):
        values[seg.name.lower()] = regs.selector(seg)
    values["cr0"], values["cr3"], values["cr4"] = regs.cr0, regs.cr3, regs.cr4
    return values


@dataclass(slots=True)
class PlainRegisters:
    """Registers without a CPU: what `Registers` promises, as plain data."""

    gpr: MutableSequence[int] = field(default_factory=lambda: [0] * 8)
    eip: int = 0
    eflags: int = EFLAGS_FIXED
    cpl: int = 0
    cr0: int = 0x11
    cr3: int = 0
    cr4: int = 0
    segments: list[SegmentCache] = field(default_factory=lambda: [SegmentCache()] * 6)
    debug_registers: list[int] = field(default_factory=lambda: [0] * 8)
    tables: dict[str, tuple[int, int]] = field(default_factory=lambda: {"gdtr": (0, 0), "idtr": (0, 0)})
    system: dict[str, SegmentCache] = field(default_factory=lambda: {"ldtr": SegmentCache(), "tr": SegmentCache()})

    @property
    def linear_eip(self) -> int:
        """See Registers."""
        return self.eip + self.segments[Seg.CS].base & 0xFFFFFFFF

    def frame(self) -> tuple[int, int, int, int, int]:
        """See Registers."""
        return self.eip, self.selector(Seg.CS), self.eflags, self.gpr[Gpr.ESP], self.selector(Seg.SS)

    def selector(self, seg: int) -> int:
        """See Registers."""
        return self.segments[seg].selector

    def base(self, seg: int) -> int:
        """See Registers."""
        return self.segments[seg].base

    def segment(self, seg: int) -> SegmentCache:
        """See Registers."""
        return self.segments[seg]

    def load_segment(self, seg: int, cache: SegmentCache) -> None:
        """See Registers."""
        self.segments[seg] = cache

    def enter(self, cs: SegmentCache, eip: int, ss: SegmentCache, esp: int, eflags: int) -> None:
        """See Registers."""
        self.segments[Seg.CS], self.segments[Seg.SS] = cs, ss
        self.eip, self.gpr[Gpr.ESP], self.eflags = eip, esp, eflags
        self.cpl = descriptor_dpl(ss.attributes)

    def set_debug(self, index: int, value: int) -> None:
        """See Registers."""
        self.debug_registers[index] = value

    def debug(self, index: int) -> int:
        """See Registers."""
        return self.debug_registers[index]

    @property
    def vm86(self) -> bool:
        """See Registers."""
        return self.eflags & VM != 0

    def load_gdtr(self, base: int, limit: int) -> None:
        """See Registers."""
        self.tables["gdtr"] = (base, limit)

    def load_idtr(self, base: int, limit: int) -> None:
        """See Registers."""
        self.tables["idtr"] = (base, limit)

    def load_tr(self, cache: SegmentCache) -> None:
        """See Registers."""
        self.system["tr"] = cache

    def load_ldtr(self, cache: SegmentCache) -> None:
        """See Registers."""
        self.system["ldtr"] = cache

    def gdtr(self) -> tuple[int, int]:
        """See Registers."""
        return self.tables["gdtr"]

    def idtr(self) -> tuple[int, int]:
        """See Registers."""
        return self.tables["idtr"]

    def ldtr(self) -> SegmentCache:
        """See Registers."""
        return self.system["ldtr"]

    def tr(self) -> SegmentCache:
        """See Registers."""
        return self.system["tr"]
