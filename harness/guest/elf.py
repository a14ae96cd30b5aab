"""ELF32 kernels for i386, statically linked: what a boot loader or Xen's domain builder takes from them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from harness.abi.xen import ELF_NOTE_NAME, LEGACY_SECTION, ElfNote
from harness.domain.image import Image, Segment, XenNotes

if TYPE_CHECKING:
    from elftools.elf.elffile import ELFFile

# The file header and its values (System V ABI, chapter 4)
HEADER = struct.Struct("<4sBBB9xHHIIIIIHHHHHH")
PROGRAM_HEADER_SIZE, SECTION_HEADER_SIZE = 32, 40
CLASS_32, LITTLE_ENDIAN, TYPE_EXECUTABLE, MACHINE_386 = 1, 1, 2, 3
SYMBOL = struct.Struct("<IIIBBH")
SYMBOL_SECTION, SYMBOL_FILE, SECTION_UNDEFINED = 3, 4, 0
NOTE_HEADER = struct.Struct("<III")

# Multiboot specification 0.6.96, section 3.1
MULTIBOOT_MAGIC, MULTIBOOT_SEARCH = 0x1BADB002, 8192
MULTIBOOT_HEADER = struct.Struct("<III")

LEGACY_PAGE_SHIFT = 12


class ElfError(Exception):
    """The file is no kernel that can be loaded; the message is the reason."""


@dataclass(frozen=True, slots=True)
class _Load:
    linear: int
    physical: int
    data: bytes
    size: int


def read_elf(data: bytes) -> Image:
    """The kernel in an ELF file.

    With Xen notes its addresses are those where Xen's domain builder puts it (p_paddr - PADDR_OFFSET + VIRT_BASE), as
    a multiboot or PVH kernel they are physical, else they are the linear ones of the file.
    ElfError: another class, byte order or machine, dynamic, truncated, damaged, nothing to load.
    """
    _check(data)
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        return _image(ELFFile(BytesIO(data)), data)
    except (ELFError, UnicodeDecodeError, ValueError, KeyError) as error:
        raise ElfError(f"damaged ELF: {str(error) or type(error).__name__}") from None


def _check(data: bytes) -> None:
    """What pyelftools would read without complaint, or trip over."""
    if len(data) < HEADER.size:
        raise ElfError("truncated ELF: the file ends in its header")
    _, bits, order, _, kind, machine, _, _, at, sections_at, _, _, *sizes, _ = HEADER.unpack_from(data)
    entry_size, entries, section_size, sections = sizes
    if bits != CLASS_32:
        raise ElfError("not a 32-bit ELF")
    if order != LITTLE_ENDIAN:
        raise ElfError("not a little-endian ELF")
    if machine != MACHINE_386:
        raise ElfError(f"an ELF for another machine (e_machine {machine}, i386 is {MACHINE_386})")
    if kind != TYPE_EXECUTABLE:
        raise ElfError(f"not a statically linked executable (e_type {kind})")
    if (entries and entry_size != PROGRAM_HEADER_SIZE) or (sections and section_size != SECTION_HEADER_SIZE):
        raise ElfError("damaged ELF: its headers have the wrong size")
    if at + entries * PROGRAM_HEADER_SIZE > len(data) or sections_at + sections * SECTION_HEADER_SIZE > len(data):
        raise ElfError("truncated ELF: the file ends before its headers")


def _image(elf: ELFFile, data: bytes) -> Image:
    loads = _loads(elf, data)
    notes = dict(_notes(elf, data))
    pvh = notes.pop(ElfNote.phys32_entry, None)
    pvh_entry = None if pvh is None else int.from_bytes(pvh[:4], "little")
    multiboot = is_multiboot(data)
    symbols = _symbols(elf, data)
    entry = elf.header.e_entry
    if notes or elf.get_section_by_name(LEGACY_SECTION):
        xen = _xen_notes(notes) if notes else _legacy_notes(elf, data)
        offset = xen.virt_base - xen.paddr_offset
        at = tuple(Segment(load.physical + offset, load.data, load.size) for load in loads)
        entry = entry if xen.entry is None else xen.entry
        return Image(at, entry, symbols, (), "elf", xen, multiboot, pvh_entry)
    if multiboot or pvh_entry is not None:
        at = tuple(Segment(load.physical, load.data, load.size) for load in loads)
        return Image(at, _physical(entry, loads), symbols, (), "elf", None, multiboot, pvh_entry)
    at = tuple(Segment(load.linear, load.data, load.size) for load in loads)
    return Image(at, entry, symbols, (), "elf")


def _loads(elf: ELFFile, data: bytes) -> list[_Load]:
    found: list[_Load] = []
    for segment in elf.iter_segments():
        header = segment.header
        if header.p_type in ("PT_INTERP", "PT_DYNAMIC"):
            raise ElfError("not a statically linked executable (it asks for a dynamic linker)")
        if header.p_type != "PT_LOAD" or not header.p_memsz:
            continue
        if header.p_offset + header.p_filesz > len(data):
            raise ElfError("truncated ELF: the file ends inside a segment")
        if header.p_filesz > header.p_memsz:
            raise ElfError("damaged ELF: a segment is longer in the file than in memory")
        bytes_ = data[header.p_offset : header.p_offset + header.p_filesz]
        found.append(_Load(header.p_vaddr, header.p_paddr, bytes_, header.p_memsz))
    if not found:
        raise ElfError("nothing to load (no PT_LOAD segment)")
    return found


def _physical(entry: int, loads: list[_Load]) -> int:
    """A boot loader without paging jumps to where the entry lies in physical memory."""
    for load in loads:
        if load.linear <= entry < load.linear + load.size:
            return entry - load.linear + load.physical
    return entry


def is_multiboot(data: bytes) -> bool:
    """Whether a multiboot header (magic, flags, and a checksum that makes them sum to 0) stands where loaders look."""
    end = min(len(data), MULTIBOOT_SEARCH) - MULTIBOOT_HEADER.size
    for at in range(0, end + 1, 4):
        magic, flags, checksum = MULTIBOOT_HEADER.unpack_from(data, at)
        if magic == MULTIBOOT_MAGIC and not (magic + flags + checksum) & 0xFFFFFFFF:
            return True
    return False


def _symbols(elf: ELFFile, data: bytes) -> dict[str, int]:
    """Names and values of the symbol table; pyelftools would take a second for those of a Linux kernel."""
    table = elf.get_section_by_name(".symtab")
    names = elf.get_section_by_name(".strtab")
    if table is None or names is None:
        return {}
    text = _section_bytes(names, data)
    entries = _section_bytes(table, data)
    found: dict[str, int] = {}
    for name, value, _, info, _, section in SYMBOL.iter_unpack(entries[: len(entries) // SYMBOL.size * SYMBOL.size]):
        if info & 0xF not in (SYMBOL_SECTION, SYMBOL_FILE) and section != SECTION_UNDEFINED:
            found[text[name : text.find(b"\0", name)].decode("utf-8", "replace")] = value
    found.pop("", None)
    return found


def _section_bytes(section: object, data: bytes) -> bytes:
    header = section.header  # type: ignore[attr-defined]
    return b"" if header.sh_type == "SHT_NOBITS" else data[header.sh_offset : header.sh_offset + header.sh_size]


# --- What it says to Xen (public/elfnote.h) ---------------------------------------------------------------------------


def _notes(elf: ELFFile, data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and content of each note of Xen's, by sections and by segments."""
    for section in elf.iter_sections():
        if section.header.sh_type == "SHT_NOTE":
            yield from _notes_in(_section_bytes(section, data))
    for segment in elf.iter_segments():
        if segment.header.p_type == "PT_NOTE":
            start = segment.header.p_offset
            yield from _notes_in(data[start : start + segment.header.p_filesz])


