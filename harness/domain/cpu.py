"""What policy needs of the machine under it, as a protocol: one CPU, its memory and its address space."""

from __future__ import annotations

from typing import Protocol

from harness.domain.memory import LinearMemory, Memory
from harness.domain.registers import Registers


class FrameTable(Protocol):
    """Which frames of machine memory the guest can reach."""

    def grant(self, frame: int, count: int = 1, *, writable: bool = True) -> None: ...
    def revoke(self, frame: int, count: int = 1) -> None: ...


class Cpu(Protocol):
    """One CPU. `linear` is the present address space, `ram` all of machine memory."""

    @property
    def regs(self) -> Registers: ...
    @property
    def ram(self) -> Memory: ...
    @property
    def linear(self) -> LinearMemory: ...
    @property
    def nested(self) -> FrameTable: ...

    def load_cr3(self, root: int) -> None:
        """Use another page directory (machine address) and flush the TLB."""

    def flush_tlb(self) -> None:
        """Flush the TLB."""

    def invalidate(self, linear: int) -> None:
        """Flush what the TLB holds of one page, at least."""


class PlainFrames:
    """A frame table without a CPU."""

    def __init__(self) -> None:
        self.reachable: dict[int, bool] = {}

    def grant(self, frame: int, count: int = 1, *, writable: bool = True) -> None:
        """See FrameTable."""
        self.reachable |= dict.fromkeys(range(frame, frame + count), writable)

    def revoke(self, frame: int, count: int = 1) -> None:
        """See FrameTable."""
        for n in range(frame, frame + count):
            self.reachable.pop(n, None)


class PlainCpu:
    """A CPU that executes nothing: registers and a bytearray, for testing policy in milliseconds."""

    def __init__(self, regs: Registers, memory: int) -> None:
        self.regs = regs
        self.ram = Memory(bytearray(memory))
        self.linear = LinearMemory(self.ram)
        self.nested = PlainFrames()
        self.flushes = 0

    def load_cr3(self, root: int) -> None:
        """See Cpu."""
        self.regs.cr3 = root
        self.linear.load_root(root)
        self.flushes += 1

    def flush_tlb(self) -> None:
        """See Cpu."""
        self.linear.flush()
        self.flushes += 1

    def invalidate(self, linear: int) -> None:
        """See Cpu."""
        self.linear.forget(linear)
        self.flushes += 1
