"""How long a grid of runs is going to take here: a step of each network is timed, and the runs are dealt out."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

import torch

from reslab.config import RunConfig, build
from reslab.data.prepare import Data
from reslab.run.assemble import build_subject
from reslab.run.recorder import Display
from reslab.train.trial import Trial, Way

BESIDE = 1.25
"""Time of a run over that of its network's passes: loading, the optimiser, evaluation, readings."""
START_S = 5.0
"""Seconds until a process has loaded torch and its data."""


def run_seconds(configs: dict[str, RunConfig]) -> dict[str, float]:
    """Expected length of each run on one thread, by name; equal networks are timed once."""
    found: dict[str, float] = {}
    data: dict[str, Data] = {}
    timed: dict[tuple[str, str], float] = {}
    for name, config in configs.items():
        of_data, of_model = config.data.model_dump_json(), config.model.model_dump_json()
        if of_data not in data:
            data[of_data] = build_subject(config, Display(), device=torch.device("cpu")).data
        key = of_data, of_model
        if key not in timed:
            timed[key] = images_per_s(config, data[of_data])
        num_images = config.train.steps * config.data.batch_size or config.train.epochs * len(data[of_data].train)
        found[name] = START_S + BESIDE * num_images / timed[key]
    return found


def images_per_s(config: RunConfig, data: Data) -> float:
    """Of forward and backward in fp32 on one thread."""
    preprocess, num_classes = data.preprocess, len(data.source.classes)
    model = build.model(config.model, num_classes=num_classes, in_channels=preprocess.channels)
    images = torch.randn(config.data.batch_size, preprocess.channels, preprocess.height, preprocess.width)
    labels = torch.arange(len(images)) % num_classes
    task = build.task(config.train, num_classes=num_classes)
    threads = torch.get_num_threads()
    try:
        return Trial(model, lambda outputs: task.loss(outputs, labels), images, num_images=1).images_per_s(Way())
    finally:
        torch.set_num_threads(threads)


def makespan_s(seconds: Iterable[float], *, workers: int) -> float:
    """Until the last run ends, if each in turn goes to the worker that is free first.

    Example:
        >>> makespan_s([3.0, 2.0, 2.0], workers=2)
        4.0
    """
    free = [0.0] * workers
    for length in seconds:
        heapq.heapreplace(free, free[0] + length)
    return max(free)
