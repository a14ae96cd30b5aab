"""Unicorn, opened and driven through bare ctypes: one call a thing, no wrapper in the way of an exit.

Callbacks are plain ctypes functions. A Python exception raised in one would be printed and lost, so each is caught,
kept, the run stopped, and raised again by `run` (observed on Unicorn 2.1.4).
"""

from __future__ import annotations

import ctypes
import mmap
import weakref
from collections.abc import Callable
from typing import Any

from unicorn.unicorn_const import (
    UC_ARCH_X86,
    UC_CTL_CPU_MODEL,
    UC_CTL_TB_FLUSH,
    UC_CTL_TLB_FLUSH,
    UC_CTL_UC_EXITS,
    UC_CTL_UC_USE_EXITS,
    UC_HOOK_CODE,
    UC_HOOK_EDGE_GENERATED,
    UC_HOOK_INTR,
    UC_MODE_64,
    UC_PROT_ALL,
)
from unicorn.unicorn_py3.unicorn import uclib
from unicorn.x86_const import (
    UC_CPU_X86_EPYC,
    UC_X86_REG_CR0,
    UC_X86_REG_CR4,
    UC_X86_REG_EAX,
    UC_X86_REG_EBX,
    UC_X86_REG_ECX,
    UC_X86_REG_EDX,
    UC_X86_REG_EFLAGS,
    UC_X86_REG_MSR,
    UC_X86_REG_RIP,
)

from harness.abi import svm
from harness.abi.x86 import CR0_ET, CR0_PE, CR4_PAE, MSR_EFER
from harness.machine import layout

_CTL_WRITE, _CTL_ARGUMENTS = 1 << 30, 26
_NEVER = 0xFFFF_FFFF_F000
_IN_ORDER = (UC_X86_REG_EAX, UC_X86_REG_ECX, UC_X86_REG_EDX, UC_X86_REG_EBX)

# Calls so short that giving up the interpreter's lock and taking it again would cost more than they do.
_short = ctypes.PyDLL(None, handle=uclib._handle)

INTERRUPT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p)
CODE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_void_p)


class Block(ctypes.Structure):
    """A translated block as Unicorn describes it: linear address, instructions, bytes."""

    _fields_ = [("pc", ctypes.c_uint64), ("icount", ctypes.c_uint16), ("size", ctypes.c_uint16)]


EDGE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.POINTER(Block), ctypes.POINTER(Block), ctypes.c_void_p)


class EngineError(Exception):
    """Unicorn refused or failed. The message says what."""


class _Msr(ctypes.Structure):
    """A model-specific register as Unicorn's register calls take it."""

    _fields_ = [("number", ctypes.c_uint32), ("value", ctypes.c_uint64)]


