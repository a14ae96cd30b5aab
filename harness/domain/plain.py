"""Dataclasses copied, and turned to JSON values and back. What comes back is checked: it may be anybody's.

Understood: int, bool, str, bytes (as hexadecimal), None, enums (by value), lists, tuples, dicts with int or str keys,
unions of one of these with None, and dataclasses of them.
"""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from enum import Enum
from functools import cache
from typing import Any, TypeVar, cast

T = TypeVar("T")


class PlainError(Exception):
    """A value that does not fit its type. The message says where."""


def to_plain(value: Any) -> Any:
    """A JSON value for `value`. Raises TypeError for what is not understood."""
    if isinstance(value, Enum):
        return to_plain(value.value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    if isinstance(value, (list, tuple)):
        return [to_plain(each) for each in value]
    if isinstance(value, dict):
        return {str(key): to_plain(each) for key, each in value.items()}
    if dataclasses.is_dataclass(value):
        kind: Any = type(value)
        return {name: to_plain(getattr(value, name)) for name in hints(kind)}
    raise TypeError(f"{type(value).__name__} is not plain data")


def clone(value: T) -> T:
    """A copy that shares nothing that can change. Frozen dataclasses and tuples are taken for unchangeable."""
    copy: Any = value
    kind: Any = type(value)
    if isinstance(value, bytearray):
        copy = bytearray(value)
    elif isinstance(value, list):
        copy = value[:] if not value or type(value[0]) is int else [clone(each) for each in value]
    elif isinstance(value, dict):
        copy = {key: clone(each) for key, each in value.items()}
    elif dataclasses.is_dataclass(value) and not kind.__dataclass_params__.frozen:
        copy = kind(**{name: clone(getattr(value, name)) for name in hints(kind)})
    return cast("T", copy)


def from_plain(kind: type[T], plain: Any) -> T:
    """The dataclass of type `kind` that `plain` describes. Raises PlainError."""
    made: T = _dataclass(kind, plain, kind.__name__)
    return made


@cache
def hints(kind: Any) -> dict[str, Any]:
    """Fields of a dataclass with their types. (A field may be called like a type, so names are those of the module.)"""
    known = typing.get_type_hints(kind, vars(sys.modules[kind.__module__]), {})
    return {field.name: known[field.name] for field in dataclasses.fields(kind)}


def _value(kind: Any, plain: Any, where: str) -> Any:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        if plain is None:
            return None
        (only,) = (each for each in typing.get_args(kind) if each is not type(None))
        return _value(only, plain, where)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, plain, where)
    if origin in (list, tuple):
        return _sequence(kind, origin, plain, where)
    if origin is dict:
        key, each = typing.get_args(kind)
        found = _expect(dict, plain, where).items()
        return {_key(key, name, where): _value(each, value, f"{where}[{name}]") for name, value in found}
    if kind in (bytes, bytearray):
        try:
            return kind(bytes.fromhex(_expect(str, plain, where)))
        except ValueError:
            raise PlainError(f"{where} is not hexadecimal") from None
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(plain)
        except ValueError:
            raise PlainError(f"{where} is not a {kind.__name__}") from None
    return _expect(kind, plain, where)


def _expect(kind: Any, plain: Any, where: str) -> Any:
    if type(plain) is not kind:
        raise PlainError(f"{where} is not {kind.__name__}")
    return plain


def _key(kind: Any, name: str, where: str) -> Any:
    try:
        return kind(name)
    except ValueError:
        raise PlainError(f"{where} has a key {name!r} that is not {kind.__name__}") from None


def _sequence(kind: Any, origin: Any, plain: Any, where: str) -> Any:
    values = _expect(list, plain, where)
    each = typing.get_args(kind)
    if origin is tuple and each[-1] is not Ellipsis:
        if len(values) != len(each):
            raise PlainError(f"{where} has {len(values)} values and not {len(each)}")
        return tuple(_value(t, v, f"{where}[{n}]") for n, (t, v) in enumerate(zip(each, values, strict=True)))
    if each[0] is int:
        if not all(type(v) is int for v in values):
            raise PlainError(f"{where} holds something that is not int")
        return origin(values)
    return origin(_value(each[0], v, f"{where}[{n}]") for n, v in enumerate(values))


def _dataclass(kind: Any, plain: Any, where: str) -> Any:
    fields = hints(kind)
    values = _expect(dict, plain, where)
    if values.keys() != fields.keys():
        wrong = sorted(values.keys() ^ fields.keys())
        raise PlainError(f"{where} has not the fields of a {kind.__name__}: {', '.join(map(str, wrong))}")
    return kind(**{name: _value(hint, values[name], f"{where}.{name}") for name, hint in fields.items()})
