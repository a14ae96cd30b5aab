"""Debug registers of a guest (arch/x86/traps.c, set_debugreg)."""

from __future__ import annotations

import pytest

from harness.abi.xen import Errno, Hypercall
from tests.pv.stage import Stage

EPERM, EINVAL = -Errno.EPERM, -Errno.EINVAL


@pytest.mark.parametrize(("register", "value", "kept"), [
    *((n, v, v) for n in range(4) for v in (0, 0x1234, 0xFBFFFFFF)),
    (6, 0, 0xFFFF0FF0), (6, 0xFFFFFFFF, 0xFFFFEFFF), (6, 0x1000, 0xFFFF0FF0), (6, 0xE00F, 0xFFFFEFFF),
    (7, 0, 0), (7, 1, 0x401), (7, 0xD800, 0x400), (7, 0x000D00FF, 0x000D04FF), (7, 0xFFFF0000, 0xFFFF0400)])
def test_set(stage: Stage, register: int, value: int, kept: int) -> None:
    assert stage.call(Hypercall.set_debugreg, register, value) == 0
    assert stage.state.debug[register] == kept
    assert stage.call(Hypercall.get_debugreg, register) & 0xFFFFFFFF == kept
    assert stage.regs.debug(register) == (0x400 if register == 7 and not kept else kept)


@pytest.mark.parametrize(("register", "value", "error"), [
    *((n, v, EPERM) for n in range(4) for v in (0xFC000000, 0xFFFFFFFF)),
    (4, 0, EINVAL), (5, 0, EINVAL), (8, 0, EINVAL), (0xFFFFFFFF, 0, EINVAL), (7, 1 << 13, EPERM),
    *((7, 2 << shift, EPERM) for shift in range(16, 32, 2))])
def test_set_refuses(stage: Stage, register: int, value: int, error: int) -> None:
    before = list(stage.state.debug), list(stage.regs.debug_registers)
    assert stage.call(Hypercall.set_debugreg, register, value) == error
    assert (stage.state.debug, stage.regs.debug_registers) == before


@pytest.mark.parametrize("register", [8, 9, 0xFFFFFFFF])
def test_get_refuses(stage: Stage, register: int) -> None:
    assert stage.call(Hypercall.get_debugreg, register) == EINVAL


@pytest.mark.parametrize("value", [0, 1, 3])
def test_the_other_kinds_of_breakpoint_are_allowed(stage: Stage, value: int) -> None:
    """Execution, writes, reads and writes; lengths of one, two and four bytes."""
    for shift in range(16, 32, 2):
        assert stage.call(Hypercall.set_debugreg, 7, value << shift) == 0
