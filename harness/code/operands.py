"""Operands in Intel syntax, as written in a source and as capstone prints them: one reader serves both.

Being read by the same code is what makes a source line and the decoded bytes comparable (see `verify`).
A bare name is its value (`mov eax, table` loads the address); memory is always in brackets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from harness.code.expression import (
    ZERO,
    Binary,
    Expression,
    ExpressionError,
    Lookup,
    Number,
    Symbol,
    Unary,
    evaluate,
    parse_expression,
)

SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs")
ES, CS, SS, DS, FS, GS = range(6)

SIZES = {
    "byte": 8,
    "word": 16,
    "dword": 32,
    "fword": 48,
    "pword": 48,
    "qword": 64,
    "mmword": 64,
    "tbyte": 80,
    "tword": 80,
    "xword": 80,
    "oword": 128,
    "xmmword": 128,
    "ymmword": 256,
}
DISTANCES = ("short", "near", "far")
# The words that keystone understands, by size in bits ("fword" and "tbyte" it knows only as these).
SIZE_WORDS = {8: "byte", 16: "word", 32: "dword", 48: "fword", 64: "qword", 80: "xword", 128: "xmmword", 256: "ymmword"}


class Register(NamedTuple):
    """`kind` is gpr, seg, cr, dr, st, mm, xmm or ymm; `size` in bits; `number` as in ModRM (AH is 4)."""

    name: str
    kind: str
    size: int
    number: int


def _registers() -> dict[str, Register]:
    low8 = ("al", "cl", "dl", "bl", "ah", "ch", "dh", "bh")
    words = ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di")
    rows = [(n, "gpr", 8, i) for i, n in enumerate(low8)]
    rows += [(n, "gpr", 8, i + 4) for i, n in enumerate(("spl", "bpl", "sil", "dil"))]
    for i, n in enumerate(words):
        rows += [(n, "gpr", 16, i), ("e" + n, "gpr", 32, i), ("r" + n, "gpr", 64, i)]
    for i in range(8, 16):
        rows += [(f"r{i}{suffix}", "gpr", size, i) for suffix, size in (("b", 8), ("w", 16), ("d", 32), ("", 64))]
    rows += [(n, "seg", 16, i) for i, n in enumerate(SEGMENTS)]
    rows += [("st", "st", 80, 0)]
    for i in range(16):
        rows += [(f"cr{i}", "cr", 0, i), (f"dr{i}", "dr", 0, i), (f"xmm{i}", "xmm", 128, i), (f"ymm{i}", "ymm", 256, i)]
    for i in range(8):
        rows += [(f"st({i})", "st", 80, i), (f"st{i}", "st", 80, i), (f"mm{i}", "mm", 64, i)]
    return {
        name: Register(f"st({number})" if kind == "st" else name, kind, size, number)
        for name, kind, size, number in rows
    }


REGISTERS = _registers()


class WrittenImmediate(NamedTuple):
    value: Expression
    size: int | None
    distance: str | None


@dataclass(frozen=True, slots=True)
class WrittenMemory:
    size: int | None
    segment: int | None
    base: Register | None
    index: Register | None
    scale: Expression
    displacement: Expression
    distance: str | None


class WrittenFar(NamedTuple):
    selector: Expression
    offset: Expression
    size: int | None


Term = tuple[Register, Expression | None]
Written = Register | WrittenImmediate | WrittenMemory | WrittenFar


class Immediate(NamedTuple):
    """A number, unbounded and signed; `size` in bits if the source said one (`push word 5`)."""

    value: int
    size: int | None = None
    distance: str | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """`size` in bits or None where the text gives none; `segment` only if overridden."""

    size: int | None
    segment: int | None
    base: Register | None
    index: Register | None
    scale: int
    displacement: int
    distance: str | None = None


# Not a named tuple, which would be equal to an Immediate of the same numbers (and Memory has an `index` of its own).
@dataclass(frozen=True, slots=True)
class FarPointer:
    """`size` of the offset in bits, if the source said one (`jmp dword 8:entry` in 16-bit code)."""

    selector: int
    offset: int
    size: int | None = None


Operand = Register | Immediate | Memory | FarPointer

_QUALIFIER = re.compile(rf"({'|'.join((*SIZES, *DISTANCES, 'ptr'))})(?=[\s\[])\s*", re.IGNORECASE)
_SEGMENT = re.compile(rf"({'|'.join(SEGMENTS)})\s*:\s*", re.IGNORECASE)
_INNER_SEGMENT = re.compile(rf"\[\s*({'|'.join(SEGMENTS)})\s*:", re.IGNORECASE)
_FAR = re.compile(r"([^':]+):(.+)")
_BRACKETS = str.maketrans({"[": "+(", "]": ")"})


@lru_cache(maxsize=8192)
def parse_operand(text: str) -> Written:
    """One operand. Raises ExpressionError when it cannot be read."""
    rest, size, distance, pointer = text.strip(), None, None, False
    if rest in REGISTERS:
        return REGISTERS[rest]
    while match := _QUALIFIER.match(rest):
        word = match[1].lower()
        size = SIZES.get(word, size)
        distance = word if word in DISTANCES else distance
        pointer |= word == "ptr"
        rest = rest[match.end() :]
    register = REGISTERS.get(rest.lower().replace(" ", ""))
    if register is not None:
        return register
    segment = None
    if match := _SEGMENT.match(rest):
        segment, rest = SEGMENTS.index(match[1].lower()), rest[match.end() :]
    elif match := _INNER_SEGMENT.match(rest):
        segment, rest = SEGMENTS.index(match[1].lower()), "[" + rest[match.end() :]
    if "[" in rest or segment is not None:
        return _memory(rest, size, segment, distance)
    if match := _FAR.fullmatch(rest):
        return WrittenFar(parse_expression(match[1]), parse_expression(match[2]), size)
    if pointer and distance is None:
        raise ExpressionError(f"memory operands are written in brackets: '{text.strip()}'")
    return WrittenImmediate(parse_expression(rest), size, distance)


def _memory(text: str, size: int | None, segment: int | None, distance: str | None) -> WrittenMemory:
    if text.count("[") != text.count("]"):
        raise ExpressionError(f"unbalanced brackets in '{text}'")
    try:
        terms, displacement = _linear(parse_expression(text.translate(_BRACKETS)))
    except ExpressionError:
        raise ExpressionError(f"cannot read the memory operand '{text}'") from None
    base, index, scale = _base_and_index([(register, None if f == Number(1) else f) for register, f in terms], text)
    return WrittenMemory(size, segment, base, index, scale, displacement, distance)


def _base_and_index(terms: list[Term], text: str) -> tuple[Register | None, Register | None, Expression]:
    """The first register without a factor is the base, but ESP is never an index (SDM2 table 2-3)."""
    plain = [register for register, factor in terms if factor is None]
    scaled = [(register, factor) for register, factor in terms if factor is not None]
    if len(terms) > 2 or len(scaled) > 1:
        raise ExpressionError(f"no address has the registers of '{text}'")
    if len(plain) == 2:
        base, index = plain if plain[1].name not in ("esp", "rsp") else plain[::-1]
        return base, index, Number(1)
    base_only = plain[0] if plain else None
    return (base_only, *scaled[0]) if scaled else (base_only, None, Number(1))


def _linear(tree: Expression) -> tuple[list[Term], Expression]:
    """Registers with their factors, and what is left of the sum."""
    match tree:
        case Symbol(name) if name.lower() in REGISTERS:
            return [(REGISTERS[name.lower()], None)], ZERO
        case Unary("+", operand):
            return _linear(operand)
        case Binary("+", left, right):
            (left_terms, left_rest), (right_terms, right_rest) = _linear(left), _linear(right)
            return left_terms + right_terms, _sum(left_rest, right_rest)
        case Binary("-", left, right):
            terms, rest = _linear(left)
            return terms, Binary("-", rest, right)
        case Binary("*", Symbol(name), factor) if name.lower() in REGISTERS:
            return [(REGISTERS[name.lower()], factor)], ZERO
        case Binary("*", factor, Symbol(name)) if name.lower() in REGISTERS:
            return [(REGISTERS[name.lower()], factor)], ZERO
        case _:
            return [], tree


def _sum(left: Expression, right: Expression) -> Expression:
    if left == ZERO:
        return right
    return left if right == ZERO else Binary("+", left, right)


def resolve(operand: Written, lookup: Lookup) -> Operand:
    """`operand` with numbers for names. Raises ExpressionError."""
    match operand:
        case Register():
            return operand
        case WrittenImmediate(value, size, distance):
            return Immediate(evaluate(value, lookup), size, distance)
        case WrittenFar(selector, offset, size):
            return FarPointer(evaluate(selector, lookup), evaluate(offset, lookup), size)
        case _:
            return _resolve_memory(operand, lookup)


def _resolve_memory(memory: WrittenMemory, lookup: Lookup) -> Memory:
    scale = evaluate(memory.scale, lookup)
    if scale not in (1, 2, 4, 8):
        raise ExpressionError(f"a scale is 1, 2, 4 or 8, not {scale}")
    displacement = evaluate(memory.displacement, lookup)
    return Memory(memory.size, memory.segment, memory.base, memory.index, scale, displacement, memory.distance)


def default_segment(memory: Memory) -> int:
    """SS if the base is a stack register or the address has BP, else DS (SDM1, default segment selection rules)."""
    on_stack = memory.base is not None and memory.base.name in ("esp", "ebp", "bp", "rsp", "rbp")
    return SS if on_stack or (memory.index is not None and memory.index.name == "bp") else DS


def effective_segment(memory: Memory) -> int:
    """The number of the segment register that the access goes through."""
    return default_segment(memory) if memory.segment is None else memory.segment


def address_size(memory: Memory) -> int | None:
    """Bits of the effective address, as its registers say; None without registers."""
    register = memory.base or memory.index
    return None if register is None else register.size


def render(operand: Operand) -> str:
    """`operand` as keystone reads it."""
    match operand:
        case Register(name):
            return name
        case Immediate(value, size):
            return f"{SIZE_WORDS[size]} {value}" if size else str(value)
        case FarPointer(selector, offset):
            return f"{selector}:{offset}"
        case _:
            return _render_memory(operand)


def _render_memory(memory: Memory) -> str:
    terms = [memory.base.name] if memory.base else []
    if memory.index:
        terms.append(f"{memory.index.name}*{memory.scale}")
    place = "+".join(terms) + f"{memory.displacement:+d}" if terms else str(memory.displacement)
    word = f"{SIZE_WORDS[memory.size]} ptr " if memory.size else ""
    segment = SEGMENTS[memory.segment] + ":" if memory.segment is not None else ""
    return f"{word}{segment}[{place}]"
