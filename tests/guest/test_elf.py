"""ELF kernels: what is taken from a good one, and a reason for each bad one. The files are built by elf_writer."""

from __future__ import annotations

import contextlib
import random
import struct

import pytest
from elf_writer import (
    PT_DYNAMIC,
    PT_INTERP,
    PT_NOTE,
    SHT_NOTE,
    SHT_PROGBITS,
    Elf,
    multiboot_header,
    note,
    number,
)

from harness.abi.xen import ElfNote
from harness.domain.image import Segment, XenNotes
from harness.guest.elf import ElfError, is_multiboot, read_elf

CODE = b"\x90\x90\xf4"
DYNAMIC = "not a statically linked executable (it asks for a dynamic linker)"


def plain() -> Elf:
    return Elf(entry=0x100001).load(0x100000, CODE, size=0x2000)


def test_plain_kernel() -> None:
    image = read_elf(bytes(plain()))
    assert image.segments == (Segment(0x100000, CODE, 0x2000),)
    assert (image.entry, image.format) == (0x100001, "elf")
    assert (image.xen, image.multiboot, image.pvh_entry) == (None, False, None)
    assert (image.start, image.end) == (0x100000, 0x102000)


def test_symbols() -> None:
    elf = plain()
    elf.symbols = {"_start": 0x100000, "main": 0x100001}
    assert read_elf(bytes(elf)).symbols == {"_start": 0x100000, "main": 0x100001}


def test_empty_segments_are_left_out() -> None:
    elf = plain().load(0, b"", size=0)
    assert len(read_elf(bytes(elf)).segments) == 1


XEN_NOTES = (
    note(ElfNote.xen_version, b"xen-3.0\0")
    + note(ElfNote.guest_os, b"tiny\0")
    + note(3, b"GNU's own", name=b"GNU\0")
    + note(ElfNote.loader, b"generic\0")
    + note(ElfNote.hypercall_page, number(0x101000))
    + note(ElfNote.features, b"!writable_page_tables\0")
    + note(ElfNote.pae_mode, b"yes\0")
)


@pytest.mark.parametrize("as_section", [True, False])
def test_xen_notes(as_section: bool) -> None:
    elf = plain()
    elf = elf.section(".note.Xen", SHT_NOTE, XEN_NOTES) if as_section else elf.segment(PT_NOTE, XEN_NOTES)
    image = read_elf(bytes(elf))
    assert image.xen == XenNotes(
        hypercall_page=0x101000,
        guest_os="tiny",
        xen_version="xen-3.0",
        loader="generic",
        features="!writable_page_tables",
        pae="yes",
    )
    assert image.entry == 0x100001
    assert image.start == 0x100000


def test_xen_kernel_is_placed_by_its_physical_address() -> None:
    # p_paddr - PADDR_OFFSET + VIRT_BASE (elfnote.h); here a kernel linked high whose p_paddr is pseudo-physical
    notes = note(ElfNote.virt_base, number(0xC0000000)) + note(ElfNote.entry, number(0xC0100002))
    elf = Elf(entry=1).load(0xC0100000, CODE, physical=0x100000).section(".notes", SHT_NOTE, notes)
    image = read_elf(bytes(elf))
    assert image.start == 0xC0100000
    assert image.entry == 0xC0100002


def test_xen_kernel_with_an_offset_in_its_physical_addresses() -> None:
    notes = note(ElfNote.virt_base, number(0xC0000000)) + note(ElfNote.paddr_offset, number(0xC0000000))
    elf = Elf().load(0xC0100000, CODE).section(".notes", SHT_NOTE, notes)
    assert read_elf(bytes(elf)).start == 0xC0100000


def test_legacy_section() -> None:
    text = b"GUEST_OS=Mini-OS,XEN_VER=xen-3.0,VIRT_BASE=0xC0000000,HYPERCALL_PAGE=0x2,PAE=no,LOADER=generic\0"
    elf = Elf(entry=0xC0000000).load(0xC0000000, CODE).section("__xen_guest", SHT_PROGBITS, text)
    image = read_elf(bytes(elf))
    assert image.xen == XenNotes(
        hypercall_page=0xC0002000,
        virt_base=0xC0000000,
        paddr_offset=0xC0000000,  # the legacy default is VIRT_BASE
        guest_os="Mini-OS",
        xen_version="xen-3.0",
        loader="generic",
    )
    assert image.start == image.entry == 0xC0000000


def test_legacy_section_with_all_keys() -> None:
    text = b"VIRT_BASE=0xC0000000,ELF_PADDR_OFFSET=0,VIRT_ENTRY=0xC0000001,FEATURES=x|y,PAE=yes"
    elf = Elf().load(0xC0000000, CODE, physical=0).section("__xen_guest", SHT_PROGBITS, text)
    image = read_elf(bytes(elf))
    assert image.xen is not None
    assert (image.xen.paddr_offset, image.xen.features, image.xen.pae) == (0, "x|y", "yes")
    assert (image.start, image.entry) == (0xC0000000, 0xC0000001)


