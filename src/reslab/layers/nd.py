"""Convolutions, norms and pools of 1, 2 or 3 dimensions, and ``LayerFactory``, which makes a network's own kinds.

Shape letters: N samples, C channels, and ``*`` for the 1, 2 or 3 dimensions that convolutions slide over (L, or H and
W, or T, H and W).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reslab.layers.spec import ActivationKind, ConvBias, ConvKind, Ndim, NormKind, TimePadding

CONVS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
BATCH_NORMS: dict[int, type[nn.Module]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
MAX_POOLS: dict[int, type[nn.Module]] = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVG_POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
GLOBAL_POOLS: dict[int, type[nn.Module]] = {
    1: nn.AdaptiveAvgPool1d,
    2: nn.AdaptiveAvgPool2d,
    3: nn.AdaptiveAvgPool3d,
}
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU}

ACTIVATION_GAINS = {
    # 1 / standard deviation of act(z), z standard normal: keeps variance 1. Values as DeepMind's NFNet code ships them;
    # the exact one of ReLU is sqrt(2 / (1 - 1/pi)) = 1.71286.
    "relu": 1.7139588594436646,
    "silu": 1.7881293296813965,
    "gelu": 1.7015043497085571,
}


@dataclass(frozen=True)
class LayerFactory:
    """Makes the layers of one network: all of the same dimension and kinds.

    Args:
        ndim: dimensions that convolutions slide over.
        norm: kind of the norms.
        conv: kind of the convolutions.
        conv_bias: which convolutions have a bias: ``"none"``, ``"all"``, or those made with ``last``.
        activation: kind of the activations.
        time_padding: of 3-D convolutions along the first axis.
    """

    ndim: Ndim = 2
    norm: NormKind = "batch"
    conv: ConvKind = "plain"
    conv_bias: ConvBias = "none"
    activation: ActivationKind = "relu"
    time_padding: TimePadding = "zeros"

    def make_conv(
        self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1, last: bool = False
    ) -> nn.Module:
        """Make a convolution that keeps the size, divided by the stride and rounded up.

        Args:
            in_channels: channels in.
            out_channels: channels out.
            kernel: side of the kernel, odd.
            stride: in every dimension.
            groups: of channels.
            last: whether the result is added to the stream.
        """
        kind = RepeatedFramesConv3d if self.time_padding == "replicate" else CONVS[self.ndim]
        if self.conv != "plain":
            kind = STANDARDISED[kind]
        bias = self.conv_bias == "all" or (self.conv_bias == "last" and last)
        conv = kind(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=bias)
        if self.conv == "scaled":
            assert isinstance(conv, Standardised)
            conv.set_scale(self.activation)
        return conv

    def make_norm(self, channels: int) -> nn.Module:
        """Make a norm. Group norm has 32 groups, or in a narrow layer as many as leave two channels to each."""
        match self.norm:
            case "batch":
                return BATCH_NORMS[self.ndim](channels)
            case "group":
                return nn.GroupNorm(math.gcd(32, max(channels // 2, 1)), channels)
            case "layer":
                return nn.GroupNorm(1, channels)
            case "frozen_batch":
                return FrozenBatchNorm(channels)
            case "none":
                return nn.Identity()

    def make_activation(self, *, in_place: bool = True) -> nn.Module:
        """Make an activation; only ReLU works in place, since its derivative needs no more than its result."""
        return nn.ReLU(inplace=in_place) if self.activation == "relu" else ACTIVATIONS[self.activation]()

    def make_max_pool(self) -> nn.Module:
        """Make a max-pool 3, stride 2, padded with minus infinity."""
        return MAX_POOLS[self.ndim](kernel_size=3, stride=2, padding=1)

    def make_global_pool(self) -> nn.Module:
        """Make the mean over all positions: (N, C, *) -> (N, C, 1, ...)."""
        return GLOBAL_POOLS[self.ndim](1)


# ---- convolutions


class RepeatedFramesConv3d(nn.Conv3d):
    """A 3-D convolution that is padded along time by repeating the outermost frame, and in space by zeros.

    A clip of one repeated frame stays one, whatever the kernel.

    Shape:
        (N, C_in, T, H, W) -> (N, C_out, T', H', W')
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        assert not isinstance(self.padding, str)
        time, height, width = self.padding
        if time:
            input = F.pad(input, (0, 0, 0, 0, time, time), mode="replicate")
        return F.conv3d(input, weight, bias, self.stride, (0, height, width), self.dilation, self.groups)


class Standardised:
    """Weight standardisation, mixed into a convolution: its weight is standardised whenever it is used.

    With ``set_scale``, a learned ``gain`` per filter, and the factor that keeps the variance of an activation
    ("scaled").

    Reference:
        Qiao et al. 2019, arXiv:1903.10520, eq. 10. Scaled: Brock et al. 2021, arXiv:2101.08692, eq. 3.
    """

    eps = 1e-8  # as timm's networks with plain standardisation; those with the scaled one have 1e-5
    scale = 1.0
    gain: nn.Parameter | None
    no_decay: tuple[str, ...] = ("gain",)  # a penalty would pull the branch to zero

    def set_scale(self, activation: ActivationKind) -> None:
        """Add the gain, 1 at the start, and the constant factor activation gain / sqrt(fan_in)."""
        weight: Tensor = self.weight  # type: ignore[attr-defined]
        self.eps = 1e-5
        self.gain = nn.Parameter(torch.ones(weight.shape[0], *[1] * (weight.ndim - 1)))
        self.scale = ACTIVATION_GAINS[activation] / math.sqrt(weight[0].numel())

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        standard = standardise(weight, gain=getattr(self, "gain", None), scale=self.scale, eps=self.eps)
        result: Tensor = super()._conv_forward(input, standard, bias)  # type: ignore[misc]
        return result


def standardise(weight: Tensor, *, gain: Tensor | None, scale: float, eps: float) -> Tensor:
    """Give each filter mean 0 and, before ``gain * scale``, variance 1.

    ``F.batch_norm`` over filters as channels does it in one fused kernel.

    Shape:
        weight (C_out, C_in, *) -> (C_out, C_in, *); gain (C_out, 1, ...)
    """
    flat = weight.reshape(1, weight.shape[0], -1)  # (C_out, C_in, *) -> (1, C_out, fan_in)
    factor = None if gain is None else (gain * scale).reshape(-1)
    return F.batch_norm(flat, None, None, weight=factor, training=True, momentum=0.0, eps=eps).reshape_as(weight)


class StandardisedConv1d(Standardised, nn.Conv1d):
    pass


class StandardisedConv2d(Standardised, nn.Conv2d):
    pass


class StandardisedConv3d(Standardised, nn.Conv3d):
    pass


class StandardisedRepeatedFramesConv3d(Standardised, RepeatedFramesConv3d):
    pass


STANDARDISED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: StandardisedConv1d,
    nn.Conv2d: StandardisedConv2d,
    nn.Conv3d: StandardisedConv3d,
    RepeatedFramesConv3d: StandardisedRepeatedFramesConv3d,
}


