"""The seam between training and what is trained for: what ``fit``, ``evaluate``, probes and pages ask of a task.

Only a task looks inside a batch. Everything above it moves, splits and hands on batches as they are, and reads the
numbers that come out by their names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from reslab.records import Score

Forward = Callable[..., Any]
"""The network as it runs: bare, compiled, or wrapped for several processes."""


@dataclass(frozen=True)
class Step:
    """What a task makes of one batch in training.

    Args:
        loss: mean over the items, 0-dim, with its graph.
        num_items: that the loss and the score are of.
        score: the task's score as a sum over the items, 0-dim; None where one batch doesn't have it.
    """

    loss: Tensor
    num_items: int
    score: Tensor | None = None


class Metrics(Protocol):
    """Accumulates over the batches of a split, of all processes."""

    def update(self, outputs: Any, batch: Any) -> None:
        """Add a batch."""

    def compute(self) -> dict[str, Any]:
        """The result: ``loss``, the task's score by its name, other named numbers as floats, and tables."""


class Task(Protocol):
    """What a network is trained for.

    Args:
        name: such as ``classify``.
        score: the number that selects weights, ends a run early, and heads tables and axes.
        num_outputs: size of the head that a network of the catalog is built with; None for its own.
    """

    @property
    def name(self) -> str: ...

    @property
    def score(self) -> Score: ...

    @property
    def num_outputs(self) -> int | None: ...

    def attach_head(self, trunk: nn.Module) -> nn.Module:
        """Turn a network of the catalog into one for this task."""

    def collate(self, inputs: Any, targets: Any) -> Any:
        """Arrange a batch: any nest of tensors. ``targets`` is None where the network is asked for predictions."""

    def outputs(self, forward: Forward, batch: Any) -> Any:
        """Run the network on the inputs of a batch, whose targets may be None."""

    def step(self, forward: Forward, batch: Any) -> Step:
        """Run the network on a training batch and judge it."""

    def metrics(self) -> Metrics:
        """A fresh accumulator for one pass over a split."""

    def predict(self, outputs: Any, batch: Any) -> list[Any]:
        """One prediction per item: a dataclass of plain types."""
