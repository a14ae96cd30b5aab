"""Event channels (common/event_channel.c): ports, pending bits, and the upcall they lead to."""

from __future__ import annotations

from collections.abc import Callable

from harness.abi import xen
from harness.abi.xen import ChannelStatus, Errno, EventOp, Virq
from harness.pv.access import copy_from_guest, copy_to_guest
from harness.pv.state import Channel, Vcpu
from harness.pv.time_record import update_time

_PORT_OUT = 4
_OF_THE_VCPU = (Virq.timer, Virq.debug, Virq.xenoprof)
"""Virtual interrupts that cannot be moved to another vCPU; the others are the domain's."""
_PHYSICAL_INTERRUPTS = 256
"""NR_IRQS (asm-x86/irq.h)."""

# -- Pending


def _bit(vcpu: Vcpu, array: int, port: int) -> tuple[int, int]:
    """Machine address of the word with a port's bit in one of shared_info's arrays, and the bit's mask."""
    return vcpu.shared + array + (port >> 5) * 4, 1 << (port & 31)


def _test_and_set(vcpu: Vcpu, maddr: int, mask: int) -> bool:
    word = vcpu.ram.u32(maddr)
    vcpu.ram.set_u32(maddr, word | mask)
    return word & mask != 0


def is_pending(vcpu: Vcpu, port: int) -> bool:
    """Whether a port's pending bit is set."""
    maddr, mask = _bit(vcpu, xen.SHARED_INFO_EVTCHN_PENDING, port)
    return vcpu.ram.u32(maddr) & mask != 0


def set_pending(vcpu: Vcpu, port: int) -> None:
    """Raise an event: pending bit, selector bit, upcall flag, each only if the one before was news."""
    if _test_and_set(vcpu, *_bit(vcpu, xen.SHARED_INFO_EVTCHN_PENDING, port)):
        return
    if port in vcpu.state.polling:
        vcpu.state.polling, vcpu.state.blocked = (), False
    maddr, mask = _bit(vcpu, xen.SHARED_INFO_EVTCHN_MASK, port)
    if vcpu.ram.u32(maddr) & mask:
        return
    _raise_upcall(vcpu, port)


def _raise_upcall(vcpu: Vcpu, port: int) -> None:
    if not _test_and_set(vcpu, vcpu.shared + xen.VCPU_INFO_PENDING_SEL, 1 << (port >> 5)):
        vcpu.ram.write(vcpu.shared + xen.VCPU_INFO_PENDING, b"\1")


def send_virq(vcpu: Vcpu, virq: int) -> bool:
    """Raise a virtual interrupt. False if the guest has not bound it."""
    port = vcpu.domain.state.virq_ports.get(virq)
    if port is None:
        return False
    set_pending(vcpu, port)
    return True


def fire_timer(vcpu: Vcpu) -> None:
    """The one-shot timer is due."""
    vcpu.domain.clock.deadline = None
    update_time(vcpu)
    send_virq(vcpu, Virq.timer)


# -- Channels


def _channel(vcpu: Vcpu, port: int) -> Channel | None:
    """The channel of a port that is in use."""
    return vcpu.domain.state.channels.get(port)


def _allocate(vcpu: Vcpu, channel: Channel) -> int:
    """The lowest free port, now taken; -ENOSPC if there is none. Port 0 is never given."""
    channels = vcpu.domain.state.channels
    for port in range(1, xen.NR_EVENT_CHANNELS):
        if port not in channels:
            channels[port] = channel
            return port
    return -Errno.ENOSPC


def _own_domid(vcpu: Vcpu, domid: int) -> bool:
    return domid in (xen.DOMID_SELF, vcpu.domain.id)


def _store_port(vcpu: Vcpu, pointer: int, offset: int, port: int) -> int:
    if port < 0:
        return port
    copy_to_guest(vcpu, pointer + offset, port.to_bytes(4, "little"))
    if vcpu.listening:
        vcpu.note(f"port {port}")
    return 0


def _bind_interdomain(vcpu: Vcpu, pointer: int, data: bytes) -> int:
    """A loop to an unbound port of the domain's own: there is no other domain."""
    remote_domain, remote_port, _ = xen.EVTCHN_BIND_INTERDOMAIN.unpack(data)
    if not _own_domid(vcpu, remote_domain):
        return -Errno.ESRCH
    remote = _channel(vcpu, remote_port)
    if remote is None or remote.status != ChannelStatus.unbound or not _own_domid(vcpu, remote.remote_domain):
        return -Errno.EINVAL
    port = _allocate(vcpu, Channel(ChannelStatus.interdomain, vcpu.domain.id, remote_port))
    if port > 0:
        remote.status, remote.remote_domain, remote.remote_port = ChannelStatus.interdomain, vcpu.domain.id, port
        set_pending(vcpu, port)
    return _store_port(vcpu, pointer, 8, port)


def _bind_virq(vcpu: Vcpu, pointer: int, data: bytes) -> int:
    virq, cpu, _ = xen.EVTCHN_BIND_VIRQ.unpack(data)
    ports = vcpu.domain.state.virq_ports
    if virq >= xen.NR_VIRQS:
        return -Errno.EINVAL
    if cpu:
        return -Errno.ENOENT if virq in _OF_THE_VCPU else -Errno.EINVAL
    if virq in ports:
        return -Errno.EEXIST
    port = _allocate(vcpu, Channel(ChannelStatus.virq, virq=virq))
    if port > 0:
        ports[virq] = port
    return _store_port(vcpu, pointer, 8, port)


