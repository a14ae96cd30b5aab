"""A domain on a CPU that executes nothing: what the policy's tests put their exits and their bytes on."""

from __future__ import annotations

import struct

from harness.abi import xen
from harness.abi.x86 import PAGE_SHIFT, PAGE_SIZE, PTE_A, PTE_P, PTE_RW, PTE_US, Gpr, Vector
from harness.abi.xen import Hypercall
from harness.code.decoder import Decoder, Instruction
from harness.domain.cpu import PlainCpu
from harness.domain.exits import Exit, Reason
from harness.domain.image import Image, Segment
from harness.domain.outcome import Inject, Outcome, Retire
from harness.domain.registers import PlainRegisters
from harness.pv import boot, bounce, traps
from harness.pv.state import POLICY_XEN, Domain, Ports, Vcpu

MEMORY = 1 << 20
CODE, DATA, HANDLER, STACK_TOP = 0x10000, 0x20000, 0x30000, 0x40000
"""Pages of the guest's for its code, its data, handlers that nobody executes, and the top of a stack."""
SPARE = 0x50000
"""Sixteen pages that nothing else uses."""
NOWHERE = 0x00800000
"""Below Xen, and not mapped."""
PAGE = PTE_P | PTE_A | PTE_RW

DECODER = Decoder()
"""One for all stages: capstone is asked once for each instruction."""


