"""Weights: read from elsewhere, recognised, loaded whole or not at all; and the bundle that a trained network is."""

from typing import TYPE_CHECKING

from reslab._lazy import lazy_names

if TYPE_CHECKING:
    from reslab.weights.bundle import BundleCard as BundleCard
    from reslab.weights.bundle import read_bundle as read_bundle
    from reslab.weights.bundle import write_bundle as write_bundle
    from reslab.weights.load import open_weights as open_weights

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "bundle": (
            "BundleCard",
            "read_bundle",
            "write_bundle",
        ),
        "load": ("open_weights",),
    },
)
