"""The decoder, against the SDM's encodings and against the emulated CPU."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from harness.code.decoder import (
    CACHE_LIMIT,
    Decoder,
    Instruction,
    MemoryOperand,
    TruncatedError,
    disassemble,
    mnemonics,
)
from harness.code.fields import read_fields
from harness.code.silicon import lock_is_illegal, refuses

HERE = Path(__file__).parent
ES, CS, SS, DS, FS, GS = range(6)
EAX, ECX, EDX, EBX, ESP, EBP, ESI, EDI = range(8)


def decode(text: str, bits: int = 32, address: int = 0x1000) -> Instruction | None:
    return Decoder(bits).decode(address, bytes.fromhex(text).ljust(15, b"\x90"))


def found(text: str, bits: int = 32) -> Instruction:
    instruction = decode(text, bits)
    assert instruction is not None
    return instruction


def test_the_fields_of_an_instruction() -> None:
    i = found("2e660fb64c9904")  # movzx cx, byte ptr cs:[ecx + ebx*4 + 4]
    assert (i.address, i.raw.hex(), i.length) == (0x1000, "2e660fb64c9904", 7)
    assert (i.mnemonic, i.text) == ("movzx", "movzx cx, byte ptr cs:[ecx + ebx*4 + 4]")
    assert (i.opcode, i.modrm, i.mod, i.reg, i.rm) == (0x0FB6, 0x4C, 1, ECX, 4)
    assert (i.operand_size, i.address_size) == (16, 32)
    assert (i.prefixes, i.rep, i.lock, i.segment_override) == (b"\x2e\x66", 0, False, CS)
    assert i.immediate is None
    assert i.memory == MemoryOperand(CS, True, ECX, EBX, 4, 4, 32)


@pytest.mark.parametrize(
    ("code", "opcode", "modrm"),
    [
        ("06", 0x06, None),
        ("0f06", 0x0F06, None),
        ("0f20c0", 0x0F20, 0xC0),
        ("0f2000", 0x0F20, 0x00),  # MOV from CR ignores mod
        ("660f388203", 0x0F3882, 0x03),
        ("660f3a0fc105", 0x0F3A0F, 0xC1),
        ("b805000000", 0xB8, None),
        ("f3a5", 0xA5, None),
        ("0fc8", 0x0FC8, None),
        ("0fa2", 0x0FA2, None),
        ("0f0100", 0x0F01, 0x00),
        ("d9c0", 0xD9, 0xC0),
        ("c5f877", 0xC5, None),  # VEX
    ],
)
def test_opcode_and_modrm(code: str, opcode: int, modrm: int | None) -> None:
    i = found(code)
    assert (i.opcode, i.modrm) == (opcode, modrm)
    assert i.length == len(code) // 2


def test_without_a_modrm_byte_its_parts_are_no_register() -> None:
    i = found("06")
    assert (i.mod, i.reg, i.rm) == (-1, -1, -1)


@pytest.mark.parametrize(
    ("code", "bits", "memory"),
    [
        ("8b00", 32, MemoryOperand(DS, False, EAX, None, 1, 0, 32)),
        ("8b4508", 32, MemoryOperand(SS, False, EBP, None, 1, 8, 32)),
        ("8b45f8", 32, MemoryOperand(SS, False, EBP, None, 1, -8, 32)),
        ("3e8b4500", 32, MemoryOperand(DS, True, EBP, None, 1, 0, 32)),
        ("8b0424", 32, MemoryOperand(SS, False, ESP, None, 1, 0, 32)),
        ("8b0420", 32, MemoryOperand(DS, False, EAX, None, 1, 0, 32)),
        ("8b442805", 32, MemoryOperand(DS, False, EAX, EBP, 1, 5, 32)),
        ("8b04c578563412", 32, MemoryOperand(DS, False, None, EAX, 8, 0x12345678, 32)),
        ("8b0578563492", 32, MemoryOperand(DS, False, None, None, 1, 0x92345678 - (1 << 32), 32)),
        ("8b8078563412", 32, MemoryOperand(DS, False, EAX, None, 1, 0x12345678, 32)),
        ("64a178563412", 32, MemoryOperand(FS, True, None, None, 1, 0x12345678, 32)),
        ("67a17856", 32, MemoryOperand(DS, False, None, None, 1, 0x5678, 16)),
        ("678b07", 32, MemoryOperand(DS, False, EBX, None, 1, 0, 16)),
        ("678b02", 32, MemoryOperand(SS, False, EBP, ESI, 1, 0, 16)),
        ("678b4604", 32, MemoryOperand(SS, False, EBP, None, 1, 4, 16)),
        ("678b063412", 32, MemoryOperand(DS, False, None, None, 1, 0x1234, 16)),
        ("8b00", 16, MemoryOperand(DS, False, EBX, ESI, 1, 0, 16)),
        ("8b84ff7f", 16, MemoryOperand(DS, False, None, ESI, 1, 0x7FFF, 16)),
        ("8b843412", 16, MemoryOperand(DS, False, None, ESI, 1, 0x1234, 16)),
        ("678b00", 16, MemoryOperand(DS, False, EAX, None, 1, 0, 32)),
        ("0f0110", 32, MemoryOperand(DS, False, EAX, None, 1, 0, 32)),
        ("2665678b07", 32, MemoryOperand(GS, True, EBX, None, 1, 0, 16)),
        ("89c8", 32, None),
        ("0f2000", 32, None),
        ("a5", 32, None),
        ("8b00", 64, MemoryOperand(DS, False, EAX, None, 1, 0, 64)),
        ("4b8b44cb01", 64, MemoryOperand(DS, False, 11, 9, 8, 1, 64)),
    ],
)
def test_memory_operands(code: str, bits: int, memory: MemoryOperand | None) -> None:
    assert found(code, bits).memory == memory


@pytest.mark.parametrize(
    ("code", "operand", "address"),
    [
        ("89c8", 32, 32),
        ("6689c8", 16, 32),
        ("666689c8", 16, 32),
        ("678b07", 32, 16),
        ("67678b07", 32, 16),
        ("66ed", 16, 32),
        ("6666ed", 16, 32),
    ],
)
def test_a_size_prefix_counts_once(code: str, operand: int, address: int) -> None:
    i = found(code)
    assert (i.operand_size, i.address_size) == (operand, address)
    assert found("6689c8", 16).operand_size == 32
    assert found("89c8", 16).operand_size == 16
    assert found("4889c8", 64).operand_size == 64


@pytest.mark.parametrize(
    ("code", "immediate"),
    [
        ("cd80", 0x80),
        ("b8ffffffff", 0xFFFFFFFF),
        ("66b8ffff", 0xFFFF),
        ("83c0ff", 0xFF),
        ("c8341205", 0x1234),
        ("ea785634120800", 0x12345678),
        ("66ea34120800", 0x1234),
        ("c7450005000000", 5),
        ("e4f0", 0xF0),
        ("ebfe", 0xFE),
        ("6bc3fe", 0xFE),
        ("c20400", 4),
        ("90", None),
        ("a178563412", None),
        ("0fa4d803", 3),
    ],
)
def test_the_first_immediate(code: str, immediate: int | None) -> None:
    assert found(code).immediate == immediate


@pytest.mark.parametrize(
    ("code", "rep", "lock", "override"),
    [
        ("a4", 0, False, None),
        ("f3a4", 0xF3, False, None),
        ("f2a6", 0xF2, False, None),
        ("f2f3a6", 0xF3, False, None),
        ("f00118", 0, True, None),
        ("64ac", 0, False, FS),
        ("6465ac", 0, False, GS),
        ("266e", 0, False, ES),
    ],
)
def test_prefixes(code: str, rep: int, lock: bool, override: int | None) -> None:
    i = found(code)
    assert (i.rep, i.lock, i.segment_override) == (rep, lock, override)


REFUSED = [
    "8ec8",  # MOV CS
    "8ef0",
    "8ef8",  # segment registers 6 and 7
    "8cf0",
    "8cf8",
    "0f20c8",
    "0f20e8",
    "0f20f0",
    "0f20f8",
    "0f22c8",
    "0f22e8",  # CR1, 5, 6, 7
    "0f24c0",  # MOV TR
    "0f01e8",
    "0f00f0",
    "f0fa",
    "f0f4",
    "f00f06",
    "f00f20c0",
    "f0f30f06",  # the F3 does not hide LOCK
    "f0f2fa",
    "f3f0fa",
    "f001c0",  # register destination
    "f00300",  # memory source
    "f03900",
    "f083380a",  # CMP
    "f0a5",
    "f00fa318",  # BT
    "f00fba2005",
    "f0f60005",  # TEST
    "f0ff20",
    "66c5f877",  # a prefix before VEX
    "0f0e",
    "0fa7c0",
    "8dc0",  # LEA of a register
    "fed0",  # FE /2
    "c6c8",
    "62c0",
    "fff8",  # FF /7
]


@pytest.mark.parametrize("code", REFUSED)
def test_what_silicon_refuses(code: str) -> None:
    assert decode(code) is None


@pytest.mark.parametrize(
    "code",
    [
        "f00118", "f00018", "f01118", "f02118", "f02918", "f03118", "f00918", "f01918", "f0800005", "f0832805",
        "f08718", "f0f718", "f0f610", "f0fe00", "f0ff08", "f00fab18", "f00fb318", "f00fbb18", "f00fba2805",
        "f00fb018", "f00fb118", "f00fc018", "f00fc118", "f00fc708", "f0f20118", "f0660118",
    ],
)  # fmt: skip
def test_lock_where_it_may_stand(code: str) -> None:
    assert found(code).lock
    assert not lock_is_illegal(bytes.fromhex(code))


def test_lock_is_illegal() -> None:
    assert lock_is_illegal(bytes.fromhex("f0fa"))
    assert lock_is_illegal(bytes.fromhex("66f0f30f06"))
    assert lock_is_illegal(bytes.fromhex("f001c0"))
    assert lock_is_illegal(bytes.fromhex("f0fa"), 16)
    assert not lock_is_illegal(bytes.fromhex("faf0"))
    assert not lock_is_illegal(bytes.fromhex("f0"))
    assert not lock_is_illegal(b"")


@pytest.mark.parametrize(
    ("code", "mnemonic"),
    [
        ("0f1cc0", "nop"),
        ("0f1d00", "nop"),
        ("0f1bc1", "nop"),
        ("0f1e450a", "nop"),
        ("0f0d1d78563412", "prefetch"),
        ("0faee9", "lfence"),
        ("0faef7", "mfence"),
        ("0faeff", "sfence"),
        ("dcd0", "fcom"),
        ("ddc8", "fxch"),
        ("dfd8", "fstp"),
        ("f20fbcc1", "bsf"),
        ("f20fbd00", "bsr"),
    ],
)
def test_what_silicon_executes_although_capstone_does_not_know_it(code: str, mnemonic: str) -> None:
    i = found(code)
    assert (i.mnemonic, i.length) == (mnemonic, len(code) // 2)


@pytest.mark.parametrize(
    ("code", "mnemonic"),
    [("0f0b", "ud2"), ("f1", "int1"), ("d6", "salc"), ("ff18", "call"), ("f30f06", "clts"), ("0f05", "syscall")],
)
def test_what_is_an_instruction_all_the_same(code: str, mnemonic: str) -> None:
    assert found(code).mnemonic == mnemonic


@pytest.mark.parametrize("code", ["", "66", "0f", "0f38", "8b", "8b04", "8b80000000", "b8000000", "cd", "ea0000000008"])
def test_a_window_that_ends_too_early(code: str) -> None:
    with pytest.raises(TruncatedError):
        Decoder().decode(0, bytes.fromhex(code))


def test_a_short_window_is_enough_if_the_instruction_fits() -> None:
    instruction = Decoder().decode(0, b"\xcd\x80")
    assert instruction is not None
    assert instruction.length == 2
    assert Decoder().decode(0, b"\xfe\xd0") is None


def test_more_than_fifteen_bytes_is_no_instruction() -> None:
    assert found("66" * 14 + "90").length == 15
    assert Decoder().decode(0, b"\x66" * 15 + b"\x90") is None
    assert Decoder().decode(0, b"\x66" * 13 + b"\x05\x01\x02") is None


def test_a_branch_target_is_relative_to_the_address() -> None:
    decoder = Decoder()
    texts = []
    for address in (0x1000, 0x2000):
        instruction = decoder.decode(address, b"\xeb\xfe")
        assert instruction is not None
        texts.append(instruction.text)
    assert texts == ["jmp 0x1000", "jmp 0x2000"]


BRANCHES = (
    "7400 eb00 e800000000 c3 c20000 cb cf cd80 cc ce f1 f4 e200 e300 "
    "0f8400000000 ffe0 ffd0 ff10 ff18 ff28 ea000000000000 9a000000000000 0f34 0f35 0f05 0f07 0f0b e900000000 0faa"
)


@pytest.mark.parametrize("code", BRANCHES.split())
def test_branches(code: str) -> None:
    assert found(code).is_branch


@pytest.mark.parametrize("code", ["90", "fa", "fb", "ff00", "ff30", "e460", "0fa2", "8ed8", "9d", "0f22c0"])
def test_not_branches(code: str) -> None:
    assert not found(code).is_branch


# -- the cache


def test_the_cache_answers_for_the_same_bytes_only() -> None:
    decoder = Decoder()
    first = decoder.decode(0x1000, bytes.fromhex("0fa290909090909090909090909090"))
    assert first is not None
    assert (decoder.hits, decoder.misses) == (0, 1)
    assert decoder.decode(0x1000, bytes.fromhex("0fa2ffffffffffffffffffffffffff")) is first
    assert (decoder.hits, decoder.misses) == (1, 1)
    assert decoder.cached(0x1000) is first
    assert decoder.cached(0x1001) is None
    second = decoder.decode(0x1000, bytes.fromhex("fa").ljust(15, b"\x90"))
    assert second is not None
    assert second.mnemonic == "cli"
    assert (decoder.hits, decoder.misses) == (1, 2)
    assert decoder.cached(0x1000) is second
    assert decoder.decode(0x2000, bytes.fromhex("fa").ljust(15, b"\x90")) is not second


def test_refusals_are_remembered_too_but_not_for_other_bytes() -> None:
    decoder = Decoder()
    bad = bytes.fromhex("f0fa").ljust(15, b"\x90")
    assert decoder.decode(0x1000, bad) is None
    assert decoder.decode(0x1000, bad) is None
    assert (decoder.hits, decoder.misses) == (1, 1)
    good = decoder.decode(0x1000, bytes.fromhex("fa").ljust(15, b"\x90"))
    assert good is not None
    assert good.mnemonic == "cli"


def test_bytes_that_become_bad_are_not_answered_from_the_cache() -> None:
    decoder = Decoder()
    assert decoder.decode(0x1000, b"\xfa".ljust(15, b"\x90")) is not None
    assert decoder.decode(0x1000, b"\xf0\xfa".ljust(15, b"\x90")) is None


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CACHE_LIMIT > 1000
    monkeypatch.setattr("harness.code.decoder.CACHE_LIMIT", 4)
    decoder = Decoder()
    for address in range(5):
        decoder.decode(address, b"\xf0\xfa".ljust(15, b"\x90") if address == 1 else b"\x90" * 15)
    assert decoder.cached(0) is None
    assert decoder.cached(4) is not None


# -- runs


def test_a_run_goes_to_the_end_of_the_code() -> None:
    run = list(Decoder().decode_run(0x1000, bytes.fromhex("90b805000000c3")))
    assert [(i.address, i.mnemonic) for i in run] == [(0x1000, "nop"), (0x1001, "mov"), (0x1006, "ret")]


def test_a_run_ends_where_nothing_can_be_decoded() -> None:
    assert [i.mnemonic for i in Decoder().decode_run(0, bytes.fromhex("90f0fa90").ljust(20, b"\x90"))] == ["nop"]
    assert [i.mnemonic for i in Decoder().decode_run(0, bytes.fromhex("90b805"))] == ["nop"]
    assert list(Decoder().decode_run(0, b"")) == []


def test_disassemble_goes_on_after_bad_bytes() -> None:
    assert disassemble(0x10, bytes.fromhex("faf0fa8ec890b805")) == [
        (0x10, b"\xfa", "cli"),
        (0x11, b"\xf0", "(bad)"),
        (0x12, b"\xfa", "cli"),
        (0x13, b"\x8e", "(bad)"),
        (0x14, b"\xc8\x90\xb8\x05", "enter -0x4770, 5"),
    ]
    assert disassemble(0, bytes.fromhex("b80500"), 16) == [(0, bytes.fromhex("b80500"), "mov ax, 5")]
    assert disassemble(0, bytes.fromhex("90b805")) == [
        (0, b"\x90", "nop"),
        (1, b"\xb8", "(bad)"),
        (2, b"\x05", "(bad)"),
    ]


# -- against the rest of the world


def test_all_of_the_sweep_decodes_to_its_length() -> None:
    for bits in (16, 32):
        decoder = Decoder(bits)
        for line in (HERE / f"sweep{bits}.txt").read_text().splitlines():
            if line.startswith("#"):
                continue
            text, code = line.split(" | ")
            raw = bytes.fromhex(code)
            start = raw[1:] if raw[0] == 0x9B and len(raw) > 1 else raw
            instruction = decoder.decode(0, start.ljust(15, b"\x90"))
            if "cr1" in text or "cr5" in text:
                assert instruction is None, text  # may be written, for a guest that wants the #UD
                continue
            assert instruction is not None, text
            assert instruction.raw == start, text
            end = read_fields(start, bits).end
            assert end <= len(start), text


# What the two are known to differ in. Features the emulated CPU does not have, or has only as AMD has them:
# VMX and SMX (0F01, 0F37, 0F78, 0F79, 0FC7), RSM, SYSRET, PTWRITE and XSAVE (0FAE), UD0/1/2, RDPMC and F1 (#UD there),
# 3DNow! (0F0F). Its own errors: #UD for F6 /1 and F7 /1, which the SDM's table A-6 gives as TEST; 8F /1 to /7, C6 F9
# and C7 F9 run; memory forms of what takes registers only (0F12, 0F16, 0F50, 0F71 to 0F73, 0FD6, 0FF7), 66 0F C3.
# CMPPS with a predicate above 7 (0FC2) is #UD there, and so is 0F 18 with a register (a reserved NOP in table A-6).
DIFFERENT = {
    0x0F01, 0x0F07, 0x0F0B, 0x0F0F, 0x0F12, 0x0F16, 0x0F18, 0x0F33, 0x0F37, 0x0F50, 0x0F71, 0x0F72,
    0x0F73, 0x0F78, 0x0F79, 0x0FAA, 0x0FAE, 0x0FB9, 0x0FC2, 0x0FC3, 0x0FC7, 0x0FD6, 0x0FF7, 0x0FFF,
    0xF1, 0xF6, 0xF7, 0x8F, 0xC4, 0xC5, 0xC6, 0xC7,
}  # fmt: skip
# These leave the test's own page or never come back.
NOT_RUN = {0xF4, *range(0x70, 0x80), *range(0xE0, 0xE4), *range(0x0F80, 0x0F90)}


def test_lengths_and_refusals_agree_with_the_emulated_cpu() -> None:
    """Opcodes of one and two bytes with ModRM bytes of every kind; LOCK is left out, for there that CPU is wrong."""
    unicorn = pytest.importorskip("unicorn")
    uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32, unicorn.x86_const.UC_CPU_X86_EPYC)
    uc.mem_map(0x10000, 0x10000)
    seen: list[int] = []
    invalid: list[bool] = []

    def on_invalid(*_: object) -> bool:
        invalid.append(True)
        return False

    uc.hook_add(unicorn.UC_HOOK_CODE, lambda _uc, _address, size, _data: seen.append(size))
    uc.hook_add(unicorn.UC_HOOK_INSN_INVALID, on_invalid)
    fresh = uc.context_save()
    decoder = Decoder()
    tail = bytes(range(0x11, 0x1D))
    compared = 0
    address = 0x10000
    for start in (b"", b"\x66", b"\x67"):
        for opcode in (*range(0x100), *range(0x0F00, 0x1000)):
            head = opcode.to_bytes(1 if opcode < 0x100 else 2, "big")
            first = head[-1]
            is_prefix = opcode < 0x100 and (first in b"\x66\x67\xf0\xf2\xf3\x26\x2e\x36\x3e\x64\x65\x0f")
            if is_prefix or opcode in DIFFERENT or opcode in NOT_RUN or opcode in (0x0F38, 0x0F3A):
                continue
            for modrm in range(0x00, 0x100, 23):
                window = (start + head + bytes((modrm,)) + tail)[:15]
                address += 64
                if address >= 0x1F000:
                    address = 0x10000
                    uc.ctl_flush_tb()
                uc.mem_write(address, window + b"\x90" * 32)
                uc.context_restore(fresh)
                seen.clear()
                invalid.clear()
                with contextlib.suppress(unicorn.UcError):
                    uc.emu_start(address, address + 64, count=1)
                runs = None if invalid or not seen or seen[0] > 15 else seen[0]
                instruction = decoder.decode(address, window)
                assert (instruction.length if instruction else None) == runs, window.hex()
                compared += 1
    assert compared > 12000


def test_refuses_looks_at_fields_only() -> None:
    assert refuses(read_fields(bytes.fromhex("8ec8"), 32))
    assert not refuses(read_fields(bytes.fromhex("8ed8"), 32))


def test_mnemonics_are_those_that_the_decoder_prints() -> None:
    names = mnemonics()
    assert {found(code).mnemonic for code in ("90", "0f0110", "f1", "0fa2")} <= names
    assert "nonsense" not in names
    assert "" not in names