def test_legacy_section_that_makes_no_sense() -> None:
    elf = plain().section("__xen_guest", SHT_PROGBITS, b"VIRT_BASE=high")
    with pytest.raises(ElfError, match=r"damaged ELF: .*'high'"):
        read_elf(bytes(elf))


def test_multiboot_kernel_is_placed_and_entered_by_physical_addresses() -> None:
    elf = Elf(entry=0xC0400004).load(0xC0400000, multiboot_header() + CODE, physical=0x400000)
    image = read_elf(bytes(elf))
    assert image.multiboot
    assert image.xen is None
    assert (image.start, image.entry) == (0x400000, 0x400004)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (multiboot_header(), True),
        (b"\0" * 4 + multiboot_header(), True),
        (b"\0" * 2 + multiboot_header(), False),
        (b"\0" * (8192 - 12) + multiboot_header(), True),
        (b"\0" * (8192 - 8) + multiboot_header(), False),
        (multiboot_header()[:8] + b"\0" * 4, False),
        (multiboot_header()[:8], False),
        (b"", False),
    ],
)
def test_multiboot_header(data: bytes, found: bool) -> None:
    assert is_multiboot(data) is found


def test_pvh_note_alone_does_not_speak_to_the_domain_builder() -> None:
    elf = plain().section(".note", SHT_NOTE, note(ElfNote.phys32_entry, number(0x100002)))
    image = read_elf(bytes(elf))
    assert (image.pvh_entry, image.xen) == (0x100002, None)


def test_pvh_note_among_others() -> None:
    elf = plain().section(".note", SHT_NOTE, XEN_NOTES + note(ElfNote.phys32_entry, struct.pack("<Q", 0x100002)))
    image = read_elf(bytes(elf))
    assert image.pvh_entry == 0x100002
    assert image.xen is not None


@pytest.mark.parametrize(
    ("elf", "reason"),
    [
        (Elf(bits=2), "not a 32-bit ELF"),
        (Elf(order=2), "not a little-endian ELF"),
        (Elf(machine=62), "an ELF for another machine (e_machine 62, i386 is 3)"),
        (Elf(kind=1), "not a statically linked executable (e_type 1)"),
        (Elf(kind=3), "not a statically linked executable (e_type 3)"),
        (Elf(), "nothing to load (no PT_LOAD segment)"),
        (plain().segment(PT_INTERP, b"/lib/ld.so\0"), DYNAMIC),
        (plain().segment(PT_DYNAMIC, b""), DYNAMIC),
        (Elf().load(0, CODE, size=1), "damaged ELF: a segment is longer in the file than in memory"),
    ],
)
def test_refused(elf: Elf, reason: str) -> None:
    with pytest.raises(ElfError) as caught:
        read_elf(bytes(elf))
    assert str(caught.value) == reason


def test_every_truncation_is_noticed() -> None:
    whole = bytes(plain())
    for length in range(4, len(whole)):
        with pytest.raises(ElfError, match="truncated ELF"):
            read_elf(whole[:length])


def test_a_segment_beyond_the_end_of_the_file() -> None:
    whole = bytearray(bytes(plain()))
    struct.pack_into("<I", whole, 52 + 16, 1 << 20)  # p_filesz
    struct.pack_into("<I", whole, 52 + 20, 1 << 20)  # p_memsz
    with pytest.raises(ElfError, match="truncated ELF: the file ends inside a segment"):
        read_elf(bytes(whole))


def test_wrong_header_sizes() -> None:
    whole = bytearray(bytes(plain()))
    struct.pack_into("<H", whole, 42, 56)  # e_phentsize
    with pytest.raises(ElfError, match="damaged ELF: its headers have the wrong size"):
        read_elf(bytes(whole))


@pytest.mark.parametrize("seed", range(300))
def test_damage_gives_an_image_or_a_reason(seed: int) -> None:
    elf = plain().section(".note.Xen", SHT_NOTE, XEN_NOTES).segment(PT_NOTE, XEN_NOTES)
    elf.symbols = {"_start": 0x100000}
    chance = random.Random(seed)
    damaged = bytearray(bytes(elf))
    for _ in range(chance.randint(1, 12)):
        damaged[chance.randrange(16, len(damaged))] = chance.choice((0, 1, 0x7F, 0xFF, chance.randrange(256)))
    # Anything but ElfError escapes and fails the test.
    with contextlib.suppress(ElfError):
        assert read_elf(bytes(damaged)).segments
