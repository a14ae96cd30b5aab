"""What a loader made of a guest's file: bytes at linear addresses, an entry, names and source lines."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Literal

ImageFormat = Literal["asm", "flat", "elf"]


@dataclass(frozen=True, slots=True)
class Segment:
    """Bytes to place at a linear address; `size` (bytes) may exceed `len(data)`, the rest is zero."""

    address: int
    data: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Line:
    """One source statement that emitted `size` bytes at a linear address."""

    address: int
    size: int
    path: str
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class XenNotes:
    """What an ELF says to a Xen domain builder, by its notes or its `__xen_guest` section (abi/xen, elfnote.h).

    Addresses are linear; None where the file is silent.
    """

    entry: int | None = None
    hypercall_page: int | None = None
    virt_base: int = 0
    paddr_offset: int = 0
    guest_os: str = ""
    xen_version: str = ""
    loader: str = ""
    features: str = ""
    pae: str = "no"


@dataclass(frozen=True, slots=True)
class Image:
    """A guest kernel ready to be placed in RAM.

    `entry` is linear. `symbols` maps names to linear addresses. `lines` is sorted by address.
    `xen` is set only for an ELF that speaks to Xen's domain builder; `multiboot` and `pvh_entry` tell of the others.
    """

    segments: tuple[Segment, ...]
    entry: int
    symbols: dict[str, int] = field(default_factory=dict)
    lines: tuple[Line, ...] = ()
    format: ImageFormat = "flat"
    xen: XenNotes | None = None
    multiboot: bool = False
    pvh_entry: int | None = None

    @property
    def start(self) -> int:
        """The lowest linear address used."""
        return min((s.address for s in self.segments), default=self.entry)

    @property
    def end(self) -> int:
        """One past the highest linear address used."""
        return max((s.address + s.size for s in self.segments), default=self.entry)

    def line_at(self, address: int) -> Line | None:
        """The source statement whose bytes hold `address` (linear), if the image knows its source."""
        at = bisect_right(self.lines, address, key=lambda line: line.address) - 1
        if at >= 0 and address < self.lines[at].address + self.lines[at].size:
            return self.lines[at]
        return None

    def symbol_at(self, address: int) -> str:
        """`label` or `label+0x12` for a linear address, empty when nothing lies before it."""
        name, best = "", -1
        for symbol, value in self.symbols.items():
            if best < value <= address < self.end:
                name, best = symbol, value
        if best < 0:
            return ""
        return name if best == address else f"{name}+{address - best:#x}"
