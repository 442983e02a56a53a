"""How long a grid of runs is going to take here: a step of each network is timed, and the runs are dealt out."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from functools import cache

import torch

from reslab.config import DataConfig, ModelConfig, RunConfig, build
from reslab.data.prepare import Data
from reslab.run.assemble import build_subject
from reslab.run.recorder import Display
from reslab.tasks.classify import Classify
from reslab.train.trial import Trial, Way

BESIDE = 1.25
"""Time of a run over that of its network's passes: loading, the optimiser, evaluation, readings."""
START_S = 5.0
"""Seconds until a process has loaded torch and its data."""


def run_seconds(config: RunConfig) -> float:
    """Expected length of a training run on one thread; equal networks on equal data are timed once."""
    of_data, of_model = config.data.model_dump_json(), config.model.model_dump_json()
    num_images = config.train.steps * config.data.batch_size or config.train.epochs * len(data_of(of_data).train)
    return START_S + BESIDE * num_images / images_per_s(of_data, of_model)


@cache
def data_of(config: str) -> Data:
    """Of a data config, as JSON: that can be compared."""
    parsed = RunConfig(data=DataConfig.model_validate_json(config))
    return build_subject(parsed, Display(), device=torch.device("cpu")).data


@cache
def images_per_s(data_config: str, model_config: str) -> float:
    """Of forward and backward in fp32 on one thread."""
    data, preprocess = data_of(data_config), data_of(data_config).preprocess
    batch_size, num_classes = DataConfig.model_validate_json(data_config).batch_size, len(data.source.classes)
    model = build.model(
        ModelConfig.model_validate_json(model_config), num_classes=num_classes, in_channels=preprocess.channels
    )
    images = torch.randn(batch_size, preprocess.channels, preprocess.height, preprocess.width)
    labels, task = torch.arange(len(images)) % num_classes, Classify(num_classes)
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
