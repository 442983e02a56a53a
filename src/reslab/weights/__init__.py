"""Weights: read from elsewhere, recognised, loaded whole or not at all; and the bundle that a trained network is."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reslab.weights._convert import convert
    from reslab.weights._files import read_safetensors, read_weights
    from reslab.weights._load import load_weights, open_weights
    from reslab.weights._report import LoadReport
    from reslab.weights.bundle import BundleCard, load_state, read_bundle, save_weights, write_bundle

__all__ = [
    "BundleCard",
    "LoadReport",
    "convert",
    "load_state",
    "load_weights",
    "open_weights",
    "read_bundle",
    "read_safetensors",
    "read_weights",
    "save_weights",
    "write_bundle",
]
_FILES = {"convert": "_convert", "LoadReport": "_report", "load_weights": "_load", "open_weights": "_load"}
_FILES |= {"read_safetensors": "_files", "read_weights": "_files"}


def __getattr__(name: str) -> Any:
    """Import torch when a name is first used, so that ``reslab --help`` needn't."""
    if name not in __all__:
        raise AttributeError(f"module 'reslab.weights' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"reslab.weights.{_FILES.get(name, 'bundle')}"), name)


def __dir__() -> list[str]:
    return __all__
