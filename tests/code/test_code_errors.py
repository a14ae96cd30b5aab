"""A wrong source is answered with file, line, the line itself, the reason, and the way there."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from harness.code import encoder
from harness.code.assembler import AssemblyError, assemble, assemble_file


def error(text: str) -> AssemblyError:
    with pytest.raises(AssemblyError) as caught:
        assemble(text, name="x.asm", base=0x1000)
    return caught.value


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("nop\nfoo eax", 2, "unknown instruction 'foo'"),
        ("5", 1, "unexpected token at start of statement for '5'"),
        ("lar xmm0, cx", 1, "invalid operand for 'lar'"),
        ("lar eax, 5", 1, "invalid operand for 'lar'"),
        ("mov ds, al", 1, "would assemble to 8e d8"),
        ("mov eax, zmmword ptr [eax]", 1, "cannot read the memory operand 'zmmword ptr [eax]'"),
        ("nop\nmov eax, nowhere", 2, "undefined symbol 'nowhere'"),
        ("jmp nowhere", 1, "undefined symbol 'nowhere'"),
        (".long nowhere", 1, "undefined symbol 'nowhere'"),
        ("K = nowhere", 1, "undefined symbol 'nowhere'"),
        ("jmp 1f", 1, "no local label 1 in that direction"),
        ("jmp 1b\n1:", 1, "no local label 1 in that direction"),
        ("a:\nnop\na:", 3, "'a' is already defined at x.asm:1"),
        ("a = 1\na:", 2, "'a' is already defined at x.asm:1"),
        ("a:\na = 1", 2, "'a' is already defined at x.asm:1"),
        ("fs: nop", 1, "a segment register cannot be a label"),
        (".wrong 1", 1, "unknown directive '.wrong'"),
        (".data", 1, "unknown directive '.data'"),
        (".byte", 1, ".byte: takes at least 1 values, not 0"),
        (".byte 256", 1, "does not fit in 8 bits"),
        (".byte -129", 1, "does not fit in 8 bits"),
        (".long 1 << 32", 1, "does not fit in 32 bits"),
        (".byte 1 +", 1, "a value is missing"),
        (".byte 1,", 1, "a value is missing"),
        (".byte (1", 1, "missing ')'"),
        (".byte 1 2", 1, "unexpected '2'"),
        (".byte 1 / 0", 1, "division by zero"),
        (".byte 1 % 0", 1, "division by zero"),
        (".byte 1 << 300", 1, "shift count 300 is out of range"),
        (".byte 0b12", 1, "cannot read '0b12'"),
        (".byte 0b_", 1, "bad number '0b_'"),
        (".byte 12abc", 1, "cannot read"),
        (".byte '\\q'", 1, "unknown escape"),
        (".ascii hello", 1, "a string in quotes is wanted"),
        ('.ascii "a" "b"', 1, "unbalanced quotes"),
        ('.ascii "\\xg0"', 1, "two hexadecimal digits"),
        ('.ascii "\\q"', 1, "unknown escape '\\q'"),
        (".skip -1", 1, ".skip: -1 bytes"),
        (".skip 1 << 30", 1, ".skip: 1073741824 bytes"),
        (".skip 1, 2, 3", 1, "takes 1 to 2 values, not 3"),
        (".fill 1, 3", 1, "a size is 1, 2, 4 or 8, not 3"),
        (".align 3", 1, "a power of two, not 3"),
        (".p2align 64", 1, "power 64"),
        ("nop\n.org 0x1000", 2, "0x1000 lies before the current address 0x1001"),
        (".set x", 1, ".set takes a name and a value"),
        (".set 5, 5", 1, ".set takes a name and a value"),
        ("x = 1 +", 1, "a value is missing"),
        ("mov eax, dword ptr x", 1, "memory operands are written in brackets"),
        ("mov eax, [ebx", 1, "unbalanced brackets"),
        ("mov eax, [eax+ebx+ecx]", 1, "no address has the registers"),
        ("mov eax, [eax*2+ebx*2]", 1, "no address has the registers"),
        ("mov eax, [ebx*3]", 1, "a scale is 1, 2, 4 or 8, not 3"),
        ("mov [eax], 5", 1, "is the size missing"),
        ("jmp short a\n.skip 200\na:", 1, "'jmp' reaches -128 to 127 bytes"),
        ("loop a\n.skip 200\na:", 1, "'loop' reaches"),
        ("call short 5", 1, "'call' has no short form"),
        ("o16 jmp 5", 1, "'o16' cannot stand before a relative branch"),
        ("jmp 0x300000000", 1, "outside the 32-bit address space"),
        ("lock cli", 1, "LOCK is not allowed here"),
        ("mov al, 0x1ff", 1, "would assemble to b0 ff"),
        ("nop\n.if 1\nnop", 2, ".if without .endif"),
        (".else", 1, ".else without .if"),
        (".endif", 1, ".endif without .if"),
        (".if 1\n.else\n.else\n.endif", 3, ".else after .else"),
        (".if x", 1, "'x' is not defined before this line"),
        ("a: nop\n.if a\n.endif", 2, "'a' is an address, which is not known yet"),
        (".if . - 5\n.endif", 1, "'.' is an address"),
        (".if 1 +\n.endif", 1, "a value is missing"),
        (".ifdef 5\n.endif", 1, ".ifdef takes a name"),
        ("nop\n.macro m\nnop", 2, ".macro without .endm"),
        (".rept 2\nnop", 1, ".rept without .endr"),
        (".endm", 1, ".endm without its beginning"),
        (".endr", 1, ".endr without its beginning"),
        (".rept -1\n.endr", 1, ".rept -1 times"),
        (".rept x\n.endr", 1, "'x' is not defined"),
        (".irp 5, 1\n.endr", 1, ".irp takes a name"),
        (".macro 5\n.endm", 1, ".macro takes a name"),
        (".macro m 5\n.endm", 1, "bad macro parameter '5'"),
        (".macro m a:some\n.endm", 1, "bad macro parameter"),
        (".macro m\n.endm\n.macro m\n.endm", 3, "macro 'm' is already defined at x.asm:1"),
        (".macro m a\n.endm\nm 1, 2", 3, "macro 'm' takes 1 arguments"),
        (".macro m a:req\n.endm\nm", 3, "macro 'm' needs 'a'"),
        ('.error "stop here"', 1, "stop here"),
        (".include x", 1, ".include takes a file name in quotes"),
    ],
)
def test_errors(text: str, line: int, reason: str) -> None:
    caught = error(text)
    assert (caught.path, caught.line) == ("x.asm", line)
    assert reason in caught.reason
    assert caught.text == text.splitlines()[line - 1]
    assert str(caught).splitlines()[0] == f"x.asm:{line}: {caught.reason}"
    assert str(caught).splitlines()[1].strip() == caught.text.strip()


def test_the_first_error_counts() -> None:
    assert error("nop\nfoo\nbar").line == 2


def test_a_layout_that_cannot_settle() -> None:
    assert "undefined symbol" in error("x = y + 1\ny = x").reason
    assert "does not settle" in error("a: .skip 4 - (b - a)\nb:").reason


def test_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.code.macros.MOST_STATEMENTS", 100)
    monkeypatch.setattr("harness.code.layout.LARGEST", 1000)
    assert "nest deeper" in error(".macro m\nm\n.endm\nm").reason
    assert "more than 100 statements" in error(".rept 20\n.rept 6\nnop\n.endr\n.endr").reason
    assert "more than 1000 bytes" in error(".skip 1000\n.skip 1").reason
    assert len(assemble(".skip 1000").code) == 1000


def test_a_batch_that_does_not_come_apart_is_encoded_one_by_one() -> None:
    assert encoder._batch(["nop", "hlt"], 32) == [b"\x90", b"\xf4"]
    assert encoder._batch(["nop", ".skip 20"], 32) == [None, None]
    assert encoder._batch(["nop", ".byte 0x0f, 0x24, 0xc0"], 32) == [b"\x90", None]
    assert encoder._batch(["nop", "nonsense"], 32) == [None, None]


def test_an_error_within_a_macro_names_definition_and_invocation() -> None:
    caught = error(".macro in_er a\n mov \\a, 5\n.endm\n.macro outer\n in_er q\n.endm\nnop\nouter")
    assert str(caught).splitlines() == [
        "x.asm:2: undefined symbol 'q'" if "undefined" in caught.reason else f"x.asm:2: {caught.reason}",
        "    mov q, 5",
        "  in macro 'in_er' (defined at x.asm:1), called at x.asm:5",
        "    in_er q",
        "  in macro 'outer' (defined at x.asm:4), called at x.asm:8",
        "    outer",
    ]


def test_an_error_within_an_include_names_the_chain(tmp_path: Path) -> None:
    (tmp_path / "a.asm").write_text('nop\n.include "b.inc"\n')
    (tmp_path / "b.inc").write_text('\n\n.include "c.inc"\n')
    (tmp_path / "c.inc").write_text("nop\n  foo eax ; what is it\n")
    with pytest.raises(AssemblyError) as caught:
        assemble_file(tmp_path / "a.asm")
    assert str(caught.value).splitlines() == [
        f"{tmp_path}/c.inc:2: unknown instruction 'foo'",
        "    foo eax ; what is it",
        f"  included at {tmp_path}/b.inc:3",
        '    .include "c.inc"',
        f"  included at {tmp_path}/a.asm:2",
        '    .include "b.inc"',
    ]
    assert (caught.value.path, caught.value.line) == (f"{tmp_path}/c.inc", 2)


def test_a_missing_include(tmp_path: Path) -> None:
    (tmp_path / "a.asm").write_text('.include "none.inc"\n')
    with pytest.raises(AssemblyError, match=r"no file 'none\.inc' to include") as caught:
        assemble_file(tmp_path / "a.asm", include_path=[tmp_path / "lib"])
    assert str(tmp_path / "lib") in caught.value.reason


def test_a_recursive_include_names_the_chain(tmp_path: Path) -> None:
    (tmp_path / "a.asm").write_text('.include "b.inc"\n')
    (tmp_path / "b.inc").write_text('.include "a.asm"\n')
    with pytest.raises(AssemblyError, match="recursive include") as caught:
        assemble_file(tmp_path / "a.asm")
    assert f"{tmp_path}/a.asm -> {tmp_path}/b.inc -> {tmp_path}/a.asm" in caught.value.reason


def test_an_include_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "a.inc").write_bytes(b"\xff\xfe")
    with pytest.raises(AssemblyError, match="cannot read"):
        assemble('.include "a.inc"', include_path=[tmp_path])


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        assemble_file(tmp_path / "none.asm")


def test_a_mode_that_is_none() -> None:
    with pytest.raises(ValueError, match="bits"):
        assemble("nop", bits=8)


def test_threads_do_not_disturb_each_other() -> None:
    wrong: list[object] = []

    def work(seed: int) -> None:
        for n in range(20):
            value = seed * 1000 + n
            got = assemble(f"mov eax, {value}\nadd ecx, [ebx+{value}]\nfoo = 1").code
            if got != b"\xb8" + value.to_bytes(4, "little") + b"\x03\x8b" + value.to_bytes(4, "little"):
                wrong.append((value, got))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_memory_of_encodings_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "MEMO_LIMIT", 2)
    assemble("mov eax, 1\nmov eax, 2\nmov eax, 3")
    assemble("hlt")
    assert len(encoder._thread.memo) == 1
