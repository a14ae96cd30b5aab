"""From a file to a guest, and one clear line for every file that is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from elf_writer import SHT_NOTE, SHT_PROGBITS, Elf, multiboot_header, note, number

from harness.abi.xen import ElfNote
from harness.code.assembler import AssemblyError
from harness.domain.image import Segment
from harness.domain.record import Verdict
from harness.guest import GuestError, load
from harness.guest.model import MODES, Expectation, Guest, RunOptions

HELLO = """\
; ---
; title = "Hello"
; modes = ["pv", "bare"]
; [expect]
; console = "hi"
; [expect.bare]
; verdict = "failure"
; ---
.set constant, 5
data: .byte constant
start:
    nop
    .rept 2
    hlt
    .endr
"""


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def error_of(path: Path, **options: object) -> str:
    with pytest.raises(GuestError) as caught:
        load(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(str(path))


# --- Sources


def test_source_with_a_head(tmp_path: Path) -> None:
    guest = load(written(tmp_path, "010-hello.asm", HELLO))
    assert (guest.name, guest.title, guest.modes, guest.has_head) == ("hello", "Hello", ("pv", "bare"), True)
    assert guest.expect["pv"] == Expectation(console="hi")
    assert guest.expect["bare"] == Expectation(Verdict.FAILURE, console="hi")
    assert guest.run == RunOptions()


def test_source_is_assembled_at_one_mebibyte_and_entered_at_start(tmp_path: Path) -> None:
    image = load(written(tmp_path, "a.asm", HELLO)).image
    assert image.segments == (Segment(0x100000, b"\x05\x90\xf4\xf4", 4),)
    assert (image.entry, image.format) == (0x100001, "asm")
    assert image.symbols == {"data": 0x100000, "start": 0x100001}


def test_source_lines(tmp_path: Path) -> None:
    path = written(tmp_path, "a.asm", HELLO)
    line = load(path).image.line_at(0x100001)
    assert line is not None
    assert (line.path, line.line, line.text) == (str(path), 12, "nop")


def test_labels_of_macros_are_no_symbols(tmp_path: Path) -> None:
    image = load(written(tmp_path, "a.asm", "start: nop\n.Lhidden: nop\n")).image
    assert image.symbols == {"start": 0x100000}
    assert image.symbol_at(0x100001) == "start+0x1"


@pytest.mark.parametrize("name", ["a.asm", "a.s", "a.txt", "a"])
def test_source_without_a_head_runs_in_pv(tmp_path: Path, name: str) -> None:
    guest = load(written(tmp_path, name, "start: hlt\n"))
    assert (guest.modes, guest.has_head, guest.title) == (("pv",), False, "a")
    assert set(guest.expect) == set(MODES)
    assert guest.expect["pv"] == Expectation()


def test_byte_order_mark_does_not_hide_the_head(tmp_path: Path) -> None:
    assert load(written(tmp_path, "a.asm", "\ufeff" + HELLO)).has_head


def test_include_from_the_shipped_folder_and_from_a_given_one(tmp_path: Path) -> None:
    path = written(tmp_path, "a.asm", '.include "xen.inc"\nstart: shutdown poweroff\n')
    assert b"\xcd\x82" in load(path).image.segments[0].data
    with pytest.raises(AssemblyError, match=r"no file 'xen\.inc'"):
        load(path, include_path=())


def test_bad_assembly_passes_with_its_own_line(tmp_path: Path) -> None:
    written(tmp_path, "part.inc", "nop\nfrobnicate eax\n")
    path = written(tmp_path, "a.asm", 'start:\n.include "part.inc"\n')
    with pytest.raises(AssemblyError, match=r"part\.inc:2: "):
        load(path)


def test_no_entry(tmp_path: Path) -> None:
    assert error_of(written(tmp_path, "a.asm", "begin: hlt\n")) == ": no label 'start' to enter at"


def test_entry_must_lie_in_the_image(tmp_path: Path) -> None:
    assert error_of(written(tmp_path, "a.asm", ".set start, 5\nhlt\n")) == ": no label 'start' to enter at"


def test_bad_head(tmp_path: Path) -> None:
    text = '; ---\n; title = "x"\n; mode = "pv"\n; ---\nstart: hlt\n'
    assert error_of(written(tmp_path, "a.asm", text)).startswith(":3: unknown key 'mode'")


@pytest.mark.parametrize(
    ("name", "hint"), [("a.asm", ""), ("a.s", ""), ("kernel", " (a flat binary needs --flat)")]
)
def test_not_text(tmp_path: Path, name: str, hint: str) -> None:
    assert error_of(written(tmp_path, name, b"nop\n\xff\n")) == f":2: neither an ELF nor UTF-8 text{hint}"
    expected = f":3: a zero byte in what should be source text{hint}"
    assert error_of(written(tmp_path, name, b"nop\n\n\0\n")) == expected


# --- Files


def test_missing_file(tmp_path: Path) -> None:
    assert error_of(tmp_path / "absent.asm") == ": no such file"


def test_directory(tmp_path: Path) -> None:
    assert error_of(tmp_path) == ": is a directory"


@pytest.mark.parametrize("name", ["a.asm", "a.bin", "a.elf"])
def test_empty_file(tmp_path: Path, name: str) -> None:
    assert error_of(written(tmp_path, name, b"")) == ": the file is empty"


def test_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert error_of(tmp_path / "a.asm") == ": cannot be read: Permission denied"


def test_path_through_a_file(tmp_path: Path) -> None:
    assert error_of(written(tmp_path, "a.asm", "x") / "b.asm") == ": cannot be read: Not a directory"


# --- Flat binaries


@pytest.mark.parametrize(("name", "flat"), [("a.bin", False), ("a.bin", True), ("a", True), ("a.asm", True)])
def test_flat_binary(tmp_path: Path, name: str, flat: bool) -> None:
    guest = load(written(tmp_path, name, b"\xf4\x00\xff"), flat=flat)
    assert guest.image.segments == (Segment(0x100000, b"\xf4\x00\xff", 3),)
    assert (guest.image.entry, guest.image.format, guest.modes) == (0x100000, "flat", ("pv",))


def test_an_elf_taken_as_flat(tmp_path: Path) -> None:
    path = written(tmp_path, "a.bin", bytes(Elf().load(0x100000, b"\xf4")))
    assert load(path).image.format == "elf"
    assert load(path, flat=True).image.format == "flat"


# --- ELF

PVH = note(ElfNote.phys32_entry, number(0x100000))
XEN = note(ElfNote.guest_os, b"x\0")


def elf() -> Elf:
    return Elf().load(0x100000, b"\xf4")


@pytest.mark.parametrize(
    ("kernel", "mode"),
    [
        (elf(), "pv"),
        (elf().section("n", SHT_NOTE, XEN), "pv"),
        (elf().section("n", SHT_NOTE, XEN + PVH), "pv"),
        (elf().section("__xen_guest", SHT_PROGBITS, b"LOADER=generic"), "pv"),
        (elf().section("n", SHT_NOTE, PVH), "bare"),
        (elf().load(0x101000, multiboot_header()), "bare"),
        (elf().load(0x101000, multiboot_header()).section("n", SHT_NOTE, XEN), "pv"),
    ],
)
def test_mode_of_an_elf_by_its_content(tmp_path: Path, kernel: Elf, mode: str) -> None:
    guest = load(written(tmp_path, "kernel", bytes(kernel)))
    assert (guest.modes, guest.has_head, guest.name) == ((mode,), False, "kernel")


def test_bad_elf(tmp_path: Path) -> None:
    path = written(tmp_path, "kernel.elf", bytes(Elf(machine=40).load(0, b"x")))
    assert error_of(path) == ": an ELF for another machine (e_machine 40, i386 is 3)"


# --- RAM


def test_code_larger_than_ram(tmp_path: Path) -> None:
    path = written(tmp_path, "a.asm", '; ---\n; run.memory = "2M"\n; ---\nstart: .space 0x100001\n')
    assert error_of(path) == ": ends 2048 KiB into RAM, which has 2048 KiB"
    assert load(path, memory=4 << 20).run.memory == 4 << 20


def test_code_that_fills_ram(tmp_path: Path) -> None:
    guest = load(written(tmp_path, "a.asm", '; ---\n; run.memory = "2M"\n; ---\nstart: .space 0x100000\n'))
    assert guest.image.end == guest.run.memory


def test_memory_asked_for_outside_counts(tmp_path: Path) -> None:
    path = written(tmp_path, "a.asm", "start: .space 0x200000\n")
    assert error_of(path, memory=2 << 20) == ": ends 3072 KiB into RAM, which has 2048 KiB"


def test_bss_counts(tmp_path: Path) -> None:
    path = written(tmp_path, "k", bytes(Elf().load(0x100000, b"\xf4", size=16 << 20)))
    assert error_of(path) == ": ends 17408 KiB into RAM, which has 16384 KiB"


def test_ram_of_a_kernel_with_a_base(tmp_path: Path) -> None:
    notes = note(ElfNote.virt_base, number(0xC0000000))
    high = Elf(entry=0xC0100000).load(0xC0100000, b"\xf4", physical=0x100000)
    guest: Guest = load(written(tmp_path, "high", bytes(high.section("n", SHT_NOTE, notes))))
    assert guest.image.start == 0xC0100000


def test_below_ram(tmp_path: Path) -> None:
    notes = note(ElfNote.paddr_offset, number(0x200000))
    path = written(tmp_path, "low", bytes(elf().section("n", SHT_NOTE, notes)))
    assert error_of(path) == ": starts at -0x100000, below the start of RAM"
