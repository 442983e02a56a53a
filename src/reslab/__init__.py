"""reslab: a workbench for deep residual networks."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from reslab.version import __version__

__all__ = ["__version__", "create_model", "diagnose", "list_models", "load_weights", "watch"]

if TYPE_CHECKING:
    from reslab.models.catalog import create_model, list_models
    from reslab.probe.diagnosis import diagnose
    from reslab.probe.training import watch
    from reslab.weights.load import load_weights

HOMES = {
    "create_model": "reslab.models.catalog",
    "diagnose": "reslab.probe.diagnosis",
    "list_models": "reslab.models.catalog",
    "load_weights": "reslab.weights.load",
    "watch": "reslab.probe.training",
}


def __getattr__(name: str) -> Any:
    """Imports torch when a public name is first used, so that ``reslab --help`` needn't."""
    if name in HOMES:
        return getattr(import_module(HOMES[name]), name)
    raise AttributeError(f"module 'reslab' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
