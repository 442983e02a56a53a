"""The memory that a run's forward pass keeps for its backward pass, counted by autograd itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from reslab.config import build, load_config
from reslab.records import RunFolder, encode, write_atomic
from reslab.run.assemble import build_subject
from reslab.run.diagnose import first_batch
from reslab.run.recorder import Display
from reslab.train.evaluate import autocast


def record_memory(folder: RunFolder) -> float:
    """Counts it for the batch of the first training step in the run's precision, and writes it into the folder.

    Args:
        folder: of a run.

    Returns:
        MiB.
    """
    config = load_config(folder.config)
    device, amp = build.device(config.train.device), config.train.amp
    assert amp != "auto", "a run's config has what its trial chose"
    subject = build_subject(config, Display(), device=device)
    images, labels = first_batch(subject.data, config, device=device)
    with autocast(amp, device):
        kept = kept_mib(subject.model.train().to(device), lambda logits: subject.task.loss(logits, labels), images)
    write_atomic(folder.memory, encode({"kept_mib": kept, "batch_size": len(images)}, indent=2) + "\n")
    return kept


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
