"""A short training on handwritten digits, with the faults that people make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from reslab.probe.diagnosis import Diagnosis
from reslab.probe.training import watch


@cache
def digits() -> tuple[Tensor, Tensor]:
    """1,797 images, (N, 1, 16, 16), normalised, and their labels."""
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32).unsqueeze(1)
    images = F.interpolate((images - images.mean()) / images.std(), size=16, mode="bilinear")
    return images, torch.tensor(found.target)


@dataclass(frozen=True)
class Training:
    """How it goes.

    Args:
        steps: of it.
        batch_size: of each.
        lr: rate.
        momentum: of SGD.
        kind: of the optimiser.
        weight_decay: of it.
        clip: of the gradient's norm; 0 for none.
        zero_grad: whether gradients are zeroed.
        scale: that images are multiplied by, and then shifted by 128 if it isn't 1: as they come from a file.
        noise: share of labels that are drawn by lot.
        half: in fp16, without a loss scale.
    """

    steps: int = 60
    batch_size: int = 64
    lr: float = 0.05
    momentum: float = 0.9
    kind: str = "sgd"
    weight_decay: float = 1e-4
    clip: float = 0.0
    zero_grad: bool = True
    scale: float = 1.0
    noise: float = 0.0
    half: bool = False

    def run(self, model: nn.Module, *, seed: int, every: int = 5) -> Diagnosis:
        """Trains and watches."""
        generator = torch.Generator().manual_seed(seed)
        images, labels = digits()
        by_lot = torch.rand(len(labels), generator=generator) < self.noise
        labels = torch.where(by_lot, torch.randint(10, labels.shape, generator=generator), labels)
        if self.scale != 1:
            images = (images * self.scale + 128).clamp(0, 255)
        optimizer = self.optimizer(model)
        with watch(model.train(), every=every) as probe:
            for _ in range(self.steps):
                chosen = torch.randint(len(labels), (self.batch_size,), generator=generator)
                if self.zero_grad:
                    optimizer.zero_grad()
                batch = images[chosen]
                loss = F.cross_entropy(model(batch.half() if self.half else batch), labels[chosen])
                if not loss.isfinite():
                    loss.backward()
                    break  # as anybody would stop here
                loss.backward()
                if self.clip:
                    nn.utils.clip_grad_norm_(model.parameters(), self.clip)
                optimizer.step()
        return probe.diagnosis

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        kinds: dict[str, Callable[[], torch.optim.Optimizer]] = {
            "sgd": lambda: torch.optim.SGD(
                model.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
            ),
            "adamw": lambda: torch.optim.AdamW(model.parameters(), lr=self.lr, weight_decay=self.weight_decay),
        }
        return kinds[self.kind]()
