"""Instructions that the CPU gives no exit for are found before they first run.

Unicorn calls back once for each block that it translates, before it runs it. The block's bytes are looked through for
the kinds of instruction that someone wants to see; each one found gets a hook at its own address, and the block is
translated again with it. Code that holds none of them pays nothing, ever (`code.sensitive` has the table).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from re import Pattern

from harness.code.decoder import Decoder, Instruction, TruncatedError
from harness.code.sensitive import classify, suspects

ALWAYS = frozenset({"io", "sysenter", "syscall", "sysret", "sysexit", "random", "xsetbv", "smsw"})
"""Kinds that the emulated CPU gets wrong by itself: no permission check, no effect, or not deterministic."""

_MOST_HOOKS = 2048


class BlockScan:
    """Knows which linear addresses are hooked, and why a block must be.

    `hook(address)` installs a hook and returns its number; `unhook(number)` removes it.
    """

    def __init__(self, decoder: Decoder, hook: Callable[[int], int], unhook: Callable[[int], None]) -> None:
        self._decoder, self._hook, self._unhook = decoder, hook, unhook
        self.kinds: frozenset[str] = frozenset()
        self.breakpoints: frozenset[int] = frozenset()
        """Linear addresses to hook whatever is there."""
        self._hooked: dict[int, int] = {}
        self._pattern: Pattern[bytes]
        self.watch(())

    def watch(self, kinds: Iterable[str]) -> None:
        """Look for these kinds too, from the next translation on."""
        self.kinds = ALWAYS | frozenset(kinds)
        self._pattern = suspects(self.kinds)

    def reach(self, address: int, code: bytes) -> int:
        """How many of these bytes may hold something to be hooked, wherever instructions begin; 0 for none."""
        end = 0
        for match in self._pattern.finditer(code):
            end = match.end()
        return max([end, *(at - address + 1 for at in self.breakpoints if address <= at < address + len(code))])

    def look(self, address: int, code: bytes) -> bool:
        """Hook what is to be hooked among the instructions of a block. True if there was anything new."""
        end = self.reach(address, code)
        if not end:
            return False
        found = [at for at in self._wanted(address, code, end) if at not in self._hooked]
        if len(self._hooked) + len(found) > _MOST_HOOKS:
            self.clear()
        for at in found:
            self._hooked[at] = self._hook(at)
        return bool(found)

    def clear(self) -> None:
        """Remove every hook. Translated code must be dropped with it, or it would run unseen."""
        for hook in self._hooked.values():
            self._unhook(hook)
        self._hooked.clear()

    def _wanted(self, address: int, code: bytes, end: int) -> list[int]:
        found: list[int] = []
        at = 0
        while at < end:
            instruction = self._decode(address + at, code[at : at + 15])
            if instruction is None:
                # Not decodable, or LOCK where it may not stand: see what the CPU makes of every byte from here on.
                # A hook where no instruction starts never fires.
                found += range(address + at, address + end)
                break
            if address + at in self.breakpoints or classify(instruction) in self.kinds:
                found.append(address + at)
            at += instruction.length
        return found

    def _decode(self, address: int, window: bytes) -> Instruction | None:
        """None too where the CPU ended the block within an instruction: it raises #UD or a fetch fault there."""
        try:
            return self._decoder.decode(address, window)
        except TruncatedError:
            return None
