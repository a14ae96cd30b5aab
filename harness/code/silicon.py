"""Where silicon and capstone 5.0 disagree about which bytes are an instruction.

Found by running both over all opcodes, ModRM bytes and prefixes (see `tests/code`), and settled by the SDM.
"""

from __future__ import annotations

from harness.code.fields import DATA, LOCK, REP, REPNE, VEX, Fields, TruncatedError, prefixes_of, read_fields

# LOCK stands only before these, and only with a memory destination (SDM2, LOCK). For groups: the ModRM.reg values.
_ALL = frozenset(range(8))
LOCKABLE: dict[int, frozenset[int]] = {
    **{row | low: _ALL for row in range(0x00, 0x38, 8) for low in (0, 1)},  # ADD OR ADC SBB AND SUB XOR
    **dict.fromkeys((0x80, 0x81, 0x82, 0x83), frozenset(range(7))),  # the same with an immediate; /7 is CMP
    **dict.fromkeys((0x86, 0x87), _ALL),  # XCHG
    **dict.fromkeys((0xF6, 0xF7), frozenset((2, 3))),  # NOT NEG
    **dict.fromkeys((0xFE, 0xFF), frozenset((0, 1))),  # INC DEC
    **dict.fromkeys((0x0FAB, 0x0FB3, 0x0FBB), _ALL),  # BTS BTR BTC
    0x0FBA: frozenset((5, 6, 7)),
    **dict.fromkeys((0x0FB0, 0x0FB1, 0x0FC0, 0x0FC1), _ALL),  # CMPXCHG XADD
    0x0FC7: frozenset((1,)),  # CMPXCHG8B
}

# ModRM.reg values that name no register (SDM2: MOV Sreg, MOV CRn). 8E /1 would be MOV CS.
NO_SUCH_REGISTER: dict[int, frozenset[int]] = {
    0x8C: frozenset((6, 7)),
    0x8E: frozenset((1, 6, 7)),
    0x0F20: frozenset((1, 5, 6, 7)),
    0x0F22: frozenset((1, 5, 6, 7)),
}

# FEMMS and VIA's PadLock: neither Intel nor the emulated CPU has them.
NO_SUCH_OPCODE = frozenset((0x0F0E, 0x0FA6, 0x0FA7))
NOT_BEFORE_VEX = frozenset((DATA, REPNE, REP, LOCK))  # SDM2 2.3.2 to 2.3.4

# What silicon executes although capstone finds no instruction: opcode, ModRM.reg, register operand (None: either).
# 0F 18 to 0F 1F are reserved NOPs (SDM2 table A-3); the fences ignore ModRM.rm (SDM2, LFENCE); the x87 rows are aliases
# that no manual lists.
UNKNOWN_TO_CAPSTONE: dict[tuple[int, int, bool | None], str] = {
    **{(opcode, reg, None): "nop" for opcode in range(0x0F18, 0x0F20) for reg in range(8)},
    **{(0x0F0D, reg, False): "prefetch" for reg in range(8)},
    (0x0FAE, 5, True): "lfence",
    (0x0FAE, 6, True): "mfence",
    (0x0FAE, 7, True): "sfence",
    (0xDC, 2, True): "fcom",
    (0xDC, 3, True): "fcomp",
    (0xDD, 1, True): "fxch",
    (0xDE, 2, True): "fcomp",
    (0xDF, 1, True): "fxch",
    (0xDF, 2, True): "fstp",
    (0xDF, 3, True): "fstp",
}
# F2 means nothing before these, but capstone wants it away.
REPNE_IGNORED = {0x0FBC: "bsf", 0x0FBD: "bsr"}


def unlisted(fields: Fields) -> str | None:
    """The mnemonic, without operands, of an instruction that capstone does not know; it ends at `fields.end`."""
    if fields.modrm is None:
        return None
    if REPNE in fields.prefixes and fields.opcode in REPNE_IGNORED:
        return REPNE_IGNORED[fields.opcode]
    reg, is_register = fields.modrm >> 3 & 7, fields.modrm >> 6 == 3
    for register in (is_register, None):
        if name := UNKNOWN_TO_CAPSTONE.get((fields.opcode, reg, register)):
            return name
    return None


def refuses(fields: Fields) -> bool:
    """Whether silicon raises #UD: for LOCK, for a register that does not exist, for a prefix before VEX."""
    reg = None if fields.modrm is None else fields.modrm >> 3 & 7
    if fields.opcode in NO_SUCH_OPCODE:
        return True
    if fields.opcode in VEX and fields.modrm is None and not NOT_BEFORE_VEX.isdisjoint(fields.prefixes):
        return True
    if reg is not None and reg in NO_SUCH_REGISTER.get(fields.opcode, ()):
        return True
    # capstone forgets an F0 that a later F2 or F3 follows; silicon does not.
    return LOCK in fields.prefixes and not (fields.memory is not None and reg in LOCKABLE.get(fields.opcode, ()))


def lock_is_illegal(raw: bytes, bits: int = 32) -> bool:
    """Whether the instruction in `raw` has a LOCK prefix for which silicon raises #UD; False if it ends too early."""
    if LOCK not in prefixes_of(raw):
        return False
    try:
        fields = read_fields(raw, bits)
    except TruncatedError:
        return False
    return refuses(fields)
