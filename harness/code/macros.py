"""The first half of assembling: includes, macros, repetition and conditions; what is left is a flat list of statements.

Conditions and repeat counts need values here, before any address is known: constants (`.set`) have one, labels do not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from harness.code.expression import HERE, ExpressionError, UndefinedSymbolError, evaluate, parse_expression
from harness.code.instructions import split_operands
from harness.code.operands import SEGMENTS
from harness.code.source import AssemblyError, Frame, SourceLine, Statement, frames, read_source, without_comment

DEEPEST = 64  # nested macros and includes
MOST_STATEMENTS = 1 << 20
LOCAL_MARK = "@"

_LABEL = re.compile(r"\s*([A-Za-z_.$?][\w.$?]*|\d+)\s*:(?!:)")
_SET = re.compile(r"\s*([A-Za-z_.$?][\w.$?]*)\s*(?:=(?!=)|\s(?i:equ)\s)(.*)", re.DOTALL)
_SET_HINT = re.compile(r"=|\s(?i:equ)\s")
_LOCAL = re.compile(r"""("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])')|(?<![\w.$@])(\d+)([bf])(?![\w.$@])""")
_LOCAL_HINT = re.compile(r"\d[bf](?!\w)")
_PARAMETER = re.compile(r"\\(@|\(\)|[A-Za-z_]\w*)")
_NAME_AND_REST = re.compile(r"([A-Za-z_.]\w*)\s*,?\s*(.*)")
_NAME = re.compile(r"[A-Za-z_.$?][\w.$?]*")

# Opening words and the word that closes each.
BLOCKS = {".macro": ".endm", ".rept": ".endr", ".irp": ".endr", ".irpc": ".endr"}
CONDITIONS = (".if", ".ifdef", ".ifndef", ".ifb", ".ifnb")


BRANCHES_OF_CONDITIONS = (".elseif", ".else", ".endif")


class Parameter(NamedTuple):
    name: str
    default: str
    required: bool
    takes_rest: bool


class Macro(NamedTuple):
    name: str
    parameters: tuple[Parameter, ...]
    body: tuple[SourceLine, ...]
    at: SourceLine


@dataclass(slots=True, eq=False)
class _Condition:
    """`active`: its lines count now; `taken`: some branch has counted; `outer`: whether the surroundings do."""

    at: SourceLine
    outer: bool
    active: bool
    taken: bool
    has_else: bool = False


