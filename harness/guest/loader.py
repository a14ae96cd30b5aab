"""A file to a Guest: assembly source, an ELF kernel, or a flat binary, told apart by content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.domain.image import Image, Line, Segment
from harness.guest.head import Head, parse_head
from harness.guest.model import Guest, GuestError
from harness.guest.shelf import asm_path, name_of

if TYPE_CHECKING:
    from harness.code.assembler import Assembled

LOAD_ADDRESS = 1 << 20
"""Linear, of assembled guests and flat binaries, and where they are entered."""
ENTRY_LABEL = "start"
SOURCE_SUFFIXES = (".asm", ".s", ".inc")
FLAT_SUFFIX = ".bin"
ELF_MAGIC = b"\x7fELF"
LOCAL_PREFIX = ".L"


def load(
    path: Path, *, flat: bool = False, memory: int | None = None, include_path: Sequence[Path] | None = None
) -> Guest:
    """The guest in a file.

    `flat` takes the bytes as they are; `memory` (bytes) replaces what the head says; `include_path` the shipped `asm/`.
    GuestError: one line, `file: reason` or `file:line: reason`. AssemblyError: the source is wrong.
    """
    data = _read(path)
    if flat or (path.suffix == FLAT_SUFFIX and not data.startswith(ELF_MAGIC)):
        guest = _guest(path, None, _flat(data))
    elif data.startswith(ELF_MAGIC):
        guest = _of_elf(path, data)
    else:
        guest = _of_source(path, _text(path, data), (asm_path(),) if include_path is None else tuple(include_path))
    if memory is not None:
        guest = replace(guest, run=replace(guest.run, memory=memory))
    _check_fits(guest)
    return guest


def load_text(text: str, name: str) -> Guest:
    """The guest in a piece of assembly source, which errors call `name`. Raises as `load` does."""
    guest = _of_source(Path(name), text, (asm_path(),))
    _check_fits(guest)
    return guest


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise GuestError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise GuestError(f"{path}: is a directory") from None
    except OSError as error:
        raise GuestError(f"{path}: cannot be read: {error.strerror}") from None
    if not data:
        raise GuestError(f"{path}: the file is empty")
    return data


def _text(path: Path, data: bytes) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise GuestError(f"{path}:{line}: neither an ELF nor UTF-8 text{_hint(path)}") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise GuestError(f"{path}:{line}: a zero byte in what should be source text{_hint(path)}")
    return text


def _hint(path: Path) -> str:
    return "" if path.suffix in SOURCE_SUFFIXES else " (a flat binary needs --flat)"


def _of_elf(path: Path, data: bytes) -> Guest:
    from harness.guest.elf import ElfError, read_elf

    try:
        image = read_elf(data)
    except ElfError as error:
        raise GuestError(f"{path}: {error}") from None
    for_loader = image.xen is None and (image.multiboot or image.pvh_entry is not None)
    return _guest(path, None, image, ("bare",) if for_loader else ("pv",))


def _of_source(path: Path, text: str, include_path: tuple[Path, ...]) -> Guest:
    head = parse_head(text, path)
    from harness.code.assembler import assemble

    image = _assembled(assemble(text, name=str(path), base=LOAD_ADDRESS, include_path=include_path))
    if ENTRY_LABEL not in image.symbols:
        raise GuestError(f"{path}: no label '{ENTRY_LABEL}' to enter at")
    return _guest(path, head, replace(image, entry=image.symbols[ENTRY_LABEL]))


def _assembled(code: Assembled) -> Image:
    """Of the symbols those stay that lie in the image and are not local to a macro: the rest are constants."""
    segment = Segment(code.base, code.code, len(code.code))
    symbols = {
        name: value
        for name, value in code.symbols.items()
        if 0 <= value - code.base <= segment.size and not name.startswith(LOCAL_PREFIX)
    }
    lines = (
        Line(it.address, len(it.code), it.source.path, it.source.line, it.source.text.strip())
        for it in code.emitted
        if it.code
    )
    return Image((segment,), code.base, symbols, tuple(lines), "asm")


def _flat(data: bytes) -> Image:
    return Image((Segment(LOAD_ADDRESS, data, len(data)),), LOAD_ADDRESS)


def _guest(path: Path, head: Head | None, image: Image, modes: tuple[str, ...] = ("pv",)) -> Guest:
    said = head or Head(modes=modes)
    name = name_of(path)
    return Guest(name, path, said.title or name, said.modes, said.run, said.expect, image, head is not None)


def _check_fits(guest: Guest) -> None:
    """RAM is linear from VIRT_BASE, which is 0 but for a kernel that says otherwise."""
    memory, base = guest.run.memory, guest.image.xen.virt_base if guest.image.xen else 0
    start, end = guest.image.start - base, guest.image.end - base
    if start < 0:
        raise GuestError(f"{guest.path}: starts at {guest.image.start:#x}, below the start of RAM")
    if end > memory:
        raise GuestError(f"{guest.path}: ends {end >> 10} KiB into RAM, which has {memory >> 10} KiB")
