"""Every instruction that one can spell, against bytes that did not come from this code."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.code.assembler import AssemblyError, assemble
from harness.code.branches import CONDITIONS
from harness.code.expression import no_symbols
from harness.code.instructions import Asked, ask, parse_instruction
from harness.code.verify import mismatch

HERE = Path(__file__).parent
# Observed with keystone 0.9.2: what it gives for the line, and what SDM volume 2 wants.
KEYSTONE_IS_WRONG = [
    # A 66 that nobody asked for: a base of 24 bits.
    ("lgdt [eax]", "660f0110", "0f0110"),
    ("lidt [eax]", "660f0118", "0f0118"),
    ("sgdt [eax]", "660f0100", "0f0100"),
    ("sidt [eax]", "660f0108", "0f0108"),
    # Pushes and pops of 16 bits.
    ("push cs", "660e", "0e"),
    ("push ss", "6616", "16"),
    ("push ds", "661e", "1e"),
    ("push es", "6606", "06"),
    ("pop ss", "6617", "17"),
    ("pop ds", "661f", "1f"),
    ("pop es", "6607", "07"),
    ("iret", "66cf", "cf"),
    ("pushf", "669c", "9c"),
    ("popf", "669d", "9d"),
    ("push dword 5", "666a05", "6a05"),
    ("push byte 5", "666a05", "6a05"),
    # 66 without effect, but not asked for either.
    ("mov ds, ax", "668ed8", "8ed8"),
    ("mov [eax], ds", "668c18", "8c18"),
    # 16:16 instead of 16:32.
    ("ljmp 8:0x1234", "66ea34120800", "ea341200000800"),
    # 32 bits although 16 were asked for.
    ("push word 0x1234", "6834120000", "66683412"),
    # Another instruction, another segment, another number.
    ("nop dword ptr [eax]", "0f1820", "0f1f00"),
    ("nop eax", "0f18e0", "0f1fc0"),
    ("mov eax, ds:[ebp]", "8b4500", "3e8b4500"),
    ("mov eax, ds:[esp]", "8b0424", "3e8b0424"),
    ("mov al, 0x1ff", "b0ff", None),
    ("mov ax, 0x10000", "66b80000", None),
    ("mov byte ptr [eax], 0x100", "c60000", None),
    ("lock cli", "f0fa", None),
    ("fadd", "dec1", None),
]
KEYSTONE_IS_WRONG_IN_16_BITS = [
    ("ret", "66c3", "c3"),
    ("retf", "66cb", "cb"),
    ("ret 4", "66c20400", "c20400"),
    ("push 5", "666a05", "6a05"),
    ("push 0x1234", "666834120000", "683412"),
]


def rows(bits: int) -> list[tuple[int, str, str]]:
    lines = (HERE / f"sweep{bits}.txt").read_text().splitlines()
    pairs = [line.split(" | ") for line in lines if not line.startswith("#")]
    return [(bits, text, code) for text, code in pairs]


ALL = rows(32) + rows(16)


def asked(text: str, bits: int = 32) -> Asked:
    return ask(parse_instruction(text), bits, no_symbols)


@pytest.mark.parametrize(("bits", "text", "code"), ALL)
def test_each_instruction_has_its_bytes(bits: int, text: str, code: str) -> None:
    assert assemble(text, bits=bits).code.hex() == code


@pytest.mark.parametrize("extra", [0x66, 0x67, 0xF0, 0xF2, 0xF3])
def test_no_instruction_may_carry_a_prefix_that_it_did_not_ask_for(extra: int) -> None:
    for bits, text, code in ALL:
        right = bytes.fromhex(code)
        assert mismatch(asked(text.replace("fstsw", "fnstsw"), bits), bytes((extra,)) + right), text


def test_no_instruction_may_lose_a_byte() -> None:
    for bits, text, code in ALL:
        right = bytes.fromhex(code)
        assert mismatch(asked(text, bits), right[:-1]), text
        assert mismatch(asked(text, bits), right[1:]), text


def test_no_two_lines_of_the_sweep_pass_for_each_other_unless_their_bytes_agree() -> None:
    first = {code: text for bits, text, code in ALL if bits == 32}
    wanted = asked("mov eax, dword ptr [ebx+4]")
    assert mismatch(wanted, bytes.fromhex("8b4304")) is None
    assert [text for code, text in first.items() if mismatch(wanted, bytes.fromhex(code)) is None] == []


@pytest.mark.parametrize(
    ("text", "wrong", "right", "bits"),
    [(*row, 32) for row in KEYSTONE_IS_WRONG] + [(*row, 16) for row in KEYSTONE_IS_WRONG_IN_16_BITS],
)
def test_what_keystone_gets_wrong_is_seen_and_put_right(text: str, wrong: str, right: str | None, bits: int) -> None:
    import keystone

    engine = keystone.Ks(keystone.KS_ARCH_X86, keystone.KS_MODE_32 if bits == 32 else keystone.KS_MODE_16)
    assert bytes(engine.asm(text, 0, True)[0]).hex() == wrong, "keystone has changed: is the row still needed?"
    assert mismatch(asked(text, bits), bytes.fromhex(wrong))
    if right is None:
        with pytest.raises(AssemblyError):
            assemble(text, bits=bits)
    else:
        assert mismatch(asked(text, bits), bytes.fromhex(right)) is None
        assert assemble(text, bits=bits).code.hex() == right


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("lar eax, cx", "0f02c1"),
        ("lsl eax, word ptr [ebx]", "0f0303"),
        ("vmrun", "0f01d8"),
        ("rep movsd", "f3a5"),
        ("jmp 8:0x1234", "ea341200000800"),
        ("call far [eax]", "ff18"),
        ("jmp fword ptr [eax]", "ff28"),
        ("iretw", "66cf"),
        ("pushfw", "669c"),
        ("popfw", "669d"),
        ("wbnoinvd", "f30f09"),
        ("xlat", "d7"),
    ],
)
def test_what_keystone_refuses_can_be_spelled(text: str, code: str) -> None:
    import keystone

    with pytest.raises(keystone.KsError):
        keystone.Ks(keystone.KS_ARCH_X86, keystone.KS_MODE_32).asm(text)
    assert assemble(text).code.hex() == code


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("ljmp 8:0x1234", "ea34120800"),
        ("call far [eax]", "ff10"),
        ("call far [eax]", "66ff18"),
        ("call [eax]", "ff18"),
        ("jmp [eax]", "ff28"),
        ("jmp far dword ptr [eax]", "ff28"),
        ("o16 lgdt [eax]", "0f0110"),
        ("o16 iret", "cf"),
        ("iretw", "cf"),
        ("mov eax, [ebx]", "8b4300ff"),
        ("mov eax, [eax+ebp]", "8b440500"),  # base EBP: another segment
        ("mov eax, ss:[eax]", "8b00"),
        ("mov eax, fs:[eax]", "658b00"),
        ("mov eax, [eax+ecx*4]", "8b0448"),
        ("mov eax, [eax+8]", "8b4009"),
        ("mov eax, 5", "b806000000"),
        ("mov ax, 5", "b805000000"),
        ("add eax, ebx", "01c3"),
        ("sub st, st(1)", "d8e1"),
        ("fsub st(1), st", "d8e1"),
        ("movsb", "a5"),
        ("rep movsb", "a4"),
        ("repne scasb", "f3ae"),
        ("int 3", "cc"),
        ("push 5", "666a05"),
        ("mov eax, cr0", "0f22c0"),
        ("imul eax, ebx, 5", "6bc305ff"),
        ("imul ebx", "0fafc3"),
        ("ltr ax", "660f00d8"),
        ("mov ds, ax", "8edb"),
    ],
)
def test_other_bytes_are_not_taken_for_it(text: str, wrong: str) -> None:
    assert mismatch(asked(text), bytes.fromhex(wrong))


@pytest.mark.parametrize(
    "text",
    [
        "inc [eax]",
        "mov [eax], 5",
        "movzx eax, [ebx]",
        "fld [eax]",
        "mov eax",
        "foo eax",
        "pop cs",
        "lock add eax, ebx",
        "lock cmp [eax], ebx",
        "shl eax, 0x105",
        "int 0x180",
        "in al, 0x110",
        "out 0x110, al",
        "ret 0x10000",
        "push word 0x12345",
        "mov eax, 0x100000000",
        "mov eax, -0x80000001",
        "mov eax, [0x100000000]",
        "jmp 0x10000:5",
        "o16 ljmp 8:0x12345",
        "o16 mov eax, ebx",
        "o16 push 0x1234",
        "rep rep movsb",
        "o16 o16 movsd",
        "ud1 eax, ebx",
        "mov eax, [eax+ebx*3]",
        "mov eax, r8",
        "xbegin 5",
    ],
)
def test_what_cannot_be_encoded_rightly_is_refused(text: str) -> None:
    with pytest.raises(AssemblyError) as caught:
        assemble(text)
    assert caught.value.line == 1


@pytest.mark.parametrize("code", range(16))
def test_conditions(code: int) -> None:
    for name in CONDITIONS[code]:
        assert assemble(f"j{name} .").code == bytes((0x70 | code, 0xFE))
        assert assemble(f"j{name} near .").code == bytes((0x0F, 0x80 | code, 0xFA, 0xFF, 0xFF, 0xFF))
        assert assemble(f"set{name} cl").code == bytes((0x0F, 0x90 | code, 0xC1))
        assert assemble(f"cmov{name} ecx, edx").code == bytes((0x0F, 0x40 | code, 0xCA))


@pytest.mark.parametrize(
    ("bits", "text", "code"),
    [
        (32, "jmp .", "ebfe"),
        (32, "jmp near .", "e9fbffffff"),
        (32, "jmp short .", "ebfe"),
        (32, "call .", "e8fbffffff"),
        (32, "loop .", "e2fe"),
        (32, "loope .", "e1fe"),
        (32, "loopne .", "e0fe"),
        (32, "loopnz .", "e0fe"),
        (32, "jecxz .", "e3fe"),
        (32, "jcxz .", "67e3fd"),
        (32, "a16 loop .", "67e2fd"),
        (16, "jcxz .", "e3fe"),
        (16, "jecxz .", "67e3fd"),
        (16, "a32 loop .", "67e2fd"),
        (16, "jmp near .", "e9fdff"),
        (16, "call .", "e8fdff"),
        (16, "jne near .", "0f85fcff"),
        (64, "jrcxz .", "e3fe"),
        (64, "jmp near .", "e9fbffffff"),
        (64, "mov rax, [rbx+r9*8+1]", "4a8b44cb01"),
        (64, "push rax", "50"),
        (64, "iretq", "48cf"),
        (64, "syscall", "0f05"),
    ],
)
def test_branches_and_long_mode(bits: int, text: str, code: str) -> None:
    assert assemble(text, bits=bits, base=0x7C00).code.hex() == code


@pytest.mark.parametrize("text", ["loop near .", "call short .", "o16 jmp .", "cs jne .", "a16 jmp ."])
def test_branches_that_do_not_exist(text: str) -> None:
    with pytest.raises(AssemblyError):
        assemble(text)


def test_a_wait_is_put_before_the_waiting_x87_forms() -> None:
    pairs = {"finit": "dbe3", "fclex": "dbe2", "fstcw [eax]": "d938", "fstsw ax": "dfe0", "fstenv [eax]": "d930"}
    for text, rest in pairs.items():
        assert assemble(text).code.hex() == "9b" + rest
