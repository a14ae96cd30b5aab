"""The domain builder: RAM, page tables, start_info and registers as Xen 3.0 leaves them to a new kernel.

Order in memory as tools/libxc/xc_linux_build.c has it: kernel, module, p2m list, start_info, store page, console page,
page tables, stack. The kernel finds everything through start_info; ESI holds its linear address.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from harness.abi import xen
from harness.abi.x86 import (
    CR0_TS,
    DESC_A,
    PAGE_SHIFT,
    PAGE_SIZE,
    PTE_A,
    PTE_D,
    PTE_P,
    PTE_RW,
    PTE_US,
    TSS_IO_MAP_BASE,
    TSS_SIZE,
    Gpr,
    Seg,
)
from harness.domain.clock import WALLCLOCK_AT_BOOT_S
from harness.domain.image import Image
from harness.domain.registers import SegmentCache, from_descriptor
from harness.pv import hypercall_page
from harness.pv.hypercalls import ROWS
from harness.pv.pages import XEN_L2_SLOT, PageTables, PageType
from harness.pv.state import Vcpu
from harness.pv.time_record import update_time

REAL_CR0, REAL_CR4 = 0x80050033, 0x690
"""PE MP NE ET WP AM PG; PSE PGE OSFXSR OSXMMEXCPT: what Xen runs with, and SMSW shows."""
GDT_LIMIT = 0xEFFF
IDT_BASE, IDT_LIMIT = 0xFF1C0000, 0x7FF
"""Where SIDT says that Xen's IDT is: inside Xen's image, and nothing there is mapped."""
TSS_LINEAR = xen.PERDOMAIN_VIRT_START + 1023 * PAGE_SIZE

# Machine frames that Xen keeps; the domain's begin far above, so that no pfn is ever a good mfn.
_GDT, _TSS, _PRIVATE_L1, _M2P_L1, _SHARED, _M2P = 1, 2, 3, 4, 5, 6
_L1_FLAGS = PTE_P | PTE_RW | PTE_A
_L2_FLAGS = PTE_P | PTE_RW | PTE_A | PTE_D | PTE_US
_XEN_L1 = PTE_P | PTE_A
_GDT_PAGE_OFFSET = xen.FIRST_RESERVED_GDT_PAGE * PAGE_SIZE


class BootError(Exception):
    """A guest that cannot be placed in its memory. The message is for the user."""


@dataclass(frozen=True, slots=True)
class Frames:
    """How machine memory is divided for a domain of `pages` pages: the domain's first frame, and all there are."""

    pages: int
    first: int
    total: int

    def mfn(self, pfn: int) -> int:
        """Machine frame of a pseudo-physical one. They run the other way round."""
        return self.first + self.pages - 1 - pfn


def divide(memory: int) -> Frames:
    """Frames for a domain of `memory` bytes."""
    pages = memory >> PAGE_SHIFT
    table = (2 * pages + 1024) * 4 // PAGE_SIZE + 1
    first = max(pages, _M2P + table)
    return Frames(pages, first, first + pages)


@dataclass(frozen=True, slots=True)
class Layout:
    """Pseudo-physical page numbers of what the builder adds, and the linear address that pfn 0 has."""

    virt_base: int
    module: int
    p2m: int
    start_info: int
    store: int
    console: int
    tables: int
    table_count: int
    stack: int


