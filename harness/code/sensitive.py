"""Instructions for which the emulated CPU gives no exit, so that a scan of each new block must find them.

One row for each form. `suspects` makes of the same rows a search that needs no decoding: a block without a match has
none of them, wherever its instructions begin.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Protocol

from harness.code.fields import LOCK
from harness.code.silicon import lock_is_illegal

__all__ = ["KINDS", "classify", "lock_is_illegal", "suspects"]

ANY, REGISTER, MEMORY = "any", "register", "memory"

# Kind, opcode, ModRM.reg values (empty: any, or no ModRM), and what the r/m operand must be.
ROWS: tuple[tuple[str, int, tuple[int, ...], str], ...] = (
    *(("io", opcode, (), ANY) for opcode in (*range(0x6C, 0x70), *range(0xE4, 0xE8), *range(0xEC, 0xF0))),
    ("push_seg", 0x06, (), ANY),
    ("pop_seg", 0x07, (), ANY),
    ("push_seg", 0x0E, (), ANY),
    ("push_seg", 0x16, (), ANY),
    ("pop_seg", 0x17, (), ANY),
    ("push_seg", 0x1E, (), ANY),
    ("pop_seg", 0x1F, (), ANY),
    ("push_seg", 0x0FA0, (), ANY),
    ("pop_seg", 0x0FA1, (), ANY),
    ("push_seg", 0x0FA8, (), ANY),
    ("pop_seg", 0x0FA9, (), ANY),
    ("mov_from_seg", 0x8C, (), ANY),
    ("mov_to_seg", 0x8E, (), ANY),
    ("arpl", 0x63, (), ANY),
    ("far_call", 0x9A, (), ANY),
    ("far_call", 0xFF, (3,), ANY),
    ("far_jmp", 0xEA, (), ANY),
    ("far_jmp", 0xFF, (5,), ANY),
    ("far_ret", 0xCA, (), ANY),
    ("far_ret", 0xCB, (), ANY),
    ("load_far", 0xC4, (), ANY),
    ("load_far", 0xC5, (), ANY),
    ("load_far", 0x0FB2, (), ANY),
    ("load_far", 0x0FB4, (), ANY),
    ("load_far", 0x0FB5, (), ANY),
    ("pushf", 0x9C, (), ANY),
    ("popf", 0x9D, (), ANY),
    ("iret", 0xCF, (), ANY),
    ("sldt", 0x0F00, (0,), ANY),
    ("str", 0x0F00, (1,), ANY),
    ("sgdt", 0x0F01, (0,), MEMORY),
    ("sidt", 0x0F01, (1,), MEMORY),
    ("smsw", 0x0F01, (4,), ANY),
    ("verr", 0x0F00, (4,), ANY),
    ("verw", 0x0F00, (5,), ANY),
    ("lar", 0x0F02, (), ANY),
    ("lsl", 0x0F03, (), ANY),
    ("syscall", 0x0F05, (), ANY),
    ("sysret", 0x0F07, (), ANY),
    ("sysenter", 0x0F34, (), ANY),
    ("sysexit", 0x0F35, (), ANY),
    ("xsetbv", 0x0F01, (2,), REGISTER),  # XGETBV, XSETBV, VMFUNC, XEND, XTEST; with memory it is LGDT
    ("random", 0x0FC7, (6, 7), REGISTER),  # RDRAND, RDSEED; with memory these are VMPTRLD and VMPTRST
)

KINDS = frozenset(kind for kind, *_ in ROWS)


class _Decoded(Protocol):
    @property
    def opcode(self) -> int: ...
    @property
    def modrm(self) -> int | None: ...


def _by_opcode() -> dict[int, tuple[tuple[str, tuple[int, ...], str], ...]]:
    table: dict[int, tuple[tuple[str, tuple[int, ...], str], ...]] = {}
    for kind, opcode, regs, operand in ROWS:
        table[opcode] = (*table.get(opcode, ()), (kind, regs, operand))
    return table


_TABLE = _by_opcode()


def classify(instruction: _Decoded) -> str | None:
    """The kind of a decoded instruction, or None if the CPU's own faults and intercepts cover it."""
    rows = _TABLE.get(instruction.opcode)
    if rows is None:
        return None
    modrm = instruction.modrm
    if modrm is None and instruction.opcode in (0xC4, 0xC5):
        return None  # VEX, which only looks like LES and LDS
    for kind, regs, operand in rows:
        if (not regs or (modrm is not None and modrm >> 3 & 7 in regs)) and _fits(operand, modrm or 0):
            return kind
    return None


def _fits(operand: str, modrm: int) -> bool:
    return operand == ANY or (modrm >> 6 == 3) == (operand == REGISTER)


@lru_cache(maxsize=64)
def _pattern(kinds: frozenset[str]) -> re.Pattern[bytes]:
    unknown = kinds - KINDS
    if unknown:
        raise ValueError(f"no such kind: {', '.join(sorted(unknown))}")
    ways = [_class([LOCK])]
    for kind, opcode, regs, operand in ROWS:
        if kind in kinds:
            after = [m for m in range(256) if m >> 3 & 7 in regs and _fits(operand, m)] if regs else []
            ways.append(b"".join(map(_class, [[byte] for byte in _bytes(opcode)])) + (_class(after) if after else b""))
    return re.compile(b"|".join(ways), re.DOTALL)


def _bytes(opcode: int) -> bytes:
    return opcode.to_bytes(1 if opcode < 0x100 else 2, "big")


def _class(values: Iterable[int]) -> bytes:
    return b"[" + b"".join(b"\\x%02x" % value for value in values) + b"]"


def suspects(kinds: Iterable[str]) -> re.Pattern[bytes]:
    """A pattern that matches wherever an instruction of `kinds`, or a LOCK prefix, could stand.

    Raises ValueError for a kind that is not in KINDS. Searching a clean block costs about a nanosecond a byte.
    """
    return _pattern(frozenset(kinds))
