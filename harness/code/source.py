"""Where a line came from, and the error that says so."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_COMMENT = re.compile(r""""(?:\\.|[^"\\])*"|'(?:\\x[0-9a-fA-F]{2}|\\.|[^'\\])'|(?P<comment>(?:;|\#|//).*)""", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SourceLine:
    """One line as written; `line` counts from 1."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


class Frame(NamedTuple):
    """How a line came to be assembled: `what` is 'included' or "in macro 'm', called"; `at` says where."""

    what: str
    at: SourceLine
    is_macro: bool
    parent: Frame | None


def frames(frame: Frame | None) -> Iterator[Frame]:
    """`frame` and those around it, innermost first."""
    while frame is not None:
        yield frame
        frame = frame.parent


class AssemblyError(Exception):
    """The source is wrong. The message is 'file:line: reason', the line, and how it came there.

    `path` and `line` are those of the offending line itself (inside the macro or the included file), `text` is that
    line, `reason` one sentence without place.
    """

    def __init__(self, at: SourceLine, reason: str, frame: Frame | None = None) -> None:
        self.path, self.line, self.text, self.reason = at.path, at.line, at.text, reason
        rows = [f"{at}: {reason}", f"    {at.text.strip()}"]
        for outer in frames(frame):
            rows += [f"  {outer.what} at {outer.at}", f"    {outer.at.text.strip()}"]
        super().__init__("\n".join(rows))


class Statement(NamedTuple):
    """One statement after macros and conditions: `kind` is label, set, directive or instruction.

    `name` is the label, the symbol or the directive (lower-case); `rest` what follows it, the whole text of an
    instruction. `value` is that of a set which depends on no address.
    """

    kind: str
    name: str
    rest: str
    at: SourceLine
    frame: Frame | None
    value: int | None = None

    def error(self, reason: str) -> AssemblyError:
        return AssemblyError(self.at, reason, self.frame)

    def origin(self) -> SourceLine:
        """The line to show beside the bytes: the outermost macro's invocation, else the line itself."""
        return next((frame.at for frame in reversed(list(frames(self.frame))) if frame.is_macro), self.at)


def without_comment(text: str) -> str:
    """`text` up to `;`, `#` or `//`, but not inside a string or character."""
    if ";" not in text and "#" not in text and "//" not in text:
        return text
    for match in _COMMENT.finditer(text):
        if match["comment"] is not None:
            return text[: match.start()]
    return text


def lines_of(text: str, path: str) -> list[SourceLine]:
    return [SourceLine(path, number, line) for number, line in enumerate(text.splitlines(), 1)]


def read_source(path: Path) -> list[SourceLine]:
    """The lines of a file. Raises OSError, or UnicodeDecodeError for what is not UTF-8."""
    return lines_of(path.read_text(encoding="utf-8"), str(path))
