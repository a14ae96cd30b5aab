"""Bytes to instructions, remembered by address. capstone is asked only for what has not been seen.

What capstone accepts and silicon does not is refused (`silicon`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.code.fields import (
    LOCK,
    LONGEST,
    REP,
    REPNE,
    SEGMENT_PREFIXES,
    Fields,
    MemoryOperand,
    TruncatedError,
    read_fields,
)
from harness.code.silicon import refuses, unlisted

if TYPE_CHECKING:
    from capstone import Cs

__all__ = ["Decoder", "Instruction", "MemoryOperand", "TruncatedError", "disassemble"]

CACHE_LIMIT = 1 << 16


def _ranges(*rows: int | tuple[int, int]) -> frozenset[int]:
    return frozenset(b for row in rows for b in ([row] if isinstance(row, int) else range(row[0], row[1] + 1)))


# Jcc, LOOPcc and JCXZ, near and far CALL, JMP, RET, IRET, INT3, INT, INTO, INT1, HLT, the fast system calls, UD, RSM.
BRANCHES = _ranges(
    (0x70, 0x7F), 0x9A, 0xC2, 0xC3, (0xCA, 0xCF), (0xE0, 0xE3), (0xE8, 0xEB), 0xF1, 0xF4,
    0x0F05, 0x0F07, 0x0F0B, 0x0F34, 0x0F35, (0x0F80, 0x0F8F), 0x0FAA, 0x0FB9, 0x0FFF,
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Instruction:
    """A decoded instruction. `text` is Intel syntax with targets already relative to `address`.

    `opcode` is 0x06, 0x0F06 or 0x0F3882. `operand_size` and `address_size` are the effective ones in bits, a prefix
    counting once however often it stands there. `prefixes` are the raw bytes in order. `rep` is 0, 0xF3 or 0xF2.
    `immediate` is the first one, zero-extended (the offset of a far pointer, the displacement of a branch).
    `memory` is the operand that ModRM or a direct offset names.
    """

    address: int
    raw: bytes
    length: int
    mnemonic: str
    text: str
    opcode: int
    modrm: int | None
    operand_size: int
    address_size: int
    prefixes: bytes
    rep: int
    lock: bool
    segment_override: int | None
    immediate: int | None
    memory: MemoryOperand | None

    @property
    def mod(self) -> int:
        """ModRM bits 7-6; -1 without a ModRM byte, as for `reg` and `rm`."""
        return -1 if self.modrm is None else self.modrm >> 6

    @property
    def reg(self) -> int:
        return -1 if self.modrm is None else self.modrm >> 3 & 7

    @property
    def rm(self) -> int:
        return -1 if self.modrm is None else self.modrm & 7

    @property
    def is_branch(self) -> bool:
        """Whether straight-line execution ends here: jumps, calls, returns, INT, HLT, UD, SYSENTER and the like."""
        return self.opcode in BRANCHES or (self.opcode == 0xFF and 2 <= self.reg <= 5)


def _immediate(fields: Fields, tail: bytes) -> int | None:
    if not tail:
        return None
    if fields.opcode == 0xC8:
        width = 2  # ENTER: 16 bits, then a level of 8
    elif fields.opcode in (0xEA, 0x9A):
        width = len(tail) - 2  # a far pointer: the offset, then the selector
    else:
        width = len(tail)
    return int.from_bytes(tail[:width], "little")


class Decoder:
    """Decodes for a mode of `bits` (16, 32, 64). `hits` and `misses` count what the cache could answer."""

    def __init__(self, bits: int = 32) -> None:
        self.bits = bits
        self.hits = 0
        self.misses = 0
        self._at: dict[int, Instruction] = {}
        self._refused: dict[int, bytes] = {}
        self._engine: Cs | None = None

    def cached(self, address: int) -> Instruction | None:
        """What was last decoded at `address`; whether memory still holds those bytes is for the caller to know."""
        return self._at.get(address)

    def decode(self, address: int, window: bytes) -> Instruction | None:
        """The instruction that `window` begins with, as `address` would execute it.

        None where silicon raises #UD (or #GP, beyond 15 bytes). UD0, UD1, UD2 and what only some CPUs have (VMX, SVM,
        AVX, ...) are instructions here. Raises TruncatedError if `window` has fewer than 15 bytes and ends within the
        instruction. Bytes after the instruction do not matter to the cache.
        """
        known = self._at.get(address)
        if known is not None and window.startswith(known.raw):
            self.hits += 1
            return known
        window = window[:LONGEST]
        if self._refused.get(address) == window:
            self.hits += 1
            return None
        self.misses += 1
        found = self._decode(address, window)
        if len(self._at) + len(self._refused) >= CACHE_LIMIT:
            self._at.clear()
            self._refused.clear()
        if found is None:
            self._refused[address] = window
        else:
            self._at[address] = found
        return found

    def decode_run(self, address: int, code: bytes) -> Iterator[Instruction]:
        """The instructions of `code` one after the other, up to its end or the first that cannot be decoded."""
        position = 0
        while position < len(code):
            try:
                found = self.decode(address + position, code[position : position + LONGEST])
            except TruncatedError:
                return
            if found is None:
                return
            yield found
            position += found.length

    def _decode(self, address: int, window: bytes) -> Instruction | None:
        try:
            fields = read_fields(window, self.bits)
        except TruncatedError:
            if len(window) == LONGEST:
                return None
            raise
        if refuses(fields):
            return None
        text = self._text(address, window)
        if text is None and (name := unlisted(fields)) is not None:
            text = (fields.end, name, "")
        if text is None:
            if len(window) < LONGEST and self._text(address, window.ljust(LONGEST, b"\0")):
                raise TruncatedError
            return None
        length, mnemonic, operands = text
        prefixes = fields.prefixes
        override = next((SEGMENT_PREFIXES[p] for p in reversed(prefixes) if p in SEGMENT_PREFIXES), None)
        return Instruction(
            address=address,
            raw=window[:length],
            length=length,
            mnemonic=mnemonic,
            text=f"{mnemonic} {operands}".rstrip(),
            opcode=fields.opcode,
            modrm=fields.modrm,
            operand_size=fields.operand_size,
            address_size=fields.address_size,
            prefixes=prefixes,
            rep=next((p for p in reversed(prefixes) if p in (REP, REPNE)), 0),
            lock=LOCK in prefixes,
            segment_override=override,
            immediate=_immediate(fields, window[fields.end : length]),
            memory=fields.memory,
        )

    def _text(self, address: int, window: bytes) -> tuple[int, str, str] | None:
        if self._engine is None:
            self._engine = _capstone(self.bits)
        for _, length, mnemonic, operands in self._engine.disasm_lite(window, address, 1):
            return length, mnemonic, operands
        return None


def _capstone(bits: int) -> Cs:
    import capstone

    mode = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}[bits]
    return capstone.Cs(capstone.CS_ARCH_X86, mode)


def mnemonics() -> frozenset[str]:
    """Every mnemonic that the decoder may print."""
    import capstone.x86

    engine = _capstone(32)
    return frozenset(filter(None, map(engine.insn_name, range(1, capstone.x86.X86_INS_ENDING))))


def disassemble(address: int, code: bytes, bits: int = 32) -> list[tuple[int, bytes, str]]:
    """Address, bytes and text of all of `code`; what cannot be decoded is `(bad)`, one byte at a time."""
    decoder = Decoder(bits)
    rows: list[tuple[int, bytes, str]] = []
    position = 0
    while position < len(code):
        try:
            found = decoder.decode(address + position, code[position : position + LONGEST])
        except TruncatedError:
            found = None
        length, text = (found.length, found.text) if found else (1, "(bad)")
        rows.append((address + position, code[position : position + length], text))
        position += length
    return rows
