"""What studies measure of a run besides its scores: what it uses its depth for, and what a step of it costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from reslab.distributed import Ranks
from reslab.probe.batch import first_samples, inputs_of
from reslab.probe.depth import MAX_SAMPLES, measured
from reslab.probe.paths import path_spectrum
from reslab.probe.shattering import shattering
from reslab.records import RunFolder
from reslab.records.depth import DepthRecord
from reslab.records.files import encode, write_atomic
from reslab.run.assemble import Ingredients, gather
from reslab.run.config import RunConfig, load_config
from reslab.run.diagnose import first_batch, loss_of
from reslab.run.display import Display
from reslab.training.batches import num_items
from reslab.training.execution import ExecutionMode, find_device
from reslab.training.speed import Trial
from reslab.untouched import same_random_numbers
from reslab.weights import read_bundle
from reslab.weights.bundle import load_state


def record_depth(folder: RunFolder) -> dict[str, DepthRecord]:
    """Measure paths and shattering at ``start`` and ``end``, on the batch of the first training step.

    Args:
        folder: of a finished run; depth.json is written into it.

    Raises:
        RequestError: if it isn't finished, or its data is no longer there.
    """
    _, found, batch = _as_it_began(folder)
    depths = {"start": _depth_now(found, batch)}
    load_state(found.model, read_bundle(folder.root, weights="last")[1], where=str(folder.root))
    depths["end"] = _depth_now(found, batch)
    write_atomic(folder.depth, encode({when: asdict(record) for when, record in depths.items()}) + "\n")
    return depths


def record_costs(folder: RunFolder) -> dict[str, float]:
    """Measure ``kept_mib`` and ``step_ratio`` on the first training batch.

    Args:
        folder: of a run; costs.json is written into it.
    """
    config, found, batch = _as_it_began(folder)
    train, ranks = config.train, Ranks(device=find_device(config.train.device))
    assert train.amp != "auto", "a run's config has what its trial chose"
    threads = torch.get_num_threads()
    mode = ExecutionMode(train.amp, channels_last=train.channels_last == "on", threads=threads, ranks=ranks)
    model, task = found.model.train(), found.task

    def loss(network: nn.Module, batch: Any) -> Tensor:
        return task.step(network, batch).loss

    with mode.autocast():
        kept = kept_mib(model, lambda: loss(model, batch))
    costs = {"kept_mib": kept, "step_ratio": step_ratio(model, loss, batch, mode)}
    write_atomic(folder.costs, encode({**costs, "batch_size": num_items(batch)}, indent=2) + "\n")
    return costs


def _as_it_began(folder: RunFolder) -> tuple[RunConfig, Ingredients, Any]:
    config = load_config(folder.config)
    ranks = Ranks(device=find_device(config.train.device))
    found = gather(config, Display(), ranks=ranks)
    return config, found, first_batch(found.data, found.task, config, ranks=ranks)


def _depth_now(found: Ingredients, batch: Any) -> DepthRecord:
    """Measure a network as it is; a plain one has one path."""
    model, loss = found.model.train(), loss_of(found.task, batch)
    missing: dict[str, str] = {}
    paths = measured(
        "paths",
        lambda: path_spectrum(
            model,
            first_samples(loss, MAX_SAMPLES),
        ),
        missing,
    )
    shattered = measured("shattering", lambda: shattering(model, inputs_of(model, loss)), missing)
    return DepthRecord(paths=paths, shattering=shattered, not_measured=missing)


def kept_mib(model: nn.Module, loss_of: Callable[[], Tensor]) -> float:
    """MiB of all tensors that autograd keeps from one forward pass, parameters and buffers aside, each once.

    What checkpointed blocks keep is not seen: they save their inputs by themselves.

    Example:
        >>> model = nn.Sequential(nn.Linear(256, 256), nn.ReLU())
        >>> kept_mib(model, lambda: model(torch.randn(1024, 256)).sum())  # the input and the result of the ReLU
        2.0
    """
    owned = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        graph = loss_of()  # kept alive, so that no address is used twice
    del graph
    return sum(sizes.values()) / 2**20


def step_ratio(model: nn.Module, loss: Callable[[nn.Module, Any], Tensor], batch: Any, mode: ExecutionMode) -> float:
    """Time of forward and backward pass over that in fp32, by turns: what else the machine does hits both."""
    plain = replace(mode, amp="none")
    if mode == plain:
        return 1.0
    with same_random_numbers({mode.device}):
        return 1 / Trial(model, loss, batch, num_items_in_run=num_items(batch)).speedup(mode, plain)
