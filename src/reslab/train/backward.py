"""One batch's gradient: forward, loss and backward, in as many parts as the memory needs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from reslab.distributed import without_sync
from reslab.train.evaluate import Task, autocast
from reslab.train.options import FitOptions


def backward(
    forward: nn.Module,
    task: Task,
    images: Tensor,
    labels: Tensor,
    *,
    options: FitOptions,
    scaler: torch.amp.GradScaler,
) -> tuple[Tensor, Tensor]:
    """Adds the gradient of the batch-mean loss, times the scaler's scale, to the parameters'.

    Args:
        forward: the network, as it runs: wrapped for several processes, compiled, or neither.
        task: loss and wrong answers.
        images: (N, C, H, W) on the device, in the network's memory format.
        labels: of the images, on the device.
        options: precision, and the number of parts.
        scaler: of fp16's loss; a disabled one scales by 1.

    Returns:
        Mean loss and number of wrong answers, 0-dim, without gradient, still on the device.
    """
    loss, wrong = torch.zeros((), device=options.device), torch.zeros((), device=options.device)
    parts = min(options.accumulate, len(images))
    for index, (part, part_labels) in enumerate(split_batch(images, labels, parts)):
        with without_sync(forward, last=index == parts - 1):
            with autocast(options.amp, options.device):
                outputs = forward(part)
                part_loss = task.loss(outputs, part_labels)
            share = len(part) / len(images)
            scaler.scale(part_loss * share).backward()
        loss += part_loss.detach() * share
        wrong += task.num_wrong(outputs.detach(), part_labels)
    return loss, wrong


def split_batch(images: Tensor, labels: Tensor, parts: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The batch in ``parts`` pieces of nearly equal size."""
    yield from zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True)
