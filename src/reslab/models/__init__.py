"""Networks: one file per family, and ``catalog.py`` with the one dict of names.

Names are imported when they are first used, so that ``import reslab.models`` is free of torch.
"""

from typing import TYPE_CHECKING

from reslab._lazy import lazy_names

if TYPE_CHECKING:
    from reslab.models.architecture import Architecture as Architecture
    from reslab.models.architecture import change as change
    from reslab.models.catalog import create_model as create_model
    from reslab.models.catalog import list_models as list_models
    from reslab.models.catalog import twin_of as twin_of
    from reslab.models.families import cifar as cifar
    from reslab.models.families import imagenet as imagenet
    from reslab.models.features import FeaturesOnly as FeaturesOnly
    from reslab.models.resnet import ResNet as ResNet
    from reslab.models.resnet import inflate as inflate

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "architecture": ("Architecture", "change"),
        "catalog": ("create_model", "list_models", "twin_of"),
        "families": ("cifar", "imagenet"),
        "features": ("FeaturesOnly",),
        "resnet": ("ResNet", "inflate"),
    },
)
