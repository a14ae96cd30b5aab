"""The fields of a machine instruction, read from its bytes: prefixes, opcode, ModRM, SIB, displacement.

Read here and not taken from capstone's details, which cost four times as much as its text. SDM2 chapter 2 and
appendix A. VEX and EVEX instructions are not taken apart: `opcode` is C4, C5 or 62 then, and there is no ModRM.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

LOCK, REPNE, REP, DATA, ADDRESS = 0xF0, 0xF2, 0xF3, 0x66, 0x67
SEGMENT_PREFIXES = {0x26: 0, 0x2E: 1, 0x36: 2, 0x3E: 3, 0x64: 4, 0x65: 5}  # ES CS SS DS FS GS
PREFIXES = frozenset((LOCK, REPNE, REP, DATA, ADDRESS, *SEGMENT_PREFIXES))
SS, DS = 2, 3
EBX, ESP, EBP, ESI, EDI = 3, 4, 5, 6, 7
LONGEST = 15


class TruncatedError(Exception):
    """The bytes end within the instruction."""


@dataclass(frozen=True, slots=True)
class MemoryOperand:
    """A memory operand named by ModRM or a direct offset; those that a mnemonic implies (MOVS, XLAT) are not here.

    `segment` is the effective one, 0 ES to 5 GS, `overridden` if a prefix says so; `base` and `index` are register
    numbers, 0 EAX to 7 EDI; `displacement` is signed; `address_size` in bits.
    """

    segment: int
    overridden: bool
    base: int | None
    index: int | None
    scale: int
    displacement: int
    address_size: int


class Fields(NamedTuple):
    """`opcode` as 0x06, 0x0F06 or 0x0F3882; `end` is where immediates begin; sizes in bits."""

    prefixes: bytes
    rex: int
    opcode: int
    modrm: int | None
    memory: MemoryOperand | None
    operand_size: int
    address_size: int
    end: int


def _ranges(*rows: int | tuple[int, int]) -> frozenset[int]:
    return frozenset(b for row in rows for b in ([row] if isinstance(row, int) else range(row[0], row[1] + 1)))


# Opcodes with a ModRM byte (SDM2 tables ).
MODRM_1 = _ranges(
    *[(row, row + 3) for row in range(0x00, 0x40, 8)],
    0x62, 0x63, 0x69, 0x6B, (0x80, 0x8F), (0xC0, 0xC1), (0xC4, 0xC7), (0xD0, 0xD3), (0xD8, 0xDF), (0xF6, 0xF7),
    (0xFE, 0xFF),
)  # fmt: skip
MODRM_0F = _ranges(
    (0x00, 0x03), 0x0D, 0x0F, (0x10, 0x23), (0x24, 0x27), (0x28, 0x2F), (0x40, 0x76), (0x78, 0x7F), (0x90, 0x9F),
    (0xA3, 0xA7), (0xAB, 0xAF), (0xB0, 0xC7), (0xD0, 0xFF),
)  # fmt: skip
DIRECT_OFFSET = frozenset((0xA0, 0xA1, 0xA2, 0xA3))
VEX = frozenset((0xC4, 0xC5, 0x62))

# Base and index of the 16-bit forms by rm (SDM2 table 2-1).
_FORMS_16 = (
    (EBX, ESI), (EBX, EDI), (EBP, ESI), (EBP, EDI), (None, ESI), (None, EDI), (EBP, None), (EBX, None)
)  # fmt: skip


def prefixes_of(code: bytes) -> bytes:
    """The legacy prefix bytes that `code` begins with."""
    length = 0
    while length < len(code) and code[length] in PREFIXES:
        length += 1
    return code[:length]


class _Reader:
    def __init__(self, code: bytes, at: int) -> None:
        self.code = code
        self.at = at

    def byte(self) -> int:
        if self.at >= len(self.code):
            raise TruncatedError
        self.at += 1
        return self.code[self.at - 1]

    def signed(self, width: int) -> int:
        end = self.at + width
        if end > len(self.code):
            raise TruncatedError
        value = int.from_bytes(self.code[self.at : end], "little", signed=True)
        self.at = end
        return value


def read_fields(code: bytes, bits: int) -> Fields:
    """The fields of the instruction that `code` begins with, valid or not. Raises TruncatedError."""
    prefixes = prefixes_of(code)
    reader = _Reader(code, len(prefixes))
    opcode = reader.byte()
    rex = 0
    if bits == 64 and opcode & 0xF0 == 0x40:
        rex, opcode = opcode, reader.byte()
    operand_size = 64 if rex & 8 else 16 if (DATA in prefixes) != (bits == 16) else 32
    toggled = ADDRESS in prefixes
    address_size = {16: 32 if toggled else 16, 32: 16 if toggled else 32, 64: 32 if toggled else 64}[bits]
    has_modrm = opcode in MODRM_1
    if opcode == 0x0F:
        second = reader.byte()
        opcode, has_modrm = 0x0F00 | second, second in MODRM_0F
        if second in (0x38, 0x3A):
            opcode, has_modrm = opcode << 8 | reader.byte(), True
    modrm = reader.byte() if has_modrm else None
    memory = None
    override = next((SEGMENT_PREFIXES[p] for p in reversed(prefixes) if p in SEGMENT_PREFIXES), None)
    if opcode in VEX and modrm is not None and (modrm >> 6 == 3 or bits == 64):
        modrm = None
    elif modrm is not None and (modrm >> 6 != 3) and opcode not in (0x0F20, 0x0F21, 0x0F22, 0x0F23):
        memory = _memory(reader, modrm, rex, address_size, override)
    elif opcode in DIRECT_OFFSET:
        segment = DS if override is None else override
        offset = reader.signed(address_size // 8)
        memory = MemoryOperand(segment, override is not None, None, None, 1, offset, address_size)
    return Fields(prefixes, rex, opcode, modrm, memory, operand_size, address_size, reader.at)


def _memory(reader: _Reader, modrm: int, rex: int, address_size: int, override: int | None) -> MemoryOperand:
    mod, rm = modrm >> 6, modrm & 7
    base: int | None
    index: int | None
    if address_size == 16:
        base, index = _FORMS_16[rm]
        scale, width = 1, (0, 1, 2)[mod]
        if mod == 0 and rm == 6:
            base, width = None, 2
        on_stack = base == EBP
    else:
        base, index, scale, width = rm | (rex & 1) << 3, None, 1, (0, 1, 4)[mod]
        if rm == 4:
            sib = reader.byte()
            index, base, scale = sib >> 3 & 7 | (rex & 2) << 2, sib & 7 | (rex & 1) << 3, 1 << (sib >> 6)
            index = None if index == ESP else index
        if mod == 0 and (base & 7 if rm == 4 else rm) == EBP:
            base, width = None, 4
        on_stack = base in (ESP, EBP)
    segment = (SS if on_stack else DS) if override is None else override
    return MemoryOperand(segment, override is not None, base, index, scale, reader.signed(width), address_size)
