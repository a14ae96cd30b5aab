"""What came of an exit: a small closed set of values, matched without a wildcard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Resume:
    """Go on where EIP points: the handler has put everything in place."""


@dataclass(frozen=True, slots=True)
class Retire:
    """Step past the instruction that exited."""


@dataclass(frozen=True, slots=True)
class Native:
    """Let the CPU execute the instruction itself, once (an intercept that only watched)."""


class Inject(NamedTuple):
    """Give the guest an event.

    `vector` 0..255; `error_code` as pushed, or None; `address` is CR2 for a page fault (linear);
    `advance` bytes are added to EIP first (software interrupts are traps, the rest are faults).
    """

    vector: int
    error_code: int | None = None
    address: int | None = None
    advance: int = 0


@dataclass(frozen=True, slots=True)
class Block:
    """Wait for an event. EIP is already past the instruction."""


@dataclass(frozen=True, slots=True)
class Shutdown:
    """The guest asked to end. `reason` is the word of the interface it used (`poweroff`, `crash`, ...)."""

    reason: str


@dataclass(frozen=True, slots=True)
class Crash:
    """The guest cannot go on, and it is its own fault. `reason` is one sentence."""

    reason: str


Outcome = Resume | Retire | Native | Inject | Block | Shutdown | Crash

RESUME = Resume()
RETIRE = Retire()
NATIVE = Native()
BLOCK = Block()
