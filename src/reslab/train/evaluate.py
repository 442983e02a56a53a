"""One pass over a split in eval mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

AmpKind = Literal["none", "bf16", "fp16"]
AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Metrics(Protocol):
    """Accumulates over batches."""

    def update(self, outputs: Tensor, labels: Tensor) -> None:
        """Adds a batch."""

    def compute(self) -> dict[str, Any]:
        """The result, with at least ``loss`` and ``error``."""


class Task(Protocol):
    """What ``fit`` and ``evaluate`` need of a task; ``reslab.tasks`` has them."""

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Mean over the batch, 0-dim."""

    def num_wrong(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Wrong answers in the batch, 0-dim."""

    def metrics(self) -> Metrics:
        """A fresh accumulator."""


class Batches(Protocol):
    """What ``fit`` and ``evaluate`` need of a loader; ``reslab.data.loader`` has them."""

    batch_size: int

    def __len__(self) -> int:
        """Batches an epoch."""

    def batches(self, epoch: int = 0, *, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (N, C, H, W) and labels of one epoch, from batch ``start`` on."""


def autocast(amp: AmpKind, device: torch.device) -> AbstractContextManager[Any]:
    """Autocast of torch for ``bf16`` and ``fp16``, nothing for ``none``."""
    return nullcontext() if amp == "none" else torch.autocast(device.type, dtype=AMP_DTYPES[amp])


def to_device(images: Tensor, device: torch.device, *, channels_last: bool) -> Tensor:
    """Images (N, C, H, W) on the device, in the memory format that the network runs in."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return images.to(device, non_blocking=True, memory_format=layout)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    task: Task,
    loader: Batches,
    *,
    device: torch.device | None = None,
    amp: AmpKind = "none",
    channels_last: bool = False,
) -> dict[str, Any]:
    """Runs the model over all batches in eval mode and leaves it in the mode that it was in.

    Returns:
        What the task's metrics compute: ``loss``, ``error`` and more.
    """
    device = device or next(model.parameters()).device
    metrics = task.metrics()
    was_training = model.training
    model.eval()
    try:
        for images, labels in loader.batches():
            with autocast(amp, device):
                outputs = model(to_device(images, device, channels_last=channels_last))
            metrics.update(outputs, labels)
    finally:
        model.train(was_training)
    return metrics.compute()
