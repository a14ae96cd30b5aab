"""Virtual time: deterministic, in nanoseconds since the domain was created.

It moves in three ways only, so two runs of one guest see the same times:
- each exit costs `EXIT_PRICE_NS`;
- an idle CPU jumps to its next timer;
- while instructions are counted, each costs `INSTRUCTION_PRICE_NS`.
"""

from __future__ import annotations

from dataclasses import dataclass

EXIT_PRICE_NS = 1000
INSTRUCTION_PRICE_NS = 1
TSC_HZ = 1_000_000_000
"""One cycle a nanosecond: TSC and virtual time are the same number."""
START_NS = 1_000_000_000
"""Time at boot is not 0, so that a guest that forgets to subtract is found out."""
WALLCLOCK_AT_BOOT_S = 1_133_740_800
"""Seconds since 1970 at time 0: 2005-12-05 00:00 UTC, the day of Xen 3.0.0."""


@dataclass(slots=True)
class Clock:
    """`now`: nanoseconds. `deadline`: when the one-shot timer fires, or None."""

    now: int = START_NS
    deadline: int | None = None

    def expired(self) -> bool:
        """Whether the timer is due."""
        return self.deadline is not None and self.now >= self.deadline

    def jump(self) -> bool:
        """Skip idle time to the deadline. False when there is none to wait for."""
        if self.deadline is None:
            return False
        self.now = max(self.now, self.deadline)
        return True
