"""How long a grid of runs is going to take here: a step of each network is timed, and the runs are dealt out."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import torch

from reslab.data import Data, DataOptions, find_source, prepare
from reslab.distributed import Ranks
from reslab.run.assemble import build_network, example_batch
from reslab.run.config import ModelOptions, RunConfig
from reslab.studies.job import Job
from reslab.tasks.classify import Classify
from reslab.training.batches import resize_batch
from reslab.training.execution import ExecutionMode, find_device
from reslab.training.speed import Trial
from reslab.untouched import same_random_numbers

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
    num_images = config.train.steps * config.data.batch_size or config.train.epochs * len(_data_of(config.data).train)
    return START_S + BESIDE * num_images / images_per_s(config.data, config.model, config.train.device)


@cache
def _data_of(options: DataOptions) -> Data:
    return prepare(find_source(options), options)


@cache
def images_per_s(data_options: DataOptions, model_options: ModelOptions, device: str) -> float:
    """Measure forward and backward in fp32, on the CPU on one thread."""
    data, ranks = _data_of(data_options), Ranks(device=find_device(device))
    task = Classify(data.source.classes)
    model = build_network(model_options, task, in_channels=data.preprocess.channels).to(ranks.device)
    batch = resize_batch(example_batch(data, task, ranks=ranks), data_options.batch_size)
    trial = Trial(model, lambda network, batch: task.step(network, batch).loss, batch, num_items_in_run=1)
    with same_random_numbers({ranks.device}):
        return trial.items_per_s(ExecutionMode(channels_last=True, threads=1, ranks=ranks))


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
