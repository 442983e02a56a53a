"""reslab: a workbench for deep residual networks."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "create_model", "list_models"]

if TYPE_CHECKING:
    from reslab.models.catalog import create_model, list_models


def __getattr__(name: str) -> Any:
    """Imports torch when a public name is first used, so that ``reslab --help`` needn't."""
    if name in __all__:
        from reslab.models import catalog

        return getattr(catalog, name)
    raise AttributeError(f"module 'reslab' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
