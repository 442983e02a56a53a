"""Stacks of small blocks on vectors, and how one learns to give back its input."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

if TYPE_CHECKING:
    from reslab.studies.identity import Identity


class Stack(nn.Module):
    """Blocks of ``W2 relu(W1 x)``, with a shortcut around each or without.

    Args:
        width: of every layer.
        num_blocks: one after the other.
        shortcut: whether x is added to each block's result.
        zero: whether each block's last layer starts at zero.

    Shape:
        (N, width) -> (N, width)
    """

    def __init__(self, width: int, num_blocks: int, *, shortcut: bool, zero: bool) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.blocks = nn.ModuleList(make_block(width, zero=zero) for _ in range(num_blocks))

    def forward(self, x: Tensor) -> Tensor:
        """Of the input's shape."""
        for block in self.blocks:
            x = x + block(x) if self.shortcut else block(x)
        return x


def make_block(width: int, *, zero: bool) -> nn.Sequential:
    """``W2 relu(W1 x)`` with initial values after He; with ``zero`` W2 starts at zero."""
    first, last = nn.Linear(width, width), nn.Linear(width, width)
    nn.init.kaiming_normal_(first.weight, nonlinearity="relu")
    nn.init.kaiming_normal_(last.weight, nonlinearity="linear")
    for layer in (first, last):
        nn.init.zeros_(layer.bias)
    if zero:
        nn.init.zeros_(last.weight)
    return nn.Sequential(first, nn.ReLU(), last)


def train_stack(settings: Identity, seed: int) -> dict[str, float]:
    """Trains one network; errors are mean squares over the mean square of the input, which is 1."""
    torch.manual_seed(seed)
    train, test = digits()
    target = target_of(settings.part, width=train.shape[1])
    model = Stack(
        train.shape[1],
        settings.num_blocks,
        shortcut=settings.kind != "plain",
        zero=settings.kind == "residual, zero init",
    )
    start = error_of(model, train, target)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr)
    for step in range(settings.steps):
        for group in optimizer.param_groups:  # to zero along a cosine, so that the end isn't the noise of the rate
            group["lr"] = settings.lr * (1 + math.cos(math.pi * step / settings.steps)) / 2
        batch = train[torch.randint(len(train), (settings.batch_size,))]
        optimizer.zero_grad()
        (model(batch) - target(batch)).square().mean().backward()
        optimizer.step()
    return {
        "start_error": start,
        "train_error": error_of(model, train, target),
        "test_error": error_of(model, test, target),
    }


def digits() -> tuple[Tensor, Tensor]:
    """Real handwritten digits as vectors of mean square 1, those to train on and those to test on: (N, 64)."""
    values = torch.as_tensor(load_digits().data, dtype=torch.float32)
    values = values[torch.randperm(len(values), generator=torch.Generator().manual_seed(0))]
    values = values / values.square().mean().sqrt()
    border = len(values) * 4 // 5
    return values[:border], values[border:]


def target_of(part: float, *, width: int) -> nn.Module:
    """x, plus a fixed smooth function of x of ``part`` times the size; the same for all networks."""
    generator = torch.Generator().manual_seed(1)
    first, last = (torch.randn(width, width, generator=generator) / math.sqrt(width) for _ in range(2))
    return Target(first, last, part)


class Target(nn.Module):
    """``x + part * g(x)``, g a random network of one hidden layer with tanh, scaled to mean square 1 on the digits.

    Args:
        first: weights of the hidden layer.
        last: weights of the result.
        part: size of g.

    Shape:
        (N, width) -> (N, width)
    """

    def __init__(self, first: Tensor, last: Tensor, part: float) -> None:
        super().__init__()
        self.first, self.last, self.part = first, last, part
        train, _ = digits()
        self.size = (torch.tanh(train @ first) @ last).square().mean().sqrt()

    def forward(self, x: Tensor) -> Tensor:
        """Of the input's shape."""
        return x + self.part * (torch.tanh(x @ self.first) @ self.last) / self.size


@torch.no_grad()
def error_of(model: nn.Module, inputs: Tensor, target: nn.Module) -> float:
    """Mean square of what is wrong."""
    return float((model(inputs) - target(inputs)).square().mean())
