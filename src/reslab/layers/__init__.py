"""The parts of a block: shortcuts, the junctions that join them to the branch, and what stands on the branch.

Names are imported when they are first used: the kinds of layers and the connections are read without torch.
"""

from typing import TYPE_CHECKING

from reslab._lazy import lazy_names

if TYPE_CHECKING:
    from reslab.layers.connections import CONNECTIONS as CONNECTIONS
    from reslab.layers.connections import Connection as Connection
    from reslab.layers.junction import GatedAdd as GatedAdd
    from reslab.layers.shortcut import make_shortcut as make_shortcut
    from reslab.layers.spec import SHORTCUT_KINDS as SHORTCUT_KINDS

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "connections": (
            "CONNECTIONS",
            "Connection",
        ),
        "junction": ("GatedAdd",),
        "shortcut": ("make_shortcut",),
        "spec": ("SHORTCUT_KINDS",),
    },
)
