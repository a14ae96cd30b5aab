"""Flags written between two runs, in place, are the guest's when it goes on.

The engine begins a run with the arithmetic flags and DF that stand in EFLAGS itself, whatever its lazy flags say
(observed on Unicorn 2.1.4; QEMU's x86_cpu_exec_enter).
"""

from __future__ import annotations

import pytest

from harness.abi.x86 import AF, CF, DF, EFLAGS_FIXED, OF, PF, SF, ZF, Seg
from harness.domain.registers import SegmentCache
from harness.machine import Machine

CODE, STACK = 0x1000, 0x8000


@pytest.mark.parametrize("flags", [0, CF, PF, AF, ZF, SF, OF, DF, CF | PF | AF | ZF | SF | OF | DF])
def test_flags_survive_the_beginning_of_a_run(flags):
    machine = Machine(1 << 16)
    try:
        machine.nested.grant(0, 16)
        machine.ram.write(CODE, b"\x9c\xcd\x81")  # pushfd; int 0x81
        data = SegmentCache(0x11, 0, 0xFFFFFFFF, 0x00C0B300)
        for seg in (Seg.DS, Seg.ES, Seg.FS, Seg.GS):
            machine.regs.load_segment(seg, data)
        code = SegmentCache(0x09, 0, 0xFFFFFFFF, 0x00C0BB00)
        machine.regs.enter(code, CODE, data, STACK, EFLAGS_FIXED | flags)
        machine.run(lambda _exit: bool(machine.stop()))
        assert machine.ram.u32(STACK - 4) == EFLAGS_FIXED | flags
        assert machine.regs.eflags == EFLAGS_FIXED | flags
        # And once more after a run, which leaves them elsewhere than an exit does.
        machine.regs.enter(code, CODE, data, STACK, EFLAGS_FIXED | flags ^ ZF)
        machine.run(lambda _exit: bool(machine.stop()))
        assert machine.ram.u32(STACK - 4) == EFLAGS_FIXED | flags ^ ZF
    finally:
        machine.close()
