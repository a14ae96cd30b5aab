"""Dataclasses as JSON values: there and back, and nothing else comes back."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from enum import IntEnum, StrEnum

import pytest

from harness.domain.plain import PlainError, clone, from_plain, hints, to_plain


class Colour(StrEnum):
    RED = "red"


class Number(IntEnum):
    ONE = 1


@dataclass(frozen=True, slots=True)
class Inner:
    bytes: bytes
    """A field that is called like its type."""


@dataclass(slots=True)
class Outer:
    number: int = 1
    flag: bool = True
    text: str = "x"
    maybe: int | None = None
    raw: bytearray = field(default_factory=lambda: bytearray(b"\x00\xff"))
    colour: Colour = Colour.RED
    one: Number = Number.ONE
    inner: Inner = field(default_factory=lambda: Inner(b"ab"))
    many: list[Inner] = field(default_factory=lambda: [Inner(b""), Inner(b"\n")])
    numbers: list[int] = field(default_factory=lambda: [1, 2, 3])
    ports: tuple[int, ...] = (4, 5)
    pair: tuple[Colour, str] | None = (Colour.RED, "why")
    by_number: dict[int, Inner] = field(default_factory=lambda: {7: Inner(b"c")})
    by_name: dict[str, int] = field(default_factory=lambda: {"a": 1})


def test_there_and_back_through_json():
    value = Outer()
    assert from_plain(Outer, json.loads(json.dumps(to_plain(value)))) == value


@pytest.mark.parametrize(
    ("name", "plain", "message"),
    [
        ("number", "1", "Outer.number is not int"),
        ("number", True, "Outer.number is not int"),
        ("number", 1.0, "Outer.number is not int"),
        ("number", None, "Outer.number is not int"),
        ("flag", 1, "Outer.flag is not bool"),
        ("text", ["x"], "Outer.text is not str"),
        ("maybe", "none", "Outer.maybe is not int"),
        ("raw", "0g", "Outer.raw is not hexadecimal"),
        ("raw", 5, "Outer.raw is not str"),
        ("colour", "blue", "Outer.colour is not a Colour"),
        ("colour", {}, "Outer.colour is not a Colour"),
        ("inner", [], "Outer.inner is not dict"),
        ("inner", {}, "Outer.inner has not the fields of a Inner: bytes"),
        ("inner", {"bytes": "", "__class__": "os"}, "__class__"),
        ("many", [{"bytes": ""}, 5], r"Outer.many\[1\] is not dict"),
        ("many", {"0": 1}, "Outer.many is not list"),
        ("numbers", [1, "2"], "Outer.numbers holds something that is not int"),
        ("numbers", [1, False], "Outer.numbers holds something that is not int"),
        ("pair", ["red"], "Outer.pair has 1 values and not 2"),
        ("pair", ["blue", "x"], r"Outer.pair\[0\] is not a Colour"),
        ("by_number", {"x": {"bytes": ""}}, "Outer.by_number has a key 'x' that is not int"),
        ("by_name", {"a": "b"}, r"Outer.by_name\[a\] is not int"),
    ],
)
def test_what_does_not_fit_its_type_is_refused(name, plain, message):
    values = to_plain(Outer())
    values[name] = plain
    with pytest.raises(PlainError, match=message):
        from_plain(Outer, values)


@pytest.mark.parametrize("plain", [None, 5, "x", [], {}, {"number": 1}])
def test_what_is_no_such_dataclass_is_refused(plain):
    with pytest.raises(PlainError):
        from_plain(Outer, plain)


@pytest.mark.parametrize("value", [1.5, {1, 2}, print, object()])
def test_what_is_not_plain_is_ours_to_mend(value):
    with pytest.raises(TypeError, match="not plain data"):
        to_plain(value)


def test_a_clone_shares_nothing_that_can_change():
    value = Outer()
    copy = clone(value)
    assert copy == value
    value.raw[0], value.many[0], value.numbers[0], value.by_number[8] = 9, Inner(b"z"), 9, Inner(b"")
    assert copy == Outer()


def test_hints_are_those_of_the_fields():
    assert list(hints(Outer)) == [each.name for each in fields(Outer)]
    assert hints(Inner) == {"bytes": bytes}
