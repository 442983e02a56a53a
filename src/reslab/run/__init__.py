"""A run from its config to its folder, and back: assemble and train, describe, reopen to evaluate and predict.

``reslab.train`` and ``reslab.load`` are its two verbs.
"""

from typing import TYPE_CHECKING

from reslab._lazy import lazy_names

if TYPE_CHECKING:
    from reslab.run.config import RunConfig as RunConfig
    from reslab.run.load import Answer as Answer
    from reslab.run.load import Bundle as Bundle
    from reslab.run.train import Run as Run
    from reslab.run.train import run_training as run_training

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "config": ("RunConfig",),
        "load": (
            "Answer",
            "Bundle",
        ),
        "train": (
            "Run",
            "run_training",
        ),
    },
)
