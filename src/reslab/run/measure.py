"""Evaluation of a run's network on a split, always in the same way."""

from __future__ import annotations

from typing import Any

from torch import nn

from reslab.config import RunConfig
from reslab.data.loader import MemoryLoader, StreamLoader
from reslab.data.prepare import Data
from reslab.data.splits import Split
from reslab.tasks.classify import Classify
from reslab.train.evaluate import evaluate


def evaluation_loader(data: Data, split: Split, config: RunConfig) -> MemoryLoader | StreamLoader:
    """A loader without shuffling or augmentation."""
    return data.loader(split, batch_size=max(256, config.data.batch_size), workers=config.data.workers)


def evaluate_split(model: nn.Module, task: Classify, data: Data, split: Split, *, config: RunConfig) -> dict[str, Any]:
    """The task's metrics on one split, in the precision that the run trained in."""
    return evaluate(
        model,
        task,
        evaluation_loader(data, split, config),
        amp=config.train.amp,
        channels_last=config.train.channels_last,
    )
