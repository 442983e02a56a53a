"""Small networks of four kinds, each with the switches that make it ill.

Shape letters: N samples, C channels, L length of a sequence, D width, H height, W width of an image.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_CLASSES = 10


class Perceptron(nn.Module):
    """Linear layers one after another, or in residual pairs.

    Args:
        depth: hidden layers.
        width: of each.
        residual: a shortcut past every two.
        norm: after each layer, or none.
        activation: after that.
    """

    def __init__(
        self,
        depth: int,
        *,
        width: int = 64,
        residual: bool = False,
        norm: Callable[[int], nn.Module] | None = nn.BatchNorm1d,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.stem = nn.LazyLinear(width)
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])
        self.norms = nn.ModuleList([norm(width) if norm else nn.Identity() for _ in range(depth)])
        self.acts = nn.ModuleList([activation() for _ in range(depth)])
        self.head = nn.Linear(width, NUM_CLASSES)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.flatten(1))  # (N, C, H, W) -> (N, D)
        for first in range(0, len(self.layers) - 1, 2):
            branch = x
            for place in (first, first + 1):
                branch = self.acts[place](self.norms[place](self.layers[place](branch)))
            x = x + branch if self.residual else branch
        return self.head(x)


class SequenceBlock(nn.Module):
    """Two convolutions over time, with a shortcut or without."""

    def __init__(self, width: int, *, residual: bool, norm: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv1d(width, width, 3, padding=1, bias=not norm) for _ in range(2))
        self.norm1, self.norm2 = (nn.BatchNorm1d(width) if norm else nn.Identity() for _ in range(2))
        self.act1, self.act2 = nn.ReLU(), nn.ReLU()
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        branch = self.norm2(self.conv2(self.act1(self.norm1(self.conv1(x)))))
        return self.act2(x + branch if self.residual else branch)


class Sequence(nn.Module):
    """A network over time: an image is read as one sequence."""

    def __init__(self, blocks: int, *, width: int = 24, residual: bool = True, norm: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, width, 5, stride=2, padding=2)
        self.blocks = nn.ModuleList([SequenceBlock(width, residual=residual, norm=norm) for _ in range(blocks)])
        self.head = nn.Linear(width, NUM_CLASSES)
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.flatten(2).mean(dim=1, keepdim=True))  # (N, C, H, W) -> (N, 1, L) -> (N, D, L / 2)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(dim=2))


class TokenBlock(nn.Module):
    """Attention and a perceptron, each normalised first and added."""

    def __init__(self, width: int, *, residual: bool, norm: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width) if norm else nn.Identity() for _ in range(2))
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.act = nn.GELU()
        self.residual = residual

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, 2, -1)).permute(2, 0, 3, 1, 4)  # (N, L, 3 D) -> 3 x (N, 2, L, D / 2)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        attended = self.attend(self.norm1(x))
        x = x + attended if self.residual else attended
        changed = self.fc2(self.act(self.fc1(self.norm2(x))))
        return x + changed if self.residual else changed


class Tokens(nn.Module):
    """A small vision transformer."""

    def __init__(
        self, blocks: int, *, channels: int = 1, width: int = 32, residual: bool = True, norm: bool = True
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 4, stride=4)
        self.positions = nn.Parameter(0.02 * torch.randn(1, 16, width))
        self.blocks = nn.ModuleList([TokenBlock(width, residual=residual, norm=norm) for _ in range(blocks)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2) + self.positions  # (N, C, 16, 16) -> (N, L, D)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(dim=1))


class Wrapped(nn.Module):
    """A network with something before its input, or after its output."""

    def __init__(self, net: nn.Module, *, before: Callable[[Tensor], Tensor] = lambda x: x, after: nn.Module) -> None:
        super().__init__()
        self.net, self.before, self.after = net, before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.net(self.before(x)))
