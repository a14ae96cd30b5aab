"""The engine as it is: guest mode as the machine enters it, and none of what the machine covers up."""

from __future__ import annotations

import struct

from harness.code.assembler import assemble
from harness.machine import layout
from harness.machine.trial import CODE, Trial


def asm(text: str, base: int = CODE) -> bytes:
    """Statements separated by semicolons, as they would run at `base`."""
    return assemble(text.replace(";", "\n"), base=base).code


class Raw(Trial):
    """Exits as Unicorn numbers them: no block scan, nothing told apart. 13 is an exception that was not intercepted."""

    def __init__(self, code: bytes | str, ring: int = 1, *, eflags: int = 2, paging: bool = False) -> None:
        self.raw = False
        self.number = 1
        self.codes: list[tuple[int, int]] = []
        super().__init__(asm(code) if isinstance(code, str) else code, ring, eflags=eflags, paging=paging)
        self.raw = True

    def codes_of(self, number: int = 1) -> list[tuple[int, int]]:
        """Run to so many exits: exit code (an exception not intercepted: its vector - 0x100) and EIP behind `CODE`."""
        self.number = number
        self.exits(number)
        return self.codes

    def change(self, offset: int, form: str, value: int) -> None:
        """Write into the CPU state."""
        struct.pack_into(form, self._state, offset, value)

    def intercept_only(self, *codes: int) -> None:
        """Intercept these of the first two words of SVM's, and all exceptions."""
        self.change(layout.INTERCEPT, "<Q", sum(1 << (code - 0x60) for code in codes))

    def _look_ahead(self) -> None:
        if not self.raw:
            super()._look_ahead()

    def _on_block(self, address: int, size: int) -> None:
        if not self.raw:
            super()._on_block(address, size)

    def _on_interrupt(self, number: int) -> None:
        if not self.raw:
            super()._on_interrupt(number)
            return
        self.codes.append((number - 0x100, self.regs.eip - CODE))
        if len(self.codes) >= self.number:
            self.stop()
        else:
            self.skip()


def first(code: bytes | str, ring: int = 1, **options: int) -> tuple[int, int]:
    """The first exit of some code: exit code, and EIP behind `CODE`."""
    machine = Raw(code, ring, **options)  # type: ignore[arg-type]
    try:
        return machine.codes_of()[0]
    finally:
        machine.close()
