"""Batch norm over the batch of all processes, on any device that torch.distributed can add numbers on."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class Added(torch.autograd.Function):
    """Adds a tensor up over all processes; each process's gradient is the sum of all of theirs."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        """The sum."""
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """d(all losses) / d(values)."""
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class SyncedBatchNorm(_BatchNorm):
    """Batch norm whose mean and variance are those of the whole batch, of which each process has an equal share.

    In eval mode, and in a process that trains alone, it is plain batch norm, with its parameters and buffers.

    Shape:
        (N, C, ...) -> the same

    Reference:
        Ioffe and Szegedy 2015, arXiv:1502.03167, Algorithm 1; torch's SyncBatchNorm, which runs on GPUs only.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected (N, C, ...), got {input.ndim} axes")

    def forward(self, input: Tensor) -> Tensor:
        """Normalises by the statistics of all processes."""
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            plain: Tensor = super().forward(input)
            return plain
        axes = [0, *range(2, input.ndim)]  # all but channels
        shape = (1, -1, *[1] * (input.ndim - 2))  # (C,) -> (1, C, 1, ...)
        values = input.to(torch.promote_types(input.dtype, torch.float32))
        mean = Added.apply(values.mean(axes)) / dist.get_world_size()
        # from the mean of all, in a second round: the mean of squares less the squared mean would cancel
        variance = Added.apply((values - mean.view(shape)).square().mean(axes)) / dist.get_world_size()
        if self.track_running_stats:
            self._track(mean.detach(), variance.detach(), count=input.numel() // input.shape[1])
        scale = (variance + self.eps).rsqrt()
        scale = scale if self.weight is None else scale * self.weight
        shift = -mean * scale if self.bias is None else self.bias - mean * scale
        found: Tensor = values * scale.view(shape) + shift.view(shape)
        return found.to(input.dtype)

    def _track(self, mean: Tensor, variance: Tensor, *, count: int) -> None:
        """Moves the running statistics; the variance with Bessel's correction, as torch does."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        total = count * dist.get_world_size()
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        variance = variance * total / max(1, total - 1)
        self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)


def sync_norms(model: nn.Module) -> nn.Module:
    """Makes every batch norm of a model see the batch of all processes; in place, names and values stay.

    Returns:
        The model.
    """
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
                child.__class__ = SyncedBatchNorm  # parameters, buffers, mode and hooks stay as they are
                module.add_module(name, child)
    return model
