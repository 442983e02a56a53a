"""How a run is going to run: what the config leaves open is chosen by a short trial on this machine."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import nn

from reslab.config import RunConfig, build
from reslab.data.decoding import decoding
from reslab.data.prepare import Data
from reslab.data.splits import EncodedSplit
from reslab.distributed import Ranks
from reslab.tasks.classify import Classify
from reslab.train.trial import Speed, choose_speed

DECODED_IN_TRIAL = 8  # photographs, after a first one that isn't timed


def choose(
    config: RunConfig, model: nn.Module, task: Classify, data: Data, *, device: torch.device, ranks: Ranks
) -> tuple[RunConfig, Speed]:
    """The config with every ``auto`` of speed resolved, and why; the same in all processes.

    Args:
        config: of the run.
        model: on its device; a copy of it is tried.
        task: for the loss.
        data: of the run.
        device: of the model.
        ranks: the first of them tries, and tells the others.
    """
    found: list[tuple[RunConfig, Speed] | None] = [None]
    if ranks.is_first:
        found = [choose_here(config, model, task, data, device=device, ranks=ranks)]
    if ranks.world > 1:
        dist.broadcast_object_list(found, src=0)
    assert found[0] is not None
    torch.set_num_threads(found[0][1].way.threads)
    return found[0]


def choose_here(
    config: RunConfig, model: nn.Module, task: Classify, data: Data, *, device: torch.device, ranks: Ranks
) -> tuple[RunConfig, Speed]:
    """The same, in this process."""
    shape = (data.preprocess.channels, data.preprocess.height, data.preprocess.width)
    number = min(config.data.batch_size, len(data.train)) // ranks.world // config.train.accumulate
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(max(1, number), *shape, generator=generator).to(device)
    labels = torch.randint(task.num_classes, (len(images),), generator=generator).to(device)
    num_images = config.train.steps * config.data.batch_size or config.train.epochs * len(data.train)
    speed = choose_speed(
        model,
        lambda outputs: task.loss(outputs, labels),
        images,
        wishes=build.wishes(config.train),
        num_images=num_images // ranks.world,
    )
    workers, loader = choose_workers(config.data.workers, data, images_per_s=speed.images_per_s)
    config = build.with_way(config, speed.way)
    config = config.model_copy(update={"data": config.data.model_copy(update={"workers": workers})})
    return config, replace(speed, reason=f"{speed.reason}; {loader}")


def choose_workers(wish: int, data: Data, *, images_per_s: float | None) -> tuple[int, str]:
    """How many processes decode, and in words; as many as keep the network busy, and no more than there are cores."""
    if not isinstance(data.train, EncodedSplit):
        return max(0, wish), "the loader works in memory"
    if wish >= 0:
        return wish, f"{decoders(wish)}, as asked"
    cores = torch.multiprocessing.cpu_count()
    seconds = decoding_s(data, data.train)
    needed = cores if images_per_s is None else math.ceil(seconds * images_per_s)
    workers = min(max(1, needed), cores)
    return workers, f"{decoders(workers)} at {1e3 * seconds:.1f} ms an image"


def decoders(workers: int) -> str:
    """Who decodes, in words."""
    words = {0: "photographs are decoded in this process", 1: "1 worker decodes"}
    return words.get(workers, f"{workers} workers decode")


def decoding_s(data: Data, split: EncodedSplit) -> float:
    """Seconds that one process takes to decode and crop an image."""
    decode = decoding(data.preprocess, data.augmentation, thumbnails=data.thumbnails)
    with torch.random.fork_rng(devices=()):
        decode(split, 0)
        started = time.perf_counter()
        chosen = range(0, len(split), max(1, len(split) // DECODED_IN_TRIAL))
        for index in chosen:
            decode(split, index)
    return (time.perf_counter() - started) / len(chosen)
