"""A domain as it stood at an exit: the machine, what the hypervisor knows, and how far the loop was.

In memory it is plain data, copied. In a file it is a line that says what it is, a JSON header led by the dataclasses
of the hypervisor (no pickle: a file may come from anybody), and the machine's bytes, compressed. What is not plain data
is not part of it: watchers, and emulators and hypercalls of the user's own; a domain that goes back keeps its own.

Reading a file runs nothing of it. Running it gives its CPU state to the engine: a stranger's snapshot, like a
stranger's guest, belongs into a process of its own.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.devices.pit import Speaker
from harness.domain.clock import Clock
from harness.domain.plain import PlainError, clone, from_plain, to_plain
from harness.domain.record import AuditFinding
from harness.hypervisor import Domain, Progress
from harness.machine import ImageError, MachineImage
from harness.machine.layout import STATE_SIZE
from harness.machine.ram import CHUNK
from harness.pv.state import DomainState, VcpuState

FORMAT = 1
_FAST = 1
_MAGIC = b"harness snapshot\n"
_PREAMBLE = struct.Struct("<III")
"""Format, bytes of the header, CRC-32 of all that follows."""
_SPEAKER = ("control", "reload", "started", "_low", "_high_next", "_latched")
_FRAMES = ("owned", "type", "pinned", "count", "mapped")
_DOMAIN = ("console", "hypercalls", "state")
_VCPU = ("state", "findings", "in_multicall", "shadow_next", "reload")


class SnapshotError(Exception):
    """A file that is no snapshot, or a snapshot that this domain cannot go back to. The message says why."""


@dataclass(slots=True)
class Frames:
    """Types and counts of the domain's frames (pv.pages.PageTables)."""

    owned: bytearray
    type: bytearray
    pinned: bytearray
    count: list[int]
    mapped: list[int]


@dataclass(slots=True)
class SpeakerState:
    """Counter 2 and the speaker port (devices.pit.Speaker)."""

    control: int
    reload: int
    started: int
    _low: int | None
    _high_next: bool
    _latched: int | None


@dataclass(slots=True)
class DomainPart:
    """What Xen keeps for the domain (pv.state.Domain), less what the builder decides for good."""

    console: bytearray
    hypercalls: dict[str, int]
    state: DomainState
    frames: Frames
    speaker: SpeakerState


@dataclass(slots=True)
class VcpuPart:
    """What Xen keeps for the vCPU (pv.state.Vcpu)."""

    state: VcpuState
    findings: dict[int, AuditFinding]
    in_multicall: bool
    shadow_next: bool
    reload: bool


@dataclass(slots=True)
class Snapshot:
    """One moment of one domain. `guest`, `full` (the policy) and `audit` must be those of the domain that goes back."""

    guest: str
    full: bool
    audit: bool
    clock: Clock
    domain: DomainPart
    vcpu: VcpuPart
    progress: Progress
    machine: MachineImage = field(repr=False)

    @classmethod
    def take(cls, domain: Domain) -> Snapshot:
        """Copy a domain as it stands: in a watcher (the exit that it hears of is over then), or between runs."""
        vcpu, xen = domain.vcpu, domain.vcpu.domain
        return cls(
            domain.guest.name, vcpu.full, vcpu.audit, clone(domain.clock),
            DomainPart(frames=Frames(**_copied(xen.pages, _FRAMES)),
                       speaker=SpeakerState(**_copied(_speaker(domain), _SPEAKER)), **_copied(xen, _DOMAIN)),
            VcpuPart(**_copied(vcpu, _VCPU)), domain.progress(), domain.machine.save())

    def restore(self, domain: Domain) -> None:
        """Take a domain back to this moment; `domain.run` goes on from there. Not while it runs.

        The domain is the one that it was taken from, or one built from the same guest with the same options and
        memory. Raises SnapshotError.
        """
        vcpu, xen = domain.vcpu, domain.vcpu.domain
        for what, mine, its in (("guest", self.guest, domain.guest.name), ("full policy", self.full, vcpu.full),
                                ("audit", self.audit, vcpu.audit)):
            if mine != its:
                raise SnapshotError(f"{what}: {mine} in the snapshot, {its} in the domain")
        total = domain.machine.ram.size >> 12
        if any(len(getattr(self.domain.frames, name)) != total for name in _FRAMES):
            raise SnapshotError("the snapshot's frames are not those of its memory")
        try:
            domain.machine.load(self.machine)
        except ImageError as problem:
            raise SnapshotError(str(problem)) from problem
        domain.clock.now, domain.clock.deadline = self.clock.now, self.clock.deadline
        _put_back(xen, self.domain, _DOMAIN)
        _put_back(xen.pages, self.domain.frames, _FRAMES)
        _put_back(_speaker(domain), self.domain.speaker, _SPEAKER)
        _put_back(vcpu, self.vcpu, _VCPU)
        domain.go_back(self.progress)

    # -- Files

    def write(self, path: Path) -> None:
        """Write a file. Raises OSError."""
        machine = self.machine
        plain = {name: to_plain(getattr(self, name)) for name in _PARTS}
        plain |= {name: to_plain(getattr(machine, name)) for name in _IN_HEADER}
        header = json.dumps(plain | {"ram": sorted(machine.ram)}, separators=(",", ":")).encode()
        ram = (machine.ram[at] for at in sorted(machine.ram))
        rest = zlib.compress(b"".join((machine.state, machine.frames, *ram)), _FAST)
        checked = zlib.crc32(rest, zlib.crc32(header))
        path.write_bytes(_MAGIC + _PREAMBLE.pack(FORMAT, len(header), checked) + header + rest)

    @classmethod
    def read(cls, path: Path) -> Snapshot:
        """Read a file. Raises SnapshotError for what is in it, OSError if it cannot be read."""
        content = path.read_bytes()
        try:
            return _parse(content)
        except (PlainError, _Damaged) as problem:
            raise SnapshotError(f"{path}: {problem}") from problem


