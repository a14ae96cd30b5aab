"""RAM that knows which of its bytes the CPU has translated.

Unicorn does not notice when the host writes to mapped memory: code translated from there goes on running as it was
(observed on 2.1.4). So each translated block marks its lines here, and a write to a marked line drops translated code.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from typing import cast

from harness.domain.memory import Memory

_LINE_SHIFT = 6
_U32 = struct.Struct("<I")
CHUNK = 1 << 16
_ZEROS = bytes(CHUNK)


def private(size: int) -> mmap.mmap:
    """Zeroed memory of this process alone; what is only read costs nothing."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


class Ram(Memory):
    """Machine memory in one anonymous mapping of `size` bytes. `code_written` is called after a write to code."""

    def __init__(self, size: int, code_written: Callable[[], None]) -> None:
        self.mapping = private(size)
        super().__init__(cast(bytearray, self.mapping))
        self._code = bytearray((size >> _LINE_SHIFT) + 1)
        self._code_written = code_written

    def write(self, maddr: int, data: bytes) -> None:
        """Store bytes at a machine address."""
        end = maddr + len(data)
        self.buffer[maddr:end] = data
        if self._code.find(1, maddr >> _LINE_SHIFT, (end - 1 >> _LINE_SHIFT) + 1) >= 0:
            self.forget_code()

    def set_u32(self, maddr: int, value: int) -> None:
        """Store a dword."""
        _U32.pack_into(self.buffer, maddr, value)
        if self._code[maddr >> _LINE_SHIFT] or self._code[maddr + 3 >> _LINE_SHIFT]:
            self.forget_code()

    def mark_code(self, maddr: int, size: int) -> None:
        """Bytes that the CPU has translated. Beyond this RAM is only the machine's own stub."""
        first, last = maddr >> _LINE_SHIFT, min(maddr + size, self.size) - 1 >> _LINE_SHIFT
        if last < first:
            return
        self._code[first : last + 1] = b"\1" * (last + 1 - first)

    def contents(self) -> dict[int, bytes]:
        """All that is not zero, in pieces of `CHUNK` bytes (the last may be shorter) by machine address."""
        pieces = ((at, self.mapping[at : at + CHUNK]) for at in range(0, self.size, CHUNK))
        return {at: piece for at, piece in pieces if piece != _ZEROS[: len(piece)]}

    def replace(self, contents: dict[int, bytes]) -> None:
        """Make RAM what `contents` returned once. Pieces that are so already are not written."""
        for at in range(0, self.size, CHUNK):
            present = self.mapping[at : at + CHUNK]
            wanted = contents.get(at, _ZEROS[: len(present)])
            if present != wanted:
                self.mapping[at : at + CHUNK] = wanted
        self.forget_code()

    def forget_code(self) -> None:
        """Drop all translated code."""
        self._code = bytearray(len(self._code))
        self._code_written()
