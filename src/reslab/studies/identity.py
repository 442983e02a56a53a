"""The measurement of the study identity: small blocks on vectors learn to give back their input, or nearly.

Blocks of two linear layers with a ReLU between them; real handwritten digits as vectors; the target is the digit
itself, or the digit plus a small fixed function of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

Function = Callable[[Tensor], Tensor]


class Stack(nn.Module):
    """Blocks of ``W2 relu(W1 x)``: with a shortcut around each or without; with ``zero`` every W2 starts at zero.

    Shape:
        (N, width) -> (N, width)
    """

    def __init__(self, width: int, num_blocks: int, *, shortcut: bool, zero: bool) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.blocks = nn.ModuleList(make_block(width, zero=zero) for _ in range(num_blocks))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x) if self.shortcut else block(x)
        return x


def make_block(width: int, *, zero: bool) -> nn.Sequential:
    first, last = nn.Linear(width, width), nn.Linear(width, width)
    nn.init.kaiming_normal_(first.weight, nonlinearity="relu")
    nn.init.kaiming_normal_(last.weight, nonlinearity="linear")
    for tensor in (first.bias, last.bias, *([last.weight] if zero else [])):
        nn.init.zeros_(tensor)
    return nn.Sequential(first, nn.ReLU(), last)


def measure(
    seed: int, *, kind: str, num_blocks: int, part: float, steps: int, lr: float, batch_size: int
) -> dict[str, float]:
    """Train one stack by Adam; errors are mean squares over the mean square of the input, which is 1.

    The stack is ``plain``, ``residual`` or ``residual, zero init``; the target differs from the input by the fraction
    ``part`` of its size. The rate falls to zero along a cosine, so that the end isn't the noise of the rate.
    """
    torch.manual_seed(seed)
    train, test = digits()
    target = target_of(part, train)
    model = Stack(train.shape[1], num_blocks, shortcut=kind != "plain", zero=kind == "residual, zero init")
    start = error_of(model, train, target)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 + math.cos(math.pi * step / steps)) / 2
        batch = train[torch.randint(len(train), (batch_size,))]
        optimizer.zero_grad()
        (model(batch) - target(batch)).square().mean().backward()
        optimizer.step()
    ends = {"train_error": error_of(model, train, target), "test_error": error_of(model, test, target)}
    return {"start_error": start, **ends}


def expected_s(*, steps: int, **settings: Any) -> float:
    """Estimate from fifty steps how long ``measure`` takes."""
    started = time.perf_counter()
    measure(0, steps=50, **settings)
    return (time.perf_counter() - started) * steps / 50


def digits() -> tuple[Tensor, Tensor]:
    """Load digits as vectors of mean square 1, (N, 64): those to train on, and those to test on."""
    values = torch.as_tensor(load_digits().data, dtype=torch.float32)
    values = values[torch.randperm(len(values), generator=torch.Generator().manual_seed(0))]
    values = values / values.square().mean().sqrt()
    border = len(values) * 4 // 5
    return values[:border], values[border:]


def target_of(part: float, inputs: Tensor) -> Function:
    """Return ``x + part * g(x)``: g, the same for every seed, is a random network of mean square 1 on the inputs."""
    generator, width = torch.Generator().manual_seed(1), inputs.shape[1]
    first, last = (torch.randn(width, width, generator=generator) / math.sqrt(width) for _ in range(2))
    size = (torch.tanh(inputs @ first) @ last).square().mean().sqrt()
    return lambda x: x + part * (torch.tanh(x @ first) @ last) / size


@torch.no_grad()
def error_of(model: nn.Module, inputs: Tensor, target: Function) -> float:
    return float((model(inputs) - target(inputs)).square().mean())
