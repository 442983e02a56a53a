"""Data: where images come from, how they become tensors, and in which order they are served."""

from typing import TYPE_CHECKING

from reslab._lazy import lazy_names

if TYPE_CHECKING:
    from reslab.data.loader import Loader as Loader
    from reslab.data.loader import pair as pair
    from reslab.data.options import DataOptions as DataOptions
    from reslab.data.prepared import Data as Data
    from reslab.data.prepared import check_classes as check_classes
    from reslab.data.prepared import prepare as prepare
    from reslab.data.prepared import shorter_side as shorter_side
    from reslab.data.preprocess import Preprocess as Preprocess
    from reslab.data.preprocess import fit_for_prediction as fit_for_prediction
    from reslab.data.sources import SOURCES as SOURCES
    from reslab.data.sources import Source as Source
    from reslab.data.sources import find_source as find_source
    from reslab.data.sources import image_files as image_files
    from reslab.data.splits import ArraySplit as ArraySplit
    from reslab.data.splits import EncodedSplit as EncodedSplit
    from reslab.data.splits import Split as Split

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "loader": ("Loader", "pair"),
        "options": ("DataOptions",),
        "prepared": ("Data", "check_classes", "prepare", "shorter_side"),
        "preprocess": ("Preprocess", "fit_for_prediction"),
        "sources": ("SOURCES", "Source", "find_source", "image_files"),
        "splits": ("ArraySplit", "EncodedSplit", "Split"),
    },
)