class _Damaged(Exception):  # noqa: N818 - it never leaves this file
    pass


_PARTS = ("guest", "full", "audit", "clock", "domain", "vcpu", "progress")
_IN_HEADER = ("unicorn", "memory", "pending", "root", "kinds")


@dataclass(slots=True)
class _Header:
    guest: str
    full: bool
    audit: bool
    clock: Clock
    domain: DomainPart
    vcpu: VcpuPart
    progress: Progress
    unicorn: str
    memory: int
    pending: int
    root: int | None
    kinds: tuple[str, ...]
    ram: list[int]


def _parse(content: bytes) -> Snapshot:
    start = len(_MAGIC) + _PREAMBLE.size
    if not content.startswith(_MAGIC) or len(content) < start:
        raise _Damaged("not a snapshot of the harness")
    form, length, crc = _PREAMBLE.unpack_from(content, len(_MAGIC))
    if form != FORMAT:
        raise _Damaged(f"a snapshot in format {form}; this harness reads format {FORMAT}")
    if zlib.crc32(content[start:]) != crc:
        raise _Damaged("the snapshot is damaged")
    try:
        plain = json.loads(content[start : start + length])
    except ValueError:
        raise _Damaged("the header of the snapshot is damaged") from None
    except RecursionError:
        raise _Damaged("the header of the snapshot is nested too deeply") from None
    header = from_plain(_Header, plain)
    machine = _machine(header, content[start + length :])
    return Snapshot(machine=machine, **{name: getattr(header, name) for name in _PARTS})


def _machine(header: _Header, compressed: bytes) -> MachineImage:
    frames = header.memory >> 12
    if not 0 < header.memory <= 2 << 30 or header.ram != sorted(set(header.ram)):
        raise _Damaged("the snapshot's memory cannot be")
    if any(at % CHUNK or not 0 <= at < header.memory for at in header.ram):
        raise _Damaged("the snapshot's memory lies outside its machine")
    sizes = [min(CHUNK, header.memory - at) for at in header.ram]
    expected = STATE_SIZE + frames + sum(sizes)
    stream = zlib.decompressobj()
    try:
        rest = stream.decompress(compressed, expected + 1)
    except zlib.error:
        raise _Damaged("the memory of the snapshot is damaged") from None
    if len(rest) != expected or not stream.eof or stream.unused_data:
        raise _Damaged("the memory of the snapshot is not of the size that its header says")
    ram, begin = {}, STATE_SIZE + frames
    for at, size in zip(header.ram, sizes, strict=True):
        ram[at] = rest[begin : begin + size]
        begin += size
    return MachineImage(header.unicorn, header.memory, rest[:STATE_SIZE], header.pending, header.root,
                        rest[STATE_SIZE : STATE_SIZE + frames], header.kinds, ram)


# -- Copying


def _speaker(domain: Domain) -> Speaker:
    speaker = domain.vcpu.domain.ports
    assert isinstance(speaker, Speaker)
    return speaker


def _copied(source: object, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: clone(getattr(source, name)) for name in names}


def _put_back(target: object, source: object, names: tuple[str, ...]) -> None:
    for name in names:
        setattr(target, name, clone(getattr(source, name)))
