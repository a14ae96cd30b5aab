"""Small ELF32 files for the loader's tests, built from the System V ABI's tables with struct alone."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_NOTE = 1, 2, 3, 4
SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_NOTE = 1, 2, 3, 7


def note(kind: int, content: bytes, name: bytes = b"Xen\0") -> bytes:
    """One note, padded to four bytes."""
    return struct.pack("<III", len(name), len(content), kind) + _padded(name) + _padded(content)


def number(value: int) -> bytes:
    return struct.pack("<I", value)


def multiboot_header(flags: int = 3) -> bytes:
    return struct.pack("<III", 0x1BADB002, flags, -(0x1BADB002 + flags) & 0xFFFFFFFF)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


@dataclass
class Elf:
    """What to put in the file; `bytes(elf)` is the file."""

    entry: int = 0x100000
    segments: list[tuple[int, int, int, bytes, int]] = field(default_factory=list)
    sections: list[tuple[str, int, bytes]] = field(default_factory=list)
    symbols: dict[str, int] = field(default_factory=dict)
    bits: int = 1
    order: int = 1
    kind: int = 2
    machine: int = 3

    def load(self, linear: int, data: bytes, *, size: int | None = None, physical: int | None = None) -> Elf:
        self.segments.append((PT_LOAD, linear, linear if physical is None else physical, data, size or len(data)))
        return self

    def segment(self, kind: int, data: bytes) -> Elf:
        self.segments.append((kind, 0, 0, data, len(data)))
        return self

    def section(self, name: str, kind: int, data: bytes) -> Elf:
        self.sections.append((name, kind, data))
        return self

    def __bytes__(self) -> bytes:
        sections = [("", 0, b""), *self.sections, *self._symbol_sections()]
        names = b"".join(name.encode() + b"\0" for name, _, _ in sections) + b".shstrtab\0"
        sections.append((".shstrtab", SHT_STRTAB, names))
        body = b""
        at = 52 + 32 * len(self.segments)
        program = b""
        for kind, linear, physical, data, size in self.segments:
            program += struct.pack("<8I", kind, at + len(body), linear, physical, len(data), size, 7, 4)
            body += _padded(data)
        headers, name_at = b"", 0
        for name, kind, data in sections:
            link = len(sections) - 2 if kind == SHT_SYMTAB else 0
            entry = 16 if kind == SHT_SYMTAB else 0
            headers += struct.pack("<10I", name_at, kind, 0, 0, at + len(body), len(data), link, 0, 4, entry)
            body += _padded(data)
            name_at += len(name) + 1
        header = struct.pack("<4sBBBxxxxxxxxxHHIIIIIHHHHHH", b"\x7fELF", self.bits, self.order, 1, self.kind,
                             self.machine, 1, self.entry, 52, at + len(body), 0, 52, 32, len(self.segments), 40,
                             len(sections), len(sections) - 1)  # fmt: skip
        return header + program + body + headers

    def _symbol_sections(self) -> list[tuple[str, int, bytes]]:
        if not self.symbols:
            return []
        names, table = b"\0", struct.pack("<IIIBBH", 0, 0, 0, 0, 0, 0)
        for name, value in self.symbols.items():
            table += struct.pack("<IIIBBH", len(names), value, 0, 0x12, 0, 1)
            names += name.encode() + b"\0"
        return [(".symtab", SHT_SYMTAB, table), (".strtab", SHT_STRTAB, names)]
