"""Junctions: what joins shortcut (N, C, *) and branch (N, C, *) to one tensor (N, C, *). Connections make them.

Each has a ``shortcut_gain``, by which it multiplies the shortcut at the start of training: over L blocks the pure
shortcut path has the product of the gains. A parameter that must not decay is listed in ``no_decay``.

Shape letters: N samples, C channels, ``*`` the 1, 2 or 3 dimensions of a position, n streams.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reslab.layers.nd import LayerFactory, mean_of_positions


class Add(nn.Module):
    """``shortcut + branch``: the residual addition.

    Args:
        in_place: write the sum over the branch. Not where the branch ends in an activation, whose derivative needs it.

    Reference:
        He et al. 2015, arXiv:1512.03385, eq. 1.
    """

    shortcut_gain = 1.0

    def __init__(self, *, in_place: bool = True) -> None:
        super().__init__()
        self.in_place = in_place

    def forward(self, shortcut: Tensor, branch: Tensor) -> Tensor:
        return branch.add_(shortcut) if self.in_place else shortcut + branch


class BranchOnly(nn.Module):
    """The branch alone: the junction of a plain network."""

    shortcut_gain = 0.0

    def forward(self, shortcut: None, branch: Tensor) -> Tensor:
        return branch


class ScaledAdd(nn.Module):
    """``shortcut_gain * shortcut + branch_scale * branch``; the numbers are those of ``Scaling``."""

    no_decay: tuple[str, ...] = ("branch_scale",)
    branch_scale: Tensor | float

    def __init__(
        self,
        *,
        shortcut_gain: float = 1.0,
        branch_gain: float = 1.0,
        learned: Literal["no", "scalar", "channel"] = "no",
        channels: int = 1,
    ) -> None:
        super().__init__()
        self.shortcut_gain = shortcut_gain
        if learned == "no":
            self.branch_scale = branch_gain
        else:
            self.branch_scale = nn.Parameter(torch.full((channels,) if learned == "channel" else (), branch_gain))

    def forward(self, shortcut: Tensor, branch: Tensor) -> Tensor:
        scale = self.branch_scale
        if isinstance(scale, Tensor) and scale.ndim:
            scale = scale.reshape(-1, *[1] * (branch.ndim - 2))  # (C,) -> (C, 1, ...)
        scaled = branch if isinstance(scale, float) and scale == 1 else branch * scale
        return (shortcut if self.shortcut_gain == 1 else shortcut * self.shortcut_gain) + scaled

    def extra_repr(self) -> str:
        kind = "learned" if isinstance(self.branch_scale, Tensor) else f"{self.branch_scale:.4g}"
        return f"shortcut_gain={self.shortcut_gain:.4g}, branch_scale={kind}"


class GatedAdd(nn.Module):
    """``(1 - g) * shortcut + g * branch`` with g = sigmoid(gate(shortcut)), a gate for each channel and position.

    The numbers are those of ``Gating``; ``kernel`` is the side of the gate's convolution.
    """

    no_decay: tuple[str, ...] = ("gate.bias",)  # a penalty would open the gate to 1/2

    def __init__(
        self,
        channels: int,
        *,
        bias: float = -6.0,
        exclusive: bool = True,
        kernel: int = 1,
        layers: LayerFactory | None = None,
    ) -> None:
        super().__init__()
        layers = replace(layers or LayerFactory(), conv="plain", conv_bias="all")
        self.gate = layers.make_conv(channels, channels, kernel)
        self.bias = bias
        self.exclusive = exclusive
        self.shortcut_gain = 1 - 1 / (1 + math.exp(-bias))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the gate's initial values."""
        nn.init.zeros_(self.gate.weight)  # type: ignore[arg-type]
        nn.init.constant_(self.gate.bias, self.bias)  # type: ignore[arg-type]

    def forward(self, shortcut: Tensor, branch: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate(shortcut))
        return (1 - gate) * shortcut + (gate * branch if self.exclusive else branch)


