"""Nested page tables: which frames of the machine a guest can reach at all.

Four levels, 4 KiB pages, identity: a guest-physical address is a machine address, or it is nothing. Whatever a guest
writes into its own page tables, an access to a frame that was not granted leaves through a nested page fault.

Never set no-execute here: a guest page walk through such a frame is a NULL dereference inside Unicorn 2.1.4 and takes
the process down. And page walks ask for write permission, so frames with page tables must be writable here.
"""

from __future__ import annotations

import struct

_PRESENT, _WRITE, _USER = 1, 2, 4
_FULL = _PRESENT | _WRITE | _USER
READ_ONLY, WRITABLE = _PRESENT | _USER, _FULL
_ONLY_PERMISSIONS = bytes(n & _FULL for n in range(256))
_ENTRY = struct.Struct("<Q")
_PAGE = 4096
_FRAMES_PER_TABLE = 512


def table_pages(frames: int) -> int:
    """How many pages the tables for a machine of so many frames take."""
    tables = -(-frames // _FRAMES_PER_TABLE)
    return 2 + -(-tables // _FRAMES_PER_TABLE) + tables


class NestedTables:
    """Tables in `memory` (a view of `table_pages(frames)` pages) that lies at machine address `base`."""

    def __init__(self, memory: memoryview, base: int, frames: int) -> None:
        self._memory, self.root, self._frames = memory, base, frames
        tables = -(-frames // _FRAMES_PER_TABLE)
        directories = -(-tables // _FRAMES_PER_TABLE)
        self._leaves = (2 + directories) * _PAGE
        pointers, first_directory = _PAGE, 2 * _PAGE
        self._put(0, base + pointers | _FULL)
        for n in range(directories):
            self._put(pointers + 8 * n, base + first_directory + n * _PAGE | _FULL)
        for n in range(tables):
            self._put(first_directory + 8 * n, base + self._leaves + n * _PAGE | _FULL)

    def _put(self, offset: int, entry: int) -> None:
        _ENTRY.pack_into(self._memory, offset, entry)

    def grant(self, frame: int, count: int = 1, *, writable: bool = True) -> None:
        """Let the guest reach `count` frames from `frame` on."""
        flags = WRITABLE if writable else READ_ONLY
        entries = struct.pack(f"<{count}Q", *(n << 12 | flags for n in range(frame, frame + count)))
        at = self._leaves + 8 * frame
        self._memory[at : at + len(entries)] = entries

    def revoke(self, frame: int, count: int = 1) -> None:
        """Take frames away. The CPU's TLB must be flushed before the guest runs on."""
        at = self._leaves + 8 * frame
        self._memory[at : at + 8 * count] = bytes(8 * count)

    def flags(self) -> bytes:
        """What each frame is to the guest, one byte a frame: not there, `READ_ONLY` or `WRITABLE`."""
        return bytes(self._memory[self._leaves : self._leaves + 8 * self._frames : 8]).translate(_ONLY_PERMISSIONS)

    def set_flags(self, flags: bytes) -> None:
        """Make every frame what `flags` returned once. The CPU's TLB must be flushed before the guest runs on."""
        if flags != self.flags():
            entries = struct.pack(f"<{self._frames}Q", *(n << 12 | flag if flag else 0 for n, flag in enumerate(flags)))
            self._memory[self._leaves : self._leaves + len(entries)] = entries

    def granted(self, frame: int) -> bool:
        """Whether the guest can reach a frame."""
        return frame < self._frames and self._memory[self._leaves + 8 * frame] & _PRESENT != 0
