"""Public names that are imported when they are first used, so that ``reslab --help`` needn't load torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any


def lazy_names(
    package: str, homes: Mapping[str, Iterable[str]], *, here: Mapping[str, object] = MappingProxyType({})
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Make ``__getattr__``, ``__dir__`` and ``__all__`` of a package (PEP 562).

    Args:
        package: its name.
        homes: module of the package, to the public names that are defined in it.
        here: public names that are there already.
    """
    module_of = {name: f"{package}.{module}" for module, names in homes.items() for name in names}
    public = sorted([*module_of, *here])

    def get(name: str) -> Any:
        if name in module_of:
            return getattr(import_module(module_of[name]), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}; it has {', '.join(public)}")

    return get, lambda: public, public
