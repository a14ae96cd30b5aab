"""What the bench measures and how it judges; never how long anything takes."""

from __future__ import annotations

import json

import pytest

from harness import bench
from harness.machine import yardstick


@pytest.fixture(autouse=True)
def few_times(monkeypatch):
    for name, count in (("_TRAPS", 5), ("_BATCHES", 2), ("_TURNS", 10)):
        monkeypatch.setattr(bench, name, count)


def fixed(ours: list[float], bare: list[float], **more) -> bench.Measure:
    sides = iter(ours), iter(bare)
    return bench.Measure("it", "that", 1, lambda: next(sides[0]), lambda: next(sides[1]), **more)


def test_a_ratio_is_taken_round_by_round_after_one_that_warms_up():
    result = bench.measured(fixed([99, 2, 6, 40], [1, 1, 2, 10], target=3.0), 3)
    assert result.ratio == 3
    assert (result.low, result.high) == (2, 4)
    assert result.ours_us == 6e6
    assert result.bare_us == 2e6
    assert result.met is True


@pytest.mark.parametrize(("target", "at_least", "met"), [
    (2.0, False, True), (1.9, False, False), (0.5, True, True), (0.6, True, False), (None, False, None),
])  # fmt: skip
def test_a_cost_must_be_at_most_and_a_speed_at_least_the_target(target, at_least, met):
    result = bench.measured(fixed([2.0] * 4, [1.0] * 4, target=target, at_least=at_least), 3)
    assert result.ratio == (0.5 if at_least else 2.0)
    assert result.met is met


def test_times_are_for_one_of_many():
    measure = bench.Measure("it", "that", 100, lambda: 1.0, lambda: 0.5)
    result = bench.measured(measure, 2)
    assert result.ours_us == 10_000
    assert result.bare_us == 5_000


def test_everything_that_is_promised_is_measured_and_runs():
    told = []
    for measure in bench.measures():
        told.append(measure.name)
        if not measure.name.startswith("cold start"):
            assert measure.ours() >= 0
            assert measure.bare() >= 0
    assert told == [
        "CLTS, emulated", "null hypercall", "multicall of 32", "system call, ring 3 to 1 and back",
        "page fault fixed by the guest", "straight-line code (speed)", "snapshot", "restore",
        "cold start of harness run", "cold start, --jobs 1"]


def test_a_guest_that_goes_wrong_is_not_a_measurement():
    with pytest.raises(RuntimeError, match="crash"):
        bench._run(bench._guest("ud2", 1))


@pytest.mark.parametrize(("text", "exits"), [
    (bench._CLTS, {"gp": 5, "hypercall": 1}),
    (bench._NULL, {"hypercall": 6}),
    (bench._MULTICALL, {"hypercall": 6}),
    (bench._SYSTEM_CALL, {"gate": 5, "hypercall": 4, "gp": 1}),
    (bench._PAGE_FAULT, {"pf": 5, "hypercall": 12}),
])  # fmt: skip
def test_a_guest_does_what_its_measure_says(text, exits):
    domain = bench.Domain(bench._guest(text, 5), memory=bench._MEMORY, timeout=None)
    try:
        assert domain.run().exits == exits
    finally:
        domain.machine.close()


def test_a_bare_loop_goes_round_as_often_as_its_guest(monkeypatch):
    taken = []
    run = yardstick._Bare.run
    monkeypatch.setattr(yardstick._Bare, "run", lambda self, on_exit: run(
        self, lambda number: (taken.append(number - 0x100), on_exit(number))))
    gp, pf, swint = 0x4D, 0x4E, 0x75
    for call, code, exits in (
        (yardstick.emulated, (bench._BARE_CLTS,), [gp] * 5 + [swint]),
        (yardstick.called, (bench._BARE_NULL,), [swint] * 5 + [gp]),
        (yardstick.system_calls, (bench._BARE_INT, bench._BARE_IRET), [swint] * 5 + [gp]),
        (yardstick.page_faults, (bench._BARE_TOUCH, bench._BARE_FIX), [swint, pf, swint] * 5 + [gp]),
    ):
        taken.clear()
        places = (yardstick.CODE, yardstick.KERNEL)
        call(*(bench._bare_code(part, 5, base) for part, base in zip(code, places, strict=False)))
        assert taken == exits


def test_as_json(monkeypatch, capsys):
    monkeypatch.setattr(bench, "measures", lambda: iter([fixed([2.0] * 4, [1.0] * 4, target=1.5)]))
    bench.main(json=True, rounds=3)
    told = json.loads(capsys.readouterr().out)
    assert told["rounds"] == 3
    assert told["measures"] == [{
        "name": "it", "against": "that", "ours_us": 2e6, "bare_us": 1e6, "ratio": 2.0, "low": 2.0, "high": 2.0,
        "target": 1.5, "at_least": False, "met": False}]


def test_as_a_table(monkeypatch, capsys):
    monkeypatch.setattr(bench, "measures", lambda: iter([fixed([2e-6] * 4, [1e-6] * 4, target=1.5)]))
    bench.main(rounds=3)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].split() == ["it,", "against", "that", "2.00", "us", "1.00", "us", "2.00", "[2.00", "2.00]", "<=",
                                 "1.5", "missed"]
