"""What can be chosen about a task: the ``[task]`` section of a config, which depends on the task's name."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Tag

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


def _tag(value: Any) -> str:
    name = value.get("name", "classify") if isinstance(value, dict) else getattr(value, "name", "")
    return "own" if ":" in str(name) else str(name)


TaskOptions = Annotated[
    Annotated[ClassifyOptions, Tag("classify")] | Annotated[OwnTaskOptions, Tag("own")], Discriminator(_tag)
]
"""Those of any task."""
