"""Several processes, one run: what ``torchrun`` starts, and the few things that they have to agree on.

Every process sees its share of each batch; DDP averages the gradients. One process alone goes through the same code,
where every agreement is with itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from reslab.errors import RequestError


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run, and where it computes.

    Args:
        rank: counts from 0.
        world: how many there are.
        device: of this process.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes and prints."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Add values up over all processes."""
        return sum_over_processes(values) if self.world > 1 else values

    def mean(self, values: Tensor) -> Tensor:
        """Average values over all processes."""
        return self.sum(values) / self.world if self.world > 1 else values

    def any(self, flag: bool) -> bool:
        """Whether the flag is up in any process."""
        return bool(self.sum(torch.tensor(float(flag), device=self.device))) if self.world > 1 else flag

    def wrap(self, model: nn.Module) -> nn.Module:
        """Put the model into DDP if there are several processes."""
        if self.world == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)

    def broadcast(self, value: Any) -> Any:
        """Give every process the first one's value."""
        found = [value]
        if self.world > 1:
            dist.broadcast_object_list(found, src=0)
        return found[0]

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.world > 1:
            dist.barrier()


LOCAL = Ranks()
"""One process, on the CPU."""


def sum_over_processes(values: Tensor) -> Tensor:
    """Add values up over all processes of the run, where there are several."""
    if dist.is_available() and dist.is_initialized():
        values = values.clone()
        dist.all_reduce(values)
    return values


def without_sync(forward: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
    """For all parts of a split batch but the last: gradients are added up here and sent once."""
    if last or not isinstance(forward, DistributedDataParallel):
        return nullcontext()
    return forward.no_sync()


def launched_ranks(device: torch.device | None = None) -> Ranks:
    """Read from the environment what ``torchrun`` started; one process alone without it.

    Args:
        device: of the run; several processes on ``cuda`` get one GPU each. By default the CPU.

    Raises:
        RequestError: if the environment names ranks that can't be.
    """
    texts = {name: os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE")}
    device = device or torch.device("cpu")
    if not all(texts.values()):
        return Ranks(device=device)
    if not all(text.isdigit() for text in texts.values()):
        raise RequestError(
            f"torchrun's environment should hold numbers, got {texts}. Start it as `torchrun -m reslab`."
        )
    ranks = Ranks(int(texts["RANK"]), int(texts["WORLD_SIZE"]), _local_device(device))
    if ranks.rank >= ranks.world:
        raise RequestError(f"RANK {ranks.rank} is not below WORLD_SIZE {ranks.world}; unset both or use torchrun.")
    return ranks


def _local_device(device: torch.device) -> torch.device:
    """This process's own GPU, where the run is on GPUs."""
    if str(device) != "cuda":
        return device
    index = int(os.environ.get("LOCAL_RANK", 0))
    if index >= torch.cuda.device_count():
        raise RequestError(
            f"torchrun started a process for GPU {index}, and this machine has {torch.cuda.device_count()}."
            " Lower --nproc-per-node, or use --device cpu."
        )
    return torch.device("cuda", index)


@contextmanager
def process_group(ranks: Ranks) -> Iterator[Ranks]:
    """Connect the processes for as long as the context is open: nccl between GPUs, gloo otherwise."""
    if ranks.world == 1:
        yield ranks
        return
    if ranks.device.type == "cuda":
        torch.cuda.set_device(ranks.device)
    dist.init_process_group("nccl" if ranks.device.type == "cuda" else "gloo")
    try:
        yield ranks
    finally:
        dist.destroy_process_group()
