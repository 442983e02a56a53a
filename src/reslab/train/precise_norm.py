"""Batch norm's statistics estimated again, over many images, for the weights as they are at the end."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reslab.train.evaluate import AmpKind, Batches, autocast, to_device


@torch.no_grad()
def reestimate_norms(
    model: nn.Module,
    loader: Batches,
    *,
    num_images: int,
    device: torch.device,
    amp: AmpKind = "none",
    channels_last: bool = False,
) -> int:
    """Replaces the running statistics of every batch norm by those over ``num_images`` training images.

    The running ones are an average over the last steps, whose weights were others. Here the weights stand still: the
    mean is that of all batches, the variance that of all their images about it.

    Args:
        model: in place; left in the mode that it was in.
        loader: of training images; whole batches are taken, at least one.
        num_images: to average over.
        device: of the model.
        amp: precision of the passes.
        channels_last: memory format of the images.

    Returns:
        Images used; 0 if the model has no batch norm that keeps statistics.

    Reference:
        He et al. 2015, the authors' release notes: statistics computed after training on a large batch; Wu and Johnson
        2021, arXiv:2105.07576, sec. 3.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms:
        return 0
    count = max(1, -(-num_images // loader.batch_size))
    modes = {module: module.training for module in model.modules()}
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.train().momentum = 1.0  # after a pass the running statistics are that batch's
    try:
        used = _average(
            model, norms, islice(loader.batches(), count), device=device, amp=amp, channels_last=channels_last
        )
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes.items():
            module.training = mode
    return used


def _average(
    model: nn.Module,
    norms: list[_BatchNorm],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    device: torch.device,
    amp: AmpKind,
    channels_last: bool,
) -> int:
    """Weighs each batch's statistics by its images."""
    used = 0
    sums = [(torch.zeros_like(statistics(norm)[0]), torch.zeros_like(statistics(norm)[1])) for norm in norms]
    for images, _ in batches:
        with autocast(amp, device):
            model(to_device(images, device, channels_last=channels_last))
        used += len(images)
        for norm, (mean_sum, square_sum) in zip(norms, sums, strict=True):
            mean, variance = statistics(norm)
            mean_sum.add_(mean, alpha=len(images))
            square_sum.add_(variance + mean**2, alpha=len(images))
    for norm, (mean_sum, square_sum) in zip(norms, sums, strict=True):
        mean, variance = statistics(norm)
        mean.copy_(mean_sum / used)
        variance.copy_(square_sum / used - mean**2)
    return used


def statistics(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Running mean and variance."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var
