"""The constants that guests include are those of abi/, under the names of the C headers."""

from __future__ import annotations

import re
from enum import IntEnum
from pathlib import Path

import pytest

from harness.abi import include, xen

SHIPPED = Path(__file__).parents[2] / "asm" / "xen_constants.inc"


def test_shipped_file_is_current() -> None:
    assert SHIPPED.read_text(encoding="ascii") == include.render(), (
        "asm/xen_constants.inc is stale: python -m harness.abi.include asm/xen_constants.inc"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("__HYPERVISOR_iret", 23),
        ("__HYPERVISOR_sched_op", 29),
        ("SCHEDOP_yield", 0),
        ("SHUTDOWN_crash", 3),
        ("ENOSYS", 38),
        ("EVTCHNOP_unmask", 9),
        ("VIRQ_TIMER", 0),
        ("MMUEXT_SET_LDT", 13),
        ("VMASST_TYPE_4gb_segments_notify", 1),
        ("CONSOLEIO_write", 0),
        ("FLAT_KERNEL_CS", 0xE019),
        ("FLAT_USER_SS", 0xE033),
        ("START_INFO_SHARED_INFO", 0x24),
        ("USER_REGS_GS", 0x40),
        ("MULTICALL_ENTRY_SIZE", 32),
        ("GNTST_bad_page", -9),
        ("VECTOR_GP", 13),
        ("EFLAGS_IF", 0x200),
        ("PTE_US", 4),
        ("CR0_TS", 8),
    ],
)
def test_names_and_values(name: str, value: int) -> None:
    assert include.constants()[name] == value


def test_every_enumeration_of_xen_has_its_c_prefix() -> None:
    enumerations = {v for v in vars(xen).values() if isinstance(v, type) and issubclass(v, IntEnum)} - {IntEnum}
    assert enumerations <= set(include.ENUMERATIONS)


def test_one_name_for_two_values_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(include, "ALIASES", (("ENOSYS", 39),))
    with pytest.raises(ValueError, match="ENOSYS is both 0x26 and 0x27"):
        include.constants()


def test_every_line_sets_one_symbol() -> None:
    lines = [line for line in include.render().splitlines() if not line.startswith(";")]
    assert all(re.fullmatch(r"[A-Za-z_]\w* = (-?\d|0x[0-9a-f]+)", line) for line in lines)


def test_written_by_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out.inc"
    monkeypatch.setattr("sys.argv", ["include", str(target)])
    include.main()
    assert target.read_text() == include.render()


def test_command_without_a_file_says_how_to_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["include"])
    with pytest.raises(SystemExit, match="usage"):
        include.main()
