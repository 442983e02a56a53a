"""Training: ``fit``, what it is handed, and the tests before it.

``fit(model, task, loaders, optimizer=..., schedule=...)`` is one function in ``loop.py``; it reads from top to bottom.
"""

from typing import TYPE_CHECKING

from reslab._lazy import lazy_names

if TYPE_CHECKING:
    from reslab.training.evaluation import evaluate as evaluate
    from reslab.training.loop import Recorder as Recorder
    from reslab.training.loop import fit as fit
    from reslab.training.lr_range import lr_range_test as lr_range_test
    from reslab.training.optim import adamw as adamw
    from reslab.training.optim import lamb as lamb
    from reslab.training.optim import muon as muon
    from reslab.training.optim import sgd as sgd
    from reslab.training.options import TrainOptions as TrainOptions
    from reslab.training.schedule import constant as constant
    from reslab.training.schedule import cosine as cosine
    from reslab.training.schedule import multistep as multistep
    from reslab.training.schedule import one_cycle as one_cycle
    from reslab.training.schedule import warm_up as warm_up

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "evaluation": ("evaluate",),
        "loop": (
            "Recorder",
            "fit",
        ),
        "lr_range": ("lr_range_test",),
        "optim": (
            "adamw",
            "lamb",
            "muon",
            "sgd",
        ),
        "options": ("TrainOptions",),
        "schedule": (
            "constant",
            "cosine",
            "multistep",
            "one_cycle",
            "warm_up",
        ),
    },
)
