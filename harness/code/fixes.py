"""What keystone 0.9.2 encodes wrongly or refuses, and what is done about it: three tables, one row each.

Every row was found by the sweep in `tests/code`, which fails when one of them is taken away. Encodings are from SDM
volume 2. Nothing here is trusted: `verify` checks corrected bytes like all others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from harness.code.fields import DATA, prefixes_of
from harness.code.instructions import FAR_NAMES, PREFIX_WORDS, Asked, implied_size
from harness.code.operands import DS, REGISTERS, SS, FarPointer, Immediate, Memory, Operand, Register, default_segment

# Without operands: opcode, and the operand size in bits for which 66 may be needed (None: never).
# `iret`, `pushf`, `popf` get the 16-bit form from keystone in 32-bit code, `ret` and `retf` the 32-bit one in 16-bit
# code; `movsd` and the rest are refused.
PLAIN: dict[str, tuple[bytes, int | None]] = {
    "iret": (b"\xcf", None),
    "iretd": (b"\xcf", 32),
    "iretw": (b"\xcf", 16),
    "pushf": (b"\x9c", None),
    "pushfd": (b"\x9c", 32),
    "pushfw": (b"\x9c", 16),
    "popf": (b"\x9d", None),
    "popfd": (b"\x9d", 32),
    "popfw": (b"\x9d", 16),
    "pusha": (b"\x60", None),
    "pushad": (b"\x60", 32),
    "pushaw": (b"\x60", 16),
    "popa": (b"\x61", None),
    "popad": (b"\x61", 32),
    "popaw": (b"\x61", 16),
    "movsb": (b"\xa4", None),
    "movsw": (b"\xa5", 16),
    "movsd": (b"\xa5", 32),
    "cmpsb": (b"\xa6", None),
    "cmpsw": (b"\xa7", 16),
    "cmpsd": (b"\xa7", 32),
    "cbw": (b"\x98", 16),
    "cwde": (b"\x98", 32),
    "cwd": (b"\x99", 16),
    "cdq": (b"\x99", 32),
    "ret": (b"\xc3", None),
    "retn": (b"\xc3", None),
    "retf": (b"\xcb", None),
    "lret": (b"\xcb", None),
    "xlat": (b"\xd7", None),
    "wbnoinvd": (b"\xf3\x0f\x09", None),
    "vmrun": (b"\x0f\x01\xd8", None),
    "vmload": (b"\x0f\x01\xda", None),
    "vmsave": (b"\x0f\x01\xdb", None),
    "skinit": (b"\x0f\x01\xde", None),
    "invlpga": (b"\x0f\x01\xdf", None),
}

# keystone gives each of these a 66, which pushes or pops 16 bits.
SEGMENT_STACK: dict[tuple[str, str], bytes] = {
    ("push", "es"): b"\x06",
    ("pop", "es"): b"\x07",
    ("push", "cs"): b"\x0e",
    ("push", "ss"): b"\x16",
    ("pop", "ss"): b"\x17",
    ("push", "ds"): b"\x1e",
    ("pop", "ds"): b"\x1f",
    ("push", "fs"): b"\x0f\xa0",
    ("pop", "fs"): b"\x0f\xa1",
    ("push", "gs"): b"\x0f\xa8",
    ("pop", "gs"): b"\x0f\xa9",
}

# keystone gives these a 66 in 16-bit code.
RETURNS = {"ret": 0xC2, "retn": 0xC2, "retf": 0xCA, "lret": 0xCA}

FAR_OPCODES = {"jmp": 0xEA, "ljmp": 0xEA, "call": 0x9A, "lcall": 0x9A}


class StandIn(NamedTuple):
    """An instruction that keystone encodes rightly, and how to make the asked one of its bytes."""

    asked: Asked
    patch: Callable[[bytes], bytes]


def fixed(asked: Asked) -> bytes | None:
    """The bytes of `asked`, its prefix words aside, if a table or a far pointer gives them outright."""
    match asked.operands:
        case () if asked.mnemonic in PLAIN:
            opcode, size = PLAIN[asked.mnemonic]
            return _sized(asked.bits, size) + opcode
        case (Immediate(value),) if asked.mnemonic in RETURNS and 0 <= value < 1 << 16:
            return bytes((RETURNS[asked.mnemonic],)) + value.to_bytes(2, "little")
        case (Immediate(value, size),) if asked.mnemonic == "push" and asked.bits != 64:
            return _push(asked.bits, value, size)
        case (Register(_, "gpr", 16 | 32 as size, number),) if asked.mnemonic == "nop":
            return _sized(asked.bits, size) + bytes((0x0F, 0x1F, 0xC0 | number))
        case (Register(name, "seg"),):
            return SEGMENT_STACK.get((asked.mnemonic, name))
        case (FarPointer(selector, offset),) if asked.mnemonic in FAR_OPCODES:
            return _far_pointer(asked, selector, offset)
        case (Immediate(selector), Immediate(offset)) if asked.mnemonic in ("ljmp", "lcall"):
            return _far_pointer(asked, selector, offset)
    return None


def _sized(bits: int, size: int | None) -> bytes:
    return bytes((DATA,)) if size is not None and size != min(bits, 32) else b""


def _push(bits: int, value: int, size: int | None) -> bytes | None:
    """PUSH imm (6A ib, 68 iw/id). keystone gives `push dword 5` a 66 in 32-bit code and none to `push word 0x1234`."""
    width = bits if size in (None, 8) else size
    assert width is not None
    if not -(1 << width - 1) <= value < 1 << width:
        return None
    signed = value - (1 << width) if value >= 1 << width - 1 else value
    short = -128 <= signed < 128
    immediate = signed.to_bytes(1 if short else width // 8, "little", signed=True)
    return _sized(bits, width) + (b"\x6a" if short else b"\x68") + immediate


def _far_pointer(asked: Asked, selector: int, offset: int) -> bytes | None:
    """keystone writes 16:16 for `ljmp 8:x` in 32-bit code, and refuses `jmp 8:x`."""
    prefix = _sized(asked.bits, implied_size(asked))
    is_toggled = bool(prefix) or DATA in asked.prefix_bytes()
    width = 2 if (asked.bits == 16) != is_toggled else 4
    if not (0 <= selector < 1 << 16 and 0 <= offset < 1 << 8 * width):
        return None
    opcode = bytes((FAR_OPCODES[asked.mnemonic],))
    return prefix + opcode + offset.to_bytes(width, "little") + selector.to_bytes(2, "little")


def _same(code: bytes) -> bytes:
    return code


def _without_data_prefix(code: bytes) -> bytes:
    return code.replace(bytes((DATA,)), b"", 1) if DATA in prefixes_of(code) else code


def _replace_opcode(code: bytes, old: int, new: bytes) -> bytes:
    at = code.index(old)
    return code[:at] + new + code[at + 1 :]


def _descriptor_table(asked: Asked) -> StandIn:
    """LGDT, LIDT, SGDT, SIDT get a 66: a base of 24 bits."""
    return StandIn(asked, _without_data_prefix)


def _memory_nop(asked: Asked) -> StandIn:
    """keystone writes 0F 18 /4, a hint; NOP r/m is 0F 1F /0, so the ModRM byte of INC r/m (FF /0) fits."""
    return StandIn(asked._replace(mnemonic="inc"), lambda code: _replace_opcode(code, 0xFF, b"\x0f\x1f"))


def _far_memory(asked: Asked) -> StandIn:
    """Far CALL and JMP (FF /3, FF /5) from the near ones (FF /2, FF /4)."""
    near = tuple(replace(o, size=min(asked.bits, 32), distance=None) for o in asked.operands if isinstance(o, Memory))
    prefix = _sized(asked.bits, implied_size(asked))

    def patch(code: bytes) -> bytes:
        at = code.index(0xFF) + 1
        return prefix + code[:at] + bytes((code[at] + 8,)) + code[at + 1 :]

    return StandIn(asked._replace(mnemonic=FAR_NAMES[asked.mnemonic][1:], operands=near), patch)


def _wide_source(asked: Asked) -> StandIn:
    """`lar eax, cx` is refused: the source of LAR and LSL takes the width of the target's name."""
    target, source = asked.operands[0], asked.operands[1]
    if isinstance(target, Register) and isinstance(source, Register):
        source = _resized(source, target.size)
    elif isinstance(source, Memory):
        source = replace(source, size=None)
    return StandIn(asked._replace(operands=(target, source)), _same)


