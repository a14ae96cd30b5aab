"""Effective addresses and register numbers (SDM 2, section 2.1), and that ring 3 gains nothing by emulation."""

from __future__ import annotations

import pytest

from harness.abi.x86 import PFEC_P, PFEC_W, PTE_A, PTE_P, Gpr, Seg
from harness.domain.memory import PageFaultError
from harness.domain.registers import SegmentCache
from harness.pv import operands
from tests.pv.stage import DATA, NOWHERE, SPARE, Stage


@pytest.mark.parametrize(("code", "expected"), [
    ("0f0103", 0x1000),  # [ebx]
    ("0f014310", 0x1010),  # [ebx+0x10]
    ("0f0143f0", 0xFF0),  # [ebx-0x10]
    ("0f01048b", 0x1000 + 4 * 0x20),  # [ebx+ecx*4]
    ("0f01848b00000100", 0x11000 + 4 * 0x20),  # [ebx+ecx*4+0x10000]
    ("0f010544332211", 0x11223344),  # [0x11223344]
    ("0f0108", 0xFFFFFFFF),  # [eax]
    ("0f014001", 0),  # [eax+1]: an offset wraps at 4 GiB
    ("670f0107", 0x1000),  # [bx]
    ("670f0140ff", 0xF),  # [bx+si-1]: an offset of 16 bits wraps at 64 KiB
    ("640f0103", 0x51000),  # fs:[ebx]
    ("640f010500f0ffff", 0x4F000),  # fs:[0xfffff000]: base and offset wrap together
])
def test_linear_addresses(stage: Stage, code: str, expected: int) -> None:
    gpr = stage.regs.gpr
    gpr[Gpr.EAX], gpr[Gpr.EBX], gpr[Gpr.ECX], gpr[Gpr.ESI] = 0xFFFFFFFF, 0x1000, 0x20, 0xF010
    stage.regs.load_segment(Seg.FS, SegmentCache(0, 0x50000, 0xFFFFFFFF, 0xCFB300))
    memory = stage.decode(code).memory
    assert memory is not None
    assert operands.linear_address(stage.vcpu, memory) == expected


@pytest.mark.parametrize(("number", "size", "expected"), [
    (Gpr.EAX, 4, 0x11223344), (Gpr.EAX, 2, 0x3344), (Gpr.EAX, 1, 0x44), (4, 1, 0x33),
    (Gpr.EBX, 4, 0xAABBCCDD), (7, 1, 0xCC), (Gpr.ESP, 2, 0x0000)])
def test_reading_registers(stage: Stage, number: int, size: int, expected: int) -> None:
    stage.regs.gpr[Gpr.EAX], stage.regs.gpr[Gpr.EBX] = 0x11223344, 0xAABBCCDD
    assert operands.read_register(stage.vcpu, number, size) == expected


@pytest.mark.parametrize(("number", "size", "register", "expected"), [
    (Gpr.EAX, 4, Gpr.EAX, 0xFEDCBA98), (Gpr.EAX, 2, Gpr.EAX, 0x1122BA98), (Gpr.EAX, 1, Gpr.EAX, 0x11223398),
    (4, 1, Gpr.EAX, 0x11229844)])
def test_writing_registers(stage: Stage, number: int, size: int, register: Gpr, expected: int) -> None:
    stage.regs.gpr[Gpr.EAX] = 0x11223344
    operands.write_register(stage.vcpu, number, 0xFEDCBA98, size)
    assert stage.regs.gpr[register] == expected


def test_rm_is_a_register_or_memory(stage: Stage) -> None:
    gpr = stage.regs.gpr
    gpr[Gpr.EBX] = DATA
    memory, register = stage.decode("0f0103"), stage.decode("0f01e2")  # [ebx], edx
    operands.write_rm(stage.vcpu, memory, 0x12345678, 2)
    operands.write_rm(stage.vcpu, register, 0x12345678, 4)
    assert stage.get(DATA, 4) == b"\x78\x56\0\0"
    assert gpr[Gpr.EDX] == 0x12345678
    assert operands.read_rm(stage.vcpu, memory, 4) == 0x5678
    assert operands.read_rm(stage.vcpu, register, 2) == 0x5678


def test_ring_3_reaches_its_own_pages(stage: Stage) -> None:
    stage.open_to_user(SPARE)
    stage.open_to_user(SPARE + 0x1000)
    stage.enter(3)
    operands.store(stage.vcpu, SPARE + 0xFFE, b"abcd")
    assert operands.load(stage.vcpu, SPARE + 0xFFE, 4) == b"abcd"


@pytest.mark.parametrize(("where", "address"), [
    (DATA, DATA), (SPARE + 0x1000, SPARE + 0x1000), (SPARE + 0xFFE, SPARE + 0x1000)])
def test_ring_3_does_not_reach_its_kernels(stage: Stage, where: int, address: int) -> None:
    stage.open_to_user(SPARE)
    stage.enter(3)
    with pytest.raises(PageFaultError) as read:
        operands.load(stage.vcpu, where, 4)
    with pytest.raises(PageFaultError) as written:
        operands.store(stage.vcpu, where, b"abcd")
    assert (read.value.address, read.value.error_code) == (address, PFEC_P)
    assert (written.value.address, written.value.error_code) == (address, PFEC_P | PFEC_W)


def test_ring_3_does_not_write_what_it_may_read(stage: Stage) -> None:
    stage.open_to_user(SPARE, writable=False)
    stage.enter(3)
    assert operands.load(stage.vcpu, SPARE, 1) == b"\0"
    with pytest.raises(PageFaultError) as caught:
        operands.store(stage.vcpu, SPARE, b"a")
    assert caught.value.error_code == PFEC_P | PFEC_W


def test_what_is_not_there_is_not_there_for_ring_3_either(stage: Stage) -> None:
    stage.enter(3)
    with pytest.raises(PageFaultError) as caught:
        operands.load(stage.vcpu, NOWHERE, 1)
    assert caught.value.error_code == 0


def test_ring_1_needs_no_user_bit(stage: Stage) -> None:
    assert stage.vcpu.linear.entry(DATA)[0] & 0xFFF & ~PTE_A & ~2 == PTE_P
    operands.store(stage.vcpu, DATA, b"a")
