"""Options: what can be chosen, declared once as frozen dataclasses that pydantic validates.

Each package has one file of such classes. Config files, command-line flags, ``--help`` and the tables of the
documentation are made from them: a field's type says what is allowed, the class's docstring what it does.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from itertools import takewhile
from typing import Annotated, Any, Literal, TypeVar, cast, dataclass_transform, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as validated_dataclass

from reslab.errors import RequestError, unknown

Fraction = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
CountOrNone = Annotated[int, Field(ge=0)]
"""A number of things, where 0 has a meaning of its own, such as "off"."""
Switch = Literal["auto", "on", "off"]

Kind = TypeVar("Kind")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def options(kind: type[Kind]) -> type[Kind]:
    """Make a class of options: a frozen dataclass with keyword arguments, whose values are checked.

    A wrong value or name raises ``RequestError`` with what came, what was expected, and the closest match.

    Example:
        >>> @options
        ... class Diet:
        ...     '''Args:
        ...         meals: per day.
        ...     '''
        ...     meals: Count = 3
        >>> Diet(meals=0)
        Traceback (most recent call last):
        reslab.errors.RequestError: meals must be at least 1, got 0.
    """
    config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False, arbitrary_types_allowed=True)
    made: Any = validated_dataclass(frozen=True, kw_only=True, config=config)(kind)
    validating_init = made.__init__

    def __init__(self: Any, *values: Any, **named: Any) -> None:
        try:
            validating_init(self, *values, **named)
        except ValidationError as error:
            raise request_error(kind, error) from None

    made.__init__ = __init__
    return made  # type: ignore[no-any-return]


def build(kind: type[Kind], values: Any, *, spell: Callable[[str], str] = str, where: str = "") -> Kind:
    """Make options, nested ones too, out of plain values as they come from a file or from flags.

    Args:
        kind: a class under ``options``.
        values: mappings of names to values.
        spell: how the user writes an option that is called ``section.name`` here, such as ``--epochs``.
        where: begins the message, such as the name of a file.

    Raises:
        RequestError: for the first wrong value or name.
    """
    try:
        return _adapter(cast("Any", kind)).validate_python(values)  # type: ignore[no-any-return]
    except ValidationError as error:
        raise request_error(kind, error, spell=spell, where=where) from None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


@dataclass(frozen=True)
class Option:
    """One field of a class of options.

    Args:
        name: of the field.
        type: with its bounds, as annotated.
        default: None for a field without one.
        help: what the docstring says of it.
    """

    name: str
    type: Any
    default: Any
    help: str


@cache
def options_of(kind: type) -> dict[str, Option]:
    """Describe the fields of a class of options, by name in order of declaration."""
    hints, helps = get_type_hints(kind, include_extras=True), argument_help(kind.__doc__ or "")
    found = {}
    for field in fields(kind):
        made = field.default_factory() if field.default_factory is not MISSING else field.default
        default = None if made is MISSING else getattr(made, "default", made)  # pydantic wraps some in a Field
        found[field.name] = Option(field.name, hints[field.name], default, helps.get(field.name, ""))
    return found


def argument_help(docstring: str) -> dict[str, str]:
    """Read what a docstring in Google's style says about each argument, as sentences.

    Example:
        >>> argument_help('''Turn.
        ...
        ...     Args:
        ...         angle: in degrees,
        ...             counter-clockwise.
        ...         fill: colour.
        ... ''')
        {'angle': 'In degrees, counter-clockwise.', 'fill': 'Colour.'}
    """
    block = re.search(r"^( *)Args:\n(.*?)(?=^\1\S|\Z)", docstring, re.S | re.M)
    if not block:
        return {}
    entries = re.findall(r"^ *(\w+): (.*?)(?=^ *\w+: |\Z)", block[2], re.S | re.M)
    texts = {name: " ".join(text.split()) for name, text in entries}
    return {name: text[:1].upper() + text[1:] for name, text in texts.items()}


def import_object(spec: str, *, what: str) -> Callable[..., Any]:
    """Import ``my_pkg.nets:build``, a function or class of the user's own; the working folder is searched too.

    Raises:
        RequestError: if it can't be imported, or can't be called.
    """
    module_name, _, attribute = spec.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise RequestError(f"Can't import the {what} {spec!r}: {error}. Expected package.module:name.") from None
    if not callable(found):
        raise RequestError(f"{spec} is a {type(found).__name__}, not a function or class that makes a {what}.")
    return found  # type: ignore[no-any-return]


# ---- errors


def request_error(
    kind: type, error: ValidationError, *, spell: Callable[[str], str] = str, where: str = ""
) -> RequestError:
    """Word pydantic's first complaint as we word errors: what came, what was expected."""
    first = error.errors()[0]
    path = [
        str(part) for part in takewhile(lambda part: isinstance(part, str), first["loc"])
    ]  # an entry of a list is the list's fault
    name, got, context = spell(".".join(path)), first.get("input"), first.get("ctx", {})
    prefix = f"{where}: " if where else ""
    match first["type"]:
        case "literal_error":
            choices = _choices_at(kind, path)
            return (
                RequestError(f"{prefix}{unknown(name, str(got), choices)}") if choices else _plain(prefix, name, first)
            )
        case "unexpected_keyword_argument" | "extra_forbidden":
            return RequestError(f"{prefix}{unknown('option', name, map(spell, _names_beside(kind, path)))}")
        case "missing" | "missing_argument":
            return RequestError(f"{prefix}{name} is missing.")
        case "greater_than_equal" | "greater_than" | "less_than_equal" | "less_than" as bound:
            key, words = BOUNDS[bound]
            return RequestError(f"{prefix}{name} must be {words} {context[key]:g}, got {got!r}.")
        case "finite_number":
            return RequestError(f"{prefix}{name} must be a finite number, got {got!r}.")
        case kind_of_error if expected := EXPECTED.get(kind_of_error.split("_")[0]):
            return RequestError(f"{prefix}{name} takes {expected}, got {got!r}.")
        case _:
            return _plain(prefix, name, first)


BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "above"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "below"),
}
EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "dict": "names with values",
    "dataclass": "names with values",
}


def _plain(prefix: str, name: str, complaint: Mapping[str, Any]) -> RequestError:
    text = str(complaint["msg"]).removeprefix("Value error, ").rstrip(".")
    return RequestError(f"{prefix}{name}: {text}, got {complaint.get('input')!r}." if name else f"{prefix}{text}.")


def _choices_at(kind: Any, path: list[str]) -> list[str]:
    """The values of the Literal at the end of a path of field names."""
    for part in path:
        if not hasattr(kind, "__dataclass_fields__"):
            break
        kind = get_type_hints(kind).get(part)
    while get_origin(kind) not in (Literal, None):
        kind = get_args(kind)[0]
    return [str(choice) for choice in get_args(kind)]


def _names_beside(kind: Any, path: list[str]) -> list[str]:
    """The names that the last part of a path could have been, each with the path before it."""
    for part in path[:-1]:
        kind = get_type_hints(kind).get(part)
    return [".".join([*path[:-1], field.name]) for field in fields(kind)]