def _resized(register: Register, size: int) -> Register:
    for candidate in REGISTERS.values():
        if (candidate.kind, candidate.size, candidate.number) == ("gpr", size, register.number):
            return candidate
    return register


def _segment_move(asked: Asked) -> StandIn:
    """`mov ds, ax` and `mov [eax], ds` get a 66 that changes nothing; silicon moves 16 bits anyway."""
    target, source = asked.operands
    if isinstance(target, Register) and target.kind == "seg" and isinstance(source, Register):
        return StandIn(asked._replace(operands=(target, _resized(source, min(asked.bits, 32)))), _without_data_prefix)
    return StandIn(asked, _without_data_prefix if isinstance(target, Memory) or isinstance(source, Memory) else _same)


def _is_far(operand: Operand, mnemonic: str) -> bool:
    return isinstance(operand, Memory) and (mnemonic[0] == "l" or operand.distance == "far" or operand.size == 48)


def _kind(asked: Asked) -> Callable[[Asked], StandIn] | None:
    operands = asked.operands
    match asked.mnemonic, operands:
        case (("lgdt" | "lidt" | "sgdt" | "sidt"), (Memory(),)):
            return _descriptor_table
        case "nop", (Memory(),):
            return _memory_nop
        case (("jmp" | "call" | "ljmp" | "lcall"), (operand,)) if _is_far(operand, asked.mnemonic):
            return _far_memory
        case (("lar" | "lsl"), (_, _)):
            return _wide_source
        case "mov", (target, source) if any(isinstance(o, Register) and o.kind == "seg" for o in (target, source)):
            return _segment_move
    return None


def stand_in(asked: Asked) -> StandIn:
    """What to give to keystone for `asked`; the asked instruction itself in most cases."""
    if any(isinstance(o, Memory) and o.segment == DS and default_segment(o) == SS for o in asked.operands):
        # keystone drops the override of `ds:[ebp]`, and SS is used.
        plain = tuple(replace(o, segment=None) if isinstance(o, Memory) else o for o in asked.operands)
        inner = stand_in(asked._replace(operands=plain))
        return inner._replace(patch=lambda code: bytes((PREFIX_WORDS["ds"],)) + inner.patch(code))
    kind = _kind(asked)
    return kind(asked) if kind else StandIn(asked, _same)
