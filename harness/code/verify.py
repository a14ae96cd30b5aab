"""Does a machine instruction say what the source asked for?

Decoded text alone does not tell: keystone 0.9.2 encodes `lgdt [eax]` as `66 0F 01 10`, which loads a 24-bit base and
prints as `lgdt [eax]` all the same. So two things are compared: the decoded mnemonic and operands with the asked ones,
and each prefix byte, which must be asked for by a word or by an operand, or be seen: taking it away changes what is
decoded.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from threading import local
from typing import TYPE_CHECKING

from harness.code.expression import ExpressionError, no_symbols
from harness.code.fields import ADDRESS, DATA, LOCK, LONGEST, REP, REPNE, prefixes_of
from harness.code.instructions import FAR_NAMES, SIZE_PREFIXES, Asked, implied_size, parse_instruction
from harness.code.operands import (
    SIZE_WORDS,
    FarPointer,
    Immediate,
    Memory,
    Operand,
    Register,
    address_size,
    effective_segment,
    resolve,
)

if TYPE_CHECKING:
    from capstone import Cs

Meaning = tuple[tuple[str, ...], str, tuple[Operand, ...]]  # prefix words, mnemonic, operands

# Names of one instruction, both in sources and in capstone's output.
_CONDITIONS = {
    "z": "e", "nz": "ne", "c": "b", "nae": "b", "nc": "ae", "nb": "ae", "na": "be", "nbe": "a",
    "pe": "p", "po": "np", "nge": "l", "nl": "ge", "ng": "le", "nle": "g",
}  # fmt: skip
ALIASES = {stem + old: stem + new for stem in ("j", "set", "cmov") for old, new in _CONDITIONS.items()} | {
    "sal": "shl",
    "retn": "ret",
    "lret": "retf",
    "icebp": "int1",
    "fwait": "wait",
    "pushal": "pushad",
    "popal": "popad",
    "xlat": "xlatb",
    "ud2a": "ud2",
    "loopz": "loope",
    "loopnz": "loopne",
    "ud2b": "ud1",
    "fucompi": "fucomip",  # capstone's own spellings
    "fcompi": "fcomip",
}
# capstone prints `cmpsd xmm0, xmm1, 1` as `cmpltsd xmm0, xmm1` (SDM2, CMPPD: predicates 0 to 7).
_PREDICATES = ("eq", "lt", "le", "unord", "neq", "nlt", "nle", "ord")
_COMPARISONS = frozenset(("cmpps", "cmppd", "cmpss", "cmpsd"))
# Without a suffix these are of the mode's size in a source; capstone means the 16-bit one by the bare name.
BY_MODE = frozenset(("iret", "pushf", "popf", "pusha", "popa"))
_SUFFIX = {16: "w", 32: "d", 64: "q"}

# Operands whose register has no width of its own: the instruction takes 16 bits of it whatever the operand size
# (SDM2, pages of LLDT, LTR, LMSW, VERR, LAR, LSL, ARPL; of MOV for the segment forms).
WIDTHLESS = {"lldt": 1, "ltr": 1, "lmsw": 1, "verr": 1, "verw": 1, "lar": 2, "lsl": 2, "arpl": 3}  # bit n: operand n
ROTATES = frozenset(("rcl", "rcr", "rol", "ror", "shl", "shr", "sar"))
UNORDERED = frozenset(("xchg", "test"))

# Observed on capstone 5.0: in 16-bit code 98 and 99 print as if they were 32 bits wide.
_MISPRINTED = {
    (16, b"\x98"): "cbw",
    (16, b"\x66\x98"): "cwde",
    (16, b"\x99"): "cwd",
    (16, b"\x66\x99"): "cdq",
}


class _Thread(local):
    """Each thread has its own decoders."""

    def __init__(self) -> None:
        self.engines: dict[int, Cs] = {}


_thread = _Thread()


def _capstone(bits: int) -> Cs:
    if bits not in _thread.engines:
        import capstone

        _thread.engines[bits] = capstone.Cs(
            capstone.CS_ARCH_X86,
            {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}[bits],
        )
    return _thread.engines[bits]


def decode_text(code: bytes, bits: int) -> tuple[int, str] | None:
    """Length and text of the first instruction in `code`, or None."""
    for _, length, mnemonic, operands in _capstone(bits).disasm_lite(code, 0, 1):
        return length, f"{mnemonic} {operands}".rstrip()
    return None


@lru_cache(maxsize=8192)
def _decoded(text: str) -> Meaning:
    """Prefix words, mnemonic and operands of capstone's text, in the words of this room."""
    written = parse_instruction(text)
    operands = tuple(resolve(operand, no_symbols) for operand in written.operands)
    mnemonic = written.mnemonic + "w" if written.mnemonic in BY_MODE else written.mnemonic
    if mnemonic in ("call", "jmp") and text.split()[1] == "ptr":
        # Observed on capstone 5.0: `FF 18` prints as `call ptr [eax]`, `66 FF 18` as `lcall`.
        mnemonic = "l" + mnemonic
    match operands:
        case (Immediate(selector), Immediate(offset)) if mnemonic in ("ljmp", "lcall"):
            operands = (FarPointer(selector, offset),)
    return written.prefixes, ALIASES.get(mnemonic, mnemonic), _canonical(mnemonic, operands)


