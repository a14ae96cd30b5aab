"""Giving a paravirtualized kernel an event: bounce frames, callbacks, direct gates.

The frames are those of create_bounce_frame (x86_32/entry.S).

Every function either changes where the guest goes on and returns None, or returns the Crash that it came to.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from harness.abi import xen
from harness.abi.x86 import IF, IOPL_SHIFT, NT, RF, SELECTOR_RPL, TF, VM, Gpr, Seg, Vector
from harness.domain.kinds import EXCEPTION_KINDS
from harness.domain.memory import PageFaultError
from harness.domain.outcome import Crash, Inject
from harness.domain.registers import SegmentCache
from harness.pv import segments
from harness.pv.access import check_range
from harness.pv.silent import virtual_eflags
from harness.pv.state import Callback, Vcpu

# Plain numbers for what every bounce looks up: a member of an enumeration costs three times as much (Python 3.11).
_CS, _SS, _ESP = int(Seg.CS), int(Seg.SS), int(Gpr.ESP)
_CLEARED_ON_ENTRY = TF | NT | RF | VM
_FLAT_CS = SegmentCache(xen.FLAT_RING1_CS, 0, xen.GUEST_SEGMENT_MAX - 1, 0x00CFBB00 & 0x00F0FF00)
_FLAT_SS = SegmentCache(xen.FLAT_RING1_SS, 0, xen.GUEST_SEGMENT_MAX - 1, 0x00CFB300 & 0x00F0FF00)
_WORDS = {n: struct.Struct(f"<{n}I") for n in range(3, 12)}


def deliver_trap(vcpu: Vcpu, event: Inject) -> Crash | None:
    """Bounce an exception or a software interrupt to the guest's handler for it."""
    trap = vcpu.state.traps[event.vector]
    regs = vcpu.regs
    if event.advance:
        regs.eip += event.advance
    if not trap.address:
        return Crash(f"no handler for {describe(event)} at {regs.eip:#010x}, ring {regs.cpl}")
    if event.address is not None:
        set_cr2(vcpu, event.address)
    return _enter(vcpu, trap.cs, trap.address, event.error_code, mask=trap.flags & xen.TRAP_INFO_IF != 0,
                  what=lambda: describe(event))


def describe(event: Inject) -> str:
    """`#PF(0x2) at 0x1000`, `int 0x80`."""
    if event.advance:
        return f"int {event.vector:#04x}"
    name = f"#{EXCEPTION_KINDS[event.vector].upper()}" if event.vector in EXCEPTION_KINDS else f"vector {event.vector}"
    code = "" if event.error_code is None else f"({event.error_code:#x})"
    return f"{name}{code}" + ("" if event.address is None else f" for {event.address:#010x}")


def set_cr2(vcpu: Vcpu, linear: int) -> None:
    """Where a guest finds the address of its page fault: vcpu_info, and its virtual CR2."""
    vcpu.state.control[2] = linear
    vcpu.ram.set_u32(vcpu.shared + xen.VCPU_INFO_CR2, linear)


def deliver_upcall(vcpu: Vcpu) -> Crash | None:
    """Call the event callback with further events masked."""
    callback = vcpu.state.event
    if not callback.eip:
        return Crash("an event is pending and unmasked, and there is no event callback")
    return _enter(vcpu, callback.cs, callback.eip, None, mask=True, what=lambda: "the event callback")


class Interrupted(NamedTuple):
    """Where the guest was to go on, when its registers do not say it."""

    eip: int
    cs: int
    eflags: int
    esp: int
    ss: int


def deliver_failsafe(vcpu: Vcpu, interrupted: Interrupted | None = None) -> Crash | None:
    """Call the failsafe callback: a segment register could not be loaded on the way back to the guest.

    The frame carries DS, ES, FS and GS, which are then null. `interrupted` is where an IRET could not go.
    """
    callback: Callback = vcpu.state.failsafe
    if not callback.eip:
        return Crash("a segment register could not be loaded, and there is no failsafe callback")
    selectors = tuple(vcpu.regs.selector(seg) for seg in (Seg.DS, Seg.ES, Seg.FS, Seg.GS))
    for seg in (Seg.DS, Seg.ES, Seg.FS, Seg.GS):
        vcpu.regs.load_segment(seg, segments.NULL)
    return _enter(vcpu, callback.cs, callback.eip, None, mask=callback.mask, what=lambda: "the failsafe callback",
                  saved=selectors, interrupted=interrupted)


