"""The domain builder: what a new kernel finds (tools/libxc/xc_linux_build.c, arch/x86/domain.c)."""

from __future__ import annotations

import struct

import pytest

from harness.abi import xen
from harness.abi.x86 import (
    CR0_TS,
    DESC_A,
    PAGE_SIZE,
    PTE_A,
    PTE_D,
    PTE_P,
    PTE_RW,
    PTE_US,
    Gpr,
    Seg,
    descriptor_dpl,
    descriptor_limit,
)
from harness.code.decoder import Decoder
from harness.domain.cpu import PlainCpu, PlainFrames
from harness.domain.image import Image, Segment, XenNotes
from harness.domain.registers import PlainRegisters
from harness.pv import boot, hypercall_page
from harness.pv.pages import PageType
from harness.pv.state import Callback, Domain, Trap, Vcpu

MIB = 1 << 20
KERNEL = 0x100000
HIGH = 0xC0000000


class Built:
    """A domain just built, and its first look around."""

    def __init__(self, image: Image | None = None, memory: int = 4 * MIB, cmdline: str = "",
                 modules: tuple[bytes, ...] = ()) -> None:
        self.image = image or kernel()
        self.frames = boot.divide(memory)
        self.regs = PlainRegisters(gpr=[0xDEAD] * 8)
        self.cpu = PlainCpu(self.regs, self.frames.total * PAGE_SIZE)
        self.domain = Domain("built")
        self.vcpu = Vcpu(self.domain, self.cpu, decoder=DECODER)
        boot.build(self.vcpu, self.image, self.frames, cmdline, modules)

    def read(self, linear: int, size: int) -> bytes:
        return self.vcpu.linear.read(linear, size)

    def u32(self, linear: int) -> int:
        return self.vcpu.linear.u32(linear)

    @property
    def start_info(self) -> int:
        return self.regs.gpr[Gpr.ESI]

    def info(self, offset: int) -> int:
        return self.u32(self.start_info + offset)

    def shared(self, offset: int, size: int) -> bytes:
        return self.cpu.ram.read(self.info(0x24) + offset, size)

    def entry(self, linear: int) -> int:
        return self.vcpu.linear.entry(linear)[0]

    def directory(self, slot: int) -> int:
        return self.cpu.ram.u32(self.regs.cr3 + 4 * slot)

    def frame(self, linear: int) -> int:
        return self.entry(linear) >> 12


DECODER = Decoder()


def kernel(at: int = KERNEL, size: int = 0x1800, notes: XenNotes | None = None, **details: object) -> Image:
    return Image((Segment(at, b"\x90" * 8 + b"kernel", size),), at + 8, xen=notes, **details)  # type: ignore[arg-type]


# -- Registers


@pytest.mark.parametrize(("segment", "selector"), [
    (Seg.CS, 0xE019), (Seg.SS, 0xE021), (Seg.DS, 0xE021), (Seg.ES, 0xE021), (Seg.FS, 0xE021), (Seg.GS, 0xE021)])
def test_segments_at_entry_are_flat_and_of_ring_1(segment: int, selector: int) -> None:
    cache = Built().regs.segment(segment)
    assert (cache.selector, cache.base, cache.limit) == (selector, 0, 0xFC3FFFFF)
    assert descriptor_dpl(cache.attributes) == 1


def test_registers_at_entry() -> None:
    built = Built()
    regs = built.regs
    assert (regs.eip, regs.eflags, regs.cpl) == (KERNEL + 8, 0x202, 1)
    assert [regs.gpr[n] for n in Gpr if n not in (Gpr.ESP, Gpr.ESI)] == [0] * 6
    assert regs.cr0 == 0x80050033 | CR0_TS, "PE MP NE ET WP AM PG; the FPU is not anybody's yet"
    assert regs.cr4 == 0x690
    assert built.vcpu.kernel_mode


def test_the_cpus_tables_are_xens() -> None:
    built = Built()
    regs = built.regs
    assert regs.gdtr() == (0xFE800000, 0xEFFF)
    assert regs.idtr()[1] == 0x7FF
    assert regs.ldtr().selector == 0
    assert (regs.tr().selector, regs.tr().attributes >> 8 & 0xF) == (0xE040, 9)
    tss = regs.tr().base
    assert struct.unpack("<II", built.read(tss + 12, 8)) == (regs.gpr[Gpr.ESP], 0xE021)
    assert struct.unpack("<H", built.read(tss + 102, 2)) == (0x8000,), "no I/O bitmap: every port faults"