class Expander:
    """Turns lines into `statements`; `constants` holds what `.set` has defined so far."""

    def __init__(self, include_path: Sequence[Path] = ()) -> None:
        self.include_path = tuple(include_path)
        self.statements: list[Statement] = []
        self.constants: dict[str, int] = {}
        self.labels: dict[str, SourceLine] = {}
        self.sets: dict[str, SourceLine] = {}
        self.macros: dict[str, Macro] = {}
        self._locals: dict[str, int] = {}
        self._calls = 0

    def run(self, lines: Sequence[SourceLine], frame: Frame | None = None) -> None:
        """Expand `lines`, which must close every block and condition that they open. Raises AssemblyError."""
        conditions: list[_Condition] = []
        position = 0
        while position < len(lines):
            line = lines[position]
            position += 1
            text = without_comment(line.text)
            if not text or text.isspace():
                continue
            labels, text = _split_labels(text) if ":" in text else ([], text)
            if not conditions or conditions[-1].active:
                for name in labels:
                    self._label(name, line, frame)
            word, rest = _first_word(text)
            if word in CONDITIONS or word in BRANCHES_OF_CONDITIONS:
                self._condition(word, rest, conditions, line, frame)
            elif (conditions and not conditions[-1].active) or not word:
                continue
            elif word in BLOCKS:
                body, position = _block(lines, position, word, line, frame)
                self._open_block(word, rest, body, line, frame)
            else:
                self._line(text, line, frame)
        if conditions:
            raise AssemblyError(conditions[-1].at, ".if without .endif", frame)

    # -- values

    def value(self, text: str, line: SourceLine, frame: Frame | None, purpose: str) -> int:
        """The value of an expression whose names are all constants already."""
        try:
            return evaluate(parse_expression(self._localized(text)), self._constant)
        except UndefinedSymbolError as error:
            known = error.name in self.labels or error.name == HERE or LOCAL_MARK in error.name
            why = "is an address, which is not known yet" if known else "is not defined before this line"
            raise AssemblyError(line, f"{purpose} needs a constant: '{error.name}' {why}", frame) from None
        except ExpressionError as error:
            raise AssemblyError(line, str(error), frame) from None

    def _constant(self, name: str) -> int:
        if name not in self.constants:
            raise UndefinedSymbolError(name)
        return self.constants[name]

    def _localized(self, text: str) -> str:
        """`1b` and `1f` as `1@2`: the second definition of the local label 1."""

        def named(match: re.Match[str]) -> str:
            if match[1]:
                return match[1]
            defined = self._locals.get(match[2], 0)
            return f"{match[2]}{LOCAL_MARK}{defined + (match[3] == 'f')}"

        return _LOCAL.sub(named, text) if _LOCAL_HINT.search(text) else text

    # -- one line

    def _line(self, text: str, line: SourceLine, frame: Frame | None) -> None:
        if _SET_HINT.search(text) and (match := _SET.fullmatch(text)):
            self._set(match[1], match[2], line, frame)
            return
        name, *rest = text.split(None, 1)
        if name in self.macros:
            self._call(self.macros[name], rest[0] if rest else "", line, frame)
        elif name.startswith("."):
            self._directive(name.lower(), rest[0].rstrip() if rest else "", line, frame)
        else:
            self._add(Statement("instruction", name, self._localized(text.strip()), line, frame))

    def _add(self, statement: Statement) -> None:
        if len(self.statements) >= MOST_STATEMENTS:
            raise statement.error(f"more than {MOST_STATEMENTS} statements")
        self.statements.append(statement)

    def _label(self, name: str, line: SourceLine, frame: Frame | None) -> None:
        if name.lower() in SEGMENTS:
            raise AssemblyError(line, f"a segment register cannot be a label: '{name}'", frame)
        if name.isdigit():
            self._locals[name] = self._locals.get(name, 0) + 1
            name = f"{name}{LOCAL_MARK}{self._locals[name]}"
        earlier = self.labels.get(name) or self.sets.get(name)
        if earlier is not None:
            raise AssemblyError(line, f"'{name}' is already defined at {earlier}", frame)
        self.labels[name] = line
        self._add(Statement("label", name, "", line, frame))

    def _set(self, name: str, text: str, line: SourceLine, frame: Frame | None) -> None:
        if name in self.labels:
            raise AssemblyError(line, f"'{name}' is already defined at {self.labels[name]}", frame)
        text = self._localized(text)
        value = None
        try:
            self.constants[name] = value = evaluate(parse_expression(text), self._constant)
        except UndefinedSymbolError:
            self.constants.pop(name, None)  # depends on an address: the layout will know
        except ExpressionError as error:
            raise AssemblyError(line, str(error), frame) from None
        self.sets[name] = line
        self._add(Statement("set", name, text, line, frame, value))

    def _directive(self, word: str, rest: str, line: SourceLine, frame: Frame | None) -> None:
        if word in (".set", ".equ"):
            parts = split_operands(rest)
            if len(parts) != 2 or not _NAME.fullmatch(parts[0]):
                raise AssemblyError(line, f"{word} takes a name and a value", frame)
            self._set(parts[0], parts[1], line, frame)
        elif word == ".include":
            self._include(rest, line, frame)
        elif word == ".error":
            raise AssemblyError(line, rest.strip('"') or ".error", frame)
        elif word in BLOCKS.values():
            raise AssemblyError(line, f"{word} without its beginning", frame)
        else:
            self._add(Statement("directive", word, self._localized(rest), line, frame))

    # -- conditions

    def _condition(self, word: str, rest: str, stack: list[_Condition], line: SourceLine, frame: Frame | None) -> None:
        if word in CONDITIONS:
            outer = not stack or stack[-1].active
            holds = outer and self._holds(word, rest, line, frame)
            stack.append(_Condition(line, outer, holds, holds))
            return
        if not stack:
            raise AssemblyError(line, f"{word} without .if", frame)
        top = stack[-1]
        if word == ".endif":
            stack.pop()
            return
        if top.has_else:
            raise AssemblyError(line, f"{word} after .else", frame)
        top.has_else = word == ".else"
        may = top.outer and not top.taken
        top.active = may and (word == ".else" or self._holds(".if", rest, line, frame))
        top.taken |= top.active

    def _holds(self, word: str, rest: str, line: SourceLine, frame: Frame | None) -> bool:
        if word in (".ifb", ".ifnb"):
            return (not rest) == (word == ".ifb")
        if word in (".ifdef", ".ifndef"):
            if not _NAME.fullmatch(rest):
                raise AssemblyError(line, f"{word} takes a name", frame)
            return (rest in self.labels or rest in self.sets) == (word == ".ifdef")
        return self.value(rest, line, frame, word) != 0

    # -- includes

    def _include(self, rest: str, line: SourceLine, frame: Frame | None) -> None:
        if len(rest) < 3 or rest[0] != '"' or rest[-1] != '"':
            raise AssemblyError(line, '.include takes a file name in quotes: .include "file"', frame)
        path = self._found(Path(rest[1:-1]), line, frame)
        inner = Frame("included", line, False, frame)
        chain = [line.path, *(outer.at.path for outer in frames(frame) if not outer.is_macro)]
        if str(path) in chain:
            way = [*reversed(chain[: chain.index(str(path)) + 1]), str(path)]
            raise AssemblyError(line, f"recursive include: {' -> '.join(way)}", frame)
        try:
            lines = read_source(path)
        except (OSError, UnicodeDecodeError) as error:
            raise AssemblyError(line, f"cannot read '{path}': {error}", frame) from None
        self.run(lines, self._deeper(inner))

    def _found(self, name: Path, line: SourceLine, frame: Frame | None) -> Path:
        places = [Path(line.path).parent, *self.include_path]
        for place in places:
            if (place / name).is_file():
                return place / name
        looked = ", ".join(map(str, dict.fromkeys(places)))
        raise AssemblyError(line, f"no file '{name}' to include (looked in {looked})", frame)

    def _deeper(self, frame: Frame) -> Frame:
        if sum(1 for _ in frames(frame)) > DEEPEST:
            raise AssemblyError(frame.at, f"macros and includes nest deeper than {DEEPEST}", frame.parent)
        return frame

    # -- blocks and macros

    def _open_block(
        self, word: str, rest: str, body: tuple[SourceLine, ...], line: SourceLine, frame: Frame | None
    ) -> None:
        if word == ".macro":
            self._define(rest, body, line, frame)
        elif word == ".rept":
            count = self.value(rest, line, frame, word)
            if not 0 <= count <= MOST_STATEMENTS:
                raise AssemblyError(line, f".rept {count} times", frame)
            for _ in range(count):
                self.run(body, frame)
        else:
            match = _NAME_AND_REST.fullmatch(rest)
            if match is None:
                raise AssemblyError(line, f"{word} takes a name and values", frame)
            for value in match[2].strip() if word == ".irpc" else split_operands(match[2]):
                self.run(_filled(body, {match[1]: value}.get), frame)

    def _define(self, rest: str, body: tuple[SourceLine, ...], line: SourceLine, frame: Frame | None) -> None:
        match = _NAME_AND_REST.fullmatch(rest)
        if match is None:
            raise AssemblyError(line, ".macro takes a name and parameters", frame)
        if match[1] in self.macros:
            raise AssemblyError(line, f"macro '{match[1]}' is already defined at {self.macros[match[1]].at}", frame)
        parameters = []
        for part in split_operands(match[2]) if "," in match[2] else match[2].split():
            name, equals, default = (piece.strip() for piece in part.partition("="))
            name, _, kind = name.partition(":")
            if not re.fullmatch(r"[A-Za-z_]\w*", name) or kind not in ("", "req", "vararg"):
                raise AssemblyError(line, f"bad macro parameter '{part}'", frame)
            parameters.append(Parameter(name, default if equals else "", kind == "req", kind == "vararg"))
        self.macros[match[1]] = Macro(match[1], tuple(parameters), body, line)

    def _call(self, macro: Macro, rest: str, line: SourceLine, frame: Frame | None) -> None:
        self._calls += 1
        values = self._arguments(macro, split_operands(rest), line, frame) | {"@": str(self._calls), "()": ""}
        inner = Frame(f"in macro '{macro.name}' (defined at {macro.at}), called", line, True, frame)
        self.run(_filled(macro.body, values.get), self._deeper(inner))

    def _arguments(self, macro: Macro, given: list[str], line: SourceLine, frame: Frame | None) -> dict[str, str]:
        values: dict[str, str] = {}
        names = [parameter.name for parameter in macro.parameters]
        position = 0
        for number, argument in enumerate(given):
            name, equals, value = (piece.strip() for piece in argument.partition("="))
            if equals and name in names and not value.startswith("="):
                values[name] = value
            elif position >= len(names):
                raise AssemblyError(line, f"macro '{macro.name}' takes {len(names)} arguments", frame)
            elif macro.parameters[position].takes_rest:
                values[names[position]] = ", ".join(given[number:])
                break
            else:
                values[names[position]] = argument
                position += 1
        for parameter in macro.parameters:
            if not values.get(parameter.name):
                if parameter.required:
                    raise AssemblyError(line, f"macro '{macro.name}' needs '{parameter.name}'", frame)
                values[parameter.name] = parameter.default
        return values


