"""Asked instructions to bytes: the tables of `fixes`, else keystone; `verify` has the last word.

A keystone call costs 45 us, and 5 us an instruction when many share one call (0.9.2), so a batch goes in one text
with each instruction on a 16-byte boundary: none is longer than 15 bytes, and the decoder says where each ends.
Relative branches do not come here (see `branches`).
"""

from __future__ import annotations

from collections.abc import Iterable
from threading import local
from typing import TYPE_CHECKING

from harness.code.fixes import StandIn, fixed, stand_in
from harness.code.instructions import Asked
from harness.code.operands import Memory, Register
from harness.code.verify import decode_text, mismatch

if TYPE_CHECKING:
    from keystone import Ks

SLOT = 16
FILLER = 0x0F  # begins no one-byte instruction, so that a slot's instruction cannot silently take it in
MEMO_LIMIT = 65536

# These wait for pending x87 exceptions first: 9B and the FN form (SDM2).
WAITING = {
    "finit": "fninit",
    "fclex": "fnclex",
    "fstcw": "fnstcw",
    "fstsw": "fnstsw",
    "fstenv": "fnstenv",
    "fsave": "fnsave",
}


class EncodingError(Exception):
    """The instruction does not exist, or cannot be encoded rightly; the message is the reason."""


class _Thread(local):
    """What each thread has of its own: keystone corrupts memory when two threads share one Ks."""

    def __init__(self) -> None:
        self.engines: dict[int, Ks] = {}
        self.memo: dict[Asked, bytes | EncodingError] = {}


_thread = _Thread()


def _keystone(bits: int) -> Ks:
    if bits not in _thread.engines:
        import keystone

        mode = {16: keystone.KS_MODE_16, 32: keystone.KS_MODE_32, 64: keystone.KS_MODE_64}[bits]
        _thread.engines[bits] = keystone.Ks(keystone.KS_ARCH_X86, mode)
    return _thread.engines[bits]


def _assemble(text: str, bits: int) -> bytes:
    import keystone

    try:
        code, _ = _keystone(bits).asm(text, 0, True)
    except keystone.KsError as error:
        raise EncodingError(str(error).partition(" (KS_ERR")[0].lower()) from None
    return bytes(code or b"")


def encoded(asked: Asked) -> bytes | EncodingError | None:
    """The bytes of `asked` or why it has none, if `encode_all` has seen it; else None."""
    return _thread.memo.get(asked)


def encode_all(wanted: Iterable[Asked]) -> None:
    """Makes `encoded` know all of `wanted`, in one call of keystone where that is possible."""
    missing = [asked for asked in dict.fromkeys(wanted) if asked not in _thread.memo]
    for bits in {asked.bits for asked in missing}:
        _encode_missing([asked for asked in missing if asked.bits == bits], bits)


def forget_many() -> None:
    """Keeps the memory of encodings bounded; not for the middle of an assembly."""
    if len(_thread.memo) > MEMO_LIMIT:
        _thread.memo.clear()


def _encode_missing(missing: list[Asked], bits: int) -> None:
    for_keystone: dict[Asked, StandIn] = {}
    for asked in missing:
        plain = _without_wait(asked)
        outright = fixed(asked)
        if outright is not None:
            _thread.memo[asked] = _checked(asked, outright)
        else:
            for_keystone[asked] = stand_in(plain._replace(prefixes=()) if plain.prefixes else plain)
    slots = _batch([stand.asked.text() for stand in for_keystone.values()], bits)
    for (asked, stand), slot in zip(for_keystone.items(), slots, strict=True):
        try:
            code = slot if slot is not None else _assemble(stand.asked.text(), bits)
            _thread.memo[asked] = _checked(asked, stand.patch(code))
        except (EncodingError, ValueError) as error:
            _thread.memo[asked] = _explained(asked, str(error))


def _without_wait(asked: Asked) -> Asked:
    return asked._replace(mnemonic=WAITING[asked.mnemonic]) if asked.mnemonic in WAITING else asked


def _batch(texts: list[str], bits: int) -> list[bytes | None]:
    """The bytes of each text, None where only an own call can tell."""
    nothing: list[bytes | None] = [None] * len(texts)
    if len(texts) < 2:
        return nothing
    try:
        code = _assemble("\n".join(f"{text}\n.balign {SLOT}, {FILLER}" for text in texts), bits)
    except EncodingError:
        return nothing
    if len(code) != SLOT * len(texts):
        return nothing
    return [_only(code[at : at + SLOT], bits) for at in range(0, len(code), SLOT)]


def _only(slot: bytes, bits: int) -> bytes | None:
    """The one instruction of a slot, if nothing but filler follows."""
    found = decode_text(slot, bits)
    if found is None or slot[found[0] :].strip(bytes((FILLER,))):
        return None
    return slot[: found[0]]


def _checked(asked: Asked, code: bytes) -> bytes | EncodingError:
    wanted = [prefix for prefix in asked.prefix_bytes() if prefix not in code[:1]]
    whole = bytes(wanted) + code
    reason = mismatch(_without_wait(asked), whole)
    if reason is not None:
        return EncodingError(reason)
    return b"\x9b" + whole if asked.mnemonic in WAITING else whole


def _explained(asked: Asked, reason: str) -> EncodingError:
    if reason == "invalid mnemonic":
        return EncodingError(f"unknown instruction '{asked.mnemonic}'")
    sizeless = any(isinstance(o, Memory) and o.size is None for o in asked.operands)
    if sizeless and not any(isinstance(o, Register) for o in asked.operands):
        return EncodingError(f"{reason} for '{asked.mnemonic}' (is the size missing: byte, word, dword ptr?)")
    return EncodingError(f"{reason} for '{asked.mnemonic}'")
