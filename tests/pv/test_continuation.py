"""How much one exit may do."""

from __future__ import annotations

from harness.pv.continuation import MOST_WORK, preempted
from tests.pv.stage import Stage


def test_work_adds_up(stage: Stage) -> None:
    stage.vcpu.work = 0
    assert not preempted(stage.vcpu)
    assert not preempted(stage.vcpu, MOST_WORK - 2)
    assert preempted(stage.vcpu)
    assert stage.vcpu.work == MOST_WORK


def test_one_large_item_is_enough(stage: Stage) -> None:
    stage.vcpu.work = 0
    assert preempted(stage.vcpu, MOST_WORK)
