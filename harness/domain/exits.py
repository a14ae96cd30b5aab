"""A typed exit: what the machine hands to whoever handles the guest's traps, whichever engine it came from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Reason(IntEnum):
    """Why the guest stopped. EIP is always at the instruction (SDM words where it has them)."""

    EXCEPTION = 0
    """A fault, or the #DB trap. `vector`, `error_code`, and for #PF `address`."""
    SOFTWARE_INT = 1
    """INT n, INT3 or INTO, before any gate is looked at. `vector`, `length`."""
    CPUID = 2
    RDTSC = 3
    RDTSCP = 4
    RDPMC = 5
    HLT = 6
    SCANNED = 7
    """An instruction without an intercept, found by the block scan. `kind` says which (code/sensitive.py)."""
    NESTED_FAULT = 8
    """An access outside the memory that the guest was given. `address` is a machine address."""
    SLICE = 9
    """The counted slice of instructions ran out."""
    OTHER = 10
    """An intercept that nobody asked for. `vector` holds the engine's own exit code."""


@dataclass(slots=True)
class Exit:
    """One exit. The machine keeps one of these and fills it anew each time: copy what is to be kept."""

    reason: Reason = Reason.EXCEPTION
    vector: int = 0
    error_code: int = 0
    address: int = 0
    length: int = 0
    kind: str = ""
