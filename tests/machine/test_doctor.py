"""The self-check: it holds here, and says so when something does not."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from harness.machine import doctor, layout
from harness.machine.engine import Engine
from harness.machine.machine import Machine


@pytest.mark.parametrize("check", tuple(doctor.checks()), ids=lambda check: check.name)
def test_property(check):
    assert check.holds, check.detail


def test_the_tested_versions_are_those_that_are_installed_with_the_harness():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    required = project["project"]["dependencies"]
    for package, (first, beyond) in doctor.TESTED.items():
        (wanted,) = (line for line in required if line.startswith(package))
        assert wanted in (f"{package}=={first}", f"{package}>={first},<{beyond}")


@pytest.mark.parametrize(
    ("package", "found", "holds"),
    [
        ("unicorn", "2.1.4", True), ("unicorn", "2.1.3", False), ("unicorn", "2.1.5", False), ("unicorn", "3.0", False),
        ("unicorn", "2.1.4.post1", True), ("capstone", "5.0.0", False), ("capstone", "5.0.9", True),
        ("capstone", "6.0.0a1", False), ("keystone-engine", "0.9.2", True), ("keystone-engine", "0.9.1", False),
    ],
)  # fmt: skip
def test_versions_outside_the_tested_range_name_what_to_install(monkeypatch, package, found, holds):
    monkeypatch.setattr(doctor, "version", lambda name: found if name == package else "0")
    first, beyond = doctor.TESTED[package]
    check = doctor._version(package, first, beyond)
    assert check.holds is holds
    assert found in check.detail
    assert holds or f"pip install '{package}>={first},<{beyond}'" in check.detail


def test_a_package_that_is_missing_is_named(monkeypatch):
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "version", missing)
    check = next(doctor.checks())
    assert not check.holds
    assert check.detail == "not installed; pip install 'unicorn>=2.1.4,<2.1.5'"


def test_another_layout_fails_every_check_that_needs_a_machine_and_names_the_remedy(monkeypatch):
    monkeypatch.setattr(layout, "STATE_IN_CPU", 0x8A58)
    results = list(doctor.checks())
    assert [check.holds for check in results[:3]] == [True] * 3
    assert not any(check.holds for check in results[3:])
    assert all("pip install 'unicorn" in check.detail for check in results[3:])


# Each way in which an engine could be other than relied upon, and a property that must notice.
@pytest.mark.parametrize(
    ("owner", "name", "broken", "property_"),
    [
        (Engine, "flush_code", lambda self: None, "a host write to code is seen"),
        (Engine, "flush_tlb", lambda self: None, "an entry taken away is gone after a TLB flush"),
        (Machine, "_on_block", lambda self, at, size: None, "block scan: in a block after an exit and a jump"),
        (Engine, "eflags", lambda self: 2, "flags are read and written as PUSHF shows them"),
        (Machine, "count_on", lambda self, count: None, "the end of a counted slice can be moved while it runs"),
        (Machine, "_tell_apart", lambda self, exit_: None, "#UD exits, and INT1 is told apart from it"),
    ],
)
def test_a_property_that_does_not_hold_is_found(monkeypatch, owner, name, broken, property_):
    monkeypatch.setattr(owner, name, broken)
    (check,) = (check for check in doctor.checks() if check.name == property_)
    assert not check.holds


def test_a_check_is_one_line():
    assert str(doctor.Check("name", True, "")) == "ok    name"
    assert str(doctor.Check("name", False, "why")) == "FAIL  name: why"
    assert all("\n" not in str(check) for check in doctor.checks())
