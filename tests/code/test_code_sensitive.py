"""What the block scanner must find."""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness.code.decoder import Decoder
from harness.code.sensitive import KINDS, classify, suspects

CASES = [
    ("io", "6c 6d 6e 6f e460 e560 e660 e760 ec ed ee ef f36c f36f 66ed 66ef"),
    ("sysenter", "0f34"),
    ("sysexit", "0f35"),
    ("syscall", "0f05"),
    ("sysret", "0f07"),
    ("random", "0fc7f0 0fc7f8 660fc7f1"),
    ("xsetbv", "0f01d0 0f01d1 0f01d4"),
    ("lar", "0f02c1 0f0200"),
    ("lsl", "0f03c1 0f0300"),
    ("verr", "0f00e0 0f0020"),
    ("verw", "0f00e8 0f0028"),
    ("push_seg", "06 0e 16 1e 0fa0 0fa8 661e"),
    ("pop_seg", "07 17 1f 0fa1 0fa9"),
    ("mov_from_seg", "8cd8 8c18 668cd8"),
    ("mov_to_seg", "8ed8 8e18"),
    ("far_call", "9a000000000800 ff18 ff5804 66ff18"),
    ("far_jmp", "ea000000000800 ff28 ff6804"),
    ("far_ret", "cb ca0400"),
    ("load_far", "c500 c400 0fb200 0fb400 0fb500"),
    ("arpl", "63d8 6318"),
    ("pushf", "9c 669c"),
    ("popf", "9d 669d"),
    ("iret", "cf 66cf"),
    ("sldt", "0f00c0 0f0000"),
    ("str", "0f00c8 0f0008"),
    ("sgdt", "0f0100"),
    ("sidt", "0f0108"),
    ("smsw", "0f01e0 0f0120"),
    (
        None,
        "90 fa fb f4 cd80 0f0110 0f0118 0f0130 0f01c1 0f01c8 0f00d8 0f00d0 0fc730 0fc738 0fc708 ff10 ff20 ffd0 ff30"
        " ff00 50 8bd8 0f06 0fa2 c5f877 b81e060e16 0f31",
    ),
]
FLAT = [(kind, code) for kind, codes in CASES for code in codes.split()]


@pytest.mark.parametrize(("kind", "code"), FLAT)
def test_classify(kind: str | None, code: str) -> None:
    instruction = Decoder().decode(0, bytes.fromhex(code).ljust(15, b"\x90"))
    assert instruction is not None
    assert classify(instruction) == kind


def test_every_kind_has_a_case() -> None:
    assert {kind for kind, _ in CASES} - {None} == KINDS


@pytest.mark.parametrize(("kind", "code"), [(kind, code) for kind, code in FLAT if kind])
def test_a_suspect_is_seen_wherever_it_stands(kind: str, code: str) -> None:
    pattern = suspects({kind})
    for before in (b"", b"\x90", b"\xb8\x01\x02\x03\x04"):
        assert pattern.search(before + bytes.fromhex(code) + b"\x90")


def test_an_innocent_block_is_not_suspect() -> None:
    # mov eax, [ebx+4]; add eax, ecx; push eax; call near; inc [eax]; jne; ret
    block = bytes.fromhex("8b430401c850e810000000ff0075f1c3")
    assert suspects(KINDS).search(block) is None
    assert suspects(["io"]).search(bytes.fromhex("9a000000000800ff188ed8")) is None


def test_near_calls_and_pushes_through_memory_are_not_taken_for_far_ones() -> None:
    pattern = suspects(["far_call", "far_jmp"])
    assert pattern.search(bytes.fromhex("ff10ff20ffd0ffe0ff30")) is None
    assert pattern.search(bytes.fromhex("ff18"))
    assert pattern.search(bytes.fromhex("ff28"))


def test_lock_is_always_suspect() -> None:
    assert suspects([]).search(b"\x90\xf0")
    assert suspects([]).search(bytes(set(range(256)) - {0xF0})) is None


def test_any_byte_may_follow() -> None:
    for modrm in range(256):
        assert bool(suspects(["random"]).search(bytes((0x0F, 0xC7, modrm)))) == (modrm >= 0xF0)
        assert bool(suspects(["verr"]).search(bytes((0x0F, 0x00, modrm)))) == (modrm >> 3 & 7 == 4 or modrm == 0xF0)


def test_a_kind_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        suspects(["io", "nonsense"])


@pytest.mark.parametrize(
    ("use", "loaded"),
    [
        ("from harness.code.assembler import assemble", set()),
        ("from harness.code.decoder import disassemble", set()),
        ("from harness.code.sensitive import suspects; suspects(['io'])", set()),
        ("from harness.code.decoder import disassemble; disassemble(0, b'\\x90')", {"capstone"}),
    ],
)
def test_the_engines_are_loaded_only_when_used(use: str, loaded: set[str]) -> None:
    program = f"import sys; {use}; print(*[m for m in ('capstone', 'keystone') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == loaded