class DroppedShortcutAdd(nn.Module):
    """``dropout(shortcut) + branch``, see ``ShortcutDropout``."""

    shortcut_gain = 1.0  # in expectation

    def __init__(self, rate: float = 0.5) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, shortcut: Tensor, branch: Tensor) -> Tensor:
        return F.dropout(shortcut, self.rate, training=self.training) + branch


# ---- hyper-connections: n streams instead of one, mixed at every block

Mix = tuple[Tensor, Tensor]
"""How a block writes: among streams (N or 1, n, n), old stream first, and from the branch to streams (N or 1, n)."""


class HyperConnection(nn.Module):
    """One block's connection to n streams: it reads one mixture of them, and writes its branch back to all.

    A stage opens n copies of its input and closes with their mean. The plain residual network is n = 1 with every
    coefficient 1. Subclasses say what the coefficients are.

    Args:
        num_streams: n.
        home: stream that the block reads at the start; it must differ between blocks, or the streams never part.

    Shape:
        streams (n, N, C, *), branch (N, C, *), mix -> the streams after the block (n, N, C, *)
    """

    shortcut_gain = 1.0  # of the mean over streams

    def __init__(self, num_streams: int, *, home: int = 0) -> None:
        super().__init__()
        self.num_streams = num_streams
        self.home = home % num_streams

    def coefficients(self, streams: Tensor) -> tuple[Tensor, Mix]:
        """Compute how the block reads (N or 1, n), and how it writes."""
        raise NotImplementedError

    def open(self, x: Tensor) -> Tensor:
        """(N, C, *) -> (n, N, C, *): copies."""
        return x.expand(self.num_streams, *x.shape)

    def close(self, streams: Tensor) -> Tensor:
        """(n, N, C, *) -> (N, C, *): the mean, where the paper has the sum and leaves the factor n to a final norm."""
        return streams.mean(0)

    def read(self, streams: Tensor) -> tuple[Tensor, Mix]:
        """(n, N, C, *) -> the block's input (N, C, *), and how its branch is to be written."""
        reading, mix = self.coefficients(streams)
        return torch.einsum("bn,nb...->b...", reading.expand(streams.shape[1], -1), streams), mix

    def forward(self, streams: Tensor, branch: Tensor, mix: Mix) -> Tensor:
        mixing, writing = (part.expand(streams.shape[1], *part.shape[1:]) for part in mix)
        return torch.einsum("bij,ib...->jb...", mixing, streams) + torch.einsum("bj,b...->jb...", writing, branch)


class StaticStreams(HyperConnection):
    """Hyper-connections whose learned coefficients are the same for every sample.

    They start as the residual block on every stream: the block reads stream ``home``, streams keep to themselves, and
    the branch is added to all.

    Reference:
        Zhu et al. 2024, arXiv:2409.19606, eq. 2 and 14.
    """

    no_decay: tuple[str, ...] = ("reading", "mixing", "writing")

    def __init__(self, num_streams: int, *, home: int = 0) -> None:
        super().__init__(num_streams, home=home)
        self.reading = nn.Parameter(torch.tensor(one_hot(num_streams, self.home)))
        self.mixing = nn.Parameter(torch.tensor([one_hot(num_streams, i) for i in range(num_streams)]))  # [old, new]
        self.writing = nn.Parameter(torch.ones(num_streams))

    def coefficients(self, streams: Tensor) -> tuple[Tensor, Mix]:
        return self.reading[None], (self.mixing[None], self.writing[None])


