"""Frozen settings from untrusted mappings: every unknown key and wrong type is an error."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from quicknet.core.errors import ConfigError, nearest


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Base of every group of settings: immutable, compared by value, created by keyword."""

    def replace(self, **changes: Any) -> typing.Self:
        """Return a copy with `changes`, checked like a new one."""
        return from_mapping(type(self), {**self.to_dict(), **changes}, "settings")

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists, strings and numbers."""
        return typing.cast(dict[str, Any], msgspec.to_builtins(self))


S = TypeVar("S", bound=Settings)


def from_mapping(cls: type[S], mapping: Mapping[str, Any], where: str) -> S:
    """Return a `cls` with the values of `mapping`.

    Raises ConfigError naming the place for an unknown key (with the nearest known one), a
    missing key, a wrong type, a NaN or infinity, or a value that `cls` refuses.
    """
    _refuse_unknown(cls, mapping, where, "")
    _refuse_nonfinite(mapping, where, "")
    try:
        return msgspec.convert(dict(mapping), cls, strict=True)
    except msgspec.ValidationError as error:
        text = str(error).replace("`$.", "`").replace("`", "'")
        raise ConfigError(f"{text[0].lower()}{text[1:]} ({where})") from error


def _refuse_unknown(cls: type, mapping: Mapping[str, Any], where: str, prefix: str) -> None:
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{prefix.rstrip('.') or 'settings'} must be a table of settings ({where})")
    hints = typing.get_type_hints(cls)
    for key, value in mapping.items():
        if key not in hints:
            places = _places(hints, str(key))
            meant = f" (did you mean {' or '.join(map(repr, places))}?)" if places else nearest(str(key), hints)
            raise ConfigError(f"unknown setting {prefix + str(key)!r} ({where}){meant}")
        inner = _settings_type(hints[key])
        if inner is not None and value is not None:
            _refuse_unknown(inner, value, where, f"{prefix}{key}.")


def _places(hints: Mapping[str, Any], key: str) -> list[str]:
    """Return the dotted names of the settings called `key` in the tables of these settings."""
    tables = ((table, _settings_type(hint)) for table, hint in hints.items())
    return [f"{table}.{key}" for table, inner in tables if inner is not None and key in typing.get_type_hints(inner)]


def _refuse_nonfinite(value: Any, where: str, key: str) -> None:
    """Refuse NaN and infinity: NaN compares false with every bound, so no check of a bound stops it."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _refuse_nonfinite(inner, where, f"{key}.{name}" if key else str(name))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _refuse_nonfinite(inner, where, key)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"setting {key!r} is {value} ({where}); give a finite number")


def _settings_type(hint: Any) -> type | None:
    """Return the Settings class inside `X` or `X | None`, if there is one."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return next((o for o in options if isinstance(o, type) and issubclass(o, Settings)), None)


# --- KEY=VALUE ------------------------------------------------------------------------------


def parse_change(change: str) -> tuple[str, Any]:
    """Return key and value of `a.b=value`; the value is TOML, and what is not is a string. Raises ConfigError.

    >>> parse_change("train.epochs=10"), parse_change("optim.name = sgd")
    (('train.epochs', 10), ('optim.name', 'sgd'))
    """
    import tomllib  # here: 4 ms that what only classifies does without

    key, equals, value = change.partition("=")
    if not equals:
        raise ConfigError(f"setting {change!r} is not KEY=VALUE; for example --set train.epochs=10")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except RecursionError as error:
        raise ConfigError(f"the value of setting {key!r} is nested too deeply; give a plain value") from error
    except ValueError:  # not TOML: a bare word
        parsed = value.strip()
    return key.strip(), parsed


def put_settings(fields: dict[str, Any], settings: Iterable[tuple[str, Any]]) -> None:
    """Set the values of dotted keys in nested tables. Raises ConfigError where a value stands in the way."""
    for key, value in settings:
        _put(fields, key, value)


def _put(fields: dict[str, Any], key: str, value: Any) -> None:
    """Set the value of a dotted key in nested tables."""
    *tables, last = key.split(".")
    for table in tables:
        inner = fields.setdefault(table, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"setting {key!r}: {table!r} holds a value, not further settings")
        fields = inner
    fields[last] = value
