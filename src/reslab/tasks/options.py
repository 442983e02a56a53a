"""What can be chosen about a task: the ``[task]`` section of a config, which depends on the task's name."""

from __future__ import annotations

from dataclasses import field
from typing import Any, Literal

from reslab.errors import unknown
from reslab.options import Fraction, options


@options
class ClassifyOptions:
    """Image classification.

    Args:
        name: what the network is trained for: classify, or my_pkg.tasks:builder.
        label_smoothing: fraction of the target that is spread over all classes.
        loss: cross-entropy, or a binary one for each class.
    """

    name: Literal["classify"] = "classify"
    label_smoothing: Fraction = 0.0
    loss: Literal["cross_entropy", "bce"] = "cross_entropy"


@options
class OwnTaskOptions:
    """A task of the user's own.

    Args:
        name: my_pkg.tasks:builder, called with the class names as ``classes`` and with the options by name.
        options: names and values for the builder.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)


TASK_OPTIONS: dict[str, type] = {"classify": ClassifyOptions}
"""The options of each task by its name."""


TaskOptions = ClassifyOptions | OwnTaskOptions
"""Those of any task."""


def task_options_class(name: str) -> type:
    """The class of options that a task's name asks for.

    Raises:
        RequestError: for an unknown name, with the closest ones.
    """
    if ":" in name:
        return OwnTaskOptions
    if name not in TASK_OPTIONS:
        raise unknown("task", name, TASK_OPTIONS, hint="A task of your own is named my_pkg.tasks:builder.")
    return TASK_OPTIONS[name]
