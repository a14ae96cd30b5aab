"""How the hypervisor reaches a guest's memory: below Xen, page by page, and never by trust in an address."""

from __future__ import annotations

import pytest

from harness.abi import xen
from harness.abi.x86 import PFEC_P, PFEC_W
from harness.domain.memory import PageFaultError
from harness.pv.access import check_range, copy_from_guest, copy_to_guest, u32_from_guest
from tests.pv.stage import DATA, NOWHERE, Stage

END = xen.HYPERVISOR_VIRT_START


@pytest.mark.parametrize(("linear", "size"), [(0, 0), (0, END), (END - 1, 1), (END, 0)])
def test_ranges_below_xen_are_the_guests(linear: int, size: int) -> None:
    check_range(linear, size)


@pytest.mark.parametrize(("linear", "size"), [
    (END, 1), (END - 1, 2), (0xFFFFFFFF, 1), (0xFFFFFFF0, 0x20), (0, END + 1), (8, 16 * 0xFFFFFFFF), (1 << 32, 4)])
def test_ranges_that_reach_xen_or_wrap_are_not(linear: int, size: int) -> None:
    with pytest.raises(PageFaultError) as caught:
        check_range(linear, size)
    assert caught.value.address == linear & 0xFFFFFFFF
    assert caught.value.error_code == 0


def test_a_write_that_reaches_xen_says_that_it_is_one() -> None:
    with pytest.raises(PageFaultError) as caught:
        check_range(END, 1, write=True)
    assert caught.value.error_code == PFEC_W


def test_copies(stage: Stage) -> None:
    copy_to_guest(stage.vcpu, DATA + 0xFFE, b"\x78\x56\x34\x12")
    assert copy_from_guest(stage.vcpu, DATA + 0xFFE, 4) == b"\x78\x56\x34\x12"
    assert u32_from_guest(stage.vcpu, DATA + 0xFFE) == 0x12345678


def test_nothing_is_read_of_nothing(stage: Stage) -> None:
    """A list without entries may begin anywhere."""
    assert copy_from_guest(stage.vcpu, NOWHERE, 0) == b""


@pytest.mark.parametrize("linear", [NOWHERE, END, END - 2, 0xFFFFFFFE])
def test_pointers_that_lead_nowhere(stage: Stage, linear: int) -> None:
    with pytest.raises(PageFaultError):
        copy_from_guest(stage.vcpu, linear, 4)
    with pytest.raises(PageFaultError):
        copy_to_guest(stage.vcpu, linear, bytes(4))


def test_a_read_only_page_is_not_written_for_a_guest(stage: Stage) -> None:
    """Else a hypercall's result could go where a page table is."""
    stage.read_only(DATA)
    with pytest.raises(PageFaultError) as caught:
        copy_to_guest(stage.vcpu, DATA, bytes(4))
    assert caught.value.error_code == PFEC_P | PFEC_W
