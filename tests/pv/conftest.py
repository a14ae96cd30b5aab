"""A domain for each test, under either policy."""

from __future__ import annotations

import pytest

from harness.pv.state import POLICY_FULL
from tests.pv.stage import Stage


@pytest.fixture
def stage() -> Stage:
    """A domain under Xen's policy."""
    return Stage()


@pytest.fixture
def full() -> Stage:
    """A domain under `--policy full`."""
    return Stage(POLICY_FULL)