class DynamicStreams(StaticStreams):
    """Hyper-connections whose coefficients depend on the streams: static ones plus ``scale * tanh(norm(streams) W)``.

    Reference:
        Zhu et al. 2024, arXiv:2409.19606, eq. 10 to 13: W starts at 0, the scales at 0.01.

    Deviates:
        The coefficients come from the mean over positions, one set per sample; a transformer has one set per token. The
        norm is the root mean square over channels, without parameters.
    """

    no_decay: tuple[str, ...] = ("reading", "mixing", "writing", "alpha_scale", "beta_scale")

    def __init__(self, channels: int, num_streams: int, *, home: int = 0) -> None:
        super().__init__(num_streams, home=home)
        self.alpha = nn.Parameter(torch.zeros(channels, num_streams + 1))  # to reading and mixing
        self.beta = nn.Parameter(torch.zeros(channels))  # to writing
        self.alpha_scale = nn.Parameter(torch.tensor(0.01))
        self.beta_scale = nn.Parameter(torch.tensor(0.01))

    def coefficients(self, streams: Tensor) -> tuple[Tensor, Mix]:
        means = rms_norm(pooled(streams))  # (N, n, C)
        alpha = self.alpha_scale * torch.tanh(means @ self.alpha)  # (N, n, 1 + n)
        beta = self.beta_scale * torch.tanh(means @ self.beta)  # (N, n)
        return self.reading + alpha[..., 0], (self.mixing + alpha[..., 1:], self.writing + beta)


class ManifoldStreams(HyperConnection):
    """mHC: hyper-connections whose mixing among streams is doubly stochastic, so that no product of them can blow up.

    Reading weights are sigmoids, writing weights twice sigmoids, and the mixing goes through Sinkhorn's iteration.

    Reference:
        Xie et al. 2025, arXiv:2512.24880, eq. 7 to 9 and appendix: 20 iterations, biases -3 (+3 at home), 0, and
        6 I - 3.

    Deviates:
        Coefficients come from the mean over positions, one set per sample. The projections start at zero. It starts
        near the residual block, not at it: reading has 0.953 at home and 0.047 elsewhere.
    """

    no_decay: tuple[str, ...] = ("reading_bias", "writing_bias", "mixing_bias", "scales")
    num_iterations = 20

    def __init__(self, channels: int, num_streams: int, *, home: int = 0) -> None:
        super().__init__(num_streams, home=home)
        n = num_streams
        self.projection = nn.Parameter(torch.zeros(n * channels, n + n + n * n))
        self.scales = nn.Parameter(torch.full((3,), 0.01))  # of reading, writing, mixing
        self.reading_bias = nn.Parameter(torch.tensor(one_hot(n, self.home, on=3.0, off=-3.0)))
        self.writing_bias = nn.Parameter(torch.zeros(n))
        self.mixing_bias = nn.Parameter(torch.tensor([one_hot(n, i, on=3.0, off=-3.0) for i in range(n)]))  # [new, old]

    def coefficients(self, streams: Tensor) -> tuple[Tensor, Mix]:
        n = self.num_streams
        state = rms_norm(pooled(streams).flatten(1))  # (N, n, C) -> (N, n * C)
        reading, writing, mixing = (state @ self.projection).split([n, n, n * n], dim=1)
        to_branch = torch.sigmoid(self.scales[0] * reading + self.reading_bias)
        to_streams = 2 * torch.sigmoid(self.scales[1] * writing + self.writing_bias)
        among = sinkhorn(self.scales[2] * mixing.reshape(-1, n, n) + self.mixing_bias, self.num_iterations)
        return to_branch, (among.transpose(1, 2), to_streams)


def one_hot(length: int, index: int, *, on: float = 1.0, off: float = 0.0) -> list[float]:
    """Return a list, since ``torch.eye`` imports torch's compiler on the meta device, which takes seconds."""
    return [on if position == index else off for position in range(length)]


def pooled(streams: Tensor) -> Tensor:
    """(n, N, C, *) -> (N, n, C): the mean over positions, in full precision."""
    n, samples = streams.shape[:2]
    means = mean_of_positions(streams.flatten(0, 1)).reshape(n, samples, -1).transpose(0, 1)
    return means.float() if means.dtype in (torch.float16, torch.bfloat16) else means


def rms_norm(x: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Divide by the root mean square of the last dimension."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def sinkhorn(logits: Tensor, num_iterations: int) -> Tensor:
    """Scale rows and columns of exp(logits) in turn until both sum to 1.

    In logarithms, where no entry over- or underflows.

    Shape:
        (N, n, n) -> (N, n, n)
    """
    for _ in range(num_iterations):
        logits = logits - logits.logsumexp(2, keepdim=True)
        logits = logits - logits.logsumexp(1, keepdim=True)
    return logits.exp()
