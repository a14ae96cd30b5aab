"""Directives that emit bytes, one row each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from harness.code.expression import ESCAPES, ExpressionError

LARGEST = 1 << 26  # bytes that one directive may emit
NOP = 0x90


class Place(Protocol):
    """Where a directive stands."""

    @property
    def address(self) -> int: ...

    def value(self, text: str) -> int:
        """The value of an expression. Raises ExpressionError."""
        ...


Directive = Callable[[list[str], Place], bytes]


def _integer(value: int, width: int) -> bytes:
    bits = 8 * width
    if not -(1 << bits - 1) <= value < 1 << bits:
        raise ExpressionError(f"{value:#x} does not fit in {bits} bits")
    return (value & (1 << bits) - 1).to_bytes(width, "little")


def _data(width: int) -> Directive:
    def emit(parts: list[str], place: Place) -> bytes:
        _count(parts, 1, None)
        return b"".join(_integer(place.value(part), width) for part in parts)

    return emit


def _count(parts: list[str], least: int, most: int | None) -> None:
    if len(parts) < least or (most is not None and len(parts) > most):
        wanted = f"{least}" if least == most else f"{least} to {most}" if most else f"at least {least}"
        raise ExpressionError(f"takes {wanted} values, not {len(parts)}")


def string(text: str) -> bytes:
    """The bytes of a quoted string, UTF-8; escapes are C's letters, `\\xNN` and `\\0`. Raises ExpressionError."""
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        raise ExpressionError(f"a string in quotes is wanted, not '{text}'")
    found, inner, position = bytearray(), text[1:-1], 0
    while position < len(inner):
        character = inner[position]
        position += 1
        if character == '"':
            raise ExpressionError(f"unbalanced quotes in {text}")
        if character != "\\":
            found += character.encode()
            continue
        escape, position = inner[position : position + 1], position + 1
        if escape == "x":
            digits, position = inner[position : position + 2], position + 2
            try:
                found += bytes.fromhex(digits)
            except ValueError:
                raise ExpressionError(f"\\x takes two hexadecimal digits in {text}") from None
        elif escape in ESCAPES:
            found.append(ESCAPES[escape])
        else:
            raise ExpressionError(f"unknown escape '\\{escape}' in {text}")
    return bytes(found)


def _strings(end: bytes) -> Directive:
    def emit(parts: list[str], place: Place) -> bytes:
        _count(parts, 1, None)
        return b"".join(string(part) + end for part in parts)

    return emit


def _room(length: int, fill: bytes) -> bytes:
    if not 0 <= length <= LARGEST:
        raise ExpressionError(f"{length} bytes")
    return (fill * length)[:length]


def _fill_byte(parts: list[str], position: int, default: int, place: Place) -> bytes:
    return _integer(place.value(parts[position]), 1) if len(parts) > position and parts[position] else bytes((default,))


def _skip(parts: list[str], place: Place) -> bytes:
    _count(parts, 1, 2)
    return _room(place.value(parts[0]), _fill_byte(parts, 1, 0, place))


def _fill(parts: list[str], place: Place) -> bytes:
    """`.fill count, size, value`, as GAS has it."""
    _count(parts, 1, 3)
    size = place.value(parts[1]) if len(parts) > 1 else 1
    if size not in (1, 2, 4, 8):
        raise ExpressionError(f"a size is 1, 2, 4 or 8, not {size}")
    value = _integer(place.value(parts[2]) if len(parts) > 2 else 0, size)
    return _room(place.value(parts[0]) * size, value)


def _align_to(boundary: int, parts: list[str], place: Place) -> bytes:
    """Padding of NOPs, since code may run into it."""
    if boundary <= 0 or boundary & boundary - 1 or boundary > LARGEST:
        raise ExpressionError(f"an alignment is a power of two, not {boundary}")
    needed = -place.address % boundary
    if len(parts) > 2 and needed > place.value(parts[2]):
        return b""
    return _room(needed, _fill_byte(parts, 1, NOP, place))


def _align(parts: list[str], place: Place) -> bytes:
    _count(parts, 1, 3)
    return _align_to(place.value(parts[0]), parts, place)


def _power_align(parts: list[str], place: Place) -> bytes:
    _count(parts, 1, 3)
    power = place.value(parts[0])
    if not 0 <= power < 64:
        raise ExpressionError(f"an alignment of 2 to the power {power}")
    return _align_to(1 << power, parts, place)


def _org(parts: list[str], place: Place) -> bytes:
    """An absolute address, not an offset from the base."""
    _count(parts, 1, 2)
    target = place.value(parts[0])
    if target < place.address:
        raise ExpressionError(f"{target:#x} lies before the current address {place.address:#x}")
    return _room(target - place.address, _fill_byte(parts, 1, 0, place))


DIRECTIVES: dict[str, Directive] = {
    ".byte": _data(1),
    ".word": _data(2),
    ".short": _data(2),
    ".hword": _data(2),
    ".long": _data(4),
    ".int": _data(4),
    ".dword": _data(4),
    ".quad": _data(8),
    ".ascii": _strings(b""),
    ".asciz": _strings(b"\0"),
    ".string": _strings(b"\0"),
    ".skip": _skip,
    ".space": _skip,
    ".zero": _skip,
    ".fill": _fill,
    ".align": _align,
    ".balign": _align,
    ".p2align": _power_align,
    ".org": _org,
}

# Their bytes depend on where they stand, not only on values.
POSITIONAL = frozenset((".align", ".balign", ".p2align", ".org"))

# One image, all symbols visible, Intel syntax: these say what holds anyway.
IGNORED = frozenset((".global", ".globl", ".text", ".intel_syntax"))
MODES = {".code16": 16, ".code32": 32, ".code64": 64}
