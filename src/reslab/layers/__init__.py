"""The parts of a block: shortcuts, the junctions that join them to the branch, and what stands on the branch.

Names are imported when they are first used: the kinds of layers and the connections are read without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reslab.layers.branch import DropPath
    from reslab.layers.connections import CONNECTIONS, Connection, Gating, Scaling, Streams
    from reslab.layers.junction import Add, GatedAdd, ScaledAdd
    from reslab.layers.nd import LayerFactory, sync_norms
    from reslab.layers.shortcut import make_shortcut
    from reslab.layers.spec import SHORTCUT_KINDS, BlockSpec

__all__ = [
    "CONNECTIONS",
    "SHORTCUT_KINDS",
    "Add",
    "BlockSpec",
    "Connection",
    "DropPath",
    "GatedAdd",
    "Gating",
    "LayerFactory",
    "ScaledAdd",
    "Scaling",
    "Streams",
    "make_shortcut",
    "sync_norms",
]

_HOMES = {
    "branch": ["DropPath"],
    "connections": ["CONNECTIONS", "Connection", "Gating", "Scaling", "Streams"],
    "junction": ["Add", "GatedAdd", "ScaledAdd"],
    "nd": ["LayerFactory", "sync_norms"],
    "shortcut": ["make_shortcut"],
    "spec": ["SHORTCUT_KINDS", "BlockSpec"],
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