def lay_out(image: Image, pages: int, module: bytes) -> Layout:
    """Where everything goes. Raises BootError if it does not fit."""
    virt_base = image.xen.virt_base if image.xen else 0
    at = -(-(image.end - virt_base) // PAGE_SIZE)
    sizes = (len(module), 4 * pages, PAGE_SIZE, PAGE_SIZE, PAGE_SIZE)
    places = []
    for size in sizes:
        places.append(at)
        at += -(-size // PAGE_SIZE)
    tables = 1 + -(-pages // 1024)
    module_at, p2m, start_info, store, console = places
    layout = Layout(virt_base, module_at, p2m, start_info, store, console, at, tables, at + tables)
    if virt_base & 0x3FFFFF:
        raise BootError(f"VIRT_BASE {virt_base:#x} is not a multiple of 4 MiB")
    if layout.stack >= pages:
        raise BootError(
            f"{image.end - image.start} bytes of kernel and its tables do not fit into {pages * 4} KiB of memory")
    if virt_base + (pages << PAGE_SHIFT) > xen.HYPERVISOR_VIRT_START:
        raise BootError(f"memory mapped from {virt_base:#x} reaches into Xen at {xen.HYPERVISOR_VIRT_START:#x}")
    return layout


def build(vcpu: Vcpu, image: Image, frames: Frames, cmdline: str = "", modules: Sequence[bytes] = ()) -> None:
    """Build the domain and put its vCPU at the kernel's entry. Raises BootError."""
    module = b"".join(modules)
    layout = lay_out(image, frames.pages, module)
    vcpu.rows = ROWS
    _xen_frames(vcpu, frames)
    _load(vcpu, image, frames, layout.virt_base)
    _domain_pages(vcpu, frames, layout, module, cmdline)
    _page_tables(vcpu, frames, layout)
    _shared_info(vcpu)
    _registers(vcpu, image, layout)


def _xen_frames(vcpu: Vcpu, frames: Frames) -> None:
    ram, domain, nested = vcpu.ram, vcpu.domain, vcpu.cpu.nested
    domain.pages = pages = PageTables(ram, vcpu.cpu.flush_tlb)
    state = domain.state
    state.p2m = [frames.mfn(pfn) for pfn in range(frames.pages)]
    state.allocated = state.max_pages = frames.pages
    state.shared_info = _SHARED
    vcpu.shared = _SHARED << PAGE_SHIFT
    domain.m2p, domain.private_l1 = _M2P << PAGE_SHIFT, _PRIVATE_L1 << PAGE_SHIFT
    domain.tss = _TSS << PAGE_SHIFT
    pages.owned[frames.first : frames.total] = b"\1" * frames.pages
    pages.owned[_SHARED] = 1
    # Xen writes here without asking, and what a guest chooses among it (CR2): it can never become a page table.
    pages.get_type(_SHARED, PageType.WRITABLE)

    gdt = bytearray(PAGE_SIZE)
    for selector, descriptor in xen.FLAT_DESCRIPTORS:
        if descriptor >> 45 & 3:
            # Accessed already: the CPU would write the bit through a read-only mapping.
            struct.pack_into("<Q", gdt, (selector & ~7) - _GDT_PAGE_OFFSET, descriptor | DESC_A << 32)
    ram.write(_GDT << PAGE_SHIFT, bytes(gdt))
    ram.write(domain.tss + TSS_IO_MAP_BASE, (0x8000).to_bytes(2, "little"))
    ram.set_u32(domain.private_l1 + 4 * xen.FIRST_RESERVED_GDT_PAGE, _GDT << PAGE_SHIFT | _XEN_L1)
    ram.set_u32(domain.private_l1 + 4 * 1023, _TSS << PAGE_SHIFT | _XEN_L1)

    m2p = [0xFFFFFFFF] * frames.total
    for pfn, mfn in enumerate(state.p2m):
        m2p[mfn] = pfn
    ram.write(domain.m2p, struct.pack(f"<{len(m2p)}I", *m2p))
    count = -(-4 * len(m2p) // PAGE_SIZE)
    entries = (n << PAGE_SHIFT | _XEN_L1 for n in range(_M2P, _M2P + count))
    ram.write(_M2P_L1 << PAGE_SHIFT, struct.pack(f"<{count}I", *entries))
    slots = [0] * (1024 - XEN_L2_SLOT)
    slots[(xen.MACH2PHYS_VIRT_START >> 22) - XEN_L2_SLOT] = _M2P_L1 << PAGE_SHIFT | _XEN_L1
    slots[(xen.PERDOMAIN_VIRT_START >> 22) - XEN_L2_SLOT] = _PRIVATE_L1 << PAGE_SHIFT | _XEN_L1
    pages.xen_slots = tuple(slots)

    nested.grant(_GDT, 2, writable=False)
    # A page walk asks for write permission on the tables that it reads.
    nested.grant(_PRIVATE_L1, 2)
    nested.grant(_SHARED)
    nested.grant(_M2P, count, writable=False)
    nested.grant(frames.first, frames.pages)


def _put(vcpu: Vcpu, frames: Frames, physical: int, data: bytes) -> None:
    """Store bytes at a pseudo-physical address."""
    done = 0
    while done < len(data):
        at = physical + done
        part = data[done : done + PAGE_SIZE - (at & 0xFFF)]
        vcpu.ram.write(frames.mfn(at >> PAGE_SHIFT) << PAGE_SHIFT | at & 0xFFF, part)
        done += len(part)


def _load(vcpu: Vcpu, image: Image, frames: Frames, virt_base: int) -> None:
    for segment in image.segments:
        # None reaches too high: the layout has found room behind the last one.
        if segment.address < virt_base:
            raise BootError(f"a segment at {segment.address:#x} lies below VIRT_BASE {virt_base:#x}")
        _put(vcpu, frames, segment.address - virt_base, segment.data)
    page = image.xen.hypercall_page if image.xen else image.symbols.get("hypercall_page")
    if page is not None:
        if page & (PAGE_SIZE - 1) or not virt_base <= page < virt_base + (frames.pages << PAGE_SHIFT):
            raise BootError(f"hypercall_page at {page:#x} is not a page of the guest's memory")
        _put(vcpu, frames, page - virt_base, hypercall_page.contents())


def _domain_pages(vcpu: Vcpu, frames: Frames, layout: Layout, module: bytes, cmdline: str) -> None:
    def linear(pfn: int) -> int:
        return layout.virt_base + (pfn << PAGE_SHIFT)

    _put(vcpu, frames, layout.module << PAGE_SHIFT, module)
    _put(vcpu, frames, layout.p2m << PAGE_SHIFT, struct.pack(f"<{frames.pages}I", *vcpu.domain.state.p2m))
    info = bytearray(xen.START_INFO_SIZE)
    info[: len(xen.START_INFO_MAGIC)] = xen.START_INFO_MAGIC
    for offset, value in (
        (xen.START_INFO_NR_PAGES, frames.pages),
        (xen.START_INFO_SHARED_INFO, vcpu.shared),
        (xen.START_INFO_STORE_MFN, frames.mfn(layout.store)),
        (xen.START_INFO_CONSOLE_MFN, frames.mfn(layout.console)),
        (xen.START_INFO_PT_BASE, linear(layout.tables)),
        (xen.START_INFO_NR_PT_FRAMES, layout.table_count),
        (xen.START_INFO_MFN_LIST, linear(layout.p2m)),
        (xen.START_INFO_MOD_START, linear(layout.module) if module else 0),
        (xen.START_INFO_MOD_LEN, len(module)),
    ):
        struct.pack_into("<I", info, offset, value)
    line = cmdline.encode()[: xen.START_INFO_CMD_LINE_SIZE - 1]
    info[xen.START_INFO_CMD_LINE : xen.START_INFO_CMD_LINE + len(line)] = line
    _put(vcpu, frames, layout.start_info << PAGE_SHIFT, bytes(info))


def _page_tables(vcpu: Vcpu, frames: Frames, layout: Layout) -> None:
    """All RAM mapped from virt_base on; page tables themselves read-only. Then Xen checks them like any guest's."""
    first = layout.tables + 1
    last = layout.tables + layout.table_count
    directory = [0] * 1024
    for n in range(layout.table_count - 1):
        directory[(layout.virt_base >> 22) + n] = frames.mfn(first + n) << PAGE_SHIFT | _L2_FLAGS
        entries = [
            frames.mfn(pfn) << PAGE_SHIFT | (_L1_FLAGS & ~PTE_RW if layout.tables <= pfn < last else _L1_FLAGS)
            for pfn in range(n * 1024, min((n + 1) * 1024, frames.pages))
        ]
        entries += [0] * (1024 - len(entries))
        _put(vcpu, frames, (first + n) << PAGE_SHIFT, struct.pack("<1024I", *entries))
    root = frames.mfn(layout.tables)
    _put(vcpu, frames, layout.tables << PAGE_SHIFT, struct.pack("<1024I", *directory))
    pages = vcpu.domain.pages
    held = pages.pin(root, PageType.L2) and pages.get_type(root, PageType.L2)
    assert held, "the domain builder's own page tables were refused"
    vcpu.state.guest_table = root


def _shared_info(vcpu: Vcpu) -> None:
    ram, shared = vcpu.ram, vcpu.shared
    for n in range(xen.MAX_VIRT_CPUS):
        ram.write(shared + n * xen.VCPU_INFO_SIZE + xen.VCPU_INFO_MASK, b"\1")
    update_time(vcpu)
    ram.write(shared + xen.SHARED_INFO_WC_VERSION, struct.pack("<III", 2, WALLCLOCK_AT_BOOT_S, 0))


def flat(selector: int) -> SegmentCache:
    """The cache of one of Xen's flat selectors."""
    descriptor = dict(xen.FLAT_DESCRIPTORS)[selector] | DESC_A << 32
    return from_descriptor(selector, descriptor & 0xFFFFFFFF, descriptor >> 32)


def _registers(vcpu: Vcpu, image: Image, layout: Layout) -> None:
    regs, state = vcpu.regs, vcpu.state
    for n in range(8):
        regs.gpr[n] = 0
    regs.cr0, regs.cr4 = REAL_CR0 | CR0_TS, REAL_CR4
    regs.load_gdtr(xen.GDT_VIRT_START, GDT_LIMIT)
    regs.load_idtr(IDT_BASE, IDT_LIMIT)
    regs.load_tr(SegmentCache(xen.TSS_SELECTOR, TSS_LINEAR, TSS_SIZE - 1, 0x8900))
    regs.load_ldtr(SegmentCache())
    data = flat(xen.FLAT_RING1_DS)
    for seg in (Seg.DS, Seg.ES, Seg.FS, Seg.GS):
        regs.load_segment(seg, data)
    stack = layout.virt_base + (layout.stack + 1 << PAGE_SHIFT)
    regs.enter(flat(xen.FLAT_RING1_CS), image.entry, data, stack, 0x202)
    regs.gpr[Gpr.ESI] = layout.virt_base + (layout.start_info << PAGE_SHIFT)
    state.kernel_ss, state.kernel_sp = xen.FLAT_RING1_SS, stack
    vcpu.ram.write(vcpu.domain.tss + 12, stack.to_bytes(4, "little") + xen.FLAT_RING1_SS.to_bytes(4, "little"))
    vcpu.cpu.load_cr3(state.guest_table << PAGE_SHIFT)
