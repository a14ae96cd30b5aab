"""The crash report: the guest as it stood when it could not go on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from harness.code.decoder import disassemble
from harness.domain.image import Image, Line
from harness.domain.record import CrashReport, ExitRecord, RunResult
from harness.report import trace
from harness.report.layout import indented, one_line, table

WORD = 4
REGISTERS_A_LINE = 4
LINES_AROUND = 4

UNDECODED = "(bad)"

# One row of the code shown: linear address, bytes in memory, what stands there.
Row = tuple[int, bytes, str]


def report(result: RunResult, image: Image | None = None) -> str:
    """Reason, registers, code around EIP, stack and last exits; the reason alone when the run left no report.

    A run that ended in an error or a timeout has a report too: where it stood then.

    image: the guest's, if at hand; it turns addresses into names and code into lines of the guest's own source.
    """
    lines = [f"{one_line(result.guest)} ({result.mode}) as it stood at its {result.verdict}: {one_line(result.reason)}"]
    crash = result.crash
    if crash is not None:
        lines += _section("registers", _registers(crash.registers))
        lines += _section("code", _code(crash, image))
        lines += _section("stack", _stack(crash, image))
        lines += _section(f"last exits: {len(crash.last)}", _last(crash.last, image))
    return "\n".join(lines)


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [title, *indented(lines)] if lines else []


def _registers(registers: dict[str, int]) -> list[str]:
    cells = [f"{name:<6} {value:08x}" for name, value in registers.items()]
    starts = range(0, len(cells), REGISTERS_A_LINE)
    return ["   ".join(cells[start : start + REGISTERS_A_LINE]) for start in starts]


def _code(crash: CrashReport, image: Image | None) -> list[str]:
    if not crash.code:
        return []
    eip = crash.registers.get("eip", crash.code_address)
    rows = _around(_source(crash, image, eip) or _disassembly(crash, eip), eip)
    return table([(_pointer(row, eip), f"{row[0]:08x}", row[1].hex(), row[2]) for row in rows]) if rows else []


def _pointer(row: Row, eip: int) -> str:
    return "->" if row[0] <= eip < row[0] + max(1, len(row[1])) else ""


def _around(rows: Sequence[Row], eip: int) -> Sequence[Row]:
    at = max((index for index, row in enumerate(rows) if row[0] <= eip), default=0)
    return rows[max(0, at - LINES_AROUND) : at + LINES_AROUND + 1]


def _source(crash: CrashReport, image: Image | None, eip: int) -> list[Row]:
    """The guest's own lines, if it has one for EIP. The bytes are those in memory: a guest can overwrite its code."""
    if image is None or image.line_at(eip) is None:
        return []
    end = crash.code_address + len(crash.code)
    lines = [line for line in image.lines if crash.code_address <= line.address and line.address + line.size <= end]
    times = Counter((line.path, line.line) for line in lines)
    return [
        (line.address, code, _said(line, code, times[line.path, line.line] > 1))
        for line in lines
        for code in (_bytes(crash, line.address, line.size),)
    ]


def _said(line: Line, code: bytes, repeated: bool) -> str:
    """The source; of a line that made several instructions, a macro's call, what this one is stands before it."""
    source = f"{one_line(line.text.strip())}  ; {line.path}:{line.line}"
    return f"{disassemble(line.address, code)[0][2]}  ; {source}" if repeated and code else source


def _bytes(crash: CrashReport, address: int, size: int) -> bytes:
    start = address - crash.code_address
    return crash.code[start : start + size]


def _disassembly(crash: CrashReport, eip: int) -> list[Row]:
    """Decoded code in which EIP begins an instruction.

    Where the one before begins is not known: the longest run of instructions that meets EIP is taken for it.
    """
    before = eip - crash.code_address
    if not 0 <= before < len(crash.code):
        return []
    ahead = disassemble(eip, crash.code[before:])
    for start in range(before):
        rows = disassemble(crash.code_address + start, crash.code[start:before])
        if all(text != UNDECODED for _, _, text in rows):
            return rows + ahead
    return ahead


def _stack(crash: CrashReport, image: Image | None) -> list[str]:
    esp = crash.registers.get("esp", 0)
    symbols = [image.symbol_at(word) if image else "" for word in crash.stack]
    rows = [
        (f"{(esp + at * WORD) & 0xFFFFFFFF:08x}", f"{word:08x}", one_line(symbol))
        for at, (word, symbol) in enumerate(zip(crash.stack, symbols, strict=True))
    ]
    return table(rows) if rows else []


def _last(records: Sequence[ExitRecord], image: Image | None) -> list[str]:
    named = image is not None and bool(image.symbols)
    lines = [trace.line(record, image.symbol_at(record.eip) if image and named else None) for record in records]
    return [trace.heading(symbols=named), *"\n".join(lines).split("\n")] if records else []
