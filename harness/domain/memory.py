"""Machine memory, and a guest's linear addresses on top of it."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from harness.abi.x86 import (
    PAGE_SHIFT,
    PAGE_SIZE,
    PFEC_P,
    PFEC_W,
    PTE_A,
    PTE_D,
    PTE_P,
    PTE_PS,
    PTE_RW,
    PTE_US,
)

_U32 = struct.Struct("<I")


class Memory:
    """A machine's RAM. Addresses are machine addresses (maddr), in bytes from 0.

    `buffer` is any writable buffer that slices to bytes: a bytearray, an mmap.
    """

    def __init__(self, buffer: bytearray) -> None:
        self.buffer = buffer
        self.words = memoryview(buffer).cast("I")
        """The same RAM as 32-bit words, for the hot paths: `words[maddr >> 2]`. Reading only."""
        self.size = len(buffer)

    def read(self, maddr: int, size: int) -> bytes:
        """Bytes at a machine address."""
        return bytes(self.buffer[maddr : maddr + size])

    def write(self, maddr: int, data: bytes) -> None:
        """Store bytes at a machine address."""
        self.buffer[maddr : maddr + len(data)] = data

    def u32(self, maddr: int) -> int:
        """The dword at a machine address."""
        return int(_U32.unpack_from(self.buffer, maddr)[0])

    def set_u32(self, maddr: int, value: int) -> None:
        """Store a dword."""
        self.write(maddr, _U32.pack(value))


class PageFaultError(Exception):
    """A linear address that cannot be reached as asked. `address` is linear; `error_code` is a hardware one."""

    def __init__(self, address: int, error_code: int) -> None:
        super().__init__(f"page fault at {address:#010x}, error code {error_code}")
        self.address = address
        self.error_code = error_code


class LinearMemory:
    """A guest's linear address space, walked as the CPU would at CPL 0 with CR0.WP set (SDM 3 section 4.3).

    32-bit paging with 4 KiB and 4 MiB pages. Translations are kept until `flush`, as a TLB keeps them; accessed and
    dirty bits are set on the way. `root` is the machine address of the page directory, or None while paging is off.
    """

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.root: int | None = None
        self._readable: dict[int, int] = {}
        self._writable: dict[int, int] = {}

    def flush(self) -> None:
        """Forget every translation."""
        self._readable.clear()
        self._writable.clear()

    def forget(self, linear: int) -> None:
        """Forget the translation of one page, as INVLPG does."""
        self._readable.pop(linear >> PAGE_SHIFT, None)
        self._writable.pop(linear >> PAGE_SHIFT, None)

    def load_root(self, root: int | None) -> None:
        """Use another page directory (machine address)."""
        self.root = root
        self.flush()

    def translate(self, linear: int, *, write: bool = False) -> int:
        """Machine address of a linear one. Raises PageFaultError with the supervisor's error code."""
        known = self._writable if write else self._readable
        page = known.get(linear >> PAGE_SHIFT)
        if page is None:
            page = self._walk(linear, write)
            known[linear >> PAGE_SHIFT] = page
        return page | linear & 0xFFF

    def entry(self, linear: int) -> tuple[int, int]:
        """The leaf entry that maps `linear` and its machine address: (entry, maddr). (0, 0) without a table."""
        if self.root is None:
            return 0, 0
        words, at = self.memory.words, self.root + (linear >> 20 & 0xFFC)
        pde = words[at >> 2]
        if not pde & PTE_P:
            return 0, 0
        if pde & PTE_PS:
            return pde, at
        at = (pde & ~0xFFF) + (linear >> 10 & 0xFFC)
        if at + 4 > self.memory.size:
            return 0, 0
        return words[at >> 2], at

    def _walk(self, linear: int, write: bool) -> int:
        if self.root is None:
            return linear & ~0xFFF
        memory, code = self.memory, PFEC_W if write else 0
        at = self.root + (linear >> 20 & 0xFFC)
        pde = memory.words[at >> 2]
        if not pde & PTE_P:
            raise PageFaultError(linear, code)
        if pde & PTE_PS:
            if write and not pde & PTE_RW:
                raise PageFaultError(linear, code | PFEC_P)
            self._mark(at, pde, write)
            frame = pde & 0xFFC00000 | linear & 0x3FF000
        else:
            leaf = (pde & ~0xFFF) + (linear >> 10 & 0xFFC)
            pte = memory.words[leaf >> 2] if leaf + 4 <= memory.size else 0
            if not pte & PTE_P:
                raise PageFaultError(linear, code)
            if write and not pte & pde & PTE_RW:
                raise PageFaultError(linear, code | PFEC_P)
            self._mark(at, pde, False)
            self._mark(leaf, pte, write)
            frame = pte & ~0xFFF
        if frame + PAGE_SIZE > memory.size:
            raise PageFaultError(linear, code | PFEC_P)
        return frame

    def _mark(self, at: int, entry: int, write: bool) -> None:
        marked = entry | PTE_A | (PTE_D if write else 0)
        if marked != entry:
            self.memory.set_u32(at, marked)

    def user_can(self, linear: int, *, write: bool) -> bool:
        """Whether ring 3 may access a linear address."""
        if self.root is None:
            return True
        pde = self.memory.u32(self.root + (linear >> 20 & 0xFFC))
        leaf, _ = self.entry(linear)
        need = PTE_P | PTE_US | (PTE_RW if write else 0)
        return pde & leaf & need == need

    def read(self, linear: int, size: int) -> bytes:
        """Bytes at a linear address. Raises PageFaultError at the first one that is not there."""
        offset = linear & 0xFFF
        if offset + size <= PAGE_SIZE:
            page = self._readable.get(linear >> PAGE_SHIFT)
            at = self.translate(linear & 0xFFFFFFFF) if page is None else page + offset
            return bytes(self.memory.buffer[at : at + size])
        return b"".join(self.memory.read(self.translate(a), n) for a, n in _pieces(linear, size))

    def write(self, linear: int, data: bytes) -> None:
        """Store bytes at a linear address: all or nothing. Raises PageFaultError."""
        offset = linear & 0xFFF
        if offset + len(data) <= PAGE_SIZE:
            page = self._writable.get(linear >> PAGE_SHIFT)
            self.memory.write(self.translate(linear & 0xFFFFFFFF, write=True) if page is None else page + offset, data)
            return
        done, targets = 0, [(self.translate(a, write=True), n) for a, n in _pieces(linear, len(data))]
        for at, size in targets:
            self.memory.write(at, data[done : done + size])
            done += size

    def u32(self, linear: int) -> int:
        """The dword at a linear address."""
        return int(_U32.unpack(self.read(linear, 4))[0])

    def fetch(self, linear: int, size: int = 15) -> bytes:
        """Up to `size` instruction bytes at a linear address; shorter where the next page is not there.

        Raises PageFaultError when not even the first byte is there.
        """
        offset = linear & 0xFFF
        here = PAGE_SIZE - offset
        if size <= here:
            page = self._readable.get(linear >> PAGE_SHIFT)
            if page is None:
                return self.read(linear, size)
            return bytes(self.memory.buffer[page + offset : page + offset + size])
        first = self.read(linear, here)
        try:
            return first + self.read((linear + here) & 0xFFFFFFFF, size - here)
        except PageFaultError:
            return first


def _pieces(linear: int, size: int) -> Iterator[tuple[int, int]]:
    """The page-wise parts of a linear range."""
    while size > 0:
        part = min(size, PAGE_SIZE - (linear & 0xFFF))
        yield linear & 0xFFFFFFFF, part
        linear, size = linear + part, size - part
