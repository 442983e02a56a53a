"""How much memory a training step takes, how large a batch fits, and what to do about one that doesn't.

On a GPU steps are really tried: the device says when its memory is full, and nothing is lost. On the CPU the system
kills the process instead; there the memory is estimated from small batches, with a margin.
"""

from __future__ import annotations

import gc
import math
import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from reslab.errors import RequestError
from reslab.training.batches import resize_batch, tensors_in
from reslab.training.execution import ExecutionMode
from reslab.training.loop import backward
from reslab.training.options import TrainOptions
from reslab.untouched import unchanged

if TYPE_CHECKING:
    from reslab.tasks.task import Task

KIB, MIB, GIB = 2**10, 2**20, 2**30
SMALL_BATCHES = (2, 4, 8)
"""Batches that the memory is measured at; the last two give its slope."""
INPUT_COPIES = 4
"""Copies of a batch that a loader makes on the way."""
USABLE_FRACTION = 0.8
"""Fraction of the free memory that an estimated step may take: allocators waste some, and libraries have their own."""
MAX_BATCH = 2**17
"""No larger batch is tried."""
OTHER_WAYS = "Take smaller images (--image-size) or another network."


@dataclass(frozen=True)
class StepMemory:
    """Memory of a training step as a function of its batch.

    Args:
        fixed_bytes: parameters, buffers, gradients, and the optimiser's state.
        bytes_per_item: of the part of a batch that is computed at once: what is kept for the backward pass, and passing
            tensors at the peak.
        input_bytes: per item of the whole batch, in the loader and on the device.
        parts: that each batch is split into.
    """

    fixed_bytes: int
    bytes_per_item: int
    input_bytes: int = 0
    parts: int = 1

    def needs(self, batch_size: int) -> int:
        """Bytes of a step with this batch."""
        return self.fixed_bytes + -(-batch_size // self.parts) * self.bytes_per_item + batch_size * self.input_bytes

    def largest(self, free_bytes: int) -> int:
        """The largest batch whose step fits into this many free bytes; 0 if none does."""
        room = int(USABLE_FRACTION * free_bytes) - self.fixed_bytes
        per_part = self.bytes_per_item + self.parts * self.input_bytes
        return max(0, min(MAX_BATCH, room // per_part * self.parts))

    def parts_for(self, batch_size: int, free_bytes: int) -> int:
        """How many parts a batch has to be split into to fit, a power of two times today's; 0 if its inputs don't."""
        for parts in (self.parts << number for number in range(1, batch_size.bit_length())):
            finer = StepMemory(self.fixed_bytes, self.bytes_per_item, self.input_bytes, parts)
            if finer.needs(batch_size) <= USABLE_FRACTION * free_bytes:
                return parts
        return 0


@dataclass(frozen=True)
class MemoryProbe:
    """Takes training steps for their memory, and leaves model and optimiser as they were.

    Args:
        model: on the device of ``mode``.
        task: gives the loss.
        batch: an example, of any size; its items are repeated for larger ones.
        optimizer: over the model's parameters.
        options: says how many parts a batch is split into.
        mode: precision, memory format and device.
    """

    model: nn.Module
    task: Task
    batch: Any
    optimizer: torch.optim.Optimizer
    options: TrainOptions
    mode: ExecutionMode

    def measure(self) -> StepMemory:
        """Measure a step at small batches, and how it grows with the batch.

        The peak of what is alive grows in a straight line once the kept activations outweigh the gradients, and a
        little slower before; what is kept for the backward pass grows in a straight line from the first item on, so
        that the larger slope of the two is taken.

        Raises:
            RequestError: if not even these batches fit.
        """
        with unchanged(self.model, self.optimizer), freed_memory(self.mode.device):
            self.take_step(SMALL_BATCHES[0])  # the optimiser makes its state, libraries their kernels
            try:
                (kept_before, peak_before), (kept, peak) = [self._look(size) for size in SMALL_BATCHES][-2:]
            except torch.OutOfMemoryError:
                raise RequestError(
                    f"Not even {SMALL_BATCHES[-1]} images fit into the memory of {self.mode.device}."
                ) from None
            slope = max(peak - peak_before, kept - kept_before) // (SMALL_BATCHES[-1] - SMALL_BATCHES[-2])
            owned = bytes_of({*self.model.parameters(), *self.model.buffers()})
            gradients = bytes_of(self.model.parameters())
            state = bytes_of(tree_leaves(list(self.optimizer.state.values())))
            item = bytes_of(tensors_in(resize_batch(self.batch, 1)))
            copies = INPUT_COPIES if self.mode.device.type == "cpu" else 1
            return StepMemory(
                fixed_bytes=owned + state + max(gradients, peak - slope * SMALL_BATCHES[-1]),
                bytes_per_item=slope,
                input_bytes=item * copies,
                parts=self.options.accumulate,
            )

    def _look(self, batch_size: int) -> tuple[int, int]:
        """Bytes alive between forward and backward pass, and at the peak, besides what is there anyway."""
        if self.options.accumulate == 1:  # otherwise the first part's gradients are there already
            self.optimizer.zero_grad(set_to_none=True)
        kept: list[int] = []
        if self.mode.device.type == "cuda":
            device = self.mode.device
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            self.take_step(batch_size, between=lambda: kept.append(torch.cuda.memory_allocated(device) - before))
            return kept[0], torch.cuda.max_memory_allocated(device) - before
        with LiveTensorCounter() as alive:
            self.take_step(batch_size, between=lambda: kept.append(alive.now))
        gradients = bytes_of(p.grad for p in self.model.parameters() if p.grad is not None)
        return kept[0], alive.peak + gradients * (self.options.accumulate > 1)

    def take_step(self, batch_size: int, *, between: Callable[[], object] = lambda: None) -> None:
        """Forward, backward and optimiser's step, of all items at once; ``between`` is called before backward."""
        batch = self.mode.move(resize_batch(self.batch, batch_size))
        with self.mode.autocast():
            loss = self.task.step(self.model, batch).loss
        between()
        loss.backward()
        self.optimizer.step()

    def fits(self, batch_size: int) -> bool:
        """Whether a step with this batch goes through on a GPU."""
        with unchanged(self.model, self.optimizer), freed_memory(self.mode.device):
            try:
                batch = self.mode.move(resize_batch(self.batch, batch_size))
                scaler = torch.amp.GradScaler(self.mode.device.type, enabled=False)
                parts = self.options.accumulate
                backward(self.model, self.task, batch, mode=self.mode, scaler=scaler, parts=parts)
                self.optimizer.step()
                torch.cuda.synchronize(self.mode.device)
            except torch.OutOfMemoryError:
                return False
            finally:
                self.optimizer.zero_grad(set_to_none=True)
        return True

    def largest_batch(self, *, at_most: int = MAX_BATCH) -> int | None:
        """Find the largest batch that fits into the free memory: tried on a GPU, estimated elsewhere.

        Returns:
            0 if not even one item fits; None where the free memory is unknown.
        """
        if self.mode.device.type == "cuda":
            return largest_good(self.fits, at_most=at_most)
        free = free_memory(self.mode.device)
        return None if free is None else min(at_most, self.measure().largest(free))

    def check(self, batch_size: int, *, halve: bool, sharing: int = 1) -> int:
        """Return the batch to train with: the wanted one if a step with it fits into the free memory.

        Args:
            batch_size: wanted, of this process.
            halve: take half of it, a quarter, ... where it doesn't fit, instead of an error.
            sharing: processes that share the memory: all of a machine on its CPU, one on a GPU.

        Raises:
            RequestError: if it doesn't fit, with the largest that does; and if not even one item fits.
        """
        if batch_size <= SMALL_BATCHES[-1]:
            return batch_size  # measuring takes as much
        free = free_memory(self.mode.device)
        if self.mode.device.type == "cuda":
            if self.fits(batch_size):
                return batch_size
            largest, needed = largest_good(self.fits, at_most=batch_size - 1), "more"
            parts = self.options.accumulate << math.ceil(math.log2(1.1 * batch_size / max(1, largest)))
        elif free is None:
            return batch_size
        else:
            memory = self.measure()
            largest, needed = memory.largest(free // sharing), f"about {in_units(memory.needs(batch_size))}, more"
            parts = memory.parts_for(batch_size, free // sharing)
        if batch_size <= largest:
            return batch_size
        if not largest:
            raise RequestError(f"Not even one image fits into the memory of {self.mode.device}. {OTHER_WAYS}")
        if not halve:
            usable = in_units(int((USABLE_FRACTION if self.mode.device.type == "cpu" else 1) * (free or 0)) // sharing)
            split = f"split (--accumulate {parts}), or " if parts else ""
            raise RequestError(
                f"A step with {batch_size} images takes {needed} than the {usable} that can be used. The largest batch"
                f" that fits is {largest}: --batch-size {largest}. Or let it be halved until it fits (--fit-batch), or"
                f" {split}keep the blocks' inputs only (--checkpoint-blocks)."
            )
        while batch_size > largest:
            batch_size = max(1, batch_size // 2)
        return batch_size


def largest_good(is_good: Callable[[int], bool], *, at_most: int) -> int:
    """Find the largest good number, to one part in 64, where all below a good one are good: by doubling, then halves.

    Example:
        >>> tried = []
        >>> largest_good(lambda number: tried.append(number) or number <= 100, at_most=1000), tried
        (100, [1, 2, 4, 8, 16, 32, 64, 128, 96, 112, 104, 100, 102, 101])
    """
    good, bad = 0, at_most + 1
    while good < at_most and (number := min(at_most, max(1, 2 * good))) < bad:
        good, bad = (number, bad) if is_good(number) else (good, number)
    while bad - good > max(1, good // 64):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if is_good(middle) else (good, middle)
    return good


class LiveTensorCounter(TorchDispatchMode):
    """Counts the bytes of all tensors on the CPU that are made inside and still alive, gradients included.

    Storages are counted once, however many tensors look at them. What kernels allocate for themselves is not seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now, self.peak, self.sizes = 0, 0, dict[int, int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.device.type == "cpu":
                self._see(tensor.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self.sizes:  # a result's storage may be an old one
            self.sizes[storage._cdata] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, storage._cdata)

    def _forget(self, key: int) -> None:
        self.now -= self.sizes.pop(key)


def bytes_of(tensors: Any) -> int:
    """Add up the sizes of all tensors among some values."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, Tensor))


def in_units(count: int) -> str:
    """Write a number of bytes for people.

    Example:
        >>> in_units(33_200_000_000), in_units(3_400_000_000), in_units(190_000_000), in_units(300_000)
        ('31 GiB', '3.2 GiB', '181 MiB', '293 KiB')
    """
    for unit, size in (("GiB", GIB), ("MiB", MIB)):
        if count >= size:
            return f"{count / size:.{1 if count < 10 * size and size == GIB else 0}f} {unit}"
    return f"{count / KIB:.0f} KiB"


# ---- what is free: on a GPU, on this machine, in the container that this process is in

MACHINE, OWN_GROUPS, GROUPS = Path("/proc/meminfo"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def free_memory(device: torch.device) -> int | None:
    """Bytes that a program can still take; None where the system doesn't say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu" or not MACHINE.exists():
        return None
    available = re.search(r"MemAvailable:\s+(\d+)", MACHINE.read_text())
    found = [int(available[1]) * KIB] if available else []
    found += [left for left in map(_left_in_group, _memory_groups()) if left is not None]
    return min(found, default=None)


def _memory_groups() -> list[Path]:
    """Folders of the control groups that limit this process's memory, as in a container; of version 2 and of 1."""
    root, lines = GROUPS, OWN_GROUPS.read_text().splitlines() if OWN_GROUPS.exists() else []
    found = []
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if not kinds or "memory" in kinds.split(","):
            found.append(root / ("memory" if kinds else "") / path.lstrip("/"))
    own = [parent for folder in found for parent in (folder, *folder.parents) if root in (parent, *parent.parents)]
    return list(dict.fromkeys([*own, root, root / "memory"]))


def _left_in_group(folder: Path) -> int | None:
    """What a control group leaves: limit less usage, where pages that were only read from files don't count."""
    for limit_name, usage_name, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            limit, usage = (folder / limit_name).read_text().strip(), int((folder / usage_name).read_text())
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue
        return None if limit == "max" else max(0, int(limit) - usage + int(stat.get(cached, 0)))
    return None


@contextmanager
def freed_memory(device: torch.device) -> Iterator[None]:
    """Give memory that nobody uses back to the device, before and after."""

    def give_back() -> None:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()

    give_back()
    try:
        yield
    finally:
        give_back()