@pytest.mark.parametrize(("selector", "dpl", "limit"), [
    (0xE019, 1, 0xFC3FFFFF), (0xE021, 1, 0xFC3FFFFF), (0xE02B, 3, 0xFC3FFFFF), (0xE033, 3, 0xFC3FFFFF)])
def test_the_guests_flat_segments_are_in_the_gdt(selector: int, dpl: int, limit: int) -> None:
    """Accessed already, else the CPU would write to a page that it may not write to. Xen's own are not there."""
    built = Built()
    low, high = struct.unpack("<II", built.read(xen.GDT_VIRT_START + (selector & ~7), 8))
    assert (descriptor_dpl(high), descriptor_limit(low, high), high & DESC_A) == (dpl, limit, DESC_A)
    assert (boot.flat(selector).selector, boot.flat(selector).limit) == (selector, limit)
    assert built.read(xen.GDT_VIRT_START + 0xE008, 16) == bytes(16)


def test_the_vcpus_state_is_that_of_a_new_one() -> None:
    built = Built()
    state = built.vcpu.state
    assert state.traps == [Trap(0, 0xE019, 0)] * 256
    assert (state.event, state.failsafe) == (Callback(0xE019, 0), Callback(0xE019, 0))
    assert (state.kernel_ss, state.kernel_sp) == (0xE021, built.regs.gpr[Gpr.ESP])
    assert (state.iopl, state.control[0]) == (0, 0)


# -- start_info and shared_info


