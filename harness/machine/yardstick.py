"""What a trap costs at least: loops on a raw engine, with no hypervisor behind them.

Each loop enters its guest by VMRUN and answers its exits by batched register calls into preallocated arrays, which is
as fast as the calls of Unicorn's own interface get. `bench` runs them beside the real thing. Nothing here is checked,
translated or recorded; nothing else uses this file.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any

from unicorn import UC_ARCH_X86, UC_CTL_TLB_FLUSH, UC_HOOK_INTR, UC_MODE_32, UC_PROT_ALL
from unicorn.unicorn_py3.unicorn import Uc, uclib
from unicorn.x86_const import (
    UC_CPU_X86_EPYC,
    UC_X86_REG_CR4,
    UC_X86_REG_CS,
    UC_X86_REG_EAX,
    UC_X86_REG_EBP,
    UC_X86_REG_EBX,
    UC_X86_REG_ECX,
    UC_X86_REG_EDI,
    UC_X86_REG_EDX,
    UC_X86_REG_EFLAGS,
    UC_X86_REG_EIP,
    UC_X86_REG_ESI,
    UC_X86_REG_ESP,
    UC_X86_REG_MSR,
    UC_X86_REG_SS,
)

from harness.abi import svm
from harness.abi.x86 import CR0_PE, CR0_PG, CR0_WP, EFER_NXE, EFER_SVME, IF, MSR_EFER, PTE_P, PTE_PS, PTE_RW, PTE_US
from harness.machine import layout

CODE, KERNEL, STACK, KERNEL_STACK, ABSENT = 0x10000, 0x11000, 0x20000, 0x21000, 0x123000
"""Where a loop's code and its kernel's are put, where ESP begins in each, and a page that is not there at first."""
_STUB, _GDT, _VMCB, _HSAVE, _MSRPM, _IOPM, _NESTED, _TABLES = (
    0x1000, 0x2000, 0x3000, 0x4000, 0x6000, 0x8000, 0x30000, 0x40000)
_RAM = 4 << 20
_open: Any = Uc
_SELECTORS = {1: (0x09, 0x11), 3: (0x1B, 0x23)}
_EXIT = 0x100
_INT, _GP, _PF = (_EXIT + code for code in (svm.EXIT_SWINT, svm.EXIT_EXCEPTION + 13, svm.EXIT_EXCEPTION + 14))
_NEVER = 0xFFFF_FFF0
_FRAME = (UC_X86_REG_EIP, UC_X86_REG_EAX, UC_X86_REG_EBX, UC_X86_REG_ECX, UC_X86_REG_EDX, UC_X86_REG_ESI,
          UC_X86_REG_EDI, UC_X86_REG_EBP, UC_X86_REG_ESP)
_WHERE = (UC_X86_REG_EIP, UC_X86_REG_ESP, UC_X86_REG_EFLAGS, UC_X86_REG_CS, UC_X86_REG_SS)
_HEADER = 40
"""Bytes of a saved context before the CPU's state."""
_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p)
_FLUSH = ctypes.c_int(UC_CTL_TLB_FLUSH | 1 << 30)


