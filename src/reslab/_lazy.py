"""Public names that are imported when they are first used, so that ``reslab --help`` needn't load torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any


def lazy_names(
    package: str, homes: Mapping[str, str], *, here: Mapping[str, object] = MappingProxyType({})
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a package (PEP 562).

    Args:
        package: its name.
        homes: public name to the module that defines it.
        here: public names that are there already.
    """
    names = sorted([*homes, *here])

    def get(name: str) -> Any:
        if name in homes:
            return getattr(import_module(homes[name]), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}; it has {', '.join(names)}")

    return get, lambda: names, names