class Stage:
    """A built domain, its kernel in ring 1 about to execute what lies at CODE."""

    def __init__(self, policy: str = POLICY_XEN, *, audit: bool = False, ports: Ports | None = None) -> None:
        frames = boot.divide(MEMORY)
        self.frames = frames
        self.regs = PlainRegisters()
        self.cpu = PlainCpu(self.regs, frames.total << PAGE_SHIFT)
        self.domain = Domain("stage", ports=ports)
        self.vcpu = Vcpu(self.domain, self.cpu, policy=policy, audit=audit, decoder=DECODER)
        image = Image((Segment(CODE, bytes(16), SPARE + 16 * PAGE_SIZE - CODE),), CODE)
        boot.build(self.vcpu, image, frames)
        self.pages, self.state, self.ram = self.domain.pages, self.vcpu.state, self.vcpu.ram
        self.regs.gpr[Gpr.ESP] = STACK_TOP

    # -- Memory

    def mfn(self, linear: int) -> int:
        """Machine frame behind a linear address of the guest's."""
        return self.vcpu.linear.entry(linear)[0] >> PAGE_SHIFT

    def maddr(self, linear: int) -> int:
        """Machine address behind a linear address of the guest's."""
        return self.mfn(linear) << PAGE_SHIFT | linear & 0xFFF

    def entry_at(self, linear: int) -> int:
        """Machine address of the L1 entry that maps a linear address."""
        return self.vcpu.linear.entry(linear)[1]

    def put(self, linear: int, data: bytes) -> int:
        """Place bytes in the guest's memory, page tables or not; its address."""
        for n, byte in enumerate(data):
            self.ram.buffer[self.maddr(linear + n)] = byte
        return linear

    def words(self, linear: int, *values: int) -> int:
        """Place 32-bit words."""
        return self.put(linear, struct.pack(f"<{len(values)}I", *values))

    def get(self, linear: int, size: int) -> bytes:
        """Bytes of the guest's memory."""
        return bytes(self.ram.buffer[self.maddr(linear + n)] for n in range(size))

    def get_words(self, linear: int, count: int) -> tuple[int, ...]:
        """32-bit words of the guest's memory."""
        return struct.unpack(f"<{count}I", self.get(linear, 4 * count))

    def map(self, linear: int, entry: int) -> int:
        """update_va_mapping with a flush: what it returned."""
        return self.call(Hypercall.update_va_mapping, linear, entry, 0, xen.UVMF_INVLPG)

    def remap(self, linear: int, flags: int) -> int:
        """Map the same frame with other flags: what update_va_mapping returned."""
        return self.map(linear, self.mfn(linear) << PAGE_SHIFT | flags)

    def open_to_user(self, linear: int, *, writable: bool = True) -> None:
        """Let ring 3 reach a page."""
        assert self.remap(linear, PTE_P | PTE_A | PTE_US | (PTE_RW if writable else 0)) == 0

    def read_only(self, linear: int) -> int:
        """Make a page read-only, as tables must be; its frame."""
        assert self.remap(linear, PTE_P | PTE_A) == 0
        return self.mfn(linear)

    def info(self, offset: int) -> int:
        """A dword of shared_info."""
        return self.ram.u32(self.vcpu.shared + offset)

    # -- Exits

    def hypercall(self, number: int, *arguments: int) -> Outcome:
        """`int 0x82` with arguments in their registers. EIP and the registers stay as the call leaves them."""
        gpr = self.regs.gpr
        gpr[Gpr.EAX] = number
        for register, value in zip((Gpr.EBX, Gpr.ECX, Gpr.EDX, Gpr.ESI, Gpr.EDI), arguments, strict=False):
            gpr[register] = value
        return traps.handle(self.vcpu, Exit(Reason.SOFTWARE_INT, vector=xen.HYPERCALL_VECTOR, length=2))

    def call(self, number: int, *arguments: int) -> int:
        """What a hypercall that goes on at once returns, signed; continuations followed to their end."""
        assert self.regs.cpl == 1, "only the kernel can call"
        kept = list(self.regs.gpr), self.regs.eip
        self.hypercall(number, *arguments)
        result = self.go_on(kept[1])
        self.regs.gpr[:], self.regs.eip = kept
        return result

    def go_on(self, eip: int) -> int:
        """Make the call at EIP again until it is over: what it returned."""
        while self.regs.eip == eip:
            traps.handle(self.vcpu, Exit(Reason.SOFTWARE_INT, vector=xen.HYPERCALL_VECTOR, length=2))
        result = self.regs.gpr[Gpr.EAX]
        return result - (1 << 32) if result >> 31 else result

    def exit(self, reason: Reason, code: bytes = b"", **details: int | str) -> Outcome:
        """One exit with an instruction's bytes at EIP."""
        if code:
            self.put(self.regs.eip, code)
        return traps.handle(self.vcpu, Exit(reason, **details))  # type: ignore[arg-type]

    def fault(self, vector: int, error_code: int = 0, address: int = 0, code: bytes = b"") -> Outcome:
        """An exception that the CPU raised."""
        return self.exit(Reason.EXCEPTION, code, vector=vector, error_code=error_code, address=address)

    def gp(self, code: str) -> Outcome:
        """A privileged instruction, in hexadecimal, that faults; EIP moves past it as the loop would move it."""
        outcome = self.fault(Vector.GP, code=bytes.fromhex(code))
        if isinstance(outcome, Retire):
            instruction = self.vcpu.seen.instruction
            assert instruction is not None
            self.regs.eip += instruction.length
        return outcome

    def scanned(self, kind: str, code: str) -> Outcome:
        """A sensitive instruction, in hexadecimal, that the block scan found."""
        return self.exit(Reason.SCANNED, bytes.fromhex(code), kind=kind)

    def decode(self, code: str) -> Instruction:
        """An instruction at EIP."""
        found = DECODER.decode(self.regs.eip, bytes.fromhex(code).ljust(15, b"\x90"))
        assert found is not None
        return found

    def deliver(self, outcome: Outcome) -> object:
        """Bounce what a handler injected, as the loop does."""
        assert isinstance(outcome, Inject)
        return bounce.deliver_trap(self.vcpu, outcome)

    # -- Rings

    def handlers(self, *vectors: int, flags: int = 0, cs: int = xen.FLAT_RING1_CS) -> None:
        """Give vectors a handler: vector n at HANDLER + 16 n."""
        for vector in vectors:
            trap = self.state.traps[vector]
            trap.flags, trap.cs, trap.address = flags, cs, HANDLER + 16 * vector

    def enter(self, ring: int) -> None:
        """Go to another ring by Xen's flat selectors."""
        cs, ss = (
            (xen.FLAT_RING3_CS, xen.FLAT_RING3_SS) if ring == 3 else (xen.FLAT_RING1_CS, xen.FLAT_RING1_SS))
        regs = self.regs
        regs.enter(boot.flat(cs), regs.eip, boot.flat(ss), regs.gpr[Gpr.ESP], regs.eflags)

    def own_gdt(self, *descriptors: int) -> int:
        """Use a GDT with these descriptors from entry 1 on; the machine address of entry 0."""
        page = SPARE + 15 * PAGE_SIZE
        self.put(page, struct.pack(f"<{len(descriptors) + 1}Q", 0, *descriptors))
        frame = self.read_only(page)
        self.words(DATA + 0xF00, frame)
        assert self.call(Hypercall.set_gdt, DATA + 0xF00, 512) == 0
        self.vcpu.reload = False
        return frame << PAGE_SHIFT


def descriptor(base: int, limit: int, access: int, flags: int = 0xC) -> int:
    """A segment descriptor: `access` is its byte 5 (P, DPL, S, type), `flags` the upper half of byte 6."""
    low = base << 16 & 0xFFFF0000 | limit & 0xFFFF
    high = base & 0xFF000000 | flags << 20 | limit & 0xF0000 | access << 8 | base >> 16 & 0xFF
    return high << 32 | low
