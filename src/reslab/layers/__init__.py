"""The parts of a block: shortcuts, the junctions that join them to the branch, and what stands on the branch.

Names are imported when they are first used: the kinds of layers and the connections are read without torch.
"""

from typing import TYPE_CHECKING

from reslab._lazy import lazy_names

if TYPE_CHECKING:
    from reslab.layers.branch import DropPath as DropPath
    from reslab.layers.connections import CONNECTIONS as CONNECTIONS
    from reslab.layers.connections import Connection as Connection
    from reslab.layers.connections import Gating as Gating
    from reslab.layers.connections import Scaling as Scaling
    from reslab.layers.connections import Streams as Streams
    from reslab.layers.junction import Add as Add
    from reslab.layers.junction import GatedAdd as GatedAdd
    from reslab.layers.junction import ScaledAdd as ScaledAdd
    from reslab.layers.nd import LayerFactory as LayerFactory
    from reslab.layers.nd import sync_norms as sync_norms
    from reslab.layers.shortcut import make_shortcut as make_shortcut
    from reslab.layers.spec import SHORTCUT_KINDS as SHORTCUT_KINDS
    from reslab.layers.spec import BlockSpec as BlockSpec

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "branch": ("DropPath",),
        "connections": ("CONNECTIONS", "Connection", "Gating", "Scaling", "Streams"),
        "junction": ("Add", "GatedAdd", "ScaledAdd"),
        "nd": ("LayerFactory", "sync_norms"),
        "shortcut": ("make_shortcut",),
        "spec": ("BlockSpec", "SHORTCUT_KINDS"),
    },
)
