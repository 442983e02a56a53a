"""A patient: a network, what was done to it, how it is trained, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn
from trainings import Training, digits

from reslab.probe.diagnosis import Diagnosis, diagnose

Half = Literal["fit", "test"]
Build = Callable[[], nn.Module]


@dataclass(frozen=True)
class Patient:
    """One case.

    Args:
        name: illness and network.
        half: see the file's docstring.
        build: the network; random numbers are seeded before.
        illness: rules of which the first finding must be one; empty for the healthy.
        training: how it is trained; None for a network that is diagnosed before its first step.
        harm: what is done to the network before.
    """

    name: str
    half: Half
    build: Build
    illness: tuple[str, ...] = ()
    training: Training | None = field(default_factory=Training)
    harm: Callable[[nn.Module], None] = field(default=lambda model: None)

    def diagnosis(self, seed: int) -> Diagnosis:
        """Of this case, with this seed."""
        torch.manual_seed(seed)
        model = self.build()
        images, labels = digits()
        with torch.no_grad():
            model.eval()(images[:2])  # makes what is lazy
            model.train()
            self.harm(model)
        if self.training is not None:
            return self.training.run(model, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randint(len(labels), (64,), generator=generator)
        return diagnose(model, (images[chosen], labels[chosen]), F.cross_entropy)
