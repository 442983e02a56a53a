"""How long a grid of runs is going to take here: a step of each network is timed, and the runs are dealt out."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import torch

from reslab.config import DataConfig, ModelConfig, RunConfig, build
from reslab.data import Data
from reslab.run.assemble import build_subject
from reslab.run.recorder import Display
from reslab.studies.job import Job
from reslab.tasks.classify import Classify
from reslab.train.trial import Trial, Way, untouched

BESIDE = 1.25
"""Time of a run over that of its network's passes: loading, the optimiser, evaluation, readings."""
START_S = 5.0
"""Seconds until a process has loaded torch and its data."""


@dataclass(frozen=True)
class Estimate:
    """How long runs are going to take.

    Args:
        seconds: of each run, by name.
        minutes: of all.
        where: it would be so.
    """

    seconds: dict[str, float]
    minutes: float
    where: str


def estimate(jobs: Mapping[str, Job], *, workers: int) -> Estimate:
    """By a step of each network. Runs that share a GPU take about as long as one after the other."""
    seconds = {name: job.expected_s() for name, job in jobs.items()}
    on_gpu = torch.cuda.is_available() and any(job.wants_gpu for job in jobs.values())
    where = "this machine's GPU, which all share" if on_gpu else f"{workers} of this machine's cores"
    return Estimate(seconds, makespan_s(seconds.values(), workers=1 if on_gpu else workers) / 60, where)


def run_seconds(config: RunConfig) -> float:
    """Expected length of a training run, of those on the CPU on one thread; equal networks are timed once."""
    of_data, of_model = config.data.model_dump_json(), config.model.model_dump_json()
    num_images = config.train.steps * config.data.batch_size or config.train.epochs * len(data_of(of_data).train)
    return START_S + BESIDE * num_images / images_per_s(of_data, of_model, config.train.device)


@cache
def data_of(config: str) -> Data:
    """Of a data config, as JSON: that can be compared."""
    parsed = RunConfig(data=DataConfig.model_validate_json(config))
    return build_subject(parsed, Display(), device=torch.device("cpu")).data


@cache
def images_per_s(data_config: str, model_config: str, device: str) -> float:
    """Of forward and backward in fp32, on the CPU on one thread."""
    data, place = data_of(data_config), build.device(device)
    batch_size, num_classes = DataConfig.model_validate_json(data_config).batch_size, len(data.source.classes)
    channels = data.preprocess.channels
    model = build.model(ModelConfig.model_validate_json(model_config), num_classes=num_classes, in_channels=channels)
    images = torch.randn(batch_size, channels, data.preprocess.height, data.preprocess.width, device=place)
    labels, task = torch.arange(len(images), device=place) % num_classes, Classify(num_classes)
    trial = Trial(model.to(place), lambda outputs: task.loss(outputs, labels), images, num_images=1)
    with untouched(place):
        return trial.images_per_s(Way())


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
