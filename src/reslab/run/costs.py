"""What a step of a run costs: the memory that its forward pass keeps, and its time over that in fp32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from reslab.config import build, load_config
from reslab.records import RunFolder, encode, write_atomic
from reslab.run.assemble import build_subject
from reslab.run.diagnose import first_batch
from reslab.run.recorder import Display
from reslab.train.evaluate import autocast
from reslab.train.trial import Trial, Way, untouched


def record_costs(folder: RunFolder) -> dict[str, float]:
    """Measures ``kept_mib`` and ``step_ratio`` on the first training batch, and writes them into the folder.

    Args:
        folder: of a run.
    """
    config = load_config(folder.config)
    device, amp = build.device(config.train.device), config.train.amp
    assert amp != "auto", "a run's config has what its trial chose"
    way = Way(amp, channels_last=config.train.channels_last == "on", threads=torch.get_num_threads())
    subject = build_subject(config, Display(), device=device)
    images, labels = first_batch(subject.data, config, device=device)
    model = subject.model.train().to(device)

    def loss(logits: Tensor) -> Tensor:
        return subject.task.loss(logits, labels)

    with autocast(amp, device):
        kept = kept_mib(model, loss, images)
    found = {"kept_mib": kept, "step_ratio": step_ratio(model, loss, images, way)}
    write_atomic(folder.costs, encode({**found, "batch_size": len(images)}, indent=2) + "\n")
    return found


def kept_mib(model: nn.Module, loss: Callable[[Tensor], Tensor], images: Tensor) -> float:
    """MiB of all tensors that autograd keeps from one forward pass, parameters and buffers aside, each once.

    What checkpointed blocks keep is not seen: they save their inputs by themselves.

    Example:
        >>> model = nn.Sequential(nn.Linear(256, 256), nn.ReLU())
        >>> kept_mib(model, torch.sum, torch.randn(1024, 256))  # the input and the result of the ReLU
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
        held = loss(model(images))  # holds the graph, so that no address is used twice
    del held
    return sum(sizes.values()) / 2**20


def step_ratio(model: nn.Module, loss: Callable[[Tensor], Tensor], images: Tensor, way: Way) -> float:
    """Time of forward and backward pass over that in fp32, by turns: what else the machine does hits both."""
    plain = replace(way, amp="none")
    if way == plain:
        return 1.0
    with untouched(images.device):
        return 1 / Trial(model, loss, images, num_images=len(images)).gain(way, plain)
