"""Long hypercalls in pieces (common/domain.c, hypercall_create_continuation).

Xen looks for something more urgent after each item of a long list. Then it leaves EIP on the `int 0x82`, with what is
left to do in the argument registers, and the guest makes the rest of the call by itself. Here a call ends so after a
fixed amount of work: no list keeps the host busy for long, timers and budgets get their turn, and two runs of one guest
stay the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.pv.state import Vcpu

MOST_WORK = 1024
"""Items for one exit; an item is what takes some ten microseconds here."""
RESUMED = 1 << 31
"""Top bit of the count of mmu_update and mmuext_op: the call goes on where it was (asm-x86/hypercall.h)."""


@dataclass(frozen=True, slots=True)
class Continue:
    """The call is to be made again with these arguments, for the rest of its work."""

    arguments: tuple[int, ...]


def preempted(vcpu: Vcpu, items: int = 1) -> bool:
    """Count `items` of work as done. True once the exit has had its share."""
    vcpu.work += items
    return vcpu.work >= MOST_WORK
