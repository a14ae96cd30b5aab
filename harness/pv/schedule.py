"""Giving up the CPU, ending, timers (common/schedule.c), and what one vCPU can say of itself (common/domain.c)."""

from __future__ import annotations

from harness.abi import xen
from harness.abi.xen import Errno, Runstate, SchedOp, ShutdownReason, VcpuOp
from harness.domain.outcome import BLOCK, Block, Outcome, Shutdown
from harness.pv.access import check_range, copy_from_guest, copy_to_guest, u32_from_guest
from harness.pv.events import is_pending
from harness.pv.state import Vcpu


def block(vcpu: Vcpu) -> int | Block:
    """Unmask events and wait, unless one is there already."""
    vcpu.mask = 0
    if vcpu.upcall_due:
        return 0
    vcpu.state.blocked = True
    return BLOCK


def halt(vcpu: Vcpu, length: int) -> Block:
    """HLT under `--policy full`: wait with the virtual IF as it is. EIP moves past its `length` bytes."""
    vcpu.regs.eip += length
    vcpu.state.blocked = True
    return BLOCK


def _shutdown(reason: int) -> Outcome:
    reason &= 0xFF  # a u8 in Xen
    known = reason in ShutdownReason._value2member_map_
    return Shutdown(ShutdownReason(reason).name if known else f"reason {reason}")


def do_sched_op(vcpu: Vcpu, command: int, pointer: int) -> int | Outcome:
    """Hypercall 29: the argument is behind a pointer."""
    if command == SchedOp.shutdown:
        (reason,) = xen.SCHED_SHUTDOWN.unpack(copy_from_guest(vcpu, pointer, xen.SCHED_SHUTDOWN.size))
        return _shutdown(reason)
    if command == SchedOp.poll:
        return _poll(vcpu, *xen.SCHED_POLL.unpack(copy_from_guest(vcpu, pointer, xen.SCHED_POLL.size)))
    return do_sched_op_compat(vcpu, command, 0)


def do_sched_op_compat(vcpu: Vcpu, command: int, value: int) -> int | Outcome:
    """Hypercall 6: the argument is a value."""
    if command == SchedOp.yield_:
        return 0
    if command == SchedOp.block:
        return block(vcpu)
    if command == SchedOp.shutdown:
        return _shutdown(value)
    return -Errno.ENOSYS


def _poll(vcpu: Vcpu, ports: int, number: int, timeout: int) -> int | Outcome:
    """Wait for one of some ports, or for a time. Events must be masked: a poll is not an upcall."""
    if number > xen.SCHED_POLL_MAX_PORTS:
        return -Errno.EINVAL
    check_range(ports, 4 * number)
    if not vcpu.mask:
        return -Errno.EINVAL
    wanted: tuple[int, ...] = ()
    for at in range(ports, ports + 4 * number, 4):
        port = u32_from_guest(vcpu, at)
        if port >= xen.NR_EVENT_CHANNELS:
            return -Errno.EINVAL
        if is_pending(vcpu, port):
            return 0
        wanted += (port,)
    vcpu.state.polling, vcpu.state.blocked = wanted, True
    vcpu.state.poll_deadline = _when(vcpu, timeout)
    return BLOCK


def _when(vcpu: Vcpu, time: int) -> int | None:
    """An absolute time in ns as a deadline, None for 0. s_time_t is signed: what looks like centuries is the past."""
    if time >> 63:
        return vcpu.domain.clock.now
    return time or None


def do_set_timer_op(vcpu: Vcpu, low: int, high: int) -> int:
    """Hypercall 15: VIRQ_TIMER once at an absolute time in ns; 0 cancels; the past means now."""
    when = high << 32 | low
    vcpu.domain.clock.deadline = _when(vcpu, when)
    if vcpu.listening:
        vcpu.note(f"timer at {when} ns" if when else "timer off")
    return 0


def do_vcpu_op(vcpu: Vcpu, command: int, cpu: int, pointer: int) -> int | Outcome:
    """Hypercall 24, for a domain whose only vCPU is number 0."""
    if cpu >= xen.MAX_VIRT_CPUS:
        return -Errno.EINVAL
    if cpu:
        return -Errno.ENOENT
    if command == VcpuOp.initialise:
        copy_from_guest(vcpu, pointer, xen.GUEST_CONTEXT_SIZE)
        return -Errno.EEXIST
    if command == VcpuOp.up:
        return 0
    if command == VcpuOp.down:
        # The only vCPU goes down: nothing can bring it up again.
        vcpu.state.down = vcpu.state.blocked = True
        return BLOCK
    if command == VcpuOp.is_up:
        return 1
    if command in (VcpuOp.get_runstate_info, VcpuOp.register_runstate_memory_area):
        if command == VcpuOp.register_runstate_memory_area:
            (pointer,) = xen.SCHED_SHUTDOWN.unpack(copy_from_guest(vcpu, pointer, 4))
            vcpu.state.runstate_area = pointer
        copy_to_guest(vcpu, pointer, runstate(vcpu))
        return 0
    return -Errno.ENOSYS


def runstate(vcpu: Vcpu) -> bytes:
    """The vCPU's time by what it did with it: it has run, or waited."""
    now, waited = vcpu.domain.clock.now, vcpu.state.waited
    return xen.RUNSTATE_INFO.pack(Runstate.running, now, now - waited, 0, waited, 0)
