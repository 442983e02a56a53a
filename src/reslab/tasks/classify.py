"""Image classification: one label an image.

Shape letters: N images, K classes.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from reslab.errors import RequestError

LossKind = Literal["cross_entropy", "bce"]


class Classify:
    """Cross-entropy for training; loss, error and confusion for evaluation.

    Args:
        num_classes: K.
        label_smoothing: share of the target taken from the true class and spread over all K, in [0, 1).
        loss: ``cross_entropy``, or ``bce``: the mean over classes of a binary cross-entropy each, as if every class
            were a question of its own.

    Shape:
        logits (N, K), labels int64 (N,), or float (N, K) where images were mixed: the share of each class

    Reference:
        Szegedy et al. 2015, arXiv:1512.00567, sec. 7, label smoothing; Wightman et al. 2021, arXiv:2110.00476,
        sec. 2.2, binary cross-entropy.

    Deviates:
        The latter set the target of every class in a mixed image to 1; here it is the class's share.
    """

    def __init__(self, num_classes: int, *, label_smoothing: float = 0.0, loss: LossKind = "cross_entropy") -> None:
        if not 0 <= label_smoothing < 1:
            raise RequestError(f"label_smoothing is a share in [0, 1), got {label_smoothing}.")
        self.num_classes, self.label_smoothing, self.kind = num_classes, label_smoothing, loss

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean over the batch, smoothed, in float32 whatever the network computes in."""
        if self.kind == "cross_entropy":
            return F.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)
        shares = labels if labels.ndim == 2 else F.one_hot(labels, self.num_classes)  # (N,) -> (N, K)
        smoothed = shares.float() * (1 - self.label_smoothing) + self.label_smoothing / self.num_classes
        return F.binary_cross_entropy_with_logits(logits.float(), smoothed)

    def num_wrong(self, logits: Tensor, labels: Tensor) -> Tensor:
        """How many of the batch's answers are wrong, as a 0-dim tensor; of a mixed image the larger share counts."""
        right = labels if labels.ndim == 1 else labels.argmax(1)  # (N, K) -> (N,)
        return (logits.argmax(1) != right).sum()

    def metrics(self) -> ClassifyMetrics:
        """A fresh accumulator for one pass over a split."""
        return ClassifyMetrics(self.num_classes)


class ClassifyMetrics:
    """Accumulates loss and confusion over batches.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int) -> None:
        from torchmetrics import SumMetric  # here: it takes a second to import
        from torchmetrics.classification import MulticlassConfusionMatrix

        self.confusion = MulticlassConfusionMatrix(num_classes, validate_args=False)
        self.loss_sum = SumMetric(nan_strategy="disable").set_dtype(torch.float64)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Adds one batch, where it is; the loss is cross-entropy without smoothing."""
        logits, labels = logits.float(), labels.to(logits.device)
        self.confusion.to(logits.device).update(logits.argmax(1), labels)
        self.loss_sum.to(logits.device).update(F.cross_entropy(logits, labels, reduction="sum").double())

    def compute(self) -> dict[str, Any]:
        """Of all processes: ``loss`` (mean), ``error`` (share of wrong answers), ``class_errors`` and ``confusion``.

        A class that is absent has the error None; ``confusion[i][j]`` counts images of class i that were called j.
        """
        matrix = self.confusion.compute()
        counts, right = matrix.sum(1), matrix.diag()
        total = int(counts.sum())
        return {
            "loss": float(self.loss_sum.compute()) / total,
            "error": 1 - int(right.sum()) / total,
            "class_errors": [1 - int(r) / int(n) if n else None for r, n in zip(right, counts, strict=True)],
            "confusion": matrix.tolist(),
            "num_images": total,
        }


def probabilities(logits: Tensor) -> Tensor:
    """Logits (N, K) -> probabilities (N, K)."""
    return torch.softmax(logits.float(), dim=1)