def _notes_in(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + NOTE_HEADER.size <= len(data):
        name_size, size, kind = NOTE_HEADER.unpack_from(data, at)
        name_at = at + NOTE_HEADER.size
        content_at = name_at + (name_size + 3 & ~3)
        if data[name_at : name_at + name_size].rstrip(b"\0") == ELF_NOTE_NAME.encode():
            yield kind, data[content_at : content_at + size]
        at = content_at + (size + 3 & ~3)


def _xen_notes(notes: dict[int, bytes]) -> XenNotes:
    def number(kind: ElfNote) -> int | None:
        return int.from_bytes(notes[kind][:8], "little") if kind in notes else None

    def text(kind: ElfNote) -> str:
        return notes.get(kind, b"").partition(b"\0")[0].decode("utf-8", "replace")

    return XenNotes(
        entry=number(ElfNote.entry),
        hypercall_page=number(ElfNote.hypercall_page),
        virt_base=number(ElfNote.virt_base) or 0,
        paddr_offset=number(ElfNote.paddr_offset) or 0,
        guest_os=text(ElfNote.guest_os),
        xen_version=text(ElfNote.xen_version),
        loader=text(ElfNote.loader),
        features=text(ElfNote.features),
        pae=text(ElfNote.pae_mode) or "no",
    )


def _legacy_notes(elf: ELFFile, data: bytes) -> XenNotes:
    """Two defaults are not those of the notes: PADDR_OFFSET is VIRT_BASE, and HYPERCALL_PAGE counts pages from it."""
    text = _section_bytes(elf.get_section_by_name(LEGACY_SECTION), data).partition(b"\0")[0].decode("utf-8", "replace")
    pairs = {key.strip(): value.strip() for key, _, value in (item.partition("=") for item in text.split(","))}

    def number(key: str) -> int | None:
        return int(pairs[key], 0) if key in pairs else None

    virt_base = number("VIRT_BASE") or 0
    offset, page = number("ELF_PADDR_OFFSET"), number("HYPERCALL_PAGE")
    return XenNotes(
        entry=number("VIRT_ENTRY"),
        hypercall_page=None if page is None else virt_base + (page << LEGACY_PAGE_SHIFT),
        virt_base=virt_base,
        paddr_offset=virt_base if offset is None else offset,
        guest_os=pairs.get("GUEST_OS", ""),
        xen_version=pairs.get("XEN_VER", ""),
        loader=pairs.get("LOADER", ""),
        features=pairs.get("FEATURES", ""),
        pae=pairs.get("PAE", "no"),
    )
