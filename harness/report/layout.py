"""Columns of text, and text of a guest's made safe to show."""

from __future__ import annotations

from collections.abc import Sequence

GAP = "  "


def visible(text: str) -> str:
    """`text` with everything that a terminal might obey, newline and tab excepted, shown as an escape.

    A guest writes what it likes; an escape sequence of its own must not reach the terminal of whoever looks on.
    """
    return "".join(char if char in "\n\t" or char.isprintable() else _escaped(char) for char in text)


def one_line(text: str) -> str:
    """As `visible`, with newlines and tabs shown as well."""
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def side_by_side(text: str) -> str:
    """The lines of an error message, the first of which says most, as one line that is safe to show."""
    return one_line(" | ".join(line.strip() for line in text.splitlines()))


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")


def at_stops(cells: Sequence[str], stops: Sequence[int]) -> str:
    """The cells in one line, each at its stop (columns, from 0) or as soon after it as the one before allows.

    A cell that is too long pushes only its neighbours; the next stop that is still ahead restores the columns.
    """
    line = ""
    for cell, stop in zip(cells, stops, strict=True):
        if line and cell:
            line = line.ljust(max(stop, len(line) + 1))
        line += cell
    return line.rstrip()


def table(rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset()) -> list[str]:
    """One line a row, columns as wide as their widest cell; the columns in `right` are flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        GAP.join(
            cell.rjust(width) if at in right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def indented(lines: Sequence[str], by: int = 2) -> list[str]:
    """The lines, moved right by so many columns."""
    return [" " * by + line for line in lines]


def seconds(time_ns: int) -> str:
    """Virtual time for people: nanoseconds below a microsecond, up to seconds."""
    for unit, size in (("s", 10**9), ("ms", 10**6), ("us", 10**3)):
        if time_ns >= size:
            return f"{time_ns / size:.3f} {unit}"
    return f"{time_ns} ns"
