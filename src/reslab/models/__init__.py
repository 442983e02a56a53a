"""Networks: one file per family, and ``catalog.py`` with the one dict of names.

Names are imported when they are first used, so that ``import reslab.models`` is free of torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reslab.models.architecture import Architecture, change
    from reslab.models.catalog import create_model, list_models, twin_of
    from reslab.models.families import cifar, imagenet
    from reslab.models.features import FeaturesOnly
    from reslab.models.resnet import ResNet, inflate

__all__ = [
    "Architecture",
    "FeaturesOnly",
    "ResNet",
    "change",
    "cifar",
    "create_model",
    "imagenet",
    "inflate",
    "list_models",
    "twin_of",
]

_HOMES = {
    "architecture": ["Architecture", "change"],
    "catalog": ["create_model", "list_models", "twin_of"],
    "families": ["cifar", "imagenet"],
    "features": ["FeaturesOnly"],
    "resnet": ["ResNet", "inflate"],
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
