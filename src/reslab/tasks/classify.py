"""Image classification: one label an image.

Shape letters: N images, K classes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reslab.errors import RequestError


class Classify:
    """Cross-entropy for training; loss, error and confusion for evaluation.

    Args:
        num_classes: K.
        label_smoothing: share of the target taken from the true class and spread over all K, in [0, 1).

    Shape:
        logits (N, K), labels int64 (N,)

    Reference:
        Szegedy et al. 2015, arXiv:1512.00567, sec. 7, label smoothing.
    """

    def __init__(self, num_classes: int, *, label_smoothing: float = 0.0) -> None:
        if not 0 <= label_smoothing < 1:
            raise RequestError(f"label_smoothing is a share in [0, 1), got {label_smoothing}.")
        self.num_classes, self.label_smoothing = num_classes, label_smoothing

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy over the batch, smoothed, in float32 whatever the network computes in."""
        return F.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)

    def num_wrong(self, logits: Tensor, labels: Tensor) -> Tensor:
        """How many of the batch's answers are wrong, as a 0-dim tensor."""
        return (logits.argmax(1) != labels).sum()

    def metrics(self) -> ClassifyMetrics:
        """A fresh accumulator for one pass over a split."""
        return ClassifyMetrics(self.num_classes)


class ClassifyMetrics:
    """Accumulates loss and confusion over batches.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int) -> None:
        from torchmetrics.classification import MulticlassConfusionMatrix  # here: it takes a second to import

        self.confusion = MulticlassConfusionMatrix(num_classes, validate_args=False)
        self.loss_sum = 0.0

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Adds one batch; the loss is cross-entropy without smoothing."""
        logits, labels = logits.float().cpu(), labels.cpu()
        self.loss_sum += float(F.cross_entropy(logits, labels, reduction="sum"))
        self.confusion.update(logits.argmax(1), labels)

    def compute(self) -> dict[str, Any]:
        """``loss`` (mean), ``error`` (share of wrong answers), ``class_errors`` (None if absent), ``confusion``.

        ``confusion[i][j]`` counts images of class i that were called j.
        """
        matrix = self.confusion.compute()
        counts, right = matrix.sum(1), matrix.diag()
        total = int(counts.sum())
        return {
            "loss": self.loss_sum / total,
            "error": 1 - int(right.sum()) / total,
            "class_errors": [1 - int(r) / int(n) if n else None for r, n in zip(right, counts, strict=True)],
            "confusion": matrix.tolist(),
            "num_images": total,
        }


def probabilities(logits: Tensor) -> Tensor:
    """Logits (N, K) -> probabilities (N, K)."""
    return torch.softmax(logits.float(), dim=1)
