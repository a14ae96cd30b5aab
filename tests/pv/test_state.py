"""What a vCPU says of itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.abi import xen
from tests.pv.stage import Stage


@pytest.mark.parametrize(("ring", "kernel"), [(1, True), (3, False)])
def test_ring_1_is_the_kernel(stage: Stage, ring: int, kernel: bool) -> None:
    stage.enter(ring)
    assert stage.vcpu.kernel_mode == kernel


@pytest.mark.parametrize("value", [0, 1, 0xFF])
def test_the_mask_is_the_guests_own_byte(stage: Stage, value: int) -> None:
    stage.vcpu.mask = value
    assert stage.vcpu.mask == value
    assert stage.info(0) >> 8 & 0xFF == value
    assert stage.info(0) & ~0xFF00 == 0


REASONS: dict[str, Callable[[Stage], None]] = {
    "descriptors changed": lambda s: setattr(s.vcpu, "reload", True),
    "an STI's shadow": lambda s: setattr(s.vcpu, "shadow_next", True),
    "it is blocked": lambda s: setattr(s.state, "blocked", True),
    "an event is pending": lambda s: s.ram.write(s.vcpu.shared + xen.VCPU_INFO_PENDING, b"\1"),
}


@pytest.mark.parametrize("happens", REASONS.values(), ids=REASONS)
def test_what_needs_attention_before_the_guest_goes_on(stage: Stage, happens: Callable[[Stage], None]) -> None:
    stage.vcpu.reload = False
    assert not stage.vcpu.attention
    happens(stage)
    assert stage.vcpu.attention


def test_two_vcpus_share_no_state() -> None:
    one, other = Stage(), Stage()
    one.state.traps[13].address = 1
    one.state.control[2] = 1
    one.domain.state.channels[1] = object()  # type: ignore[assignment]
    assert other.state.traps[13].address == 0
    assert other.state.control[2] == 0
    assert other.domain.state.channels == {}
