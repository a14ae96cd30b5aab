"""Lazy FPU switching, state by state (arch/x86/traps.c, do_fpu_taskswitch; arch/x86/i387.c, math_state_restore)."""

from __future__ import annotations

import itertools

import pytest

from harness.abi.x86 import CR0_EM, CR0_TS, Vector
from harness.abi.xen import Hypercall
from harness.domain.outcome import RESUME, Inject
from harness.pv import fpu
from tests.pv.stage import Stage

STATES = list(itertools.product([False, True], repeat=3))


def put(stage: Stage, virtual: bool, real: bool, dirtied: bool) -> None:
    stage.state.control[0] = CR0_TS if virtual else 0
    stage.regs.cr0 = stage.regs.cr0 & ~CR0_TS | (CR0_TS if real else 0)
    stage.state.fpu_dirtied = dirtied


def get(stage: Stage) -> tuple[bool, bool, bool]:
    return stage.state.control[0] & CR0_TS != 0, stage.regs.cr0 & CR0_TS != 0, stage.state.fpu_dirtied


@pytest.mark.parametrize(("virtual", "real", "dirtied"), STATES)
@pytest.mark.parametrize("value", [1, 8, 0xFFFFFFFF])
def test_set(stage: Stage, virtual: bool, real: bool, dirtied: bool, value: int) -> None:
    put(stage, virtual, real, dirtied)
    assert stage.call(Hypercall.fpu_taskswitch, value) == 0
    assert get(stage) == (True, True, dirtied)


@pytest.mark.parametrize(("virtual", "real", "dirtied"), STATES)
def test_clear_reaches_the_real_flag_only_if_the_fpu_was_used(
        stage: Stage, virtual: bool, real: bool, dirtied: bool) -> None:
    put(stage, virtual, real, dirtied)
    assert stage.call(Hypercall.fpu_taskswitch, 0) == 0
    assert get(stage) == (False, real and not dirtied, dirtied)


@pytest.mark.parametrize(("virtual", "real", "dirtied"), STATES)
def test_a_use_gives_the_fpu_and_shows_the_fault_to_who_asked_for_it(
        stage: Stage, virtual: bool, real: bool, dirtied: bool) -> None:
    put(stage, virtual, real, dirtied)
    assert stage.fault(Vector.NM) == (Inject(Vector.NM) if virtual else RESUME)
    assert get(stage) == (False, False, True)


@pytest.mark.parametrize(("virtual", "real", "dirtied"), STATES)
def test_with_em_there_is_no_fpu_to_give(full: Stage, virtual: bool, real: bool, dirtied: bool) -> None:
    """Only the full policy lets a guest set it: an emulator in its kernel has the fault, and no flag moves."""
    put(full, virtual, real, dirtied)
    full.regs.cr0 |= CR0_EM
    assert full.fault(Vector.NM) == Inject(Vector.NM)
    assert get(full) == (virtual, real, dirtied)


def test_a_new_vcpu_has_not_used_it(stage: Stage) -> None:
    assert get(stage) == (False, True, False)


def test_only_ts_moves(stage: Stage) -> None:
    before = stage.regs.cr0 | CR0_TS
    fpu.do_fpu_taskswitch(stage.vcpu, 0)
    fpu.do_device_not_available(stage.vcpu)
    fpu.do_fpu_taskswitch(stage.vcpu, 1)
    assert stage.regs.cr0 == before


def test_notes(stage: Stage) -> None:
    stage.vcpu.listening = True
    fpu.do_fpu_taskswitch(stage.vcpu, 1)
    fpu.do_fpu_taskswitch(stage.vcpu, 0)
    fpu.do_device_not_available(stage.vcpu)
    assert stage.vcpu.seen.notes == [
        "virtual TS 0 -> 1", "virtual TS 1 -> 0", "first use: FPU given, the guest sees nothing"]
