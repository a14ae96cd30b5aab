"""Relative branches, encoded here because their size depends on the layout (SDM2: Jcc, JMP, CALL, LOOPcc, JCXZ)."""

from __future__ import annotations

from typing import NamedTuple

from harness.code.fields import ADDRESS
from harness.code.instructions import SIZE_PREFIXES, WrittenInstruction
from harness.code.operands import WrittenImmediate

CONDITIONS = (
    ("o",), ("no",), ("b", "c", "nae"), ("ae", "nb", "nc"), ("e", "z"), ("ne", "nz"), ("be", "na"), ("a", "nbe"),
    ("s",), ("ns",), ("p", "pe"), ("np", "po"), ("l", "nge"), ("ge", "nl"), ("le", "ng"), ("g", "nle"),
)  # fmt: skip


class BranchError(Exception):
    """The branch cannot reach its target, or cannot be written so; the message is the reason."""


class BranchForm(NamedTuple):
    """Opcodes of the 8-bit and the full-width displacement; `counter` is the address size that the name asks for."""

    short: bytes | None
    near: bytes | None
    counter: int | None = None


BRANCHES = {
    "jmp": BranchForm(b"\xeb", b"\xe9"),
    "call": BranchForm(None, b"\xe8"),
    "loopne": BranchForm(b"\xe0", None),
    "loopnz": BranchForm(b"\xe0", None),
    "loope": BranchForm(b"\xe1", None),
    "loopz": BranchForm(b"\xe1", None),
    "loop": BranchForm(b"\xe2", None),
    "jcxz": BranchForm(b"\xe3", None, 16),
    "jecxz": BranchForm(b"\xe3", None, 32),
    "jrcxz": BranchForm(b"\xe3", None, 64),
} | {
    "j" + name: BranchForm(bytes((0x70 | code,)), bytes((0x0F, 0x80 | code)))
    for code, names in enumerate(CONDITIONS)
    for name in names
}


class Branch(NamedTuple):
    """A relative branch of the source; `may_be_short` and `may_be_near` after `short` and `near` were heard."""

    mnemonic: str
    prefix: bytes
    form: BranchForm
    target: WrittenImmediate
    may_be_short: bool
    may_be_near: bool
    bits: int


def as_branch(written: WrittenInstruction, bits: int) -> Branch | None:
    """`written` as a relative branch, or None if it is something else. Raises BranchError."""
    form = BRANCHES.get(written.mnemonic)
    match written.operands:
        case (WrittenImmediate(_, _, distance) as target,) if form is not None and distance != "far":
            may_be_short, may_be_near = distance != "near" and bool(form.short), distance != "short" and bool(form.near)
            if not (may_be_short or may_be_near):
                raise BranchError(f"'{written.mnemonic}' has no {distance} form")
            return Branch(written.mnemonic, _prefix(written, form, bits), form, target, may_be_short, may_be_near, bits)
    return None


def _prefix(written: WrittenInstruction, form: BranchForm, bits: int) -> bytes:
    """67 where the counter is not the mode's: CX in 32-bit code, ECX in 16-bit code."""
    wanted = form.counter or bits
    for word in written.prefixes:
        byte, size = SIZE_PREFIXES.get(word, (0, 0))
        if byte != ADDRESS or not written.mnemonic.startswith("loop"):
            raise BranchError(f"'{word}' cannot stand before a relative branch")
        wanted = size
    return bytes((ADDRESS,)) if wanted != bits else b""


def encode_branch(branch: Branch, address: int, target: int, wide: bool) -> bytes:
    """The bytes at `address`; `wide` forbids the short form. Raises BranchError when no form reaches."""
    form = branch.form
    if branch.may_be_short and form.short is not None and not wide:
        code = branch.prefix + form.short
        distance = target - (address + len(code) + 1)
        if -128 <= distance < 128:
            return code + distance.to_bytes(1, "little", signed=True)
        if not branch.may_be_near:
            raise BranchError(f"'{branch.mnemonic}' reaches -128 to 127 bytes, the target is further away")
    assert form.near is not None
    code = branch.prefix + form.near
    width = 2 if branch.bits == 16 else 4
    distance = target - (address + len(code) + width)
    reach = 1 << 8 * width
    if not -reach < distance < reach:
        raise BranchError(f"the target is {distance} bytes away, outside the {branch.bits}-bit address space")
    return code + (distance % reach).to_bytes(width, "little")
