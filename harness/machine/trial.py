"""A small machine with nothing in it but a piece of code: what the self-check runs its proofs on."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from harness.abi.x86 import CR0_ET, CR0_PE, CR0_PG, CR0_WP, PAGE_SHIFT, PTE_P, PTE_RW, PTE_US, Seg
from harness.domain.exits import Exit, Reason
from harness.domain.registers import SegmentCache
from harness.machine.machine import Machine, RunEnd
from harness.machine.watchdog import Watchdog

CODE, STACK, DIRECTORY, TABLE, MEMORY = 0x10000, 0x9000, 0x40000, 0x41000, 0x100000
_PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class Seen:
    """An exit as it was, with the registers that it found. `at` is EIP relative to `CODE`."""

    reason: Reason
    vector: int
    error_code: int
    address: int
    length: int
    kind: str
    at: int
    cpl: int
    eflags: int
    gpr: tuple[int, ...]


Answer = Callable[[Seen], bool | None]


def flat(seg: int, ring: int) -> SegmentCache:
    """A flat segment of 4 GiB for a ring: code for CS, else data. Selectors are Xen's in rings 1 and 3."""
    code = {0: 0x08, 1: 0xE019, 3: 0xE02B}[ring]
    if seg == Seg.CS:
        return SegmentCache(code, 0, 0xFFFFFFFF, 0x00CF9B00 | ring << 13)
    return SegmentCache(code + 8, 0, 0xFFFFFFFF, 0x00CF9300 | ring << 13)


class Trial(Machine):
    """A machine of 1 MiB, all of it granted, with `code` at `CODE` and the CPU in `ring` before it."""

    def __init__(self, code: bytes, ring: int = 1, *, eflags: int = 2, paging: bool = False) -> None:
        super().__init__(MEMORY)
        self.nested.grant(0, MEMORY >> PAGE_SHIFT)
        self.put(CODE, code)
        self.regs.cr0 = CR0_PE | CR0_ET
        for seg in (Seg.DS, Seg.ES, Seg.FS, Seg.GS):
            self.regs.load_segment(seg, flat(seg, ring))
        self.go(ring, CODE, eflags)
        self.seen: list[Seen] = []
        if paging:
            self.put(DIRECTORY, struct.pack("<I", TABLE | PTE_P | PTE_RW | PTE_US))
            for frame in range(MEMORY >> PAGE_SHIFT):
                self.map(frame << PAGE_SHIFT, frame << PAGE_SHIFT | PTE_P | PTE_RW | PTE_US)
            self.regs.cr0 = CR0_PE | CR0_ET | CR0_WP | CR0_PG
            self.load_cr3(DIRECTORY)

    def go(self, ring: int, eip: int, eflags: int = 2) -> None:
        """Put the CPU into a ring."""
        self.regs.enter(flat(Seg.CS, ring), eip, flat(Seg.SS, ring), STACK, eflags)

    def put(self, maddr: int, data: bytes) -> None:
        """Store bytes at a machine address."""
        self.ram.write(maddr, data)

    def map(self, linear: int, entry: int) -> None:
        """Write the table entry of a linear address below 4 MiB."""
        self.ram.set_u32(TABLE + (linear >> PAGE_SHIFT) * 4, entry)

    def exits(self, number: int = 1, answer: Answer | None = None, count: int = 0) -> list[Seen]:
        """Run to the given number of exits; the list of all so far.

        `answer` is asked after each but the last, and leaves the CPU as it is to go on; without it EIP is moved past
        the instruction. What it returns goes to the machine as a handler's answer.
        """
        def handler(exit_: Exit) -> bool:
            regs = self.regs
            seen = Seen(exit_.reason, exit_.vector, exit_.error_code, exit_.address, exit_.length, exit_.kind,
                        regs.eip - CODE, regs.cpl, regs.eflags, tuple(regs.gpr))
            self.seen.append(seen)
            if len(self.seen) >= number:
                self.stop()
                return False
            if answer is not None:
                return bool(answer(seen))
            self.skip()
            return False

        with Watchdog(self.stop, _PATIENCE_S):
            self.ended: RunEnd = self.run(handler, count)
        return self.seen

    def skip(self) -> None:
        """Move EIP past the instruction that it is at."""
        eip = self.regs.eip
        instruction = self.decoder.decode(eip, self.linear.fetch(eip))
        self.regs.eip += instruction.length if instruction else 1
