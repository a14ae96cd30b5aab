"""Event channels (common/event_channel.c): the steps of a delivery, the states of a port, and every error."""

from __future__ import annotations

import struct

import pytest

from harness.abi import xen
from harness.abi.xen import DOMID_SELF, ChannelStatus, Errno, EventOp, Hypercall, Virq
from harness.pv import events
from tests.pv.stage import DATA, NOWHERE, SPARE, Stage

PENDING, MASK = xen.SHARED_INFO_EVTCHN_PENDING, xen.SHARED_INFO_EVTCHN_MASK


def op(stage: Stage, command: int, *words: int, compat: bool = False) -> int:
    """An operation with its argument as words."""
    data = struct.pack(f"<{len(words)}I", *words)
    if compat:
        stage.put(DATA, struct.pack("<I", command) + data.ljust(24, b"\0"))
        return stage.call(Hypercall.event_channel_op_compat, DATA)
    stage.put(DATA + 4, data.ljust(24, b"\0"))
    return stage.call(Hypercall.event_channel_op, command, DATA + 4)


def word(stage: Stage, n: int) -> int:
    """Word n of the argument, as it is now."""
    return stage.get_words(DATA + 4 + 4 * n, 1)[0]


def bind_virq(stage: Stage, virq: int, cpu: int = 0) -> int:
    return op(stage, EventOp.bind_virq, virq, cpu) or word(stage, 2)


def bind_ipi(stage: Stage, cpu: int = 0) -> int:
    return op(stage, EventOp.bind_ipi, cpu) or word(stage, 1)


def alloc(stage: Stage, domid: int = DOMID_SELF, remote: int = DOMID_SELF) -> int:
    return op(stage, EventOp.alloc_unbound, domid | remote << 16) or word(stage, 1)


def bind_interdomain(stage: Stage, remote: int, domid: int = DOMID_SELF) -> int:
    return op(stage, EventOp.bind_interdomain, domid, remote) or word(stage, 2)


def status(stage: Stage, port: int, domid: int = DOMID_SELF) -> tuple[int, ...] | int:
    """Status, vCPU and two words by status; or the error."""
    return op(stage, EventOp.status, domid, port) or stage.get_words(DATA + 12, 4)