def _bind_pirq(vcpu: Vcpu, pointer: int, data: bytes) -> int:
    """No physical interrupts for a domain without hardware."""
    del vcpu, pointer
    pirq, *_ = xen.EVTCHN_BIND_PIRQ.unpack(data)
    return -Errno.EPERM if pirq < _PHYSICAL_INTERRUPTS else -Errno.EINVAL


def _close(vcpu: Vcpu, _pointer: int, data: bytes) -> int:
    (port,) = xen.EVTCHN_CLOSE.unpack(data)
    state = vcpu.domain.state
    channel = state.channels.pop(port, None)
    if channel is None:
        return -Errno.EINVAL
    if channel.status == ChannelStatus.virq:
        del state.virq_ports[channel.virq]
    elif channel.status == ChannelStatus.interdomain:
        # Both ends are the domain's own, and each is there as long as the other one is bound to it.
        other = state.channels[channel.remote_port]
        other.status, other.remote_domain = ChannelStatus.unbound, vcpu.domain.id
    return 0


def _send(vcpu: Vcpu, _pointer: int, data: bytes) -> int:
    (port,) = xen.EVTCHN_SEND.unpack(data)
    channel = _channel(vcpu, port)
    if channel is None:
        return -Errno.EINVAL
    if channel.status == ChannelStatus.interdomain:
        set_pending(vcpu, channel.remote_port)
    elif channel.status == ChannelStatus.ipi:
        set_pending(vcpu, port)
    elif channel.status != ChannelStatus.unbound:
        return -Errno.EINVAL
    return 0


def _status(vcpu: Vcpu, pointer: int, data: bytes) -> int:
    """What a channel is. Words that its status says nothing of stay as the guest gave them."""
    domid, port, _, _, first, second = xen.EVTCHN_STATUS.unpack(data)
    if domid != xen.DOMID_SELF:
        return -Errno.EPERM
    if port >= xen.NR_EVENT_CHANNELS:
        return -Errno.EINVAL
    channel = _channel(vcpu, port) or Channel()
    if channel.status == ChannelStatus.virq:
        first = channel.virq
    elif channel.status in (ChannelStatus.unbound, ChannelStatus.interdomain):
        first = channel.remote_domain
    if channel.status == ChannelStatus.interdomain:
        second = channel.remote_port
    copy_to_guest(vcpu, pointer, xen.EVTCHN_STATUS.pack(domid, port, channel.status, channel.vcpu, first, second))
    return 0


def _alloc_unbound(vcpu: Vcpu, pointer: int, data: bytes) -> int:
    domid, remote, _ = xen.EVTCHN_ALLOC_UNBOUND.unpack(data)
    if domid != xen.DOMID_SELF:
        # A domain's own number is as good as another's here: only a privileged one may give any.
        return -Errno.EPERM
    owner = vcpu.domain.id if remote == xen.DOMID_SELF else remote
    return _store_port(vcpu, pointer, _PORT_OUT, _allocate(vcpu, Channel(ChannelStatus.unbound, owner)))


def _bind_ipi(vcpu: Vcpu, pointer: int, data: bytes) -> int:
    cpu, _ = xen.EVTCHN_BIND_IPI.unpack(data)
    if cpu:
        return -Errno.ENOENT
    return _store_port(vcpu, pointer, _PORT_OUT, _allocate(vcpu, Channel(ChannelStatus.ipi)))


def _bind_vcpu(vcpu: Vcpu, _pointer: int, data: bytes) -> int:
    port, cpu = xen.EVTCHN_BIND_VCPU.unpack(data)
    if cpu:
        return -Errno.ENOENT
    channel = _channel(vcpu, port)
    if channel is None or channel.status == ChannelStatus.ipi:
        return -Errno.EINVAL
    return -Errno.EINVAL if channel.status == ChannelStatus.virq and channel.virq in _OF_THE_VCPU else 0


def _unmask(vcpu: Vcpu, _pointer: int, data: bytes) -> int:
    """Clear a port's mask bit, with the upcall that was kept back. The channel need not be in use."""
    (port,) = xen.EVTCHN_UNMASK.unpack(data)
    if port >= xen.NR_EVENT_CHANNELS:
        return -Errno.EINVAL
    maddr, mask = _bit(vcpu, xen.SHARED_INFO_EVTCHN_MASK, port)
    word = vcpu.ram.u32(maddr)
    vcpu.ram.set_u32(maddr, word & ~mask)
    if word & mask and is_pending(vcpu, port):
        _raise_upcall(vcpu, port)
    return 0


_OPERATIONS: tuple[Callable[[Vcpu, int, bytes], int], ...] = (
    _bind_interdomain, _bind_virq, _bind_pirq, _close, _send, _status, _alloc_unbound, _bind_ipi, _bind_vcpu, _unmask)


def do_event_channel_op(vcpu: Vcpu, command: int, pointer: int) -> int:
    """Hypercall 32."""
    if command >= len(_OPERATIONS):
        return -Errno.ENOSYS
    if vcpu.listening:
        vcpu.note(EventOp(command).name)
    data = copy_from_guest(vcpu, pointer, xen.EVENT_ARGUMENTS[command].size)
    return _OPERATIONS[command](vcpu, pointer, data)


def do_event_channel_op_compat(vcpu: Vcpu, pointer: int) -> int:
    """Hypercall 16: the command and its argument in one structure."""
    command = int.from_bytes(copy_from_guest(vcpu, pointer, xen.EVTCHN_OP_SIZE)[:4], "little")
    return do_event_channel_op(vcpu, command, pointer + xen.EVTCHN_OP_UNION)
