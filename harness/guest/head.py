"""The TOML block that opens a guest's source, in comments between two `; ---` lines (docs/guests.md).

Every error names the line of the key it is about.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.abi.xen import Hypercall
from harness.domain.kinds import KINDS
from harness.domain.record import Verdict
from harness.guest.model import MODES, Expectation, GuestError, RunOptions

MEMORY_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
MEMORY_STEP = 4096
MIN_MEMORY, MAX_MEMORY = 64 << 10, 1 << 30
POLICIES = ("xen", "full")
REGISTERS = (
    *("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", "eip", "eflags"),
    *("es", "cs", "ss", "ds", "fs", "gs", "cr0", "cr2", "cr3", "cr4"),
)

Keys = tuple[str, ...]
Convert = Callable[[object, Keys], Any]


@dataclass(frozen=True, slots=True)
class Head:
    """What the head says. `expect` has an entry for each of MODES."""

    title: str = ""
    modes: tuple[str, ...] = ("pv",)
    run: RunOptions = field(default_factory=RunOptions)
    expect: Mapping[str, Expectation] = field(default_factory=lambda: dict.fromkeys(MODES, Expectation()))


class _WrongError(Exception):
    """The value at `keys` is wrong, for `reason`."""

    def __init__(self, keys: Keys, reason: str) -> None:
        super().__init__(reason)
        self.keys = keys
        self.reason = reason


def parse_memory(value: str | int) -> int:
    """Bytes of RAM from `16M`, `512K`, `1G` or a number of bytes.

    ValueError, with the reason: not a size, not a multiple of 4 KiB, or out of bounds.
    """
    text = str(value).strip().upper()
    unit = MEMORY_UNITS.get(text[-1:], 1)
    digits = text if unit == 1 else text[:-1]
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError(f"'{value}' is not a size: write 16M, 512K or a number of bytes")
    size = int(digits) * unit
    if size % MEMORY_STEP:
        raise ValueError(f"{value} is not a multiple of 4 KiB")
    if not MIN_MEMORY <= size <= MAX_MEMORY:
        raise ValueError(f"{value} is not between {MIN_MEMORY >> 10}K and {MAX_MEMORY >> 30}G")
    return size


def parse_head(text: str, path: Path) -> Head | None:
    """The head of a source text, or None if it does not open with one.

    GuestError, as `file:line: reason`: not closed, not TOML, an unknown key, a value of the wrong type or not allowed.
    """
    block = _block(text, path)
    if block is None:
        return None
    first, lines = block
    try:
        table = tomllib.loads("\n".join(lines))
    except tomllib.TOMLDecodeError as error:
        raise GuestError(_toml_error(error, path, first, len(lines))) from None
    try:
        return _head(table, path.parent)
    except _WrongError as error:
        raise GuestError(f"{path}:{first + _line_of(error.keys, lines)}: {error.reason}") from None


# --- The block --------------------------------------------------------------------------------------------------------

_FENCE = re.compile(r"\s*[;#]\s*---+\s*")
_COMMENT = re.compile(r"\s*[;#] ?(.*)")


def _block(text: str, path: Path) -> tuple[int, list[str]] | None:
    """The TOML lines without their comment marks, and the number of the first one in the file."""
    lines = text.splitlines()
    opening = next((n for n, line in enumerate(lines) if line.strip()), len(lines))
    if opening == len(lines) or not _FENCE.fullmatch(lines[opening]):
        return None
    found: list[str] = []
    for number, line in enumerate(lines[opening + 1 :], start=opening + 2):
        if _FENCE.fullmatch(line):
            return opening + 2, found
        comment = _COMMENT.fullmatch(line)
        if line.strip() and comment is None:
            raise GuestError(f"{path}:{number}: the head is not closed by a line '; ---'")
        found.append(comment[1] if comment else "")
    raise GuestError(f"{path}:{opening + 1}: the head is not closed by a line '; ---'")


def _toml_error(error: tomllib.TOMLDecodeError, path: Path, first: int, count: int) -> str:
    reason, _, where = str(error).partition(" (at ")
    at = re.match(r"line (\d+)", where)
    return f"{path}:{first + (int(at[1]) - 1 if at else max(count - 1, 0))}: bad TOML in the head: {reason}"


_HEADER = re.compile(r"\s*\[+\s*([\w.\s\"'-]+?)\s*\]+\s*(?:#.*)?")
_KEY = re.compile(r"\s*([\w.\"'-]+)\s*=")


def _line_of(keys: Keys, lines: list[str]) -> int:
    """Index of the line that sets `keys`, or else the longest beginning of them that any line sets."""
    where: dict[Keys, int] = {}
    table: Keys = ()
    for index, line in enumerate(lines):
        if header := _HEADER.fullmatch(line):
            table = _dotted(header[1])
            where.setdefault(table, index)
        elif key := _KEY.match(line):
            where.setdefault(table + _dotted(key[1]), index)
    return next((where[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in where), 0)


def _dotted(text: str) -> Keys:
    return tuple(part.strip().strip("\"'") for part in text.split("."))


# --- Values -----------------------------------------------------------------------------------------------------------


def _kind(wanted: type, name: str) -> Convert:
    def convert(value: object, keys: Keys) -> Any:
        if type(value) is not wanted:
            raise _WrongError(keys, f"{keys[-1]} must be {name}")
        return value

    return convert


_text = _kind(str, "text")
_boolean = _kind(bool, "true or false")
_integer = _kind(int, "a whole number")


def _positive(value: object, keys: Keys) -> int:
    number: int = _integer(value, keys)
    if number <= 0:
        raise _WrongError(keys, f"{keys[-1]} must be greater than 0")
    return number


def _count(value: object, keys: Keys) -> int:
    number: int = _integer(value, keys)
    if number < 0:
        raise _WrongError(keys, f"{keys[-1]} must not be negative")
    return number


def _register(value: object, keys: Keys) -> int:
    number: int = _integer(value, keys)
    if not -(1 << 31) <= number < 1 << 32:
        raise _WrongError(keys, f"{keys[-1]} does not fit in 32 bits")
    return number & 0xFFFFFFFF


def _memory(value: object, keys: Keys) -> int:
    if type(value) is not int and not isinstance(value, str):
        raise _WrongError(keys, "memory must be text like '16M' or a number of bytes")
    try:
        return parse_memory(value)
    except ValueError as error:
        raise _WrongError(keys, f"memory {error}") from None


def _one_of(what: str, choices: Iterable[str]) -> Convert:
    known = tuple(choices)

    def convert(value: object, keys: Keys) -> str:
        text: str = _text(value, keys)
        if text not in known:
            raise _WrongError(keys, f"unknown {what} '{text}' (known: {', '.join(known)})")
        return text

    return convert


def _list(convert_item: Convert) -> Convert:
    def convert(value: object, keys: Keys) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise _WrongError(keys, f"{keys[-1]} must be a list")
        return tuple(convert_item(item, keys) for item in value)

    return convert


def _table(what: str, columns: Mapping[str, Convert]) -> Convert:
    def convert(value: object, keys: Keys) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _WrongError(keys, f"{keys[-1]} must be a table")
        for key in value:
            if key not in columns:
                raise _WrongError((*keys, key), f"unknown {what} '{key}' (known: {', '.join(columns)})")
        return {key: columns[key](item, (*keys, key)) for key, item in value.items()}

    return convert


_verdict = _one_of("verdict", Verdict)
_mode_list = _list(_one_of("mode", MODES))

RUN: dict[str, Convert] = {
    "policy": _one_of("policy", POLICIES),
    "audit": _boolean,
    "memory": _memory,
    "cmdline": _text,
    "modules": _list(_text),
    "max_exits": _positive,
    "max_insns": _positive,
    "exit_on": _list(_text),
}

EXPECT: dict[str, Convert] = {
    "verdict": lambda value, keys: Verdict(_verdict(value, keys)),
    "console": _text,
    "exits": _table("exit kind", dict.fromkeys(KINDS, _count)),
    "hypercalls": _table("hypercall", dict.fromkeys((call.name for call in Hypercall), _count)),
    "registers": _table("register", dict.fromkeys(REGISTERS, _register)),
    "crash": _text,
    "reason": _text,
}


# --- The whole --------------------------------------------------------------------------------------------------------


def _head(table: dict[str, Any], folder: Path) -> Head:
    found = _table("key", HEAD)(table, ())
    modes: tuple[str, ...] = found.get("modes", ("pv",))
    return Head(
        found.get("title", ""),
        modes,
        _run(found.get("run", {}), folder),
        _expectations(found.get("expect", {}), modes),
    )


def _modes(value: object, keys: Keys) -> tuple[str, ...]:
    modes: tuple[str, ...] = tuple(dict.fromkeys(_mode_list(value, keys)))
    if not modes:
        raise _WrongError(keys, f"modes must name at least one of {', '.join(MODES)}")
    return modes


def _run(found: dict[str, Any], folder: Path) -> RunOptions:
    modules = tuple(folder / name for name in found.pop("modules", ()))
    for module in modules:
        if not module.is_file():
            raise _WrongError(("run", "modules"), f"no such module: {module}")
    return RunOptions(modules=modules, **found)


def _expect(value: object, keys: Keys) -> dict[str, Any]:
    outcome = _table("key in [expect]", EXPECT)
    by_mode: dict[str, Convert] = dict.fromkeys(MODES, lambda inner, at: _crash_verdict(outcome(inner, at), at))
    return _crash_verdict(_table("key in [expect]", EXPECT | by_mode)(value, keys), keys)


def _crash_verdict(found: dict[str, Any], keys: Keys) -> dict[str, Any]:
    """A reason for a crash means that verdict."""
    if "crash" in found and found.setdefault("verdict", Verdict.CRASH) is not Verdict.CRASH:
        raise _WrongError((*keys, "crash"), f"crash contradicts verdict '{found['verdict']}'")
    return found


HEAD: dict[str, Convert] = {
    "title": _text,
    "modes": _modes,
    "run": _table("key in [run]", RUN),
    "expect": _expect,
}


def _expectations(found: dict[str, Any], modes: tuple[str, ...]) -> dict[str, Expectation]:
    overrides = {mode: found.pop(mode) for mode in MODES if mode in found}
    for mode in overrides:
        if mode not in modes:
            raise _WrongError(("expect", mode), f"[expect.{mode}], but {mode} is not among the modes")
    return {mode: _merged(found, overrides.get(mode, {})) for mode in MODES}


def _merged(base: dict[str, Any], override: dict[str, Any]) -> Expectation:
    """Key by key; a crash that the mode's own verdict rules out goes."""
    merged = base | override
    if merged.get("verdict") is not Verdict.CRASH:
        merged.pop("crash", None)
    return Expectation(**merged)
