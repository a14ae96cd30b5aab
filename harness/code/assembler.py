"""Assembly text to bytes, symbols and where each byte came from.

Intel syntax, one statement a line: `macros` expands the text, `layout` gives addresses, `encoder` asks keystone for
instructions and lets none out that does not say what was asked (`verify`). A bare name is its value, memory is in
brackets: `mov eax, table` and `mov eax, offset table` load the address, `mov eax, [table]` the word there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.code.layout import lay_out
from harness.code.macros import LOCAL_MARK, expand
from harness.code.source import AssemblyError, SourceLine, lines_of, read_source

__all__ = ["Assembled", "AssemblyError", "Emitted", "SourceLine", "assemble", "assemble_file"]


@dataclass(frozen=True, slots=True)
class Emitted:
    """The bytes of one statement; within a macro, `source` is the line that called it (the outermost one).

    `bits` is the mode that an instruction was written for, None for data.
    """

    address: int
    code: bytes
    source: SourceLine
    bits: int | None


@dataclass(frozen=True, slots=True)
class Assembled:
    """An image for linear address `base`; `symbols` are labels and `.set` names, `emitted` is in address order."""

    base: int
    code: bytes
    symbols: dict[str, int]
    emitted: tuple[Emitted, ...]


def assemble(
    text: str,
    *,
    name: str = "<text>",
    base: int = 0x100000,
    bits: int = 32,
    include_path: Sequence[Path] = (),
) -> Assembled:
    """Assembles `text`, which errors call `name`; it begins in a mode of `bits` (16, 32, 64). Raises AssemblyError."""
    return _assemble(lines_of(text, name), base, bits, include_path)


def assemble_file(path: Path, *, base: int = 0x100000, bits: int = 32, include_path: Sequence[Path] = ()) -> Assembled:
    """As `assemble`; `.include` looks beside the including file, then in `include_path`.

    Raises AssemblyError for what the file says, OSError or UnicodeDecodeError if `path` cannot be read.
    """
    return _assemble(read_source(path), base, bits, include_path)


def _assemble(lines: Sequence[SourceLine], base: int, bits: int, include_path: Sequence[Path]) -> Assembled:
    if bits not in (16, 32, 64):
        raise ValueError(f"bits is 16, 32 or 64, not {bits}")
    placed, values = lay_out(expand(lines, include_path), base, bits)
    return Assembled(
        base,
        b"".join(piece.code for piece in placed),
        {name: value for name, value in values.items() if LOCAL_MARK not in name},
        tuple(Emitted(piece.address, piece.code, piece.statement.origin(), piece.bits) for piece in placed),
    )