@pytest.mark.parametrize("memory", [1 * MIB + 0x100000, 4 * MIB, 8 * MIB + 0x3000])
def test_memory_follows_the_builders_order(memory: int) -> None:
    """Kernel, module, p2m list, start_info, store, console, page tables, stack: each on a page of its own."""
    built = Built(memory=memory, modules=(b"a" * 0x1001,))
    pages = memory // PAGE_SIZE
    tables = 1 + -(-pages // 1024)
    at = KERNEL + 0x2000
    assert (built.info(0x48), built.info(0x4C)) == (at, 0x1001)
    at += 0x2000
    assert built.info(0x44) == at
    at += -(-4 * pages // PAGE_SIZE) * PAGE_SIZE
    assert built.start_info == at
    assert built.info(0x2C) == built.frame(at + 0x1000)
    assert built.info(0x34) == built.frame(at + 0x2000)
    assert (built.info(0x3C), built.info(0x40)) == (at + 0x3000, tables)
    assert built.regs.gpr[Gpr.ESP] == at + 0x3000 + (tables + 1) * PAGE_SIZE
    assert built.info(0x20) == pages
    assert built.frame(built.info(0x3C)) << 12 == built.regs.cr3


def test_the_rest_of_start_info() -> None:
    built = Built(cmdline="debug=1 root=/dev/null")
    assert built.read(built.start_info, 0x20) == b"xen-3.0-x86_32".ljust(0x20, b"\0")
    assert built.info(0x28) == 0, "neither privileged nor the first domain"
    assert (built.info(0x30), built.info(0x38)) == (0, 0), "nobody serves store and console"
    assert (built.info(0x48), built.info(0x4C)) == (0, 0), "no module"
    assert built.read(built.start_info + 0x50, 1024) == b"debug=1 root=/dev/null".ljust(1024, b"\0")
    assert built.read(built.start_info + 0x450, 16) == bytes(16)


@pytest.mark.parametrize("length", [1022, 1023, 1024, 5000])
def test_a_command_line_ends_with_a_zero(length: int) -> None:
    built = Built(cmdline="x" * length)
    assert built.read(built.start_info + 0x50, 1024) == (b"x" * min(length, 1023)).ljust(1024, b"\0")


@pytest.mark.parametrize("modules", [(b"one",), (b"one", b"two"), (b"x" * 0x2FFF, b"y" * 3)])
def test_modules_lie_one_after_the_other(modules: tuple[bytes, ...]) -> None:
    built = Built(modules=modules)
    whole = b"".join(modules)
    assert built.info(0x4C) == len(whole)
    assert built.read(built.info(0x48), len(whole)) == whole


def test_shared_info_of_a_new_domain() -> None:
    """Events masked for every vCPU there might be; a stable time in which a cycle is a nanosecond."""
    built = Built()
    for n in range(32):
        assert built.shared(0x40 * n, 8) == b"\0\1" + bytes(6)
    version, stamp, system, multiplier, shift = struct.unpack("<I4xQQIb", built.shared(0x20, 0x1D))
    assert version % 2 == 0
    for tsc in (built.domain.clock.now, stamp, stamp + 10**9):
        assert system + ((tsc - stamp << shift) * multiplier >> 32) == tsc
    assert built.shared(0x800, 0x100) == bytes(0x100)
    version, seconds, nanoseconds = struct.unpack("<III", built.shared(0x900, 12))
    assert (version % 2, seconds, nanoseconds) == (0, 1_133_740_800, 0)


def test_shared_info_is_the_domains_but_can_be_no_table() -> None:
    built = Built()
    frame = built.info(0x24) >> 12
    pages = built.domain.pages
    assert pages.owns(frame)
    built.cpu.ram.write(frame << 12, bytes(PAGE_SIZE))
    assert not pages.get_type(frame, PageType.L1)


# -- Memory


@pytest.mark.parametrize("virt_base", [0, HIGH, 0x400000])
def test_all_memory_is_mapped_from_the_virtual_base_on(virt_base: int) -> None:
    """L1 entries P, RW, A, tables without RW; nothing is open to ring 3."""
    memory = 5 * MIB
    built = Built(kernel(virt_base + KERNEL, notes=XenNotes(virt_base=virt_base)), memory)
    first = built.info(0x3C)
    tables = range(first, first + built.info(0x40) * PAGE_SIZE)
    for linear in range(virt_base, virt_base + memory, PAGE_SIZE):
        rw = 0 if linear in tables else PTE_RW
        assert built.entry(linear) & 0xFFF & ~PTE_D == PTE_P | PTE_A | rw
        assert built.frame(linear) == built.u32(built.info(0x44) + (linear - virt_base) // PAGE_SIZE * 4)
    assert built.entry(virt_base + memory) == 0
    slot = virt_base >> 22
    assert [built.directory(slot + n) & 0xFFF for n in (0, 1)] == [PTE_P | PTE_RW | PTE_A | PTE_D | PTE_US] * 2
    present = [n for n in range(1024) if built.directory(n) & PTE_P and n < xen.HYPERVISOR_VIRT_START >> 22]
    assert present == [slot, slot + 1]


def test_the_two_frame_tables_are_each_others_inverse() -> None:
    built = Built()
    p2m = [built.u32(built.info(0x44) + 4 * pfn) for pfn in range(1024)]
    assert sorted(p2m) == list(range(built.frames.first, built.frames.total))
    assert [built.u32(xen.MACH2PHYS_VIRT_START + 4 * mfn) for mfn in p2m] == list(range(1024))
    assert not set(p2m) & set(range(1024)), "no pfn passes for an mfn"
    assert {built.u32(xen.MACH2PHYS_VIRT_START + 4 * mfn) for mfn in range(built.frames.first)} == {0xFFFFFFFF}


@pytest.mark.parametrize("linear", [xen.MACH2PHYS_VIRT_START, xen.GDT_VIRT_START + 0xE000, 0xFE800000 + 1023 * 4096])
def test_what_of_xen_is_mapped_cannot_be_written(linear: int) -> None:
    built = Built()
    assert built.entry(linear) & (PTE_P | PTE_RW | PTE_US) == PTE_P
    assert not built.directory(linear >> 22) & (PTE_RW | PTE_US)


def test_the_cpu_reaches_what_the_guest_may_see_and_no_more() -> None:
    built = Built()
    nested = built.cpu.nested
    assert isinstance(nested, PlainFrames)
    table = built.domain.m2p >> 12
    size = -(-4 * built.frames.total // PAGE_SIZE)
    read_only = {built.frame(xen.GDT_VIRT_START + 0xE000), built.domain.tss >> 12, *range(table, table + size)}
    # A page walk writes to the tables it goes through, the guest to shared_info.
    walked = {built.directory(linear >> 22) >> 12 for linear in (xen.MACH2PHYS_VIRT_START, xen.GDT_VIRT_START)}
    writable = walked | {built.info(0x24) >> 12} | set(range(built.frames.first, built.frames.total))
    assert nested.reachable == dict.fromkeys(read_only, False) | dict.fromkeys(writable, True)


def test_tables_have_their_types_and_are_held() -> None:
    built = Built()
    pages, first = built.domain.pages, built.info(0x3C)
    types = [pages.type[built.frame(first + n * PAGE_SIZE)] for n in range(built.info(0x40))]
    assert types == [PageType.L2, PageType.L1]
    assert built.vcpu.state.guest_table == built.frame(first)
    assert pages.unpin(built.frame(first)), "pinned"
    assert pages.type[built.frame(first)] == PageType.L2, "and in use"


# -- The kernel's own bytes


def test_segments_are_loaded_with_their_zeros() -> None:
    built = Built(Image((Segment(KERNEL + 0xFFD, b"across", 0x20), Segment(KERNEL, b"entry", 5)), KERNEL))
    assert built.read(KERNEL, 6) == b"entry\0"
    assert built.read(KERNEL + 0xFFD, 0x20) == b"across".ljust(0x20, b"\0")
    assert built.start_info > KERNEL + 0x1000 + 0x1D


@pytest.mark.parametrize("image", [
    kernel(size=0x3000, symbols={"hypercall_page": KERNEL + 0x1000}),
    kernel(HIGH + KERNEL, 0x3000, XenNotes(virt_base=HIGH, hypercall_page=HIGH + KERNEL + 0x1000))])
def test_the_hypercall_page_is_where_the_kernel_wants_it(image: Image) -> None:
    assert Built(image).read(image.start + 0x1000, PAGE_SIZE) == hypercall_page.contents()


@pytest.mark.parametrize("image", [kernel(size=0x3000), kernel(KERNEL, 0x3000, XenNotes(),
                                                              symbols={"hypercall_page": KERNEL + 0x1000})])
def test_no_hypercall_page_for_who_does_not_ask(image: Image) -> None:
    """An ELF asks by its note: a symbol is its own affair."""
    assert Built(image).read(KERNEL + 0x1000, PAGE_SIZE) == bytes(PAGE_SIZE)


@pytest.mark.parametrize(("virt_base", "page"), [
    (0, KERNEL + 4), (0, 4 * MIB), (HIGH, HIGH - PAGE_SIZE), (HIGH, HIGH + 4 * MIB), (HIGH, 0)])
def test_a_hypercall_page_elsewhere(virt_base: int, page: int) -> None:
    with pytest.raises(boot.BootError, match="hypercall_page"):
        Built(kernel(virt_base + KERNEL, notes=XenNotes(virt_base=virt_base, hypercall_page=page)))


# -- What does not fit


@pytest.mark.parametrize(("size", "fits"), [(1024 - 256 - 7, True), (1024 - 256 - 6, False), (4096, False)])
def test_a_kernel_needs_room_for_what_the_builder_adds(size: int, fits: bool) -> None:
    """Of 1024 pages: 256 below it; p2m, start_info, store, console, two tables, and a stack."""
    image = kernel(size=size * PAGE_SIZE)
    if fits:
        assert Built(image).regs.gpr[Gpr.ESP] == 4 * MIB
    else:
        with pytest.raises(boot.BootError, match="do not fit"):
            Built(image)


@pytest.mark.parametrize(("image", "memory", "message"), [
    (kernel(HIGH + 0x1000, notes=XenNotes(virt_base=HIGH + 0x1000)), 4 * MIB, "multiple of 4 MiB"),
    (kernel(0xFBC00000, notes=XenNotes(virt_base=0xFBC00000)), 4 * MIB + PAGE_SIZE, "reaches into Xen"),
    (Image((Segment(HIGH, b"a", 1), Segment(HIGH - 1, b"b", 1)), HIGH, xen=XenNotes(virt_base=HIGH)), 4 * MIB,
     "below"),
    (kernel(), 4 * PAGE_SIZE, "do not fit")])
def test_what_cannot_be_built(image: Image, memory: int, message: str) -> None:
    with pytest.raises(boot.BootError, match=message):
        Built(image, memory)


def test_memory_may_end_where_xen_begins() -> None:
    built = Built(kernel(0xFBC00000, notes=XenNotes(virt_base=0xFBC00000)))
    assert built.entry(0xFBFFF000) & PTE_P


@pytest.mark.parametrize("memory", [1 * MIB, 4 * MIB, 64 * MIB, 256 * MIB])
def test_machine_memory_is_divided_so_that_no_number_means_two_things(memory: int) -> None:
    """Frames of the domain lie above every pfn and above Xen's own, among them the table of all frames."""
    frames = boot.divide(memory)
    assert frames.pages == memory >> 12
    assert frames.total == frames.first + frames.pages
    assert frames.first >= max(frames.pages, 6 + -(-4 * frames.total // PAGE_SIZE))
    assert [frames.mfn(pfn) for pfn in (0, frames.pages - 1)] == [frames.total - 1, frames.first]