def _canonical(mnemonic: str, operands: tuple[Operand, ...]) -> tuple[Operand, ...]:
    """Operands without the widths that mean nothing, and without x87's implied ST(0)."""
    if mnemonic == "mov" and any(isinstance(o, Register) and o.kind == "seg" for o in operands):
        to_segment = isinstance(operands[0], Register) and operands[0].kind == "seg"
        # MOV r32, Sreg writes 32 bits and MOV r16, Sreg writes 16; the other forms move 16 bits always.
        return tuple(_widthless(o) if to_segment or isinstance(o, Memory) else o for o in operands)
    if mnemonic in WIDTHLESS:
        return tuple(_widthless(o) if WIDTHLESS[mnemonic] >> i & 1 else o for i, o in enumerate(operands))
    match operands:
        case (Register(_, "st", _, 0), Register(_, "st", _, _)):
            return operands[1:]
        case (Register(_, "st", _, _), Register(_, "st", _, 0)) if mnemonic.endswith("p"):
            return operands[:1]
        case (Register(_, "gpr", _, _), Immediate()) if mnemonic == "imul":
            return (operands[0], *operands)
        case (Memory(),) if mnemonic in ROTATES:
            return (operands[0], Immediate(1))  # capstone forgets the count of `rcl dword ptr [eax], 1`
    return operands


def _widthless(operand: Operand) -> Operand:
    match operand:
        case Register(_, "gpr", size, number) if size >= 16:
            return Register("", "gpr", 0, number)
        case Memory(size) if size in (None, 16):
            return replace(operand, size=None)
    return operand


def _asked_canonical(asked: Asked) -> tuple[str, tuple[Operand, ...]]:
    match asked.mnemonic, asked.operands:
        case (("ljmp" | "lcall"), (Immediate(selector), Immediate(offset))):
            return asked.mnemonic, (FarPointer(selector, offset),)
        case mnemonic, (_, _, Immediate(predicate)) if mnemonic in _COMPARISONS and 0 <= predicate < 8:
            return f"cmp{_PREDICATES[predicate]}{mnemonic[3:]}", asked.operands[:2]
        case ("push" | "call" | "jmp") as mnemonic, (Memory(size=None, distance=None) as memory,):
            return mnemonic, (replace(memory, size=asked.bits),)  # a size of the mode's own, unless one is said
    return _asked_mnemonic(asked), _canonical(asked.mnemonic, asked.operands)


def _asked_mnemonic(asked: Asked) -> str:
    if asked.mnemonic in BY_MODE:
        size = asked.bits
        for word in asked.prefixes:
            if SIZE_PREFIXES.get(word, (0, 0))[0] == DATA:
                size = SIZE_PREFIXES[word][1]
        return asked.mnemonic + _SUFFIX[size]
    is_far = any(
        isinstance(o, FarPointer) or (isinstance(o, Memory) and (o.distance == "far" or o.size == 48))
        for o in asked.operands
    )
    return FAR_NAMES.get(asked.mnemonic, asked.mnemonic) if is_far else ALIASES.get(asked.mnemonic, asked.mnemonic)


def _same_number(asked: int, decoded: int, bits: int) -> bool:
    return (asked - decoded) % (1 << bits) == 0 and -(1 << bits - 1) <= asked < 1 << bits


def _terms(memory: Memory) -> dict[str, int]:
    terms: dict[str, int] = {}
    for register, scale in ((memory.base, 1), (memory.index, memory.scale)):
        if register is not None:
            terms[register.name] = terms.get(register.name, 0) + scale
    return terms


def _same_memory(asked: Memory, decoded: Memory, bits: int) -> bool:
    register = decoded.base or decoded.index
    width = register.size if register is not None else bits
    return (
        (asked.size is None or decoded.size is None or asked.size == decoded.size)
        and effective_segment(asked) == effective_segment(decoded)
        and _terms(asked) == _terms(decoded)
        and _same_number(asked.displacement, decoded.displacement, width)
    )


def _same_operand(asked: Operand, decoded: Operand, bits: int, width: int) -> bool:
    match asked, decoded:
        case Immediate(value), Immediate(found):
            return _same_number(value, found, width)
        case Memory(), Memory():
            return _same_memory(asked, decoded, bits)
        case FarPointer(selector, offset), FarPointer(found_selector, found_offset):
            return (selector, offset) == (found_selector, found_offset)
    return asked == decoded


def _width(operands: tuple[Operand, ...], bits: int) -> int:
    """Width of an immediate: that of the first operand, where it has one."""
    first = operands[0]
    match first:
        case Register(_, "gpr", size, _) if size:
            return size
        case Memory(int(size)):
            return min(size, bits)
        case Immediate(_, 16 | 32 as size):
            return size
    return bits


