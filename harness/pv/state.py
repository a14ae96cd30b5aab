"""What Xen knows of a paravirtualized domain and of its vCPU.

All of it is plain data in dataclasses, so that a snapshot is a copy; how it reaches the CPU is in `Vcpu.cpu`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from harness.abi import xen
from harness.abi.x86 import DR6_FIXED, DR7_FIXED
from harness.code.decoder import Decoder, Instruction
from harness.domain.clock import Clock
from harness.domain.cpu import Cpu
from harness.domain.record import AuditFinding
from harness.pv.pages import PageTables

POLICY_XEN, POLICY_FULL = "xen", "full"
POLICIES = (POLICY_XEN, POLICY_FULL)


@dataclass(slots=True)
class Trap:
    """One entry of the virtual IDT. `flags`: DPL in bits 1:0, TRAP_INFO_IF masks events. `address` 0: no handler."""

    flags: int = 0
    cs: int = xen.FLAT_RING1_CS
    address: int = 0


@dataclass(slots=True)
class Callback:
    """An entry point of the guest kernel. `mask`: it is entered with events masked (the event callback always is)."""

    cs: int = xen.FLAT_RING1_CS
    eip: int = 0
    mask: bool = False


@dataclass(slots=True)
class Virtual:
    """What a kernel under `--policy full` believes of registers that Xen 3.0 left to leak."""

    gdtr: tuple[int, int] = (xen.GDT_VIRT_START, 0xEFFF)
    idtr: tuple[int, int] = (0, 0)
    ldtr: int = 0
    tr: int = 0
    cr0: int = 0x80050033
    cr4: int = 0x600
    msrs: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class Channel:
    """An event channel. `status` is an xen.ChannelStatus; the rest depends on it."""

    status: int = xen.ChannelStatus.closed
    remote_domain: int = 0
    remote_port: int = 0
    virq: int = 0
    vcpu: int = 0


@dataclass(slots=True)
class VcpuState:
    """The architectural state that Xen keeps for a vCPU (struct vcpu, arch/x86/domain.c)."""

    traps: list[Trap] = field(default_factory=lambda: [Trap() for _ in range(xen.NR_TRAP_VECTORS)])
    direct_gate: bool = False
    """Vector 0x80 has a real trap gate."""
    kernel_ss: int = xen.FLAT_RING1_SS
    kernel_sp: int = 0
    event: Callback = field(default_factory=Callback)
    failsafe: Callback = field(default_factory=Callback)
    control: list[int] = field(default_factory=lambda: [0] * 8)
    """Virtual control registers: [0] holds TS only, [2] CR2."""
    debug: list[int] = field(default_factory=lambda: [0, 0, 0, 0, 0, 0, DR6_FIXED, DR7_FIXED])
    iopl: int = 0
    io_bitmap: int = 0
    io_bitmap_ports: int = 0
    gdt_frames: list[int] = field(default_factory=list)
    gdt_entries: int = 0
    ldt_base: int = 0
    ldt_entries: int = 0
    fpu_dirtied: bool = False
    guest_table: int = 0
    """Machine frame of the page directory in use."""
    virtual: Virtual = field(default_factory=Virtual)
    runstate_area: int = 0
    blocked: bool = False
    polling: tuple[int, ...] = ()
    """Ports that a poll waits for; it ends at `poll_deadline` (ns) too."""
    poll_deadline: int | None = None
    down: bool = False
    waited: int = 0
    """Virtual time spent blocked, in ns."""


@dataclass(slots=True)
class DomainState:
    """What Xen keeps for a domain."""

    p2m: list[int] = field(default_factory=list)
    """Machine frame of each pseudo-physical one; -1 where there is none."""
    shared_info: int = 0
    """Machine frame of shared_info."""
    vm_assist: int = 0
    channels: dict[int, Channel] = field(default_factory=dict)
    virq_ports: dict[int, int] = field(default_factory=dict)
    allocated: int = 0
    max_pages: int = 0
    """Frames that the domain has, and may have."""
    free_frames: list[int] = field(default_factory=list)
    """Machine frames that nobody owns."""


Handler = Callable[..., object]


@dataclass(slots=True)
class Seen:
    """What is said of the present exit: filled by handlers, read by whoever records it."""

    kind: str = ""
    raised: str = ""
    handler: Handler | None = None
    instruction: Instruction | None = None
    call: tuple[str, tuple[int, ...]] | None = None
    """Name and arguments of a hypercall, while someone listens."""
    result: int | None = None
    """What a hypercall returned."""
    notes: list[str] = field(default_factory=list)


class Ports(Protocol):
    """Devices behind ports. `read` is None where there is none that this domain may use."""

    def read(self, port: int, size: int) -> int | None: ...
    def write(self, port: int, value: int, size: int) -> None: ...


class Domain:
    """A domain with one vCPU. `ports`: the devices it may use, if any."""

    def __init__(self, name: str, clock: Clock | None = None, ports: Ports | None = None) -> None:
        self.name = name
        self.clock = clock or Clock()
        self.ports = ports
        self.state = DomainState()
        self.pages: PageTables
        """Set by the domain builder, as are the next two."""
        self.m2p = 0
        """Machine address of the machine-to-physical table."""
        self.private_l1 = 0
        """Machine address of the page table that maps GDT, LDT and TSS."""
        self.tss = 0
        """Machine address of the TSS, of which the guest chooses SS1:ESP1."""
        self.console = bytearray()
        self.hypercalls: dict[str, int] = {}
        self.id = 1


class Vcpu:
    """A virtual CPU on a CPU. `policy` is POLICY_XEN or POLICY_FULL."""

    def __init__(self, domain: Domain, cpu: Cpu, *, policy: str = POLICY_XEN, audit: bool = False,
                 decoder: Decoder | None = None) -> None:
        self.domain, self.cpu = domain, cpu
        self.regs, self.ram, self.linear = cpu.regs, cpu.ram, cpu.linear
        self.state = VcpuState()
        self.full = policy == POLICY_FULL
        self.audit = audit
        self.decoder = decoder or Decoder()
        self.seen = Seen()
        self.listening = False
        """Whether anyone wants notes: nothing is formatted otherwise."""
        self.findings: dict[int, AuditFinding] = {}
        self.reload = False
        """Descriptors changed: segment registers are loaded again before the guest goes on."""
        self.rows: Sequence[Any] = ()
        """Hypercalls by number (pv.hypercalls.Row); set by the domain builder."""
        self.emulators: dict[int, Callable[..., Any]] = {}
        """Emulation functions of the user's own, by opcode."""
        self.in_multicall = False
        self.work = 0
        """What the present hypercall has done, in items (pv.continuation)."""
        self.shadow_next = False
        """The next instruction is in the shadow of an STI: no event before it is done."""
        self.shared = 0
        """Machine address of shared_info."""

    def note(self, text: str) -> None:
        """Say something of the present exit. Call only when `listening`."""
        self.seen.notes.append(text)

    @property
    def kernel_mode(self) -> bool:
        """Whether the guest is in its kernel (ring 1)."""
        return self.regs.cpl == 1

    @property
    def mask(self) -> int:
        """evtchn_upcall_mask: the inverse of the virtual IF."""
        return self.ram.buffer[self.shared + xen.VCPU_INFO_MASK]

    @mask.setter
    def mask(self, value: int) -> None:
        self.ram.buffer[self.shared + xen.VCPU_INFO_MASK] = value

    @property
    def attention(self) -> bool:
        """Whether anything may have to be done before the guest goes on, timers not counted."""
        return self.reload or self.shadow_next or self.state.blocked or self.ram.buffer[self.shared] != 0

    @property
    def upcall_due(self) -> bool:
        """Whether an event is pending and may be delivered."""
        buffer, at = self.ram.buffer, self.shared
        return buffer[at] != 0 and buffer[at + 1] == 0
