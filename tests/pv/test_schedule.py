"""Yield, block, shutdown, poll, timers, and what a single vCPU answers (common/schedule.c, common/domain.c)."""

from __future__ import annotations

import struct

import pytest

from harness.abi import xen
from harness.abi.xen import Errno, Hypercall, Runstate, SchedOp, VcpuOp
from harness.domain.outcome import BLOCK, RESUME, Shutdown
from harness.pv import schedule
from tests.pv.stage import DATA, NOWHERE, SPARE, Stage

PORTS = DATA + 0x100
NEVER = (1 << 64) - 1


def sched(stage: Stage, compat: bool, command: int, value: int = 0) -> object:
    """The command in the form of 3.0.0, by value, or in the later one, by pointer."""
    if compat:
        return stage.hypercall(Hypercall.sched_op_compat, command, value)
    return stage.hypercall(Hypercall.sched_op, command, stage.words(DATA, value))


@pytest.fixture(params=[False, True], ids=["sched_op", "sched_op_compat"])
def compat(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_yield(stage: Stage, compat: bool) -> None:
    assert sched(stage, compat, SchedOp.yield_) is RESUME
    assert stage.regs.gpr[0] == 0


@pytest.mark.parametrize("mask", [0, 1])
def test_block_unmasks_and_waits(stage: Stage, compat: bool, mask: int) -> None:
    stage.vcpu.mask = mask
    assert sched(stage, compat, SchedOp.block) is BLOCK
    assert (stage.vcpu.mask, stage.state.blocked, stage.regs.gpr[0]) == (0, True, 0)


def test_block_does_not_wait_for_what_is_there(stage: Stage, compat: bool) -> None:
    stage.ram.buffer[stage.vcpu.shared + xen.VCPU_INFO_PENDING] = 1
    assert sched(stage, compat, SchedOp.block) is RESUME
    assert (stage.vcpu.mask, stage.state.blocked) == (0, False)


@pytest.mark.parametrize(("reason", "word"), [
    (0, "poweroff"), (1, "reboot"), (2, "suspend"), (3, "crash"), (4, "reason 4"), (0x103, "crash"),
    (0xFFFFFFFF, "reason 255")])
def test_shutdown(stage: Stage, compat: bool, reason: int, word: str) -> None:
    assert sched(stage, compat, SchedOp.shutdown, reason) == Shutdown(word)


@pytest.mark.parametrize("command", [4, 0xFFFFFFFF])
def test_commands_that_are_not_there(stage: Stage, compat: bool, command: int) -> None:
    sched(stage, compat, command)
    assert stage.regs.gpr[0] == 0x100000000 - Errno.ENOSYS


def test_poll_has_no_form_by_value(stage: Stage) -> None:
    assert stage.call(Hypercall.sched_op_compat, SchedOp.poll, DATA) == -Errno.ENOSYS


@pytest.mark.parametrize("command", [SchedOp.shutdown, SchedOp.poll])
@pytest.mark.parametrize("pointer", [NOWHERE, 0xFC000000, 0xFFFFFFFF])
def test_pointers(stage: Stage, command: int, pointer: int) -> None:
    assert stage.call(Hypercall.sched_op, command, pointer) == -Errno.EFAULT


def poll(stage: Stage, *ports: int, timeout: int = 0, mask: int = 1, pointer: int = PORTS, number: int | None = None
         ) -> object:
    stage.words(PORTS, *ports)
    stage.put(DATA, xen.SCHED_POLL.pack(pointer, len(ports) if number is None else number, timeout))
    stage.vcpu.mask = mask
    return stage.hypercall(Hypercall.sched_op, SchedOp.poll, DATA)


def set_pending_bit(stage: Stage, port: int) -> None:
    at = stage.vcpu.shared + xen.SHARED_INFO_EVTCHN_PENDING + 4 * (port // 32)
    stage.ram.set_u32(at, stage.ram.u32(at) | 1 << port % 32)


def test_poll_waits_for_its_ports(stage: Stage) -> None:
    assert poll(stage, 3, 1023, timeout=5000) is BLOCK
    assert (stage.state.polling, stage.state.poll_deadline, stage.state.blocked) == ((3, 1023), 5000, True)
    assert stage.vcpu.mask == 1, "a poll does not unmask"


def test_poll_without_a_timeout(stage: Stage) -> None:
    poll(stage, 3)
    assert stage.state.poll_deadline is None


@pytest.mark.parametrize("timeout", [1 << 63, NEVER])
def test_a_time_with_the_sign_bit_is_the_past(stage: Stage, timeout: int) -> None:
    poll(stage, 3, timeout=timeout)
    assert stage.state.poll_deadline == stage.domain.clock.now


@pytest.mark.parametrize(("ports", "pending", "result"), [
    ((3,), 3, 0), ((5, 3), 3, 0), ((1023,), 1023, 0), ((3, 1024), 3, 0), ((1024, 3), 3, -Errno.EINVAL),
    ((0xFFFFFFFF,), 3, -Errno.EINVAL), ((4, 1024), 3, -Errno.EINVAL)])
def test_ports_are_looked_at_in_order(stage: Stage, ports: tuple[int, ...], pending: int, result: int) -> None:
    set_pending_bit(stage, pending)
    assert poll(stage, *ports) is RESUME
    assert stage.regs.gpr[0] == result & 0xFFFFFFFF
    assert not stage.state.blocked


@pytest.mark.parametrize(("details", "result"), [
    ({"number": 129, "pointer": NOWHERE, "mask": 0}, -Errno.EINVAL),
    ({"number": 0xFFFFFFFF}, -Errno.EINVAL),
    ({"number": 128, "pointer": 0xFBFFFE04, "mask": 0}, -Errno.EFAULT),
    ({"number": 128, "pointer": NOWHERE, "mask": 0}, -Errno.EINVAL),
    ({"number": 128, "pointer": NOWHERE}, -Errno.EFAULT),
    ({"number": 1, "pointer": 0xFFFFFFFF}, -Errno.EFAULT),
    ({"number": 1, "mask": 0}, -Errno.EINVAL),
])
def test_poll_refuses_in_xens_order(stage: Stage, details: dict[str, int], result: int) -> None:
    poll(stage, **details)  # type: ignore[arg-type]
    assert stage.regs.gpr[0] == result & 0xFFFFFFFF
    assert not stage.state.blocked


def test_poll_for_nothing_but_time(stage: Stage) -> None:
    assert poll(stage, timeout=7, pointer=NOWHERE) is BLOCK
    assert stage.state.poll_deadline == 7


# -- set_timer_op


@pytest.mark.parametrize(("low", "high", "deadline"), [
    (0, 0, None), (5, 0, 5), (0, 1, 1 << 32), (0xFFFFFFFF, 0x7FFFFFFF, (1 << 63) - 1)])
def test_set_timer(stage: Stage, low: int, high: int, deadline: int | None) -> None:
    stage.domain.clock.deadline = 99
    assert stage.call(Hypercall.set_timer_op, low, high) == 0
    assert stage.domain.clock.deadline == deadline


@pytest.mark.parametrize(("low", "high"), [(0, 0x80000000), (0xFFFFFFFF, 0xFFFFFFFF)])
def test_a_timer_with_the_sign_bit_is_due(stage: Stage, low: int, high: int) -> None:
    """Were it taken for a time to come, an idle vCPU would jump to the end of 64-bit time."""
    assert stage.call(Hypercall.set_timer_op, low, high) == 0
    assert stage.domain.clock.expired()
    assert stage.domain.clock.deadline == stage.domain.clock.now


def test_timers_are_told(stage: Stage) -> None:
    stage.vcpu.listening = True
    stage.call(Hypercall.set_timer_op, 5, 0)
    stage.call(Hypercall.set_timer_op, 0, 0)
    assert stage.vcpu.seen.notes == ["timer at 5 ns", "timer off"]


# -- vcpu_op


@pytest.mark.parametrize(("command", "cpu", "pointer", "result"), [
    (VcpuOp.initialise, 0, DATA, -Errno.EEXIST), (VcpuOp.initialise, 0, NOWHERE, -Errno.EFAULT),
    (VcpuOp.initialise, 0, 0xFC000000 - 2799, -Errno.EFAULT), (VcpuOp.up, 0, 0, 0), (VcpuOp.is_up, 0, 0, 1),
    (VcpuOp.is_up, 1, 0, -Errno.ENOENT), (VcpuOp.up, 31, 0, -Errno.ENOENT), (VcpuOp.up, 32, 0, -Errno.EINVAL),
    (VcpuOp.is_up, 0xFFFFFFFF, 0, -Errno.EINVAL), (VcpuOp.get_runstate_info, 0, NOWHERE, -Errno.EFAULT),
    (VcpuOp.register_runstate_memory_area, 0, NOWHERE, -Errno.EFAULT), (6, 0, 0, -Errno.ENOSYS),
    (0xFFFFFFFF, 0, 0, -Errno.ENOSYS)])
def test_vcpu_op(stage: Stage, command: int, cpu: int, pointer: int, result: int) -> None:
    assert stage.call(Hypercall.vcpu_op, command, cpu, pointer) == result


def test_the_only_vcpu_goes_down_for_good(stage: Stage) -> None:
    assert stage.hypercall(Hypercall.vcpu_op, VcpuOp.down, 0, 0) is BLOCK
    assert stage.state.down
    assert stage.state.blocked


def runstate(stage: Stage, at: int) -> tuple[int, ...]:
    return struct.unpack("<IQ4Q", stage.get(at, 44))


def test_runstate(stage: Stage) -> None:
    now = stage.domain.clock.now
    stage.state.waited = 300
    assert stage.call(Hypercall.vcpu_op, VcpuOp.get_runstate_info, 0, SPARE) == 0
    assert runstate(stage, SPARE) == (Runstate.running, now, now - 300, 0, 300, 0)


def test_a_runstate_area_is_named_behind_a_pointer(stage: Stage) -> None:
    stage.words(DATA, SPARE)
    assert stage.call(Hypercall.vcpu_op, VcpuOp.register_runstate_memory_area, 0, DATA) == 0
    assert stage.state.runstate_area == SPARE
    assert runstate(stage, SPARE)[0] == Runstate.running
    stage.words(DATA, NOWHERE)
    assert stage.call(Hypercall.vcpu_op, VcpuOp.register_runstate_memory_area, 0, DATA) == -Errno.EFAULT


def test_runstate_at_the_end_of_time(stage: Stage) -> None:
    stage.domain.clock.now = (1 << 63) - 1
    assert stage.call(Hypercall.vcpu_op, VcpuOp.get_runstate_info, 0, SPARE) == 0


@pytest.mark.parametrize("length", [1, 2, 5])
def test_halt_moves_past_the_whole_instruction(stage: Stage, length: int) -> None:
    eip = stage.regs.eip
    assert schedule.halt(stage.vcpu, length) is BLOCK
    assert stage.regs.eip == eip + length
    assert stage.state.blocked
    assert stage.vcpu.mask == 1, "as it was"
