"""The second half of assembling: statements to addresses and bytes.

Sizes depend on values, and values on addresses, so the statements are walked until nothing moves. After each walk all
instructions that it met for the first time are encoded in one batch; until then they keep their last length. Errors of
a walk count only when it is the last one: before that, values are guesses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from harness.code.branches import Branch, BranchError, as_branch, encode_branch
from harness.code.directives import DIRECTIVES, IGNORED, LARGEST, MODES, POSITIONAL, Directive
from harness.code.encoder import EncodingError, encode_all, encoded, forget_many
from harness.code.expression import (
    HERE,
    Expression,
    ExpressionError,
    UndefinedSymbolError,
    evaluate,
    parse_expression,
)
from harness.code.instructions import Asked, WrittenInstruction, ask, parse_instruction, split_operands
from harness.code.macros import LOCAL_MARK
from harness.code.source import AssemblyError, Statement

FREE_WALKS = 4  # from then on a branch that was long once stays long, so that the walks come to an end
MOST_WALKS = 32
REASONS = (ExpressionError, EncodingError, BranchError)


class Walk:
    """One pass over all items. `lookups` counts the uses of values that depend on addresses or on the place in the
    source; `guessed` is set when one of them may yet change."""

    def __init__(
        self,
        base: int,
        constants: dict[str, int],
        earlier: dict[str, int],
        labels: frozenset[str],
        must_settle: bool,
    ) -> None:
        self.address = base
        self.values: dict[str, int] = {}
        self.constants = constants
        self.earlier = earlier
        self.labels = labels
        self.must_settle = must_settle
        self.drift = 0
        self.lookups = 0
        self.guessed = False

    def lookup(self, name: str) -> int:
        if name in self.constants:
            return self.constants[name]
        self.lookups += 1
        if name == HERE:
            return self.address
        if name in self.values:
            return self.values[name]
        if name in self.earlier:
            return self.earlier[name] + self._drift_of(name)
        if name in self.labels:
            self.guessed = True
            return self.address
        if LOCAL_MARK in name:
            raise ExpressionError(f"no local label {name.partition(LOCAL_MARK)[0]} in that direction")
        raise UndefinedSymbolError(name)

    def _drift_of(self, name: str) -> int:
        """A label further on has moved since the last walk by as much as the labels before it, most likely."""
        if self.drift == 0 or name not in self.labels:
            return 0
        self.guessed = True
        return self.drift

    def define_label(self, name: str) -> None:
        self.values[name] = self.address
        self.drift = self.address - self.earlier.get(name, self.address)

    def value(self, text: str) -> int:
        return self.evaluate(parse_expression(text))

    def evaluate(self, tree: Expression) -> int:
        return evaluate(tree, self.lookup)


class Label(NamedTuple):
    name: str

    def place(self, walk: Walk) -> bytes:
        walk.define_label(self.name)
        return b""


class Assignment(NamedTuple):
    name: str
    value: Expression

    def place(self, walk: Walk) -> bytes:
        walk.values[self.name] = walk.evaluate(self.value)
        return b""


@dataclass(slots=True, eq=False)
class Data:
    name: str
    directive: Directive
    parts: list[str]
    constant: bytes | None = None

    def place(self, walk: Walk) -> bytes:
        if self.constant is not None:
            return self.constant
        before = walk.lookups
        try:
            data = self.directive(self.parts, walk)
        except ExpressionError as error:
            raise ExpressionError(f"{self.name}: {error}") from None
        if walk.lookups == before and self.name not in POSITIONAL:
            self.constant = data
        return data


@dataclass(slots=True, eq=False)
class Instruction:
    """`code` or `error` belong to `asked`; a walk that asks for something else goes on with the old length.

    What the encoder remembers from other assemblies makes no difference to the walks, or else the same source could
    give other bytes the second time.
    """

    written: WrittenInstruction
    bits: int
    asked: Asked | None = None
    code: bytes = b""
    error: EncodingError | None = None
    is_new: bool = True
    is_constant: bool = False

    def place(self, walk: Walk) -> bytes:
        if self.is_constant:
            return self.code
        before = walk.lookups
        asked = ask(self.written, self.bits, walk.lookup)
        if asked != self.asked:
            self.asked, self.is_new, walk.guessed = asked, True, True
        elif self.error is not None:
            raise self.error
        else:
            self.is_constant = walk.lookups == before
        return self.code

    def learn(self) -> None:
        """Takes what the encoder has found for `asked`."""
        if self.is_new and self.asked is not None:
            found = encoded(self.asked)
            self.error = found if isinstance(found, EncodingError) else None
            self.code = found if isinstance(found, bytes) else b""
            self.is_new = False


@dataclass(slots=True, eq=False)
class RelativeBranch:
    branch: Branch
    wide: bool = False

    def place(self, walk: Walk) -> bytes:
        target = walk.evaluate(self.branch.target.value)
        code = encode_branch(self.branch, walk.address, target, self.wide)
        if walk.must_settle and self.branch.may_be_near and not code.startswith(self.branch.form.short or code):
            self.wide = True
        return code


Item = Label | Assignment | Data | Instruction | RelativeBranch


class Placed(NamedTuple):
    """Bytes at their address; `bits` is the mode of an instruction, None for data."""

    statement: Statement
    address: int
    code: bytes
    bits: int | None


def constants_of(statements: Sequence[Statement]) -> dict[str, int]:
    """The symbols that are set once, to a value without addresses: they are the same everywhere."""
    times = Counter(statement.name for statement in statements if statement.kind == "set")
    return {s.name: s.value for s in statements if s.kind == "set" and s.value is not None and times[s.name] == 1}


def compile_statements(
    statements: Sequence[Statement], constants: Container[str], bits: int
) -> list[tuple[Statement, Item]]:
    """Each statement as an item; what only names a constant or a mode leaves none. Raises AssemblyError."""
    items: list[tuple[Statement, Item]] = []
    for statement in statements:
        if statement.kind == "set" and statement.name in constants:
            continue
        if statement.kind == "directive" and statement.name in MODES:
            bits = MODES[statement.name]
            continue
        if statement.kind == "directive" and statement.name in IGNORED:
            continue
        try:
            items.append((statement, _item(statement, bits)))
        except REASONS as error:
            raise statement.error(str(error)) from None
    return items


def _item(statement: Statement, bits: int) -> Item:
    match statement.kind:
        case "label":
            return Label(statement.name)
        case "set":
            return Assignment(statement.name, parse_expression(statement.rest))
        case "directive":
            if statement.name not in DIRECTIVES:
                raise ExpressionError(f"unknown directive '{statement.name}'")
            return Data(statement.name, DIRECTIVES[statement.name], split_operands(statement.rest))
        case _:
            written = parse_instruction(statement.rest)
            branch = as_branch(written, bits)
            return RelativeBranch(branch) if branch else Instruction(written, bits)


def _mode(item: Item) -> int | None:
    match item:
        case Instruction():
            return item.bits
        case RelativeBranch():
            return item.branch.bits
        case _:
            return None


def _walk(items: Sequence[tuple[Statement, Item]], walk: Walk) -> tuple[list[Placed], AssemblyError | None]:
    """The bytes of each item in order, and the first error."""
    placed: list[Placed] = []
    first_error: AssemblyError | None = None
    start = walk.address
    for statement, item in items:
        try:
            code = item.place(walk)
        except REASONS as error:
            first_error = first_error or statement.error(str(error))
            continue
        if code:
            placed.append(Placed(statement, walk.address, code, _mode(item)))
            walk.address += len(code)
            if walk.address - start > LARGEST:
                raise statement.error(f"more than {LARGEST} bytes")
    return placed, first_error


def lay_out(statements: Sequence[Statement], base: int, bits: int) -> tuple[list[Placed], dict[str, int]]:
    """Bytes with their addresses, and the values of all symbols. Raises AssemblyError."""
    constants = constants_of(statements)
    items = compile_statements(statements, constants, bits)
    labels = frozenset(item.name for _, item in items if isinstance(item, Label))
    instructions = [item for _, item in items if isinstance(item, Instruction)]
    values: dict[str, int] = {}
    error = None
    forget_many()
    for number in range(MOST_WALKS):
        walk = Walk(base, constants, values, labels, must_settle=number >= FREE_WALKS)
        placed, error = _walk(items, walk)
        if walk.values == values and not walk.guessed:
            if error is not None:
                raise error
            return placed, constants | values
        values = walk.values
        encode_all(item.asked for item in instructions if item.is_new and item.asked is not None)
        for item in instructions:
            item.learn()
    raise error or statements[0].error("the layout does not settle: a size depends on itself")
