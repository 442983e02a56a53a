"""Hyper-connections: the stream of a residual network widened to n streams that are mixed at every block.

A stage opens n copies of its input, each block reads one mixture of them and writes its branch back to all, and the
stage closes with their mean. The plain residual network is n = 1 with every coefficient 1.

Shape letters: n streams, N samples, C channels, ``*`` the 1, 2 or 3 dimensions of a position.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reslab.layers.nd import mean_of_positions

Mix = tuple[Tensor, Tensor]
"""How a block writes: among streams (N or 1, n, n), old stream first, and from the branch to streams (N or 1, n)."""


def open_streams(x: Tensor, num_streams: int) -> Tensor:
    """(N, C, *) -> (n, N, C, *): copies."""
    return x.expand(num_streams, *x.shape)


def close_streams(streams: Tensor) -> Tensor:
    """(n, N, C, *) -> (N, C, *): their mean.

    Hyper-connections end in the sum, and leave the factor n to the final norm; a stage has none.
    """
    return streams.mean(0)


class StaticStreams(nn.Module):
    """One block's connection to n streams, with learned coefficients that are the same for every sample.

    It starts as the residual block on every stream: the block reads stream ``home``, streams keep to themselves, and
    the branch is added to all.

    Args:
        num_streams: n.
        home: stream that the block reads at the start; it must differ between blocks, or the streams never part.

    Shape:
        read: (n, N, C, *) -> (N, C, *); write: (n, N, C, *) and (N, C, *) -> (n, N, C, *)

    Reference:
        Zhu et al. 2024, arXiv:2409.19606, eq. 2 and 14.
    """

    no_decay: tuple[str, ...] = ("reading", "mixing", "writing")
    shortcut_gain = 1.0

    def __init__(self, num_streams: int, *, home: int = 0) -> None:
        super().__init__()
        self.num_streams = num_streams
        self.home = home % num_streams
        self.reading = nn.Parameter(torch.eye(num_streams)[self.home].clone())
        self.mixing = nn.Parameter(torch.eye(num_streams))  # [old stream, new stream]
        self.writing = nn.Parameter(torch.ones(num_streams))

    def coefficients(self, streams: Tensor) -> tuple[Tensor, Mix]:
        """How the block reads (N or 1, n), and how it writes."""
        return self.reading[None], (self.mixing[None], self.writing[None])

    def read(self, streams: Tensor) -> tuple[Tensor, Mix]:
        """The block's input, and how its branch is to be written."""
        reading, mix = self.coefficients(streams)
        return torch.einsum("bn,nb...->b...", reading.expand(streams.shape[1], -1), streams), mix

    def write(self, streams: Tensor, branch: Tensor, mix: Mix) -> Tensor:
        """The streams after the block."""
        mixing, writing = (part.expand(streams.shape[1], *part.shape[1:]) for part in mix)
        return torch.einsum("bij,ib...->jb...", mixing, streams) + torch.einsum("bj,b...->jb...", writing, branch)


class DynamicStreams(StaticStreams):
    """Hyper-connections whose coefficients depend on the streams: static ones plus ``scale * tanh(norm(streams) W)``.

    Args:
        channels: C.
        num_streams: n.
        home: stream that the block reads at the start.

    Reference:
        Zhu et al. 2024, arXiv:2409.19606, eq. 10 to 13: W starts at 0, the scales at 0.01.

    Deviates:
        The coefficients come from the mean over positions, one set a sample; a transformer has one set a token. The
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
        """How the block reads (N, n), and how it writes."""
        means = rms_norm(pooled(streams))  # (N, n, C)
        alpha = self.alpha_scale * torch.tanh(means @ self.alpha)  # (N, n, 1 + n)
        beta = self.beta_scale * torch.tanh(means @ self.beta)  # (N, n)
        return self.reading + alpha[..., 0], (self.mixing + alpha[..., 1:], self.writing + beta)


class ManifoldStreams(nn.Module):
    """mHC: hyper-connections whose mixing among streams is doubly stochastic, so that no product of them can blow up.

    Reading weights are sigmoids, writing weights twice sigmoids, and the mixing goes through Sinkhorn's iteration.

    Args:
        channels: C.
        num_streams: n.
        home: stream that the block mostly reads at the start.

    Shape:
        as ``StaticStreams``

    Reference:
        Xie et al. 2025, arXiv:2512.24880, eq. 7 to 9 and appendix: 20 iterations, biases -3 (+3 at home), 0, and 6 I -
        3.

    Deviates:
        Coefficients come from the mean over positions, one set a sample. The projections start at zero. It starts near
        the residual block, not at it: reading has 0.953 at home and 0.047 elsewhere.
    """

    no_decay: tuple[str, ...] = ("reading_bias", "writing_bias", "mixing_bias", "scales")
    shortcut_gain = 1.0  # of the mean over streams: columns sum to 1
    num_iterations = 20

    def __init__(self, channels: int, num_streams: int, *, home: int = 0) -> None:
        super().__init__()
        n = num_streams
        self.num_streams = n
        self.home = home % n
        self.projection = nn.Parameter(torch.zeros(n * channels, n + n + n * n))
        self.scales = nn.Parameter(torch.full((3,), 0.01))  # of reading, writing, mixing
        self.reading_bias = nn.Parameter(6 * torch.eye(n)[self.home] - 3)
        self.writing_bias = nn.Parameter(torch.zeros(n))
        self.mixing_bias = nn.Parameter(6 * torch.eye(n) - 3)  # [new stream, old stream]

    def coefficients(self, streams: Tensor) -> tuple[Tensor, Mix]:
        """How the block reads (N, n), and how it writes."""
        n = self.num_streams
        state = rms_norm(pooled(streams).flatten(1))  # (N, n, C) -> (N, n * C)
        reading, writing, mixing = (state @ self.projection).split([n, n, n * n], dim=1)
        to_branch = torch.sigmoid(self.scales[0] * reading + self.reading_bias)
        to_streams = 2 * torch.sigmoid(self.scales[1] * writing + self.writing_bias)
        among = sinkhorn(self.scales[2] * mixing.reshape(-1, n, n) + self.mixing_bias, self.num_iterations)
        return to_branch, (among.transpose(1, 2), to_streams)

    def read(self, streams: Tensor) -> tuple[Tensor, Mix]:
        """The block's input, and how its branch is to be written."""
        reading, mix = self.coefficients(streams)
        return torch.einsum("bn,nb...->b...", reading, streams), mix

    def write(self, streams: Tensor, branch: Tensor, mix: Mix) -> Tensor:
        """The streams after the block."""
        mixing, writing = mix
        return torch.einsum("bij,ib...->jb...", mixing, streams) + torch.einsum("bj,b...->jb...", writing, branch)


def pooled(streams: Tensor) -> Tensor:
    """(n, N, C, *) -> (N, n, C): the mean over positions, in full precision."""
    n, samples = streams.shape[:2]
    means = mean_of_positions(streams.flatten(0, 1)).reshape(n, samples, -1).transpose(0, 1)
    return means.float() if means.dtype in (torch.float16, torch.bfloat16) else means


def rms_norm(x: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Divides by the root mean square of the last dimension."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def sinkhorn(logits: Tensor, num_iterations: int) -> Tensor:
    """exp(logits) with rows and columns scaled in turn until both sum to 1.

    In logarithms, where no entry over- or underflows.

    Shape:
        (N, n, n) -> (N, n, n)
    """
    for _ in range(num_iterations):
        logits = logits - logits.logsumexp(2, keepdim=True)
        logits = logits - logits.logsumexp(1, keepdim=True)
    return logits.exp()
