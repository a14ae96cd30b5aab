"""Every hypercall with random arguments, a thousand seeds each: an error, a result or the guest's own end.

On the policy alone, without a CPU: it is the same code, and a thousand seeds of each take seconds.
"""

from __future__ import annotations

import random
import struct

import pytest

from harness.abi import xen
from harness.abi.x86 import Gpr
from harness.domain.cpu import PlainCpu
from harness.domain.image import Image, Segment
from harness.domain.memory import PageFaultError
from harness.domain.outcome import Block, Crash, Resume, Shutdown
from harness.domain.registers import PlainRegisters
from harness.pv import boot
from harness.pv.hypercalls import hypercall
from harness.pv.state import Domain, Vcpu

from .invariants import broken

MEMORY = 512 << 10
SCRATCH = 0x10000
SEEDS = 1000
CHECKED_EACH = 25
NUMBERS = [*range(xen.NR_HYPERCALLS), 64, 0x7FFFFFFF, 0xFFFFFFFF]


def new_vcpu() -> Vcpu:
    frames = boot.divide(MEMORY)
    vcpu = Vcpu(Domain("hostile"), PlainCpu(PlainRegisters(), frames.total << 12))
    boot.build(vcpu, Image((Segment(0x4000, b"\xcd\x82", 2),), 0x4000), frames)
    return vcpu


def argument(dice: random.Random, vcpu: Vcpu) -> int:
    """Something that a guest in bad faith would pass: numbers that fit, pointers that nearly do, frames and entries."""
    mfn = dice.choice(vcpu.domain.state.p2m)
    entry = vcpu.linear.entry(dice.randrange(MEMORY))[1]
    return dice.choice((
        dice.randrange(16),
        dice.randrange(1 << 32),
        SCRATCH + dice.randrange(0x2000),
        SCRATCH + 4 * dice.randrange(1024),
        xen.HYPERVISOR_VIRT_START - dice.randrange(64),
        0xFFFFFFFF - dice.randrange(64),
        MEMORY - dice.randrange(64),
        max(mfn, 0),
        max(mfn, 0) << 12 | dice.randrange(4096),
        entry | dice.randrange(4),
        vcpu.state.guest_table,
        vcpu.state.guest_table << 12 | 4 * dice.randrange(1024),
        dice.randrange(8) << 12 | dice.randrange(256),
        xen.DOMID_SELF,
        xen.FLAT_RING1_CS,
    )) & 0xFFFFFFFF  # fmt: skip


def scribble(dice: random.Random, vcpu: Vcpu) -> None:
    """Fill the pages that pointers lead to with the same kind of numbers."""
    words = [argument(dice, vcpu) for _ in range(256)]
    for page in (SCRATCH, SCRATCH + 0x1000):
        vcpu.linear.write(page, struct.pack("<256I", *words))


@pytest.mark.parametrize("number", NUMBERS)
def test_random_arguments_end_in_a_result(number):
    vcpu = new_vcpu()
    for seed in range(SEEDS):
        dice = random.Random(seed << 8 | number & 0xFF)
        if seed % CHECKED_EACH == 0:
            assert not broken(vcpu), (number, seed)
        try:
            if seed % 8 == 0:
                scribble(dice, vcpu)
        except PageFaultError:
            vcpu = new_vcpu()  # the last call took the scratch pages away
            scribble(dice, vcpu)
        gpr = vcpu.regs.gpr
        gpr[Gpr.EAX] = number
        for register in (Gpr.EBX, Gpr.ECX, Gpr.EDX, Gpr.ESI, Gpr.EDI):
            gpr[register] = argument(dice, vcpu)
        outcome = hypercall(vcpu)
        assert isinstance(outcome, Resume | Block | Shutdown | Crash), (number, seed)
        assert 0 <= gpr[Gpr.EAX] <= 0xFFFFFFFF, (number, seed)
        if not isinstance(outcome, Resume) or vcpu.regs.cpl != 1:
            assert not broken(vcpu), (number, seed)
            vcpu = new_vcpu()
    assert not broken(vcpu), number