class Engine:
    """One Unicorn x86 engine. UC_MODE_64 runs 16-, 32- and 64-bit guests alike. Raises EngineError."""

    def __init__(self) -> None:
        self.handle = ctypes.c_void_p()
        _check("uc_open", uclib.uc_open(UC_ARCH_X86, UC_MODE_64, ctypes.byref(self.handle)))
        self._release = weakref.finalize(self, _free, self.handle)
        self._callbacks: list[Any] = []
        self._value = ctypes.c_uint64()
        self._reference = ctypes.byref(self._value)
        self._eflags, self._rip = ctypes.c_int(UC_X86_REG_EFLAGS), ctypes.c_int(UC_X86_REG_RIP)
        self._flush_tlb, self._flush_tb = (ctypes.c_int(c | _CTL_WRITE) for c in (UC_CTL_TLB_FLUSH, UC_CTL_TB_FLUSH))
        # EPYC is a model with SVM, which everything here stands on.
        self._control(UC_CTL_CPU_MODEL, ctypes.c_int(UC_CPU_X86_EPYC))
        # An `until` address becomes a HLT in guest code (observed on 2.1.4): with exits enabled and none set it is not.
        self._control(UC_CTL_UC_USE_EXITS, ctypes.c_int(1))
        self._control(UC_CTL_UC_EXITS, None, ctypes.c_size_t(0))

    def _control(self, what: int, *arguments: Any) -> None:
        code = what | len(arguments) << _CTL_ARGUMENTS | _CTL_WRITE
        _check("uc_ctl", uclib.uc_ctl(self.handle, ctypes.c_int(code), *arguments))

    def _write(self, register: int, value: Any) -> None:
        _check("uc_reg_write", uclib.uc_reg_write(self.handle, register, ctypes.byref(value)))

    def locate(self) -> layout.Located:
        """Where the CPU's state is. Raises layout.LayoutError."""
        for register, value in zip(_IN_ORDER, layout.PLANTED, strict=True):
            self._write(register, ctypes.c_uint64(value))
        located = layout.locate(self.handle.value or 0)
        for register in _IN_ORDER:
            self._write(register, ctypes.c_uint64(0))
        return located

    def map(self, address: int, memory: mmap.mmap) -> None:
        """Map a whole buffer at a machine address."""
        host = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        _check("uc_mem_map_ptr", uclib.uc_mem_map_ptr(self.handle, address, len(memory), UC_PROT_ALL, host))

    def prepare_host(self, efer: int, hsave: int) -> None:
        """Control registers and MSRs that VMRUN wants of its host."""
        self._write(UC_X86_REG_CR0, ctypes.c_uint64(CR0_PE | CR0_ET))
        self._write(UC_X86_REG_CR4, ctypes.c_uint64(CR4_PAE))
        self._write(UC_X86_REG_MSR, _Msr(MSR_EFER, efer))
        self._write(UC_X86_REG_MSR, _Msr(svm.MSR_VM_HSAVE_PA, hsave))

    def on_interrupt(self, callback: Callable[[int], None]) -> None:
        """Call back with each exit's number."""
        self._hook(UC_HOOK_INTR, INTERRUPT(lambda _uc, number, _data: callback(number)), 1, 0)

    def on_block(self, callback: Callable[[int, int], None]) -> None:
        """Call back with the linear address and size of each newly translated block, before it runs."""

        def edge(_uc: Any, block: Any, _previous: Any, _data: Any) -> None:
            callback(block.contents.pc, block.contents.size)

        self._hook(UC_HOOK_EDGE_GENERATED, EDGE(edge), 1, 0)

    def code_callback(self, callback: Callable[[int], None]) -> Any:
        """A callback for `hook_code`, kept alive as long as the engine."""
        made = CODE(lambda _uc, address, _size, _data: callback(address))
        self._callbacks.append(made)
        return made

    def hook_code(self, callback: Any, address: int) -> int:
        """Call back before the instruction at one linear address runs. Returns the hook's number."""
        return self._add(UC_HOOK_CODE, callback, address, address)

    def unhook(self, hook: int) -> None:
        """Remove a hook."""
        uclib.uc_hook_del(self.handle, ctypes.c_size_t(hook))

    def _hook(self, kind: int, callback: Any, begin: int, end: int) -> None:
        self._callbacks.append(callback)
        self._add(kind, callback, begin, end)

    def _add(self, kind: int, callback: Any, begin: int, end: int) -> int:
        hook = ctypes.c_size_t()
        _check("uc_hook_add", uclib.uc_hook_add(
            self.handle, ctypes.byref(hook), ctypes.c_int(kind), callback, None,
            ctypes.c_uint64(begin), ctypes.c_uint64(end)))
        return hook.value

    def start(self, eip: int, count: int = 0) -> int:
        """Run from EIP until stopped, or until `count` instructions have started. Returns Unicorn's error number."""
        return int(uclib.uc_emu_start(
            self.handle, ctypes.c_uint64(eip), ctypes.c_uint64(_NEVER), ctypes.c_uint64(0), ctypes.c_size_t(count)))

    def stop(self) -> None:
        """Make `start` return. May be called from another thread."""
        uclib.uc_emu_stop(self.handle)

    def eflags(self) -> int:
        """EFLAGS as the engine computes them from its lazy flags."""
        _short.uc_reg_read(self.handle, self._eflags, self._reference)
        return self._value.value & 0xFFFFFFFF

    def force_eip(self, eip: int) -> None:
        """Set EIP by a register call: the only way that takes effect inside a code hook (observed on 2.1.4)."""
        self._value.value = eip
        _short.uc_reg_write(self.handle, self._rip, self._reference)

    def flush_tlb(self) -> None:
        """Forget translated addresses. The binding has no method for it."""
        _short.uc_ctl(self.handle, self._flush_tlb)

    def flush_code(self) -> None:
        """Forget translated code."""
        uclib.uc_ctl(self.handle, self._flush_tb)

    def close(self) -> None:
        """Free the engine now: with its callbacks it is a reference cycle that would wait for the garbage collector."""
        self._release()
        self._callbacks.clear()


def error_text(error: int) -> str:
    """Unicorn's words for an error number."""
    return str(uclib.uc_strerror(error).decode())


def _free(handle: ctypes.c_void_p) -> None:
    uclib.uc_close(handle)
    handle.value = None


def _check(call: str, error: int) -> None:
    if error:
        raise EngineError(f"{call}: {error_text(error)}")
