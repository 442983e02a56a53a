"""What a network is trained for; one file per task.

``Task`` is the seam: training, evaluation, probes and pages ask a task for what they need, and look into no batch.
"""

from typing import TYPE_CHECKING

from reslab._lazy import lazy_names

if TYPE_CHECKING:
    from reslab.tasks.classify import Classification as Classification
    from reslab.tasks.classify import Classify as Classify
    from reslab.tasks.task import Metrics as Metrics
    from reslab.tasks.task import Step as Step
    from reslab.tasks.task import Task as Task

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "classify": (
            "Classification",
            "Classify",
        ),
        "task": (
            "Metrics",
            "Step",
            "Task",
        ),
    },
)