class _Bare:
    """A 32-bit guest in SVM guest mode, in ring 1 or 3, on an engine of its own."""

    def __init__(self, code: bytes, ring: int, kernel: bytes = b"") -> None:
        self.uc = uc = _open(UC_ARCH_X86, UC_MODE_32, UC_CPU_X86_EPYC)
        self.handle = uc._uch
        self.memory = memory = mmap.mmap(-1, _RAM)
        uc.mem_map_ptr(0, _RAM, UC_PROT_ALL, ctypes.addressof(ctypes.c_char.from_buffer(memory)))
        self.put(_STUB, b"\x0f\x01\xd8")
        self.put(CODE, code)
        self.put(KERNEL, kernel)
        flat = 0x00CF_0000_0000_FFFF
        gdt = (0, *(flat | access << 40 for access in (0xBB, 0xB3, 0xFB, 0xF3)))
        self.put(_GDT, struct.pack("<5Q", *gdt))
        for n in range(1024):
            struct.pack_into("<I", memory, _TABLES + 0x1000 + 4 * n, n << 12 | PTE_P | PTE_RW | PTE_US)
        struct.pack_into("<I", memory, _TABLES, _TABLES + 0x1000 | PTE_P | PTE_RW | PTE_US)
        self.map_page(ABSENT, 0)
        for n in range(4):
            struct.pack_into("<Q", memory, _NESTED + 8 * n, _NESTED + 0x1000 | PTE_P)
        for n in range(_RAM >> 21):
            struct.pack_into("<Q", memory, _NESTED + 0x1000 + 8 * n, n << 21 | PTE_P | PTE_RW | PTE_US | PTE_PS)
        self._vmcb(ring)
        uc.reg_write(UC_X86_REG_CR4, 0x20)
        uc.reg_write(UC_X86_REG_MSR, (MSR_EFER, EFER_SVME | EFER_NXE))
        uc.reg_write(UC_X86_REG_MSR, (svm.MSR_VM_HSAVE_PA, _HSAVE))
        uc.reg_write(UC_X86_REG_EAX, _VMCB)
        self.context = uc.context_save()
        self.saved = ctypes.cast(self.context.context, ctypes.c_void_p).value or 0
        self.state = layout.view(self.saved + _HEADER, self.context.size - _HEADER)

    def put(self, address: int, data: bytes) -> None:
        self.memory[address : address + len(data)] = data

    def map_page(self, linear: int, entry: int) -> None:
        struct.pack_into("<I", self.memory, _TABLES + 0x1000 + (linear >> 10 & 0xFFC), entry)

    def _vmcb(self, ring: int) -> None:
        def put(offset: int, form: str, *values: int) -> None:
            struct.pack_into(form, self.memory, _VMCB + offset, *values)

        put(svm.VMCB_INTERCEPT_EXCEPTIONS, "<IQ", 0xFFFFFFFF, 1 << svm.EXIT_SWINT - 0x60)
        put(svm.VMCB_IOPM, "<QQ", _IOPM, _MSRPM)
        put(svm.VMCB_NESTED_CTL, "<Q", 1)
        put(svm.VMCB_NESTED_CR3, "<Q", _NESTED)
        cs, ss = _SELECTORS[ring]
        for n in range(4):
            selector, flags = (cs, 0xC9B) if n == 1 else (ss, 0xC93)
            put(svm.VMCB_SEGMENTS + 16 * n, "<HHIQ", selector, flags | ring << 5, 0xFFFFFFFF, 0)
        put(svm.VMCB_GDTR, "<HHIQ", 0, 0, 39, _GDT)
        put(svm.VMCB_EFER, "<Q", EFER_SVME)
        put(svm.VMCB_CR4, "<QQQ", 0, _TABLES, CR0_PE | CR0_PG | CR0_WP | 0x10)
        put(svm.VMCB_DR7, "<QQ", 0x400, 0xFFFF0FF0)
        put(svm.VMCB_RFLAGS, "<QQ", IF | 2, CODE)
        put(svm.VMCB_RSP, "<Q", STACK)

    def batch(self, registers: Sequence[int]) -> tuple[Any, Callable[[], int], Callable[[], int]]:
        """An array of values; what fills it from the CPU, and what writes it there."""
        count = len(registers)
        names, values = (ctypes.c_int * count)(*registers), (ctypes.c_uint64 * count)()
        slots = (ctypes.c_void_p * count)(*(ctypes.addressof(values) + 8 * n for n in range(count)))
        handle, read, write = self.handle, uclib.uc_reg_read_batch, uclib.uc_reg_write_batch
        return values, lambda: read(handle, names, slots, count), lambda: write(handle, names, slots, count)

    def stop(self) -> None:
        uclib.uc_emu_stop(self.handle)

    def run(self, on_exit: Callable[[int], None]) -> float:
        """Seconds until `on_exit` stops it."""
        callback = _CALLBACK(lambda _uc, number, _data: on_exit(number))
        hook = ctypes.c_size_t()
        uclib.uc_hook_add(self.handle, ctypes.byref(hook), UC_HOOK_INTR, callback, None,
                          ctypes.c_uint64(1), ctypes.c_uint64(0))
        began = time.perf_counter()
        self.uc.emu_start(_STUB, _NEVER)
        return time.perf_counter() - began

    def change_ring(self, ring: int, eip: int, esp: int, eflags: int) -> None:
        """By the saved context, patched: VMRUN would cost several times as much."""
        state = self.state
        uclib.uc_context_save(self.handle, self.context.context)
        cs, ss = _SELECTORS[ring]
        _Q.pack_into(state, layout.REGS + 32, esp)
        _4Q.pack_into(state, layout.EIP, eip, eflags & ~0xCD5 | 2, 0, eflags & 0x8D5)
        hflags = _I.unpack_from(state, layout.HFLAGS)[0] & ~(layout.HF_CPL | layout.HF_INHIBIT_IRQ) | ring
        _FLAGS.pack_into(state, layout.CC_OP, layout.CC_OP_EFLAGS, 1, hflags)
        _2SEGMENTS.pack_into(state, layout.SEGS + layout.SEG_SIZE, cs, 0, 0, 0xFFFFFFFF, 0xC09B00 | ring << 13,
                             ss, 0, 0, 0xFFFFFFFF, 0xC09300 | ring << 13)
        uclib.uc_context_restore(self.handle, self.context.context)


