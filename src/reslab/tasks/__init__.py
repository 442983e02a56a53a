"""What a network is trained for; one file per task.

``Task`` is the seam: training, evaluation, probes and pages ask a task for what they need, and look into no batch.
"""

from reslab.tasks.catalog import TASKS, make_task
from reslab.tasks.classify import Classification, Classify
from reslab.tasks.task import Metrics, Step, Task

__all__ = ["TASKS", "Classification", "Classify", "Metrics", "Step", "Task", "make_task"]
