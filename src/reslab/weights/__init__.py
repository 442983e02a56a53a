"""Weights: read from elsewhere, recognised, loaded whole or not at all; and the bundle that a trained network is."""

from typing import TYPE_CHECKING

from reslab._lazy import lazy_names

if TYPE_CHECKING:
    from reslab.weights._convert import convert as convert
    from reslab.weights._files import read_safetensors as read_safetensors
    from reslab.weights._files import read_weights as read_weights
    from reslab.weights._load import load_weights as load_weights
    from reslab.weights._load import open_weights as open_weights
    from reslab.weights._report import LoadReport as LoadReport
    from reslab.weights.bundle import BundleCard as BundleCard
    from reslab.weights.bundle import load_state as load_state
    from reslab.weights.bundle import read_bundle as read_bundle
    from reslab.weights.bundle import save_weights as save_weights
    from reslab.weights.bundle import write_bundle as write_bundle

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "_convert": ("convert",),
        "_files": ("read_safetensors", "read_weights"),
        "_load": ("load_weights", "open_weights"),
        "_report": ("LoadReport",),
        "bundle": ("BundleCard", "load_state", "read_bundle", "save_weights", "write_bundle"),
    },
)
