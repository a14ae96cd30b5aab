"""An assembled image beside its source: rows as plain data, and their text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from harness.code.assembler import Assembled
from harness.code.decoder import disassemble
from harness.code.source import SourceLine

BYTES_A_ROW = 8


@dataclass(frozen=True, slots=True)
class Row:
    """One statement's bytes; `text` is what they decode to, empty for data."""

    address: int
    code: bytes
    text: str
    source: SourceLine


def listing(assembled: Assembled) -> Iterator[Row]:
    """The rows of an image in address order."""
    for emitted in assembled.emitted:
        # More than one instruction only for the waiting x87 forms: `fstsw ax` is `wait; fnstsw ax`.
        decoded = disassemble(emitted.address, emitted.code, emitted.bits) if emitted.bits else []
        yield Row(emitted.address, emitted.code, "; ".join(text for _, _, text in decoded), emitted.source)


def render(rows: Iterable[Row]) -> Iterator[str]:
    """The rows as lines of text; long data goes on in lines of its own, a repeated source line is shown once."""
    shown: SourceLine | None = None
    for row in rows:
        source = "" if row.source == shown else f"{row.source}  {row.source.text.strip()}"
        shown = row.source
        yield f"{row.address:08x}  {row.code[:BYTES_A_ROW].hex(' '):23}  {row.text:38}  {source}".rstrip()
        for at in range(BYTES_A_ROW, len(row.code), BYTES_A_ROW):
            yield f"{row.address + at:08x}  {row.code[at : at + BYTES_A_ROW].hex(' ')}"
