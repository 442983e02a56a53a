"""Data: where images come from, how they become tensors, and in which order they are served."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reslab.data.loader import Loader, pair
    from reslab.data.options import DataOptions
    from reslab.data.prepared import Data, check_classes, prepare, shorter_side
    from reslab.data.preprocess import Preprocess, fit_for_prediction
    from reslab.data.sources import SOURCES, Source, find_source, image_files
    from reslab.data.splits import ArraySplit, EncodedSplit, Split

__all__ = [
    "SOURCES", "ArraySplit", "Data", "DataOptions", "EncodedSplit", "Loader", "Preprocess", "Source", "Split",
    "check_classes", "find_source", "fit_for_prediction", "image_files", "pair", "prepare",
    "shorter_side",
]  # fmt: skip
HOMES = {
    "loader": ("Loader", "pair"),
    "options": ("DataOptions",),
    "prepared": ("Data", "check_classes", "prepare", "shorter_side"),
    "preprocess": ("Preprocess", "fit_for_prediction"),
    "sources": ("SOURCES", "Source", "find_source", "image_files"),
    "splits": ("ArraySplit", "EncodedSplit", "Split"),
}


def __getattr__(name: str) -> Any:
    """Import torch when a name is first used that needs it, so that ``reslab --help`` needn't."""
    for module, names in HOMES.items():
        if name in names:
            return getattr(import_module(f"reslab.data.{module}"), name)
    raise AttributeError(f"module 'reslab.data' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
