"""Records that hold other records, read back as they were written."""

from __future__ import annotations

import json
import types
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from reslab.errors import RequestError
from reslab.records.strict_json import NON_FINITE

Record = TypeVar("Record")


def read_nested(path: Path, kind: type[Record], *, key: Callable[[Record], Any]) -> list[Record]:
    """All records of a JSON-lines file in order of their key; an absent file has none.

    A torn last line is dropped; of two records with the same key the later counts.

    Args:
        path: of the file.
        kind: a dataclass, which may hold others.
        key: such as a record's step.

    Raises:
        RequestError: if a line before the last is damaged; it names the file and the line.
    """
    if not path.exists():
        return []
    records: dict[Any, Record] = {}
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline is torn or empty
        try:
            record: Record = from_plain(kind, json.loads(line))
        except (ValueError, TypeError) as error:
            raise RequestError(
                f"{path}, line {number}, is damaged ({error}). Delete that line to read the rest."
            ) from None
        records[key(record)] = record
    return [records[place] for place in sorted(records)]


def from_plain(kind: Any, value: Any) -> Any:
    """What JSON has made of a value, as the type that it had: records for objects, tuples for lists, NaN for its name.

    Args:
        kind: a dataclass, a number, text, or a tuple, dict or union of these.
        value: as ``json.loads`` gives it. Keys that a dataclass doesn't have are left out.

    Raises:
        TypeError: if it is of another type, or a field is missing.

    Example:
        >>> from_plain(tuple[tuple[str, float], ...], [["conv1", "NaN"]])
        (('conv1', nan),)
    """
    origin, parts = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return record_from(kind, value)
    if origin in (Union, types.UnionType):
        return first_that_fits(parts, value)
    if origin is tuple and isinstance(value, list):
        kinds = [parts[0]] * len(value) if parts[-1] is Ellipsis else parts
        return tuple(from_plain(one, item) for one, item in zip(kinds, value, strict=True))
    if origin is dict and isinstance(value, dict):
        return {name: from_plain(parts[1], item) for name, item in value.items()}
    if origin is Literal and value in parts:
        return value
    if kind is float and not isinstance(value, bool) and (isinstance(value, int | float) or value in NON_FINITE):
        return NON_FINITE[value] if isinstance(value, str) else float(value)
    if kind in (int, str, bool, types.NoneType) and type(value) is kind:
        return value
    raise TypeError(f"{value!r:.40} is not of type {kind}")


def record_from(kind: Any, value: Any) -> Any:
    """A dataclass from the fields that it knows."""
    if not isinstance(value, dict):
        raise TypeError(f"{value!r:.40} is no {kind.__name__}")
    hints = hints_of(kind)
    return kind(**{name: from_plain(hints[name], item) for name, item in value.items() if name in hints})


def first_that_fits(kinds: tuple[Any, ...], value: Any) -> Any:
    """The value as the first of a union's types that it can have."""
    for kind in kinds:
        try:
            return from_plain(kind, value)
        except TypeError as error:
            why = error
    raise why


@cache
def hints_of(kind: Any) -> dict[str, Any]:
    """The types of a dataclass's fields."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}
