"""Data: where images come from, how they become tensors, and in which order they are served."""

from typing import TYPE_CHECKING

from reslab._lazy import lazy_names

if TYPE_CHECKING:
    from reslab.data.loader import Loader as Loader
    from reslab.data.options import DataOptions as DataOptions
    from reslab.data.prepared import Data as Data
    from reslab.data.prepared import prepare as prepare
    from reslab.data.preprocess import Preprocess as Preprocess
    from reslab.data.sources import Source as Source
    from reslab.data.sources import find_source as find_source

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "loader": ("Loader",),
        "options": ("DataOptions",),
        "prepared": (
            "Data",
            "prepare",
        ),
        "preprocess": ("Preprocess",),
        "sources": (
            "Source",
            "find_source",
        ),
    },
)
