"""The trace: a line an exit, in the order in which it was lived.

number, ring and EIP, (the nearest symbol,) the bytes there, what they mean, what the CPU raised, what the hypervisor
did, and what came of it, notes included.
"""

from __future__ import annotations

from harness.domain.record import ExitRecord
from harness.report.layout import at_stops, one_line

# Columns in which number, EIP, bytes, text, raised, action and result begin; result is left 35 columns of 120.
STOPS = (0, 7, 19, 32, 55, 66, 85)
# The same with a symbol after EIP; result is left 27.
SYMBOL_STOPS = (0, 7, 19, 33, 46, 66, 76, 93)
WIDTH = 120

HEADING = ("bytes", "instruction", "raised", "action", "result")


def heading(*, symbols: bool = False) -> str:
    """The line that names the columns; `symbols` as the lines below it will have them."""
    return _line("     n", "at", HEADING, "symbol" if symbols else None)


def line(record: ExitRecord, symbol: str | None = None) -> str:
    """The trace of one exit, without a newline at its end; notes that find no room take lines of their own.

    symbol: what EIP is called (`start+0x12`); None leaves the column out, so be consistent within one trace.
    """
    number, where = f"{record.n:6}", f"r{record.cpl} {record.eip:08x}"
    cells = (record.bytes.hex(), record.text, record.raised, record.action)
    together = ": ".join(filter(None, (record.result, "; ".join(record.notes))))
    whole = _line(number, where, (*cells, together), symbol)
    if len(whole) <= WIDTH or not record.notes:
        return whole
    return "\n".join((_line(number, where, (*cells, record.result), symbol), *map(_note, record.notes)))


def _line(number: str, where: str, cells: tuple[str, ...], symbol: str | None) -> str:
    shown = tuple(map(one_line, cells))
    if symbol is None:
        return at_stops((number, where, *shown), STOPS)
    return at_stops((number, where, one_line(symbol), *shown), SYMBOL_STOPS)


def _note(note: str) -> str:
    return " " * STOPS[2] + "- " + one_line(note)
