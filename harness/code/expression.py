"""Integer expressions of the assembly language: what stands in a displacement, an immediate, a `.set` or an `.if`.

Precedence is C's (GAS puts `|` and `&` above `+`, which nobody expects). `.` and `$` are the current address; `offset`
before a name changes nothing, for a bare name already means its value: memory is always written in brackets.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

HERE = "."

ESCAPES = {"n": 10, "t": 9, "r": 13, "0": 0, "a": 7, "b": 8, "f": 12, "v": 11, "\\": 92, "'": 39, '"': 34}


class ExpressionError(Exception):
    """The text is not an expression, or has no value (division by zero, undefined symbol)."""


class UndefinedSymbolError(ExpressionError):
    """A symbol without a value, at least so far; `name` says which."""

    def __init__(self, name: str) -> None:
        super().__init__(f"undefined symbol '{name}'")
        self.name = name


class Number(NamedTuple):
    value: int


class Symbol(NamedTuple):
    """A name; `.` is the current address, `N@K` the K-th definition of the numeric local label N."""

    name: str


class Unary(NamedTuple):
    operator: str
    operand: Expression


class Binary(NamedTuple):
    operator: str
    left: Expression
    right: Expression


Expression = Number | Symbol | Unary | Binary
Lookup = Callable[[str], int]

ZERO = Number(0)

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<local>\d+@\d+)
      | (?P<number>0[xX][0-9a-fA-F_]+ | 0[bB][01_]+ | 0[oO][0-7_]+ | \d[0-9a-fA-F]*[hH] | \d[\d_]*)(?![\w.])
      | (?P<char>'(?:\\x[0-9a-fA-F]{2}|\\.|[^\\'])')
      | (?P<name>[A-Za-z_.$?][\w.$?]*)
      | (?P<operator><<|>>|<=|>=|==|!=|<>|&&|\|\||[-+*/%&|^~!<>()])
    )""",
    re.VERBOSE,
)


def _divide(left: int, right: int) -> int:
    if right == 0:
        raise ExpressionError("division by zero")
    quotient = abs(left) // abs(right)
    return quotient if (left < 0) == (right < 0) else -quotient


def _shift_count(count: int) -> int:
    if not 0 <= count < 256:
        raise ExpressionError(f"shift count {count} is out of range")
    return count


_BINARY: dict[str, tuple[int, Callable[[int, int], int]]] = {
    "||": (1, lambda a, b: int(bool(a) or bool(b))),
    "&&": (2, lambda a, b: int(bool(a) and bool(b))),
    "|": (3, lambda a, b: a | b),
    "^": (4, lambda a, b: a ^ b),
    "&": (5, lambda a, b: a & b),
    "==": (6, lambda a, b: int(a == b)),
    "!=": (6, lambda a, b: int(a != b)),
    "<>": (6, lambda a, b: int(a != b)),
    "<": (7, lambda a, b: int(a < b)),
    "<=": (7, lambda a, b: int(a <= b)),
    ">": (7, lambda a, b: int(a > b)),
    ">=": (7, lambda a, b: int(a >= b)),
    "<<": (8, lambda a, b: a << _shift_count(b)),
    ">>": (8, lambda a, b: a >> _shift_count(b)),
    "+": (9, lambda a, b: a + b),
    "-": (9, lambda a, b: a - b),
    "*": (10, lambda a, b: a * b),
    "/": (10, _divide),
    "%": (10, lambda a, b: a - b * _divide(a, b)),
}

_UNARY: dict[str, Callable[[int], int]] = {
    "-": lambda a: -a,
    "+": lambda a: a,
    "~": lambda a: ~a,
    "!": lambda a: int(not a),
}


def _number(text: str) -> int:
    try:
        if text[-1] in "hH":
            return int(text[:-1], 16)
        has_radix = text[0] == "0" and text[1:2].isalpha()
        return int(text, 0 if has_radix else 10)
    except ValueError:
        raise ExpressionError(f"bad number '{text}'") from None


def _character(text: str) -> int:
    inner = text[1:-1]
    if inner.startswith("\\x"):
        return int(inner[2:], 16)
    if inner.startswith("\\"):
        if inner[1] not in ESCAPES:
            raise ExpressionError(f"unknown escape '{inner}'")
        return ESCAPES[inner[1]]
    return ord(inner)


class _Parser:
    """Precedence climbing over the tokens of one text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(self._scan(text.strip()))
        self.next = 0

    def _scan(self, text: str) -> list[tuple[str, str]]:
        found, position = [], 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None or match.lastgroup is None:
                raise ExpressionError(f"cannot read '{text[position:].strip()}' in '{self.text.strip()}'")
            found.append((match.lastgroup, match[match.lastgroup]))
            position = match.end()
        return found

    def peek(self) -> tuple[str, str]:
        return self.tokens[self.next] if self.next < len(self.tokens) else ("end", "")

    def take(self) -> tuple[str, str]:
        token = self.peek()
        self.next += 1
        return token

    def expression(self, floor: int = 1) -> Expression:
        left = self.unary()
        while True:
            kind, operator = self.peek()
            rank = _BINARY[operator][0] if kind == "operator" and operator in _BINARY else 0
            if rank < floor:
                return left
            self.take()
            left = Binary(operator, left, self.expression(rank + 1))

    def unary(self) -> Expression:
        kind, text = self.take()
        if kind == "operator" and text in _UNARY:
            return Unary(text, self.unary())
        if kind == "name" and text.lower() == "offset":
            return self.unary()
        if kind == "operator" and text == "(":
            inner = self.expression()
            if self.take()[1] != ")":
                raise ExpressionError(f"missing ')' in '{self.text.strip()}'")
            return inner
        if kind == "number":
            return Number(_number(text))
        if kind == "char":
            return Number(_character(text))
        if kind in ("name", "local"):
            return Symbol(HERE if text == "$" else text)
        raise ExpressionError(f"a value is missing in '{self.text.strip()}'")


@lru_cache(maxsize=8192)
def parse_expression(text: str) -> Expression:
    """The tree of `text`. Raises ExpressionError."""
    if text.isdecimal() and text.isascii():
        return Number(int(text))
    parser = _Parser(text)
    tree = parser.expression()
    if parser.peek()[0] != "end":
        raise ExpressionError(f"unexpected '{parser.peek()[1]}' in '{text.strip()}'")
    return tree


def evaluate(tree: Expression, lookup: Lookup) -> int:
    """The value, unbounded and signed; `lookup` maps a name (`.` included) to its value or raises ExpressionError."""
    match tree:
        case Number(value):
            return value
        case Symbol(name):
            return lookup(name)
        case Unary(operator, operand):
            return _UNARY[operator](evaluate(operand, lookup))
        case _:
            return _BINARY[tree.operator][1](evaluate(tree.left, lookup), evaluate(tree.right, lookup))


def no_symbols(name: str) -> int:
    """A lookup for texts that can hold numbers only."""
    raise UndefinedSymbolError(name)
