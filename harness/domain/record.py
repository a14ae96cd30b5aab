"""What is told about a run: one record an exit, one at the end. Plain data; `report/` turns it into text."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Verdict(StrEnum):
    """What the guest did. `failure` blames what is tested, `error` the test itself."""

    SUCCESS = "success"
    FAILURE = "failure"
    ERROR = "error"
    SKIP = "skip"
    CRASH = "crash"
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """One exit.

    n: counted from 1. kind: one word of the closed set (docs/guests.md). eip: linear address of the instruction.
    cpl: ring it ran in. bytes: the instruction's. text: decoded. raised: what the CPU raised (`#GP(0)`, `int 0x82`).
    action: the handler (`emulate_clts`, `do_console_io`, `bounce`). result: what came of it, in words.
    notes: what else the handler had to say (audit findings, values). time_ns: virtual time at the exit.
    """

    n: int
    kind: str
    eip: int
    cpl: int
    bytes: bytes
    text: str
    raised: str
    action: str
    result: str
    notes: tuple[str, ...] = ()
    time_ns: int = 0


@dataclass(frozen=True, slots=True)
class AuditFinding:
    """A sensitive instruction that did not trap. eip: linear. saw: what it saw or lost. instead: what to use."""

    eip: int
    cpl: int
    bytes: bytes
    text: str
    saw: str
    instead: str


@dataclass(frozen=True, slots=True)
class CrashReport:
    """The guest as it stood when it could not go on.

    code: bytes around EIP starting at linear `code_address`. stack: 32-bit words from ESP upwards (linear = SS base 0).
    last: at most the last 16 exits, oldest first.
    """

    registers: dict[str, int]
    code_address: int
    code: bytes
    stack: tuple[int, ...]
    last: tuple[ExitRecord, ...]


@dataclass(frozen=True, slots=True)
class RunResult:
    """The end of one guest in one mode.

    reason: one sentence. exits: counts by kind. hypercalls: counts by name. registers: at the end, by lower-case name.
    differences: one line for each way in which the run is not what the guest's head expects; empty = as expected.
    """

    guest: str
    mode: str
    verdict: Verdict
    reason: str
    console: str = ""
    exits: dict[str, int] = field(default_factory=dict)
    hypercalls: dict[str, int] = field(default_factory=dict)
    registers: dict[str, int] = field(default_factory=dict)
    audit: tuple[AuditFinding, ...] = ()
    crash: CrashReport | None = None
    differences: tuple[str, ...] = ()
    time_ns: int = 0

    @property
    def as_expected(self) -> bool:
        """Whether verdict and all else are what the guest's head declares."""
        return not self.differences
