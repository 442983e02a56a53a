"""Networks: one file per family, and ``catalog.py`` with the one dict of names.

Names are imported when they are first used, so that ``import reslab.models`` is free of torch.
"""

from typing import TYPE_CHECKING

from reslab._lazy import lazy_names

if TYPE_CHECKING:
    from reslab.models.architecture import Architecture as Architecture
    from reslab.models.resnet import ResNet as ResNet
    from reslab.models.resnet import inflate as inflate
    from reslab.models.structure import read_structure as read_structure

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "architecture": ("Architecture",),
        "resnet": (
            "ResNet",
            "inflate",
        ),
        "structure": ("read_structure",),
    },
)