def bit(stage: Stage, array: int, port: int) -> int:
    return stage.info(array + 4 * (port // 32)) >> port % 32 & 1


def upcall(stage: Stage) -> tuple[int, int]:
    """The upcall flag and the selector."""
    return stage.info(0) & 0xFF, stage.info(xen.VCPU_INFO_PENDING_SEL)


def set_mask(stage: Stage, port: int) -> None:
    at = stage.vcpu.shared + MASK + 4 * (port // 32)
    stage.ram.set_u32(at, stage.ram.u32(at) | 1 << port % 32)


# -- The steps of a delivery


@pytest.mark.parametrize("port", [1, 31, 32, 1023])
def test_all_three_bits_are_set(stage: Stage, port: int) -> None:
    events.set_pending(stage.vcpu, port)
    assert events.is_pending(stage.vcpu, port)
    assert bit(stage, PENDING, port) == 1
    assert upcall(stage) == (1, 1 << port // 32)


def test_step_1_a_pending_port_is_no_news(stage: Stage) -> None:
    events.set_pending(stage.vcpu, 40)
    stage.ram.write(stage.vcpu.shared, bytes(8))
    events.set_pending(stage.vcpu, 40)
    assert upcall(stage) == (0, 0)


def test_step_2_a_masked_port_is_pending_and_no_more(stage: Stage) -> None:
    set_mask(stage, 40)
    events.set_pending(stage.vcpu, 40)
    assert bit(stage, PENDING, 40) == 1
    assert upcall(stage) == (0, 0)


def test_step_3_a_selected_word_is_no_news(stage: Stage) -> None:
    events.set_pending(stage.vcpu, 40)
    stage.ram.buffer[stage.vcpu.shared] = 0
    events.set_pending(stage.vcpu, 41)
    assert bit(stage, PENDING, 41) == 1
    assert upcall(stage) == (0, 2)


def test_step_4_a_raised_flag_stays(stage: Stage) -> None:
    events.set_pending(stage.vcpu, 40)
    events.set_pending(stage.vcpu, 100)
    assert upcall(stage) == (1, 1 << 1 | 1 << 3)


@pytest.mark.parametrize(("flag", "mask", "due"), [
    (0, 0, False), (1, 0, True), (1, 1, False), (0, 1, False), (0xFF, 0, True)])
def test_an_upcall_is_due_when_raised_and_unmasked(stage: Stage, flag: int, mask: int, due: bool) -> None:
    stage.ram.write(stage.vcpu.shared, bytes([flag, mask]))
    assert stage.vcpu.upcall_due == due


@pytest.mark.parametrize("masked", [False, True])
def test_a_poll_ends_with_its_port_even_a_masked_one(stage: Stage, masked: bool) -> None:
    stage.state.polling, stage.state.blocked = (7, 40), True
    if masked:
        set_mask(stage, 40)
    events.set_pending(stage.vcpu, 41)
    assert stage.state.blocked
    events.set_pending(stage.vcpu, 40)
    assert (stage.state.polling, stage.state.blocked) == ((), False)


# -- Ports


def test_ports_are_given_from_1_up_and_given_again(stage: Stage) -> None:
    assert [bind_ipi(stage) for _ in range(3)] == [1, 2, 3]
    assert op(stage, EventOp.close, 2) == 0
    assert bind_ipi(stage) == 2


def test_no_port_is_left_after_1023(stage: Stage) -> None:
    for port in range(1, 1024):
        assert bind_ipi(stage) == port
    for bind in (bind_ipi, alloc):
        assert bind(stage) == -Errno.ENOSPC
    assert bind_virq(stage, Virq.timer) == -Errno.ENOSPC
    assert stage.domain.state.virq_ports == {}
    op(stage, EventOp.close, 5)
    assert bind_virq(stage, Virq.timer) == 5


def test_no_port_is_left_for_a_pair(stage: Stage) -> None:
    unbound = alloc(stage)
    while bind_ipi(stage) > 0:
        pass
    assert bind_interdomain(stage, unbound) == -Errno.ENOSPC
    assert status(stage, unbound) == (ChannelStatus.unbound, 0, 1, 0)


# -- Virtual interrupts


@pytest.mark.parametrize("virq", [0, 1, 2, 7, 23])
def test_bind_virq(stage: Stage, virq: int) -> None:
    assert bind_virq(stage, virq) == 1
    assert status(stage, 1) == (ChannelStatus.virq, 0, virq, 0)
    assert bind_virq(stage, virq) == -Errno.EEXIST
    assert events.send_virq(stage.vcpu, virq)
    assert bit(stage, PENDING, 1) == 1


@pytest.mark.parametrize(("virq", "cpu", "error"), [
    (24, 0, Errno.EINVAL), (0xFFFFFFFF, 0, Errno.EINVAL), (0, 1, Errno.ENOENT), (0, 0xFFFFFFFF, Errno.ENOENT)])
def test_bind_virq_refuses(stage: Stage, virq: int, cpu: int, error: Errno) -> None:
    assert bind_virq(stage, virq, cpu) == -error


def test_a_virq_that_nobody_bound_is_lost(stage: Stage) -> None:
    assert not events.send_virq(stage.vcpu, Virq.timer)
    bind_virq(stage, Virq.timer)
    op(stage, EventOp.close, 1)
    assert not events.send_virq(stage.vcpu, Virq.timer)
    assert bind_virq(stage, Virq.timer) == 1


def test_the_timer_fires_once(stage: Stage) -> None:
    bind_virq(stage, Virq.timer)
    stage.domain.clock.deadline = 5
    events.fire_timer(stage.vcpu)
    assert stage.domain.clock.deadline is None
    assert upcall(stage) == (1, 1)


# -- IPIs, pairs, unbound ports


def test_an_ipi_goes_to_itself(stage: Stage) -> None:
    port = bind_ipi(stage)
    assert status(stage, port) == (ChannelStatus.ipi, 0, 0, 0)
    assert op(stage, EventOp.send, port) == 0
    assert bit(stage, PENDING, port) == 1
    assert bind_ipi(stage, 1) == -Errno.ENOENT


def test_a_pair(stage: Stage) -> None:
    remote = alloc(stage)
    local = bind_interdomain(stage, remote)
    assert (remote, local) == (1, 2)
    assert bit(stage, PENDING, local) == 1, "in case something was sent before"
    assert bit(stage, PENDING, remote) == 0
    assert status(stage, local) == (ChannelStatus.interdomain, 0, 1, remote)
    assert status(stage, remote) == (ChannelStatus.interdomain, 0, 1, local)
    assert op(stage, EventOp.send, local) == 0
    assert bit(stage, PENDING, remote) == 1


def test_closing_one_end_leaves_the_other_unbound(stage: Stage) -> None:
    remote = alloc(stage)
    local = bind_interdomain(stage, remote)
    assert op(stage, EventOp.close, local) == 0
    assert status(stage, local) == (ChannelStatus.closed, 0, 0, 0)
    assert status(stage, remote)[0] == ChannelStatus.unbound  # type: ignore[index]
    assert bind_interdomain(stage, remote) == local, "and it can be bound again"


def test_closing_both_ends(stage: Stage) -> None:
    remote = alloc(stage)
    local = bind_interdomain(stage, remote)
    assert [op(stage, EventOp.close, port) for port in (remote, local, local)] == [0, 0, -Errno.EINVAL]


def test_what_is_sent_to_an_unbound_port_is_lost(stage: Stage) -> None:
    port = alloc(stage)
    assert op(stage, EventOp.send, port) == 0
    assert bit(stage, PENDING, port) == 0


@pytest.mark.parametrize(("domid", "remote", "error"), [(0, 0, Errno.EPERM), (5, 0, Errno.EPERM)])
def test_alloc_unbound_in_another_domain(stage: Stage, domid: int, remote: int, error: Errno) -> None:
    assert alloc(stage, domid, remote) == -error


def test_a_port_for_another_domain_is_not_ours_to_bind(stage: Stage) -> None:
    port = alloc(stage, remote=5)
    assert status(stage, port) == (ChannelStatus.unbound, 0, 5, 0)
    assert bind_interdomain(stage, port) == -Errno.EINVAL


@pytest.mark.parametrize(("domid", "make", "error"), [
    (5, alloc, Errno.ESRCH), (DOMID_SELF, bind_ipi, Errno.EINVAL), (DOMID_SELF, lambda s: 9, Errno.EINVAL),
    (DOMID_SELF, lambda s: 0, Errno.EINVAL), (DOMID_SELF, lambda s: 0xFFFFFFFF, Errno.EINVAL)])
def test_bind_interdomain_refuses(stage: Stage, domid: int, make: object, error: Errno) -> None:
    assert bind_interdomain(stage, make(stage), domid) == -error  # type: ignore[operator]


def test_there_are_no_physical_interrupts(stage: Stage) -> None:
    assert op(stage, EventOp.bind_pirq, 1, 0) == -Errno.EPERM


@pytest.mark.parametrize("port", [0, 1, 1023, 1024, 0xFFFFFFFF])
@pytest.mark.parametrize("command", [EventOp.close, EventOp.send, EventOp.bind_vcpu])
def test_a_port_that_is_not_in_use(stage: Stage, command: int, port: int) -> None:
    assert op(stage, command, port, 0) == -Errno.EINVAL


@pytest.mark.parametrize(("port", "result"), [
    (0, 0), (1, 0), (1023, 0), (1024, -Errno.EINVAL), (0xFFFFFFFF, -Errno.EINVAL)])
def test_unmask_asks_only_for_a_port_that_there_is(stage: Stage, port: int, result: int) -> None:
    assert op(stage, EventOp.unmask, port) == result


def test_a_virq_cannot_be_sent(stage: Stage) -> None:
    assert op(stage, EventOp.send, bind_virq(stage, Virq.timer)) == -Errno.EINVAL


@pytest.mark.parametrize(("port", "domid", "answer"), [
    (9, DOMID_SELF, (ChannelStatus.closed, 0, 0, 0)), (1023, DOMID_SELF, (ChannelStatus.closed, 0, 0, 0)),
    (1024, DOMID_SELF, -Errno.EINVAL), (0xFFFFFFFF, DOMID_SELF, -Errno.EINVAL), (9, 5, -Errno.EPERM)])
def test_status(stage: Stage, port: int, domid: int, answer: object) -> None:
    assert status(stage, port, domid) == answer


@pytest.mark.parametrize(("make", "result"), [
    (alloc, 0), (lambda s: bind_interdomain(s, alloc(s)), 0), (bind_ipi, -Errno.EINVAL),
    (lambda s: bind_virq(s, Virq.timer), -Errno.EINVAL), (lambda s: bind_virq(s, Virq.debug), -Errno.EINVAL),
    (lambda s: bind_virq(s, Virq.console), 0)])
def test_bind_vcpu_moves_what_is_not_a_vcpus_own(stage: Stage, make: object, result: int) -> None:
    port = make(stage)  # type: ignore[operator]
    assert op(stage, EventOp.bind_vcpu, port, 0) == result
    assert op(stage, EventOp.bind_vcpu, port, 1) == -Errno.ENOENT


# -- Unmask


@pytest.mark.parametrize(("masked", "pending", "raised"), [
    (True, True, (1, 1)), (True, False, (0, 0)), (False, True, (0, 0)), (False, False, (0, 0))])
def test_unmask_delivers_what_waited(stage: Stage, masked: bool, pending: bool, raised: tuple[int, int]) -> None:
    port = bind_ipi(stage)
    set_mask(stage, port)
    if pending:
        op(stage, EventOp.send, port)
    if not masked:
        stage.ram.write(stage.vcpu.shared + MASK, bytes(4))
    assert op(stage, EventOp.unmask, port) == 0
    assert bit(stage, MASK, port) == 0
    assert upcall(stage) == raised


def test_unmask_of_a_selected_word_is_no_news(stage: Stage) -> None:
    port = bind_ipi(stage)
    set_mask(stage, port)
    op(stage, EventOp.send, port)
    stage.ram.set_u32(stage.vcpu.shared + xen.VCPU_INFO_PENDING_SEL, 1)
    assert op(stage, EventOp.unmask, port) == 0
    assert upcall(stage) == (0, 1)


# -- The call


@pytest.mark.parametrize("command", [10, 11, 0x7FFFFFFF, 0xFFFFFFFF])
@pytest.mark.parametrize("compat", [False, True])
def test_operations_that_are_not_there(stage: Stage, command: int, compat: bool) -> None:
    assert op(stage, command, compat=compat) == -Errno.ENOSYS


@pytest.mark.parametrize("command", range(10))
@pytest.mark.parametrize("pointer", [NOWHERE, 0xFC000000, 0xFFFFFFFF])
def test_pointers(stage: Stage, command: int, pointer: int) -> None:
    assert stage.call(Hypercall.event_channel_op, command, pointer) == -Errno.EFAULT
    assert stage.call(Hypercall.event_channel_op_compat, pointer) == -Errno.EFAULT


def test_the_older_form_does_the_same(stage: Stage) -> None:
    assert op(stage, EventOp.bind_virq, Virq.timer, 0, compat=True) == 0
    assert word(stage, 2) == 1
    assert op(stage, EventOp.close, 1, compat=True) == 0


def test_notes(stage: Stage) -> None:
    stage.vcpu.listening = True
    bind_ipi(stage)
    assert stage.vcpu.seen.notes == ["bind_ipi", "port 1"]


# -- What is refused, and what is left alone


@pytest.mark.parametrize("domid", [1, 5, 0, xen.DOMID_IO])
def test_only_a_privileged_domain_speaks_for_a_domain_by_number(stage: Stage, domid: int) -> None:
    """Even by its own."""
    assert alloc(stage, domid) == -Errno.EPERM
    assert status(stage, 1, domid) == -Errno.EPERM
    assert not stage.domain.state.channels


@pytest.mark.parametrize(("number", "result"), [
    (0, -Errno.EPERM), (255, -Errno.EPERM), (256, -Errno.EINVAL), (0xFFFFFFFF, -Errno.EINVAL)])
def test_physical_interrupts_end_at_nr_irqs(stage: Stage, number: int, result: int) -> None:
    assert op(stage, EventOp.bind_pirq, number) == result


@pytest.mark.parametrize(("kind", "words"), [
    ("unbound", (1, 8)), ("virq", (2, 8)), ("ipi", (7, 8)), ("closed", (7, 8))])
def test_status_leaves_words_that_say_nothing_as_they_were(stage: Stage, kind: str, words: tuple[int, int]) -> None:
    if kind == "unbound":
        alloc(stage)
    elif kind == "virq":
        bind_virq(stage, Virq.console)
    elif kind == "ipi":
        bind_ipi(stage)
    assert op(stage, EventOp.status, DOMID_SELF, 1, 99, 99, 7, 8) == 0
    assert stage.get_words(DATA + 12, 4) == (ChannelStatus[kind], 0, *words)


@pytest.mark.parametrize(("size", "result"), [(28, 0), (27, -Errno.EFAULT)])
def test_the_old_structure_is_read_whole(stage: Stage, size: int, result: int) -> None:
    """28 bytes, whatever the command needs of them."""
    assert stage.map(SPARE + 0x1000, 0) == 0
    where = stage.put(SPARE + 0x1000 - size, struct.pack("<III", EventOp.bind_ipi, 0, 0))
    assert stage.call(Hypercall.event_channel_op_compat, where) == result
