"""What the assembler adds to keystone: labels, expressions, data, macros, conditions, includes."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from harness.code import encoder
from harness.code.assembler import assemble, assemble_file
from harness.code.listing import listing, render


def code(text: str, base: int = 0x1000, bits: int = 32) -> str:
    return assemble(text, base=base, bits=bits).code.hex()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("nop ; nop", "90"),
        ("nop # nop", "90"),
        ("nop // nop", "90"),
        ("  ; only a comment, isn't it", ""),
        ('.ascii "a;b#c//d" ; e', "613b6223632f2f64"),
        ("mov al, ';' ; x", "b03b"),
        ("mov al, '#'", "b023"),
        ("mov al, ','", "b02c"),
        ("mov al, ':'", "b03a"),
        ("cmp al, '\\n' # newline", "3c0a"),
        ("mov al, '\\x41'", "b041"),
        ('.asciz "\\"x\\"\\\\\\t\\x7f\\0"', "227822" + "5c" + "09" + "7f" + "00" + "00"),
        ('.string "a", "b"', "61006200"),
        ('.ascii "é"', "c3a9"),
        (".byte 1, -1, 0x7f, 0b101, 0o17, 0Fh, 255", "01ff7f050f0fff"),
        (".word 0x1234, -2", "3412feff"),
        (".short 1\n.hword 2", "01000200"),
        (".long 0x12345678\n.int -1\n.dword 1", "78563412ffffffff01000000"),
        (".quad 0x123456789abcdef0, -1", "f0debc9a78563412ffffffffffffffff"),
        (".skip 3", "000000"),
        (".skip 2, 0xcc\n.space 1\n.zero 1", "cccc0000"),
        (".fill 2, 2, 0x1234", "34123412"),
        (".fill 3", "000000"),
        ("nop\n.align 4\nnop", "9090909090"),
        ("nop\n.balign 4, 0xcc\nnop", "90cccccc90"),
        ("nop\n.p2align 3, 0", "90" + "00" * 7),
        ("nop\n.balign 8, 0, 3\nnop", "9090"),
        ("nop\n.balign 4, , 3\nnop", "9090909090"),
        ("nop\n.org 0x1004\nnop", "9000000090"),
        ("nop\n.org 0x1003, 0xff\nnop", "90ffff90"),
        (".global x\n.text\n.intel_syntax noprefix", ""),
        ("MOV EAX, DWORD PTR [EBX]\nRet", "8b03c3"),
        ("\tmov\teax,\tebx\t; tabs\n\trep\tmovsd", "89d8f3a5"),
        ("o32 lgdt [eax]\na32 movsb", "0f0110a4"),
        ("cs popf", "2e9d"),
        ("a: b: nop\n.long a, b", "90" + "00100000" * 2),
    ],
)
def test_statements(text: str, wanted: str) -> None:
    assert code(text) == wanted


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("10 / 3", 3),
        ("-10 / 3", -3),
        ("10 % 4", 2),
        ("-10 % 4", -2),
        ("1 << 4 | 1", 17),
        ("0xff >> 4 & 3", 3),
        ("5 ^ 1", 4),
        ("~0", -1),
        ("!5", 0),
        ("!0", 1),
        ("+5 - -5", 10),
        ("1 == 1", 1),
        ("1 != 1", 0),
        ("1 <> 2", 1),
        ("2 < 1", 0),
        ("2 <= 2", 1),
        ("2 > 1", 1),
        ("1 >= 2", 0),
        ("1 && 0", 0),
        ("1 || 0", 1),
        ("'A' + 1", 66),
        ("here", 0x1000),
        ("after - here", 8),
        ("offset after", 0x1008),
        (".", 0x1000),
        ("$", 0x1000),
        ("010", 10),
        ("1_000", 1000),
        ("K * 2", 6),
        ("later", 0x1009),
    ],
)
def test_expressions(expression: str, value: int) -> None:
    assembled = assemble(f"K = 3\nhere: .quad {expression}\nafter: nop\n.set later, after + 1", base=0x1000)
    assert int.from_bytes(assembled.code[:8], "little", signed=True) == value


def test_operands_may_hold_expressions() -> None:
    table = "A = 4\nt: .long 0\n"
    at = "00000000"
    assert code(table + "mov eax, t") == at + "b800100000"
    assert code(table + "mov eax, offset t+4") == at + "b804100000"
    assert code(table + "mov eax, [t+A]") == at + "a104100000"
    assert code(table + "mov ecx, t[ebx*A]") == at + "8b0c9d00100000"
    assert code(table + "mov ecx, A[ebx]") == at + "8b4b04"
    assert code(table + "mov ecx, [ebx-A]") == at + "8b4bfc"
    assert code(table + "mov ecx, [A*ebx+esi]") == at + "8b0c9e"
    assert code(table + "mov ecx, [ebx][esi*2]") == at + "8b0c73"
    assert code(table + "push t") == at + "6800100000"
    assert code(table + "push offset t") == at + "6800100000"
    assert code(table + "and eax, ~7") == at + "83e0f8"
    assert code(table + "mov byte [t], 'x'") == at + "c6050010000078"
    assert code(table + "jmp [t]") == at + "ff2500100000"
    assert code(table + "ljmp 8:t") == at + "ea001000000800"
    assert code(table + "int 0x80 + 2") == at + "cd82"
    assert code(table + "add dword ptr fs:[A], 1") == at + "6483050400000001"


def test_symbols_are_labels_and_sets_but_not_local_labels() -> None:
    assembled = assemble("a: nop\nb = 5\n1: nop\n.set c, b + 1\n.equ d, a\ne equ 9", base=0x1000)
    assert assembled.symbols == {"a": 0x1000, "b": 5, "c": 6, "d": 0x1000, "e": 9}
    assert (assembled.base, assembled.code) == (0x1000, b"\x90\x90")


def test_a_set_symbol_has_its_value_of_the_moment() -> None:
    assert code("i = 0\n.rept 3\n.byte i\ni = i + 1\n.endr\n.byte i") == "00010203"
    assert code(".byte k\nk = 1\n.byte k\nk = 2") == "0201"


def test_local_labels() -> None:
    assert code("1: jmp 1f\n1: jmp 1b\njmp 1f\n1:") == "eb00" + "ebfe" + "eb00"
    assert code("1: nop\n.long 1b, 1f\n1:") == "90" + "00100000" + "09100000"
    assert code("mov eax, 0x1b\n.byte 0x1f") == "b81b000000" + "1f"
    assert code('2: .ascii "2b 2f"') == b"2b 2f".hex()


def test_jumps_are_as_short_as_they_can_be() -> None:
    assert code("a: jmp b\n.skip 127\nb:").startswith("eb7f")
    assert code("a: jmp b\n.skip 128\nb:").startswith("e980000000")
    assert code("a: .skip 126\njmp a").endswith("eb80")
    assert code("a: .skip 127\njmp a").endswith("e97cffffff")
    assert code("je b\n.skip 128\nb:").startswith("0f8480000000")
    assert code("call b\nb:") == "e800000000"
    assert code("jmp near b\nb:") == "e900000000"
    assert code("jmp 0x2000").startswith("e9fb0f0000")


def test_one_jump_that_grows_makes_another_grow() -> None:
    # The second must be near; then the first, whose target was exactly 127 bytes away, must be too.
    text = "jmp a\njmp b\n.skip 125\na: .skip 3\nb:"
    assert code(text).startswith("e982000000" + "e980000000")


@pytest.mark.parametrize("seed", range(30))
def test_random_programs_have_every_branch_right_and_as_short_as_it_can_be(seed: int) -> None:
    random = Random(seed)
    choices = [
        "mov eax, l{}",
        "lgdt [l{}]",
        "push ds",
        "nop",
        "jmp l{}",
        "jne l{}",
        "call l{}",
        ".balign 8",
        "add ecx, {}",
    ]
    lines = []
    for n in range(40):
        lines.append(f"l{n}:")
        lines += [random.choice(choices).format(random.randrange(40)) for _ in range(random.randrange(14))]
    text = "\n".join(lines)
    encoder._thread.memo.clear()
    cold = assemble(text, base=0x1000)
    assert assemble(text, base=0x1000) == cold
    for emitted in cold.emitted:
        name, _, target = emitted.source.text.partition(" ")
        if name in ("jmp", "jne", "call"):
            width = 1 if emitted.code[0] in (0xEB, 0x75) else 4
            distance = int.from_bytes(emitted.code[-width:], "little", signed=True)
            end = emitted.address + len(emitted.code)
            assert end + distance == cold.symbols[target]
            if width == 4 and name != "call":
                assert not -128 <= cold.symbols[target] - (emitted.address + 2) < 128
        elif target.startswith(("l", "[l")):
            assert emitted.code[-4:] == cold.symbols[target.strip("[]")].to_bytes(4, "little")


def test_labels_after_a_corrected_instruction_are_right() -> None:
    text = "jmp e\nlgdt [eax]\npush ds\niret\nljmp 8:e\nmov ds, ax\ne: .align 4\nf: .long e, f"
    assembled = assemble(text, base=0x1000)
    # jmp 2, lgdt 3 (keystone: 4), push 1 (2), iret 1 (2), ljmp 7 (6), mov 2 (3)
    assert assembled.symbols == {"e": 0x1010, "f": 0x1010}
    assert assembled.code.hex() == "eb0e" + "0f0110" + "1e" + "cf" + "ea101000000800" + "8ed8" + "1010000010100000"


def test_sizes_that_depend_on_labels_settle() -> None:
    text = "add eax, b - a\na: .skip 126\nadd ecx, b - a\nb:"
    # b - a is 129 or 132: neither fits in a signed byte.
    assert code(text) == "0584000000" + "00" * 126 + "81c184000000"


def test_code_modes_may_change_within_a_file() -> None:
    text = ".code16\nmov eax, cr0\njmp dword 8:on\n.code32\non: mov eax, 1\n.code16\nmov ax, 1\n.code64\npush rax"
    assert code(text, 0x7C00) == "0f20c0" + "66ea0b7c00000800" + "b801000000" + "b80100" + "50"


def test_a_boot_sector() -> None:
    assembled = assemble("start: jmp start\n.skip 510 - (. - start)\n.word 0xaa55", base=0x7C00, bits=16)
    assert len(assembled.code) == 512
    assert assembled.code[:2] + assembled.code[-2:] == bytes.fromhex("ebfe55aa")


def test_every_statement_that_emits_is_listed_with_its_line() -> None:
    text = "a: nop\n.macro two\nnop\npush eax\n.endm\ntwo\n.rept 2\nhlt\n.endr\n.byte 1"
    emitted = assemble(text, name="x.asm", base=0x1000).emitted
    assert [(e.address, e.code.hex(), e.source.line, e.bits) for e in emitted] == [
        (0x1000, "90", 1, 32),
        (0x1001, "90", 6, 32),
        (0x1002, "50", 6, 32),
        (0x1003, "f4", 8, 32),
        (0x1004, "f4", 8, 32),
        (0x1005, "01", 10, None),
    ]
    assert {(e.source.path, e.source.text) for e in emitted if e.source.line == 6} == {("x.asm", "two")}


# -- macros, conditions, repetition


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (".macro m\nnop\n.endm\nm\nm", "9090"),
        (".macro m a, b\n.byte \\a, \\b\n.endm\nm 1, 2", "0102"),
        (".macro m a, b=7\n.byte \\a, \\b\n.endm\nm 1\nm 1, 2\nm b=3, a=4", "010701020403"),
        (".macro m a b\n.byte \\a\\b\n.endm\nm 1, 2", "0c"),
        (".macro m a:req\n.byte \\a\n.endm\nm (1+2)*3", "09"),
        (".macro m a, rest:vararg\n.byte \\a, \\rest\n.endm\nm 1, 2, 3", "010203"),
        ('.macro m s\n.ascii \\s\n.endm\nm "a,b"', "612c62"),
        (".macro m r\nmov \\r\\()l, 1\n.endm\nm a\nm b", "b001b301"),
        (".macro m\nx\\@: .byte \\@\n.endm\nm\nm", "0102"),
        (".macro m\n1: jmp 1b\n.endm\nm\nm", "ebfeebfe"),
        (".macro in_er a\n.byte \\a\n.endm\n.macro outer a\nin_er \\a\nin_er \\a+1\n.endm\nouter 4", "0405"),
        (".macro mk n\n.macro \\n v\n.byte \\v\n.endm\n.endm\nmk q\nq 6", "06"),
        (".macro m a\n.ifb \\a\n.byte 1\n.else\n.byte \\a\n.endif\n.endm\nm\nm 5", "0105"),
        (".macro m a\n.ifnb \\a\n.byte \\a\n.endif\n.endm\nm\nm 5", "05"),
        (".macro m a\n.byte \\a == 2\n.endm\nm 2", "01"),
        (".rept 3\nnop\n.endr", "909090"),
        (".rept 2\n.rept 2\nnop\n.endr\nhlt\n.endr", "9090f49090f4"),
        (".rept 0\nnop\n.endr", ""),
        (".irp r, eax, ecx, edx\npush \\r\n.endr", "505152"),
        (".irp r eax, ecx\npush \\r\n.endr", "5051"),
        (".irpc c, 123\n.byte \\c\n.endr", "010203"),
        (".if 1\nnop\n.endif", "90"),
        (".if 0\nnop\n.else\nhlt\n.endif", "f4"),
        (".if 0\nnop\n.elseif 1\nhlt\n.elseif 1\nnop\n.else\nnop\n.endif", "f4"),
        (".if 0\n.if 1\nnop\n.else\nnop\n.endif\n.else\nhlt\n.endif", "f4"),
        (".if 0\na: nop\n.endif\na: nop", "90"),
        (".if 0\nthis is not looked at\n.endif\nnop", "90"),
        (".ifdef A\nnop\n.endif\nA = 1\n.ifdef A\nhlt\n.endif", "f4"),
        (".ifndef A\nnop\n.endif\na: .ifdef a\n.endif", "90"),
        ("a: .rept 2\n.byte 1\n.endr\n.byte a - 0x1000", "010100"),
        (".rept 2\n1: .rept 2\nnop\n.endr\n.endr", "90909090"),
        ("a:\n.ifdef a\nhlt\n.endif", "f4"),
        ("K = 2\n.if K == 2 && K < 3\nnop\n.endif", "90"),
        (".macro m\n.if 1\nnop\n.endif\n.endm\nm", "90"),
        ("; .macro m\nnop ; .if 0", "90"),
    ],
)
def test_macros_and_conditions(text: str, wanted: str) -> None:
    assert code(text) == wanted


def test_includes(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "sub").mkdir()
    (tmp_path / "main.asm").write_text('.include "sub/one.inc"\nput 3\n.include "two.inc"\n')
    (tmp_path / "sub/one.inc").write_text('.include "beside.inc"\n.macro put v\n.byte \\v\n.endm\n')
    (tmp_path / "sub/beside.inc").write_text(".byte 1\n")
    (tmp_path / "lib/two.inc").write_text("put K\n.set K, 4\n")
    assembled = assemble_file(tmp_path / "main.asm", base=0x1000, include_path=[tmp_path / "lib"])
    assert assembled.code.hex() == "010304"
    places = [(Path(e.source.path).name, e.source.line) for e in assembled.emitted]
    assert places == [("beside.inc", 1), ("main.asm", 2), ("two.inc", 1)]


def test_an_include_may_come_twice_and_from_a_text(tmp_path: Path) -> None:
    (tmp_path / "n.inc").write_text("nop\n")
    text = '.include "n.inc"\n.include "n.inc"'
    assert assemble(text, include_path=[tmp_path]).code == b"\x90\x90"


# -- listing


def test_listing() -> None:
    text = 'start: mov eax, 5\nfstsw ax\n.ascii "0123456789"\n.macro two\nnop\nhlt\n.endm\ntwo'
    assembled = assemble(text, name="k.asm", base=0x1000)
    rows = list(listing(assembled))
    assert [(row.address, row.text) for row in rows] == [
        (0x1000, "mov eax, 5"),
        (0x1005, "wait; fnstsw ax"),
        (0x1008, ""),
        (0x1012, "nop"),
        (0x1013, "hlt"),
    ]
    assert [line.split() for line in render(rows)] == [
        ["00001000", "b8", "05", "00", "00", "00", "mov", "eax,", "5", "k.asm:1", "start:", "mov", "eax,", "5"],
        ["00001005", "9b", "df", "e0", "wait;", "fnstsw", "ax", "k.asm:2", "fstsw", "ax"],
        ["00001008", "30", "31", "32", "33", "34", "35", "36", "37", "k.asm:3", ".ascii", '"0123456789"'],
        ["00001010", "38", "39"],
        ["00001012", "90", "nop", "k.asm:8", "two"],
        ["00001013", "f4", "hlt"],
    ]


def test_a_listing_decodes_each_part_in_its_own_mode() -> None:
    assembled = assemble(".code16\nmov ax, 1\n.code32\nmov eax, 1")
    assert [row.text for row in listing(assembled)] == ["mov ax, 1", "mov eax, 1"]