def _first_word(text: str) -> tuple[str, str]:
    """The first word in lower case, and the rest."""
    words = text.split(None, 1)
    if not words:
        return "", ""
    return words[0].lower(), words[1].rstrip() if len(words) > 1 else ""


def _split_labels(text: str) -> tuple[list[str], str]:
    labels = []
    while match := _LABEL.match(text):
        labels.append(match[1])
        text = text[match.end() :]
    return labels, text


def _block(
    lines: Sequence[SourceLine], position: int, word: str, line: SourceLine, frame: Frame | None
) -> tuple[tuple[SourceLine, ...], int]:
    """The lines up to the word that closes the block, and the position after it; blocks inside are skipped over."""
    closers = [BLOCKS[word]]
    for at in range(position, len(lines)):
        first, _ = _first_word(_split_labels(without_comment(lines[at].text))[1])
        if first in BLOCKS:
            closers.append(BLOCKS[first])
        elif first == closers[-1]:
            closers.pop()
            if not closers:
                return tuple(lines[position:at]), at + 1
    raise AssemblyError(line, f"{word} without {BLOCKS[word]}", frame)


def _filled(body: Sequence[SourceLine], value: Callable[[str], str | None]) -> list[SourceLine]:
    """`body` with `\\name` replaced; names that `value` does not know stay, for a block inside."""

    def one(match: re.Match[str]) -> str:
        found = value(match[1])
        return match[0] if found is None else found

    return [
        SourceLine(line.path, line.line, _PARAMETER.sub(one, line.text)) if "\\" in line.text else line for line in body
    ]


def expand(lines: Sequence[SourceLine], include_path: Sequence[Path] = ()) -> list[Statement]:
    """The statements of a source. Raises AssemblyError."""
    expander = Expander(include_path)
    expander.run(lines)
    return expander.statements
