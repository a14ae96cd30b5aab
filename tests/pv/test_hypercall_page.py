"""The hypercall page, byte by byte (arch/x86/x86_32/traps.c, hypercall_page_initialise)."""

from __future__ import annotations

import pytest

from harness.pv import hypercall_page

PAGE = hypercall_page.contents()


@pytest.mark.parametrize("number", [n for n in range(128) if n != 23])
def test_a_stub_loads_its_number_calls_and_returns(number: int) -> None:
    stub = PAGE[32 * number : 32 * number + 32]
    assert stub == (b"\xb8" + number.to_bytes(4, "little") + b"\xcd\x82\xc3").ljust(32, b"\0")


def test_the_stub_of_iret_pushes_eax_and_does_not_return() -> None:
    assert PAGE[32 * 23 : 32 * 24] == bytes.fromhex("50b817000000cd82").ljust(32, b"\0")


def test_it_is_a_page() -> None:
    assert len(PAGE) == 4096