def _enter(vcpu: Vcpu, cs: int, eip: int, error_code: int | None, *, mask: bool, what: Callable[[], str],
           saved: tuple[int, ...] = (), interrupted: Interrupted | None = None) -> Crash | None:
    regs, state = vcpu.regs, vcpu.state
    old_eip, old_cs, flags, old_esp, old_ss = interrupted or regs.frame()
    old_mask = vcpu.mask
    image = flags & ~IF if old_mask else flags | IF
    if vcpu.full:
        image |= state.iopl << IOPL_SHIFT
    frame: tuple[int, ...] = (old_eip, old_cs | old_mask << xen.SAVED_UPCALL_MASK_SHIFT, image)
    if error_code is not None:
        frame = (error_code, *frame)
    try:
        code = _FLAT_CS if cs == xen.FLAT_RING1_CS else _code(vcpu, cs)
        if old_cs & SELECTOR_RPL == 1:
            esp, stack = old_esp, regs.segment(_SS)
        else:
            frame = (*frame, old_esp, old_ss)
            esp, stack = state.kernel_sp, _stack(vcpu, state.kernel_ss)
        frame = (*saved, *frame)
        esp = (esp - 4 * len(frame)) & 0xFFFFFFFF
        push(vcpu, stack, esp, frame)
    except PageFaultError as fault:
        return Crash(f"the stack at {fault.address:#010x} cannot take the frame of {what()}")
    except segments.SelectorError as bad:
        return Crash(f"a selector for {what()} cannot be loaded: {bad}")
    if mask:
        vcpu.mask = 1
    regs.enter(code, eip, stack, esp, flags & ~_CLEARED_ON_ENTRY | IF)
    return None


def push(vcpu: Vcpu, stack: SegmentCache, esp: int, frame: tuple[int, ...]) -> None:
    """Store words at SS:ESP upwards. Raises PageFaultError when they do not fit below Xen or are not writable."""
    linear = (stack.base + esp) & 0xFFFFFFFF
    check_range(linear, 4 * len(frame), write=True)
    vcpu.linear.write(linear, _WORDS[len(frame)].pack(*frame))


def _code(vcpu: Vcpu, selector: int) -> SegmentCache:
    """The code segment of a handler. It runs on a stack of ring 1, so it must be ring 1's: IRET would refuse it too."""
    if selector & SELECTOR_RPL != 1:
        raise segments.SelectorError(Vector.GP, selector & ~SELECTOR_RPL)
    return segments.load_code(vcpu, selector)


def _stack(vcpu: Vcpu, selector: int) -> SegmentCache:
    return _FLAT_SS if selector == xen.FLAT_RING1_SS else segments.load_stack(vcpu, selector, 1)


def through_gate(vcpu: Vcpu, vector: int, length: int) -> Inject | None:
    """A software interrupt through the guest's own trap gate, straight to ring 1: no hypervisor on silicon.

    The frame is the CPU's: the CS slot holds no upcall mask, EFLAGS is the real one (SDM 3 section 6.12.1). A stack
    that cannot take it is a page fault at the instruction.
    """
    regs, trap = vcpu.regs, vcpu.state.traps[vector]
    eip, cs, flags, esp, ss = regs.frame()
    frame: tuple[int, ...] = (eip + length & 0xFFFFFFFF, cs, virtual_eflags(vcpu) if vcpu.full else flags)
    try:
        code = _FLAT_CS if trap.cs == xen.FLAT_RING1_CS else _code(vcpu, trap.cs)
        if regs.cpl == 1:
            stack = regs.segment(_SS)
        else:
            frame = (*frame, esp, ss)
            esp, stack = vcpu.state.kernel_sp, _stack(vcpu, vcpu.state.kernel_ss)
        esp = (esp - 4 * len(frame)) & 0xFFFFFFFF
        push(vcpu, stack, esp, frame)
    except PageFaultError as fault:
        return Inject(Vector.PF, fault.error_code, fault.address)
    except segments.SelectorError as bad:
        return Inject(bad.vector, bad.error_code)
    regs.enter(code, trap.address, stack, esp, flags & ~_CLEARED_ON_ENTRY)
    return None
