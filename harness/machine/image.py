"""A machine as it stood, as plain data: good for any machine of the same size on the same build of Unicorn.

The CPU is its state in Unicorn's own layout, less what no guest changes (`layout.OF_THE_MACHINE`). Translated code and
translated addresses are not part of it: they are forgotten on loading.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.code.sensitive import KINDS
from harness.machine import layout
from harness.machine.nested import READ_ONLY, WRITABLE
from harness.machine.ram import CHUNK

_SIZE_OF_PENDING = 1 << 32
_FLAGS = bytes((0, READ_ONLY, WRITABLE))


class ImageError(Exception):
    """An image that this machine cannot become. The message says why."""


@dataclass(frozen=True, slots=True)
class MachineImage:
    """What `Machine.save` returns.

    unicorn: the build that the state belongs to. memory: bytes of RAM. state: the CPU. pending: its pending interrupts.
    root: machine address of the page directory in use, None while paging is off. frames: what each frame is to the
    guest, one byte a frame (`NestedTables.flags`). kinds: instructions that are watched for. ram: what is not zero.
    """

    unicorn: str
    memory: int
    state: bytes
    pending: int
    root: int | None
    frames: bytes
    kinds: tuple[str, ...]
    ram: dict[int, bytes]

    def check(self, memory: int) -> None:
        """Raise ImageError unless a machine of so many bytes can become this one."""
        if self.unicorn != present_unicorn():
            raise ImageError(f"saved on Unicorn {self.unicorn}, and this is Unicorn {present_unicorn()}")
        if self.memory != memory:
            raise ImageError(f"saved from a machine of {self.memory} bytes, and this one has {memory}")
        for fits, what in (
            (len(self.state) == layout.STATE_SIZE, "the size of its CPU state"),
            (int.from_bytes(self.state[layout.FPSTT : layout.FPSTT + 4], "little") < 8, "its FPU stack"),
            (0 <= self.pending < _SIZE_OF_PENDING, "its pending interrupts"),
            (self.root is None or (0 <= self.root <= memory - 4096 and self.root % 4096 == 0), "its page directory"),
            (len(self.frames) == memory >> 12 and not self.frames.translate(None, _FLAGS), "its table of frames"),
            (KINDS.issuperset(self.kinds), "its kinds of instruction"),
            (all(_fits(at, len(piece), memory) for at, piece in self.ram.items()), "its RAM"),
        ):
            if not fits:
                raise ImageError(f"{what} cannot be")


def _fits(at: int, size: int, memory: int) -> bool:
    return at % CHUNK == 0 and 0 <= at < memory and size == min(CHUNK, memory - at)


def present_unicorn() -> str:
    """Version of the installed Unicorn."""
    # Dear to import, and a run that saves nothing does not ask.
    from importlib.metadata import version

    return version("unicorn")
