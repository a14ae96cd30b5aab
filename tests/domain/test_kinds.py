"""The closed set of exit kinds."""

from __future__ import annotations

import pytest

from harness.domain.kinds import EXCEPTION_KINDS, KINDS

NAMES = {
    0: "de", 1: "db", 3: "bp", 4: "of", 5: "br", 6: "ud", 7: "nm", 8: "df", 10: "ts", 11: "np", 12: "ss", 13: "gp",
    14: "pf", 16: "mf", 17: "ac", 18: "mc", 19: "xm"}
"""SDM 3, table 6-1. NMI is no exception of the guest's; 9 and 15 are no longer, or not, given out."""


def test_exceptions_have_the_names_of_the_manual() -> None:
    assert EXCEPTION_KINDS == NAMES


@pytest.mark.parametrize("vector", sorted(NAMES))
def test_each_exception_is_described(vector: int) -> None:
    assert KINDS[NAMES[vector]].startswith(f"#{NAMES[vector].upper()} ")


def test_the_rest_are_interrupts_intercepts_and_ends() -> None:
    assert set(KINDS) - set(NAMES.values()) == {
        "hypercall", "gate", "cpuid", "rdtsc", "sensitive", "slice", "nested", "engine"}