# ---- norms


class FrozenBatchNorm(nn.Module):
    """Batch norm whose statistics, scale and offset are constants: buffers, which neither training nor eval changes.

    Loads the state_dict of a batch norm.

    Shape:
        (N, C, *) -> (N, C, *)
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.pop(f"{prefix}num_batches_tracked", None)  # a batch norm has it, and constants need no count
        super()._load_from_state_dict(state_dict, prefix, *args)


def sync_norms(model: nn.Module) -> nn.Module:
    """Make every batch norm of a model see the batch of all processes; in place, names and values stay.

    Returns:
        The model.
    """
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) in BATCH_NORMS.values():
                child.__class__ = SyncedBatchNorm  # parameters, buffers, mode and hooks stay as they are
                module.add_module(name, child)
    return model


class SyncedBatchNorm(_BatchNorm):
    """Batch norm whose mean and variance are those of the whole batch, of which each process has an equal part.

    It runs on any device that torch.distributed can add numbers on. In eval mode, and in a process that trains alone,
    it is plain batch norm, with its parameters and buffers.

    Shape:
        (N, C, ...) -> the same

    Reference:
        Ioffe and Szegedy 2015, arXiv:1502.03167, Algorithm 1; torch's SyncBatchNorm, which runs on GPUs only.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected (N, C, ...), got {input.ndim} axes")

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            plain: Tensor = super().forward(input)
            return plain
        from torch.distributed.nn.functional import all_reduce  # whose gradient is the sum of all processes' gradients

        axes = [0, *range(2, input.ndim)]  # all but channels
        shape = (1, -1, *[1] * (input.ndim - 2))  # (C,) -> (1, C, 1, ...)
        values = input.to(torch.promote_types(input.dtype, torch.float32))
        mean = all_reduce(values.mean(axes)) / dist.get_world_size()
        # from the mean of all, in a second round: the mean of squares less the squared mean would cancel
        variance = all_reduce((values - mean.view(shape)).square().mean(axes)) / dist.get_world_size()
        if self.track_running_stats:
            self._track(mean.detach(), variance.detach(), count=input.numel() // input.shape[1])
        scale = (variance + self.eps).rsqrt()
        scale = scale if self.weight is None else scale * self.weight
        shift = -mean * scale if self.bias is None else self.bias - mean * scale
        normed: Tensor = values * scale.view(shape) + shift.view(shape)
        return normed.to(input.dtype)

    def _track(self, mean: Tensor, variance: Tensor, *, count: int) -> None:
        """Move the running statistics; the variance with Bessel's correction, as torch does."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        total = count * dist.get_world_size()
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        variance = variance * total / max(1, total - 1)
        self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)


# ---- pools


class ZeroPaddedMaxPool(nn.Module):
    """Max-pool 3, stride 2, padded in space with zeros, where torch pads with minus infinity.

    They differ wherever the input may be negative, as in a pre-activation network. TensorFlow, Keras and BiT pad so.

    Shape:
        (N, C, *) -> (N, C, ceil(* / 2))
    """

    def __init__(self, ndim: Ndim) -> None:
        super().__init__()
        self.space = min(ndim, 2)
        self.pool = MAX_POOLS[ndim](3, stride=2, padding=(1, 0, 0) if ndim == 3 else 0)

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            # ONNX Runtime 1.31 merges a zero padding into the pool, where it becomes one with minus infinity.
            for axis in range(x.ndim - self.space, x.ndim):
                edge = torch.zeros_like(x.narrow(axis, 0, 1))
                x = torch.cat((edge, x, edge), axis)
        else:
            x = F.pad(x, (1, 1) * self.space)
        pooled: Tensor = self.pool(x)
        return pooled


class CellMean(nn.Module):
    """The mean over cells of ``side`` positions in each dimension; the last cell is smaller where they don't divide.

    Args:
        side: of a cell.

    Shape:
        (N, C, *) -> (N, C, ceil(* / side))
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        cell = [self.side if size >= self.side else size for size in x.shape[2:]]  # torch refuses cells beyond the map
        pooled: Tensor = AVG_POOLS[x.ndim - 2](x, cell, cell, ceil_mode=True, count_include_pad=False)
        return pooled

    def extra_repr(self) -> str:
        return f"side={self.side}"


def mean_of_positions(x: Tensor) -> Tensor:
    """(N, C, *) -> (N, C, 1, ...): the mean over all positions."""
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)
