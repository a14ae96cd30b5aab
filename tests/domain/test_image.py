"""What an image says of its addresses."""

from __future__ import annotations

import pytest

from harness.domain.image import Image, Line, Segment, XenNotes

LINES = (
    Line(0x1000, 2, "a.asm", 3, "nop; nop"),
    Line(0x1002, 5, "a.asm", 4, "mov eax, 1"),
    Line(0x1010, 1, "b.inc", 9, "ret"),
)
SYMBOLS = {"end": 0x1020, "start": 0x1000, "alias": 0x1000, "loop": 0x1008, "below": 0}
IMAGE = Image((Segment(0x1010, b"\xc3", 0x10), Segment(0x1000, bytes(7), 0x10)), 0x1002, SYMBOLS, LINES)


def test_bounds_are_those_of_all_segments_with_their_zeros() -> None:
    assert (IMAGE.start, IMAGE.end) == (0x1000, 0x1020)


def test_an_image_without_segments_is_its_entry() -> None:
    empty = Image((), 0x1234)
    assert (empty.start, empty.end) == (0x1234, 0x1234)
    assert empty.line_at(0x1234) is None
    assert empty.symbol_at(0x1234) == ""


@pytest.mark.parametrize(("address", "line"), [
    (0xFFF, None), (0x1000, 3), (0x1001, 3), (0x1002, 4), (0x1006, 4), (0x1007, None), (0x100F, None), (0x1010, 9),
    (0x1011, None)])
def test_the_line_of_an_address_is_the_one_whose_bytes_hold_it(address: int, line: int | None) -> None:
    found = IMAGE.line_at(address)
    assert (found.line if found else None) == line


@pytest.mark.parametrize(("address", "name"), [
    (0x1000, "start"), (0x1001, "start+0x1"), (0x1007, "start+0x7"), (0x1008, "loop"), (0x101F, "loop+0x17"),
    (0x1020, ""), (0x5000, ""), (0, "below"), (0xFFF, "below+0xfff")])
def test_the_symbol_of_an_address_is_the_last_before_it(address: int, name: str) -> None:
    """Of two names for one address it is the first; beyond the image there is none."""
    assert IMAGE.symbol_at(address) == name


def test_nothing_lies_before_the_first_symbol() -> None:
    assert Image((Segment(0x1000, b"", 0x100),), 0x1000, {"late": 0x1080}).symbol_at(0x1000) == ""


def test_what_a_silent_file_says_to_a_domain_builder() -> None:
    """No VIRT_BASE: 0 (3.0's builder); PAE only where it is asked for."""
    notes = XenNotes()
    assert (notes.entry, notes.hypercall_page) == (None, None)
    assert (notes.virt_base, notes.paddr_offset, notes.pae) == (0, 0, "no")
    assert Image((), 0).xen is None
