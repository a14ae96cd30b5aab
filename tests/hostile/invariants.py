"""What must hold of a domain after anything that its guest did: the rules that keep it inside its memory."""

from __future__ import annotations

import struct

from harness.abi.x86 import DESC_P, DESC_S, PTE_P, PTE_RW
from harness.pv.pages import XEN_L2_SLOT, PageType
from harness.pv.state import Vcpu


def _entries(vcpu: Vcpu, mfn: int, number: int = 1024) -> tuple[int, ...]:
    return struct.unpack("<1024I", vcpu.ram.read(mfn << 12, 4096))[:number]


def broken(vcpu: Vcpu) -> list[str]:
    """One line for each rule that does not hold."""
    pages, wrong = vcpu.domain.pages, []
    for mfn in range(len(pages.owned)):
        kind = PageType(pages.type[mfn])
        if not pages.count[mfn]:
            continue
        if pages.count[mfn] < 0 or pages.mapped[mfn] < 0:
            wrong.append(f"frame {mfn:#x}: negative count")
        if kind == PageType.L1:
            wrong += _l1(vcpu, mfn)
        elif kind == PageType.L2:
            wrong += _l2(vcpu, mfn)
        elif kind in (PageType.GDT, PageType.LDT):
            wrong += _descriptors(vcpu, mfn)
    root = vcpu.state.guest_table
    if pages.type[root] != PageType.L2 or not pages.count[root] or vcpu.regs.cr3 != root << 12:
        wrong.append("the page directory in use is not held as one")
    if vcpu.regs.cpl not in (1, 3):
        wrong.append(f"the guest is in ring {vcpu.regs.cpl}")
    return wrong


def _l1(vcpu: Vcpu, mfn: int) -> list[str]:
    pages, wrong = vcpu.domain.pages, []
    for n, entry in enumerate(_entries(vcpu, mfn)):
        target = entry >> 12
        if not entry & PTE_P:
            continue
        if not pages.owns(target) and target not in vcpu.domain.state.free_frames:
            wrong.append(f"L1 {mfn:#x}[{n}] maps foreign frame {target:#x}")
        elif entry & PTE_RW and pages.type[target] != PageType.WRITABLE:
            wrong.append(f"L1 {mfn:#x}[{n}] maps {PageType(pages.type[target]).name} frame {target:#x} writable")
    return wrong


def _l2(vcpu: Vcpu, mfn: int) -> list[str]:
    pages, wrong = vcpu.domain.pages, []
    entries = _entries(vcpu, mfn)
    for n, entry in enumerate(entries[:XEN_L2_SLOT]):
        target = entry >> 12
        if entry & PTE_P:
            table = pages.owns(target) and pages.count[target] and pages.type[target] in (PageType.L1, PageType.L2)
            if not table:
                wrong.append(f"L2 {mfn:#x}[{n}] uses {target:#x}, which is no page table")
            elif pages.type[target] == PageType.L2 and entry & PTE_RW:
                wrong.append(f"L2 {mfn:#x}[{n}] maps a directory writable")
    if entries[XEN_L2_SLOT:] != pages.xen_slots:
        wrong.append(f"L2 {mfn:#x}: Xen's slots are not Xen's")
    return wrong


def _descriptors(vcpu: Vcpu, mfn: int) -> list[str]:
    words, wrong = _entries(vcpu, mfn), []
    for n in range(0, 1024, 2):
        high = words[n + 1]
        if high & DESC_P and high >> 13 & 3 == 0:
            wrong.append(f"descriptor page {mfn:#x}[{n // 2}] has DPL 0")
        if high & DESC_P and not high & DESC_S and high >> 8 & 0xF != 12:
            wrong.append(f"descriptor page {mfn:#x}[{n // 2}] is a system segment")
    return wrong