def _same_operands(asked: tuple[Operand, ...], decoded: tuple[Operand, ...], bits: int) -> bool:
    if not asked:
        return True  # what capstone prints then is implied by the mnemonic: `lodsb al, byte ptr [esi]`
    if len(asked) != len(decoded):
        return False
    width = _width(decoded if not isinstance(asked[0], Immediate) else asked, bits)
    return all(_same_operand(a, d, bits, width) for a, d in zip(asked, decoded, strict=True))


def _meaning(text: str, code: bytes, bits: int) -> Meaning:
    """What capstone's `text` of `code` says. Raises ExpressionError if it cannot be read."""
    return _decoded(_MISPRINTED.get((bits, code), text))


def mismatch(asked: Asked, code: bytes) -> str | None:
    """Why `code` is not what was asked, or None if it is."""
    found = decode_text(code, asked.bits)
    if found is None or found[0] != len(code):
        if LOCK in prefixes_of(code):
            return f"LOCK is not allowed here: silicon raises #UD ('.byte 0xf0' before '{asked.mnemonic}' spells it)"
        return f"would assemble to {code.hex(' ')}, which is no instruction"
    try:
        if found[1] != _as_printed(asked) and not _same_meaning(asked, _meaning(found[1], code, asked.bits)):
            return f"would assemble to {code.hex(' ')}, which is '{found[1]}'"
        if asked.mnemonic == "nop" and asked.operands and code[len(prefixes_of(code)) :][:2] != b"\x0f\x1f":
            # 0F 18 /4 and higher are hints that capstone prints as `nop` too.
            return f"would assemble to {code.hex(' ')}, which is a hint; NOP r/m is 0f 1f"
        return _unasked_prefix(asked, code, found[1])
    except ExpressionError as error:
        return f"cannot check {code.hex(' ')} ('{found[1]}'): {error}"


def _as_printed(asked: Asked) -> str | None:
    """The text that capstone prints for most instructions, which spares reading it; None where names differ."""
    if asked.prefixes or asked.mnemonic in BY_MODE:
        return None
    width = next((o.size for o in asked.operands if isinstance(o, Register) and o.kind == "gpr"), None)
    return f"{asked.mnemonic} {', '.join([_operand_as_printed(o, width) for o in asked.operands])}".rstrip()


def _operand_as_printed(operand: Operand, width: int | None) -> str:
    match operand:
        case Register(name):
            return name
        case Immediate(value, _, None):
            return _number_as_printed(value)
        case Memory(size, None, base, index, scale, displacement, None):
            word = SIZE_WORDS.get(size or width or 0, "")
            terms = [base.name] if base else []
            if index:
                terms.append(f"{index.name}*{scale}" if scale > 1 else index.name)
            place = " + ".join(terms)
            if displacement or not place:
                sign = (" - " if displacement < 0 else " + ") if place else ("-" if displacement < 0 else "")
                place += sign + _number_as_printed(abs(displacement))
            return f"{word} ptr [{place}]"
    return "?"  # equal to nothing that capstone prints


def _number_as_printed(value: int) -> str:
    return str(value) if -10 < value < 10 else hex(value)


def _same_meaning(asked: Asked, meaning: Meaning) -> bool:
    _, mnemonic, operands = meaning
    wanted_mnemonic, wanted = _asked_canonical(asked)
    if mnemonic != wanted_mnemonic:
        return False
    return _same_operands(wanted, operands, asked.bits) or (
        mnemonic in UNORDERED and _same_operands(wanted[::-1], operands, asked.bits)
    )


def _unasked_prefix(asked: Asked, code: bytes, text: str) -> str | None:
    present = prefixes_of(code)
    wanted = asked.prefix_bytes() + _implied_prefixes(asked)
    for prefix in wanted:
        if prefix not in present:
            return f"the prefix {prefix:02x} cannot be given to '{asked.mnemonic}'"
    for position, prefix in enumerate(present):
        if present.count(prefix) > 1:
            return f"would assemble to {code.hex(' ')}, with the prefix {prefix:02x} twice"
        if prefix not in wanted and (
            prefix in (LOCK, ADDRESS) or not _is_seen(code, position, _meaning(text, code, asked.bits), asked.bits)
        ):
            return f"would assemble to {code.hex(' ')}, with a prefix {prefix:02x} that was not asked for"
    return None


def _implied_prefixes(asked: Asked) -> bytes:
    """66 and 67 where operands ask for them."""
    data = implied_size(asked) not in (None, min(asked.bits, 32))
    address = any(address_size(o) not in (None, asked.bits) for o in asked.operands if isinstance(o, Memory))
    return (bytes((DATA,)) if data else b"") + (bytes((ADDRESS,)) if address else b"")


def _is_seen(code: bytes, position: int, with_it: Meaning, bits: int) -> bool:
    """Whether the instruction decodes differently without this prefix byte, and not just by being repeated."""
    words, mnemonic, _ = with_it
    if code[position] == DATA and mnemonic in ("ljmp", "lcall"):
        return False  # 16:16 and 16:32 read alike
    if code[position] in (REP, REPNE) and words:
        return False
    without = decode_text((code[:position] + code[position + 1 :]).ljust(LONGEST, b"\0"), bits)
    return without is None or _decoded(without[1]) != with_it
