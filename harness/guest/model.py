"""A guest: its image, what it is written for, what a run of it shall come to."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from harness.domain.image import Image
from harness.domain.record import RunResult, Verdict

MODES = ("pv", "bare", "vmx")
DEFAULT_MEMORY = 16 << 20
CONSOLE_DIFF_LINES = 12

Policy = Literal["xen", "full"]


class GuestError(Exception):
    """A guest's file is not what it has to be. The message is one line: `file: reason` or `file:line: reason`."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a guest wants to be run (`[run]` of its head).

    memory: bytes of RAM, a multiple of 4 KiB. modules: files handed to the kernel. max_exits, max_insns: None is no
    limit. exit_on: what else is to exit in the mode `vmx`, beside what virtualization needs; `pv` has no such choice.
    """

    policy: Policy = "xen"
    audit: bool = False
    memory: int = DEFAULT_MEMORY
    cmdline: str = ""
    modules: tuple[Path, ...] = ()
    max_exits: int | None = None
    max_insns: int | None = None
    exit_on: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a run shall come to (`[expect]` of the head). None and absent keys are not compared.

    exits, hypercalls: counts by name; 0 says that it must not occur. registers: 32-bit values by lower-case name.
    crash, reason: parts of the result's reason.
    """

    verdict: Verdict = Verdict.SUCCESS
    console: str | None = None
    exits: Mapping[str, int] = field(default_factory=dict)
    hypercalls: Mapping[str, int] = field(default_factory=dict)
    registers: Mapping[str, int] = field(default_factory=dict)
    crash: str | None = None
    reason: str | None = None

    def differences(self, result: RunResult) -> list[str]:
        """One entry for each way in which `result` is not as expected; that of the console has a line a changed line.

        A guest that skips is as expected, whatever else it did.
        """
        if result.verdict is Verdict.SKIP:
            return []
        return [
            *self._verdict(result),
            *_console(self.console, result.console),
            *_counts("exits", self.exits, result.exits),
            *_counts("hypercalls", self.hypercalls, result.hypercalls),
            *_registers(self.registers, result.registers),
            *_part("crash", self.crash, result.reason),
            *_part("reason", self.reason, result.reason),
        ]

    def _verdict(self, result: RunResult) -> list[str]:
        if result.verdict is self.verdict:
            return []
        return [f"verdict: expected {self.verdict}, got {result.verdict} ({result.reason})"]


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest kernel, loaded. `expect` has an entry for each of MODES; `has_head` tells whether its file gave any."""

    name: str
    path: Path
    title: str
    modes: tuple[str, ...]
    run: RunOptions
    expect: Mapping[str, Expectation]
    image: Image
    has_head: bool

    @classmethod
    def load(cls, path: Path | str) -> Guest:
        """The guest in a file: assembly, ELF or flat binary. Raises GuestError, or AssemblyError for its source."""
        from harness.guest.loader import load

        return load(Path(path))

    @classmethod
    def from_text(cls, text: str, name: str = "text") -> Guest:
        """The guest in a piece of assembly source, head and all. Raises as `load` does."""
        from harness.guest.loader import load_text

        return load_text(text, name)


def _part(what: str, part: str | None, reason: str) -> list[str]:
    return [] if part is None or part in reason else [f"{what}: expected '{part}' in '{reason}'"]


def _counts(what: str, expected: Mapping[str, int], seen: Mapping[str, int]) -> list[str]:
    return [
        f"{what}: expected {count} {name}, got {seen.get(name, 0)}"
        for name, count in expected.items()
        if seen.get(name, 0) != count
    ]


def _registers(expected: Mapping[str, int], seen: Mapping[str, int]) -> list[str]:
    return [
        f"registers: expected {name} = {value:#010x}, got {f'{seen[name]:#010x}' if name in seen else 'nothing'}"
        for name, value in expected.items()
        if seen.get(name) != value
    ]


def _console(expected: str | None, seen: str) -> list[str]:
    if expected is None or expected == seen:
        return []
    changes = difflib.unified_diff(_visible(expected), _visible(seen), "expected", "console", n=1, lineterm="")
    lines = list(changes)[2:]
    left = len(lines) - CONSOLE_DIFF_LINES
    more = [f"... and {left} lines more"] if left > 0 else []
    return ["\n  ".join(["console: - expected, + got", *lines[:CONSOLE_DIFF_LINES], *more])]


def _visible(text: str) -> list[str]:
    """Lines, with control characters and a missing last newline spelled out."""
    lines = [repr(line)[1:-1] for line in text.split("\n")]
    return lines[:-1] if not lines[-1] else [*lines[:-1], f"{lines[-1]} (no newline)"]
