"""Evaluation of a run's network on a split, always in the same way."""

from __future__ import annotations

from typing import Any

from torch import nn

from reslab.config import RunConfig
from reslab.data.loader import MemoryLoader, StreamLoader
from reslab.data.prepare import HERE, Data, Place
from reslab.data.splits import Split
from reslab.tasks.classify import Classify
from reslab.train.evaluate import evaluate


def evaluation_loader(
    data: Data, split: Split, config: RunConfig, *, place: Place = HERE
) -> MemoryLoader | StreamLoader:
    """A loader without shuffling or augmentation."""
    size, workers = max(256, config.data.batch_size), max(0, config.data.workers)
    return data.loader(split, batch_size=size, workers=workers, place=place)


def evaluate_split(
    model: nn.Module, task: Classify, data: Data, split: Split, *, config: RunConfig, place: Place = HERE
) -> dict[str, Any]:
    """The task's metrics on one split, in the precision that the run trained in."""
    return evaluate(
        model,
        task,
        evaluation_loader(data, split, config, place=place),
        device=place.device,
        amp="none" if config.train.amp == "auto" else config.train.amp,
        channels_last=config.train.channels_last != "off",
    )
