"""Is "do nothing" easier to learn with a shortcut? Networks that shall give back their input, or nearly.

He et al. argue that a block whose best function is near the identity learns it more easily as ``F(x) = 0`` beside a
shortcut than as ``H(x) = x`` through its layers. Here blocks of two linear layers with a ReLU between them, real
handwritten digits as vectors, and as target the digit itself or the digit plus a small fixed function of it.

Reference:
    He et al. 2015, arXiv:1512.03385, section 3.1; Zhang et al. 2019, arXiv:1901.09321 (zero initial branches).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from reslab.records import MeasureRecord, StudyRow
from reslab.studies.measuring import Measuring
from reslab.studies.presets import Choices, Preset
from reslab.studies.study import Entry, Study

PARTS = (0.0, 0.1)
"""Size of the small function, over that of the digit."""
START = MeasureRecord("start_error", "error at the start", "number")
TRAIN = MeasureRecord("train_error", "training error", "number", charted=True)
TEST = MeasureRecord("test_error", "test error", "number", charted=True)
KINDS = {
    "plain": "without shortcuts",
    "residual": "with shortcuts",
    "residual, zero init": "with shortcuts and branches that start at zero",
}
"""In the words of the conclusion."""
PRESETS = {"": Preset(depths=(1, 4, 16), kinds=tuple(KINDS), blocks=True)}


@dataclass(frozen=True)
class Identity:
    """One network and its target.

    Args:
        kind: of ``KINDS``.
        num_blocks: of two layers each.
        part: size of what the target is away from the input, over that of the input.
        steps: of Adam.
        lr: its rate.
        batch_size: digits a step.
    """

    kind: str
    num_blocks: int
    part: float
    steps: int = 2000
    lr: float = 1e-3
    batch_size: int = 128


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


def learn(settings: Identity, seed: int) -> dict[str, float]:
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


def expect(settings: Identity) -> float:
    """From fifty steps."""
    started = time.perf_counter()
    learn(replace(settings, steps=50), seed=0)
    return (time.perf_counter() - started) * settings.steps / 50


def identity(choices: Choices) -> Study:
    """The study. ``depths`` are numbers of blocks here, ``epochs`` has no meaning.

    Raises:
        RequestError: for an unknown kind, a preset, or epochs.
    """
    chosen = choices.settle("identity", PRESETS, KINDS, without=("preset", "epochs", "data_dir", "download"))
    settings = [Identity(kind, depth, part) for part in PARTS for depth in chosen.depths for kind in chosen.kinds]
    return Study(
        chosen=chosen,
        title="Is doing nothing easier with a shortcut?",
        question="How near do blocks come to their input, or to it plus something small, with shortcuts and without?",
        protocol=(
            "Blocks of two linear layers of 64 with a ReLU between them, no norms, initial values after He.",
            "1,437 real handwritten digits as vectors of mean square 1; tested on 360 others.",
            "Target: the digit itself, or plus a fixed smooth function of it of a tenth of its size.",
            "Adam, rate 0.001 falling to zero along a cosine, 2,000 steps of 128 digits. Error: mean square.",
        ),
        entries=tuple(
            Entry(
                f"{one.kind.replace(', ', '-').replace(' ', '-')}-{one.num_blocks}-blocks-part-{one.part:g}",
                {
                    "target": "x" if not one.part else f"x + {one.part:g} g(x)",
                    "blocks": one.num_blocks,
                    "kind": one.kind,
                },
                Measuring(learn, one, expect),
                cost=one.num_blocks,
            )
            for one in settings
        ),
        conclude=conclude,
        measures=(START, TRAIN, TEST),
    )


def conclude(rows: Sequence[StudyRow]) -> str:
    """For each target at the greatest depth, who comes nearest, and from where."""
    sentences = []
    deepest = max((int(row.factors["blocks"]) for row in rows), default=0)
    for target in dict.fromkeys(row.factors["target"] for row in rows):
        here = {
            str(row.factors["kind"]): row
            for row in rows
            if row.factors["target"] == target and row.factors["blocks"] == deepest and row.num_ended
        }
        if len(here) < 2:
            continue
        best = min(here, key=lambda kind: here[kind].mean("test_error"))
        errors = "; ".join(f"{KINDS[kind]} {path_of(row)}" for kind, row in here.items())
        sentences.append(
            f"Target {target}, {deepest} blocks: best {KINDS[best]}. Error from the start to the end: {errors}."
        )
    return " ".join(sentences) or "Two kinds of network at one depth are needed to compare them."


def path_of(row: StudyRow) -> str:
    """Error of the network at the start, and of what it learned on digits that it hasn't seen."""
    return f"{row.mean('start_error'):.2g} to {row.mean('test_error'):.2g}"
