"""Virtual time."""

from __future__ import annotations

import pytest

from harness.domain.clock import EXIT_PRICE_NS, INSTRUCTION_PRICE_NS, START_NS, TSC_HZ, WALLCLOCK_AT_BOOT_S, Clock


def test_a_fresh_clock_has_no_timer() -> None:
    assert Clock() == Clock(START_NS, None)
    assert START_NS > 0, "a guest that takes system time for time since its boot is found out"


def test_prices_are_what_the_documents_promise() -> None:
    """An exit is 1 us, an instruction 1 ns, a TSC tick 1 ns; time 0 is 2005-12-05 00:00 UTC."""
    assert (EXIT_PRICE_NS, INSTRUCTION_PRICE_NS, TSC_HZ, WALLCLOCK_AT_BOOT_S) == (1000, 1, 10**9, 1_133_740_800)


@pytest.mark.parametrize(("deadline", "expired"), [(None, False), (99, True), (100, True), (101, False), (0, True)])
def test_a_timer_is_due_at_its_deadline(deadline: int | None, expired: bool) -> None:
    assert Clock(100, deadline).expired() is expired


@pytest.mark.parametrize(("deadline", "jumped", "now"), [
    (None, False, 100), (150, True, 150), (100, True, 100), (50, True, 100), (0, True, 100)])
def test_idle_time_is_skipped_and_never_goes_back(deadline: int | None, jumped: bool, now: int) -> None:
    clock = Clock(100, deadline)
    assert clock.jump() is jumped
    assert clock == Clock(now, deadline), "the timer is still set: who fires it takes it away"