_I, _Q, _4Q = struct.Struct("<I"), struct.Struct("<Q"), struct.Struct("<4Q")
_FLAGS, _2SEGMENTS = struct.Struct("<IiI"), struct.Struct("<IIQIIIIQII")
_4WORDS, _5WORDS = struct.Struct("<4I"), struct.Struct("<5I")


def emulated(code: bytes) -> float:
    """Seconds for a ring-1 loop over a two-byte privileged instruction; `int` ends it. #GP is stepped past."""
    bare = _Bare(code, 1)
    frame, read, _ = bare.batch(_FRAME)
    out, _, write = bare.batch((UC_X86_REG_EIP, UC_X86_REG_EAX))

    def on_exit(number: int) -> None:
        if number != _GP:
            return bare.stop()
        read()
        out[0], out[1] = frame[0] + 2, frame[1]
        write()
        return None

    return bare.run(on_exit)


def called(code: bytes) -> float:
    """Seconds for a ring-1 loop over `int n`, each of which is answered with 0; any other exit ends it."""
    bare = _Bare(code, 1)
    frame, read, _ = bare.batch(_FRAME)
    out, _, write = bare.batch((UC_X86_REG_EIP, UC_X86_REG_EAX))

    def on_exit(number: int) -> None:
        if number != _INT:
            return bare.stop()
        read()
        out[0], out[1] = frame[0] + 2, 0
        write()
        return None

    return bare.run(on_exit)


def system_calls(code: bytes, kernel: bytes) -> float:
    """Seconds for a ring-3 loop over `int n`, with a five-word frame to ring 1, which returns by IRET itself."""
    bare = _Bare(code, 3, kernel)
    memory = bare.memory
    frame, read, _ = bare.batch(_WHERE)

    def on_exit(number: int) -> None:
        if number != _INT:
            return bare.stop()
        read()
        esp = KERNEL_STACK - 20
        _5WORDS.pack_into(memory, esp, frame[0] + 2, frame[3], frame[2], frame[1], frame[4])
        bare.change_ring(1, KERNEL, esp, frame[2] & ~0x100 | IF)
        return None

    return bare.run(on_exit)


def page_faults(code: bytes, kernel: bytes) -> float:
    """Seconds for a ring-1 loop that takes a page away, touches it, and maps it again in its handler.

    `int n` maps linear EBX as ECX says, and flushes the TLB unless ESI is 0. Any exit but that and #PF ends it.
    """
    bare = _Bare(code, 1, kernel)
    memory, state = bare.memory, bare.state
    where, read_where, _ = bare.batch(_WHERE)
    frame, read, _ = bare.batch(_FRAME)
    out, _, write = bare.batch((UC_X86_REG_EIP, UC_X86_REG_EAX))
    jump, _, write_jump = bare.batch((UC_X86_REG_EIP, UC_X86_REG_ESP))

    def on_exit(number: int) -> None:
        if number == _INT:
            read()
            bare.map_page(frame[2], frame[3])
            if frame[5]:
                uclib.uc_ctl(bare.handle, _FLUSH)
            out[0], out[1] = frame[0] + 2, 0
            write()
        elif number == _PF:
            read_where()
            uclib.uc_context_save(bare.handle, bare.context.context)
            esp = where[1] - 16
            _4WORDS.pack_into(memory, esp, _I.unpack_from(state, layout.ERROR_CODE)[0], where[0], where[3], where[2])
            jump[0], jump[1] = KERNEL, esp
            write_jump()
        else:
            bare.stop()

    return bare.run(on_exit)


def straight_line(code: bytes) -> float:
    """Seconds from the first byte of `code` to its end, on a plain engine without SVM or paging."""
    uc = _open(UC_ARCH_X86, UC_MODE_32)
    uc.mem_map(0, _RAM)
    uc.mem_write(CODE, code)
    began = time.perf_counter()
    uc.emu_start(CODE, CODE + len(code))
    return time.perf_counter() - began
