"""Image classification: one label per image.

Shape letters: N images, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reslab.distributed import sum_over_processes
from reslab.errors import RequestError
from reslab.records.training import ERROR
from reslab.tasks.options import ClassifyOptions
from reslab.tasks.task import Forward, Step

Batch = tuple[Tensor, Tensor]
"""Images float (N, C, H, W), and labels int64 (N,); where images were mixed, float (N, K), the fraction of each class.
"""


@dataclass(frozen=True)
class Classification:
    """The answer for one image.

    Args:
        label: name of the likeliest class.
        probability: the network's for it; softmax of the logits, not calibrated.
        top: the likeliest classes with their probabilities, best first.
    """

    label: str
    probability: float
    top: list[tuple[str, float]]


class Classify:
    """Cross-entropy for training; loss, error and confusion for evaluation.

    Args:
        classes: names, or how many there are.
        label_smoothing: fraction of the target taken from the true class and spread over all K, in [0, 1).
        loss: ``cross_entropy``, or ``bce``: the mean over classes of a binary cross-entropy each, as if every class
            were a question of its own.

    Shape:
        logits (N, K), labels int64 (N,), or float (N, K) where images were mixed: the fraction of each class

    Reference:
        Szegedy et al. 2015, arXiv:1512.00567, sec. 7, label smoothing; Wightman et al. 2021, arXiv:2110.00476,
        sec. 2.2, binary cross-entropy.

    Deviates:
        The latter set the target of every class in a mixed image to 1; here it is the class's fraction.
    """

    name = "classify"
    score = ERROR

    def __init__(
        self,
        classes: int | Sequence[str],
        *,
        label_smoothing: float = 0.0,
        loss: Literal["cross_entropy", "bce"] = "cross_entropy",
    ) -> None:
        self.options = ClassifyOptions(label_smoothing=label_smoothing, loss=loss)
        self.classes = [str(index) for index in range(classes)] if isinstance(classes, int) else list(classes)
        self.num_outputs = len(self.classes)

    def attach_head(self, trunk: nn.Module) -> nn.Module:
        """The network itself: those of the catalog end in a classifier, which is made anew for other classes."""
        built_for = getattr(getattr(trunk, "architecture", None), "num_classes", self.num_outputs)
        if built_for != self.num_outputs:
            trunk.reset_classifier(self.num_outputs)  # type: ignore[operator]
        return trunk

    def collate(self, inputs: Any, targets: Any) -> Any:
        """Images and labels, as they are."""
        return inputs, targets

    def outputs(self, forward: Forward, batch: Batch) -> Tensor:
        """Compute the logits.

        Raises:
            RequestError: if the network gives something else.
        """
        logits = forward(batch[0])
        if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] != self.num_outputs:
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            expected = (len(batch[0]), self.num_outputs)
            raise RequestError(
                f"The network gives {found} for {len(batch[0])} images; expected {expected}, one logit per class."
            )
        return logits

    def step(self, forward: Forward, batch: Batch) -> Step:
        """Compute the loss and count wrong answers."""
        logits, labels = self.outputs(forward, batch), batch[1]
        return Step(self.loss(logits, labels), len(labels), self.num_wrong(logits.detach(), labels))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Average over the batch, smoothed, in float32 whatever the network computes in."""
        smoothing = self.options.label_smoothing
        if self.options.loss == "cross_entropy":
            return F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
        fractions = labels if labels.ndim == 2 else F.one_hot(labels, self.num_outputs)  # (N,) -> (N, K)
        smoothed = fractions.float() * (1 - smoothing) + smoothing / self.num_outputs
        return F.binary_cross_entropy_with_logits(logits.float(), smoothed)

    def num_wrong(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Count the batch's wrong answers, as a 0-dim tensor; of a mixed image the larger part counts."""
        right = labels if labels.ndim == 1 else labels.argmax(1)  # (N, K) -> (N,)
        return (logits.argmax(1) != right).sum()

    def metrics(self) -> ClassifyMetrics:
        """A fresh accumulator for one pass over a split."""
        return ClassifyMetrics(self.num_outputs)

    def predict(self, outputs: Tensor, batch: Any, *, top: int = 3) -> list[Classification]:
        """The likeliest classes of each image."""
        found = []
        for values, order in zip(*probabilities(outputs).topk(min(top, self.num_outputs)), strict=True):
            ranked = [(self.classes[i], value) for i, value in zip(order.tolist(), values.tolist(), strict=True)]
            found.append(Classification(ranked[0][0], ranked[0][1], ranked))
        return found


class ClassifyMetrics:
    """Accumulates loss and confusion over batches.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.loss_sum = torch.zeros((), dtype=torch.float64)
        self.confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)  # true class, answer

    def update(self, outputs: Tensor, batch: Batch) -> None:
        """Add one batch, where it is; the loss is cross-entropy without smoothing."""
        logits, labels = outputs.float(), batch[1].to(outputs.device)
        pairs = labels * self.num_classes + logits.argmax(1)
        counts = torch.bincount(pairs, minlength=self.num_classes**2)
        self.confusion = self.confusion.to(logits.device) + counts.view(self.num_classes, self.num_classes)
        self.loss_sum = self.loss_sum.to(logits.device) + F.cross_entropy(logits, labels, reduction="sum").double()

    def compute(self) -> dict[str, Any]:
        """Of all processes: ``loss`` (mean), ``error`` (fraction of wrong answers), ``class_errors``, ``confusion``.

        A class that is absent has the error None; ``confusion[i][j]`` counts images of class i that were called j.
        """
        matrix = sum_over_processes(self.confusion)
        counts, right = matrix.sum(1), matrix.diag()
        total = int(counts.sum())
        return {
            "loss": float(sum_over_processes(self.loss_sum)) / total,
            "error": 1 - int(right.sum()) / total,
            "class_errors": [1 - int(r) / int(n) if n else None for r, n in zip(right, counts, strict=True)],
            "confusion": matrix.tolist(),
            "num_images": total,
        }


def probabilities(logits: Tensor) -> Tensor:
    """Turn logits (N, K) into probabilities (N, K)."""
    return torch.softmax(logits.float(), dim=1)
