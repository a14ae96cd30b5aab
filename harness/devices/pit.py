"""Channel 2 of the 8254 and the speaker port: what Xen 3.0.4 models for guests that time themselves by it.

Ports 0x42 (counter), 0x43 (command), 0x61 (gate in bit 0, output in bit 5). Intel 8254 data sheet; a kernel uses it to
calibrate its TSC.
"""

from __future__ import annotations

from harness.domain.clock import Clock

COUNTER, COMMAND, SPEAKER = 0x42, 0x43, 0x61
PIT_HZ = 1_193_182
_GATE, _OUTPUT, _KEPT = 1, 1 << 5, 3
_CHANNEL_2 = 2
_ACCESS = 3 << 4
"""Which bytes of the counter a control word is about; none of them: it latches the count."""


class Speaker:
    """Counter 2 in one-shot use: it counts down from its reload value while the gate is open."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.control = 0
        self.reload = 0x10000
        self.started = 0
        self._low: int | None = None
        self._high_next = False
        self._latched: int | None = None

    def _elapsed(self) -> int:
        """Ticks since the counter was loaded or the gate opened."""
        return (self._clock.now - self.started) * PIT_HZ // 1_000_000_000 if self.control & _GATE else 0

    def _count(self) -> int:
        return (self.reload - self._elapsed()) & 0xFFFF

    def read(self, port: int, size: int) -> int | None:
        """IN. None where there is no device, and for anything but a byte."""
        if size != 1:
            return None
        if port == SPEAKER:
            return self.control | (_OUTPUT if self._elapsed() >= self.reload else 0)
        if port == COUNTER:
            count = self._count() if self._latched is None else self._latched
            self._high_next = not self._high_next
            if self._high_next:
                return count & 0xFF
            self._latched = None
            return count >> 8
        return None

    def write(self, port: int, value: int, size: int) -> None:
        """OUT. What is not for channel 2 or the speaker is dropped."""
        if size != 1:
            return
        if port == SPEAKER:
            if value & _GATE and not self.control & _GATE:
                self.started = self._clock.now
            self.control = value & _KEPT
        elif port == COMMAND and value >> 6 == _CHANNEL_2:
            if value & _ACCESS:
                self._low, self._latched, self._high_next = None, None, False
            elif self._latched is None:
                # A second latch before the first one is read is ignored (data sheet, Counter Latch Command).
                self._latched, self._high_next = self._count(), False
        elif port == COUNTER:
            if self._low is None:
                self._low = value
            else:
                self.reload = (value << 8 | self._low) or 0x10000
                self._low, self.started = None, self._clock.now
