"""One written instruction: prefixes, mnemonic, operands. What the source asks for, before any byte exists."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from harness.code.expression import Lookup
from harness.code.fields import ADDRESS, DATA, LOCK, REP, REPNE, SEGMENT_PREFIXES
from harness.code.operands import (
    SEGMENTS,
    FarPointer,
    Immediate,
    Memory,
    Operand,
    Written,
    parse_operand,
    render,
    resolve,
)

# A prefix word and its byte; sizes say which size they ask for, since the byte only toggles the mode's own.
PREFIX_WORDS = {"lock": LOCK, "rep": REP, "repe": REP, "repz": REP, "repne": REPNE, "repnz": REPNE} | {
    SEGMENTS[number]: byte for byte, number in SEGMENT_PREFIXES.items()
}
SIZE_PREFIXES = {
    "o16": (DATA, 16),
    "data16": (DATA, 16),
    "o32": (DATA, 32),
    "data32": (DATA, 32),
    "a16": (ADDRESS, 16),
    "addr16": (ADDRESS, 16),
    "a32": (ADDRESS, 32),
    "addr32": (ADDRESS, 32),
}

FAR_NAMES = {"jmp": "ljmp", "ljmp": "ljmp", "call": "lcall", "lcall": "lcall"}

_STRUCTURE = re.compile(r""""(?:\\.|[^"\\])*"|'(?:\\x[0-9a-fA-F]{2}|\\.|[^\\'])'|[,()\[\]]""")
_WORD = re.compile(r"\s*([A-Za-z_][\w.]*)\s*")


class WrittenInstruction(NamedTuple):
    """`prefixes` are lower-case words as written; `mnemonic` is lower-case."""

    prefixes: tuple[str, ...]
    mnemonic: str
    operands: tuple[Written, ...]


class Asked(NamedTuple):
    """An instruction with numbers for names, in a mode of `bits`; equal values have equal bytes."""

    bits: int
    prefixes: tuple[str, ...]
    mnemonic: str
    operands: tuple[Operand, ...]

    def text(self) -> str:
        """The instruction without its prefixes, as keystone reads it."""
        return f"{self.mnemonic} {', '.join(map(render, self.operands))}".rstrip()

    def prefix_bytes(self) -> bytes:
        """The bytes that the prefix words ask for; a size word that names the mode's own size asks for none."""
        found = bytearray()
        for word in self.prefixes:
            if word in PREFIX_WORDS:
                found.append(PREFIX_WORDS[word])
            else:
                byte, size = SIZE_PREFIXES[word]
                if size != (self.bits if byte == ADDRESS else min(self.bits, 32)):
                    found.append(byte)
        return bytes(found)


def implied_size(asked: Asked) -> int | None:
    """The operand size that a size word asks for and decoded text does not show, in bits.

    `push word 5`, `jmp dword 8:entry`, `jmp fword ptr [eax]` (16:32), `jmp far dword ptr [eax]` (16:16); in 16-bit code
    also CWDE and CDQ, which capstone misprints.
    """
    match asked.operands:
        case () if asked.mnemonic in ("cwde", "cdq"):
            return 32
        case (FarPointer(size=size),):
            return size
        case (Immediate(size=16 | 32 as size),) if asked.mnemonic == "push":
            return size
        case (Memory(size=size, distance=distance),) if asked.mnemonic in FAR_NAMES:
            is_far = distance == "far" or size == 48 or asked.mnemonic[0] == "l"
            return {48: 32, 32: 16}.get(size or 0) if is_far else None
    return None


def split_operands(text: str) -> list[str]:
    """The parts between commas, but not those inside quotes, brackets or parentheses; an empty text has no part."""
    if not text or text.isspace():
        return []
    if "," not in text:
        return [text.strip()]
    parts, start, depth = [], 0, 0
    for match in _STRUCTURE.finditer(text):
        mark = match[0]
        if mark in ("(", "["):
            depth += 1
        elif mark in (")", "]"):
            depth -= 1
        elif mark == "," and depth <= 0:
            parts.append(text[start : match.start()].strip())
            start = match.end()
    parts.append(text[start:].strip())
    return parts


@lru_cache(maxsize=8192)
def parse_instruction(text: str) -> WrittenInstruction:
    """The instruction in `text`, which begins with a word. Raises ExpressionError."""
    prefixes, rest = [], text
    while match := _WORD.match(rest):
        word = match[1].lower()
        is_segment_prefix = word in PREFIX_WORDS and not rest[match.end() :].startswith(":")
        if not (is_segment_prefix or word in SIZE_PREFIXES) or match.end() == len(rest):
            break
        prefixes.append(word)
        rest = rest[match.end() :]
    name, *operands = rest.split(None, 1)
    parts = split_operands(operands[0]) if operands else []
    return WrittenInstruction(tuple(prefixes), name.lower(), tuple(map(parse_operand, parts)))


def ask(written: WrittenInstruction, bits: int, lookup: Lookup) -> Asked:
    """`written` with numbers for names. Raises ExpressionError."""
    return Asked(bits, written.prefixes, written.mnemonic, tuple(resolve(o, lookup) for o in written.operands))
