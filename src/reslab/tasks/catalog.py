"""The one dict of tasks: name to what makes one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from reslab.options import import_object
from reslab.tasks.classify import Classify
from reslab.tasks.options import OwnTaskOptions
from reslab.tasks.task import Task

TASKS: dict[str, Callable[..., Task]] = {"classify": Classify}
"""Each is called with the class names, and with the options of its name in ``TASK_OPTIONS`` by keyword."""


def make_task(options: Any, classes: Sequence[str]) -> Task:
    """Make the task that options ask for.

    Args:
        options: a class of ``TASK_OPTIONS``, or those of a task of the user's own.
        classes: names, in the order of the labels.
    """
    if isinstance(options, OwnTaskOptions):
        task: Task = import_object(options.name, what="task")(classes=classes, **options.options)
        return task
    chosen = asdict(options)
    return TASKS[chosen.pop("name")](classes, **chosen)
