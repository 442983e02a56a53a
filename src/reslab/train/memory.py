"""How much memory a training step takes, how large a batch fits, and what to do about one that doesn't.

On a GPU steps are really tried: the device says when its memory is full, and nothing is lost. On the CPU nobody says
so, the system kills the process instead; there the memory is predicted from small batches.
"""

from __future__ import annotations

import gc
import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from reslab.errors import RequestError
from reslab.train.backward import backward
from reslab.train.evaluate import Task, autocast, to_device
from reslab.train.free_memory import free_memory
from reslab.train.lr_range import unchanged
from reslab.train.options import FitOptions

KIB, MIB, GIB = 2**10, 2**20, 2**30
INPUT_COPIES = 4
"""Copies of a batch of images that a loader makes on the way, as float32."""
SPARE_SHARE = 0.05
"""Share of the free memory that stays free: other programs move too."""

# What the CPU's allocators take besides the tensors; measured by benchmarks in a process of its own with glibc 2.36:
LIBRARY_BYTES = 32 * MIB
"""oneDNN's compiled kernels and scratch."""
HEAP_BYTES = 32 * MIB
"""Tensors up to this size lie on glibc's heap, larger ones in pages of their own."""
HEAP_WASTE = 0.5
"""Holes in the heap, as a share of the tensors on it."""

LOOKS = (2, 4, 8)
"""Batches that the memory is measured at; the last two give its slope."""
FINE = 64
"""A search on the GPU ends when it knows the largest batch to one part in so many."""
MOST = 2**17
"""No larger batch is tried."""


@dataclass(frozen=True)
class TrainingStep:
    """What a step is made of.

    Args:
        model: on the device of ``options``; left as it was.
        task: gives the loss.
        shape: of one image, (C, H, W).
        num_classes: labels are below it.
        optimizer: over the model's parameters; left as it was.
        options: device, precision, memory format and parts of a batch have a say.
    """

    model: nn.Module
    task: Task
    shape: tuple[int, int, int]
    num_classes: int
    optimizer: torch.optim.Optimizer
    options: FitOptions = field(default_factory=lambda: FitOptions(steps=1))


@dataclass(frozen=True)
class StepMemory:
    """Memory of a training step as a function of its batch.

    Args:
        fixed_bytes: parameters, buffers, gradients, the optimiser's state, and what libraries take.
        bytes_per_image: of the part of a batch that is computed at once: what is kept for the backward pass, and
            passing tensors at the peak.
        input_bytes: per image of the whole batch, in the loader and on the device.
        paid_bytes: share of the fixed ones that was taken when the free memory was asked for.
        parts: that each batch is split into.
        tensors: bytes per image of the tensors that lie on the heap if they are small, and how many there are of each;
            none on a GPU.
    """

    fixed_bytes: int
    bytes_per_image: int
    input_bytes: int = 0
    paid_bytes: int = 0
    parts: int = 1
    tensors: tuple[tuple[int, int], ...] = ()

    def needs(self, batch_size: int) -> int:
        """Bytes of a step with this batch."""
        part = -(-batch_size // self.parts)
        return self.fixed_bytes + part * self.cost(part) + batch_size * self.input_bytes

    def cost(self, part: int) -> int:
        """Bytes per image, holes in the heap included, where ``part`` images are computed at once."""
        on_heap = sum(size * number for size, number in self.tensors if size * part <= HEAP_BYTES)
        return self.bytes_per_image + round(HEAP_WASTE * on_heap)

    def largest(self, free_bytes: int) -> int:
        """The largest batch whose step fits into so many free bytes; 0 if none does."""
        room = usable(free_bytes) + self.paid_bytes - self.fixed_bytes
        ends = {min(MOST, HEAP_BYTES // size) for size, _ in self.tensors}
        for low, high in reversed([*pairwise(sorted({0, MOST} | ends))]):  # between two ends an image costs the same
            part = min(high, room // (self.cost(high) + self.parts * self.input_bytes))
            if part > low:
                return part * self.parts
        return 0

    def parts_for(self, batch_size: int, free_bytes: int) -> int:
        """How many times finer a batch has to be split to fit, by powers of two; 0 if its images alone don't."""
        for times in (1 << number for number in range(1, batch_size.bit_length())):
            finer = replace(self, parts=self.parts * times, fixed_bytes=self.fixed_bytes + self.paid_bytes)
            if finer.needs(batch_size) <= usable(free_bytes) + self.paid_bytes:
                return times
        return 0


def usable(free_bytes: int) -> int:
    """What of the free memory a run may take."""
    return int((1 - SPARE_SHARE) * free_bytes)


def gib(count: int) -> str:
    """Bytes for people.

    Example:
        >>> gib(33_200_000_000), gib(3_400_000_000), gib(190_000_000), gib(300_000)
        ('31 GiB', '3.2 GiB', '181 MiB', '293 KiB')
    """
    for unit, size in (("GiB", GIB), ("MiB", MIB)):
        if count >= size:
            return f"{count / size:.{1 if count < 10 * size and size == GIB else 0}f} {unit}"
    return f"{count / KIB:.0f} KiB"


LESS = "Take smaller images (--image-size) or another network."

# ---- how much a step takes


def step_memory(step: TrainingStep) -> StepMemory:
    """Measures the memory of a training step at small batches, and how it grows with the batch.

    The peak of what is alive grows in a straight line once the kept activations outweigh the gradients, and a little
    slower before; what is kept for the backward pass grows in a straight line from the first image on, so that the
    larger slope of the two is taken.

    Raises:
        RequestError: if not even these batches fit.
    """
    with unchanged(step.model, step.optimizer), freed(step.options.device):
        run_part(step, LOOKS[0])  # the optimiser makes its state, libraries their kernels
        try:
            looks = [look(step, batch_size) for batch_size in LOOKS]
        except torch.OutOfMemoryError:
            raise RequestError(f"Not even {LOOKS[-1]} images fit into the memory of {step.options.device}.") from None
        (before, last), difference = looks[-2:], LOOKS[-1] - LOOKS[-2]
        slope = max(last.peak - before.peak, last.kept - before.kept) // difference
        own = sum(map(bytes_of, {*step.model.parameters(), *step.model.buffers()}))
        state = sum(bytes_of(value) for value in tensors_in(step.optimizer.state))
        on_cpu = step.options.device.type == "cpu"
        growing = Counter(size // LOOKS[-1] for size in last.sizes if size >= LOOKS[-1])
        return StepMemory(
            fixed_bytes=own + state + max(0, last.peak - slope * LOOKS[-1]) + on_cpu * (LIBRARY_BYTES + own),
            bytes_per_image=slope,
            input_bytes=math.prod(step.shape) * 4 * (INPUT_COPIES if on_cpu else 1),
            paid_bytes=own,
            parts=step.options.accumulate,
            tensors=tuple(sorted(growing.items())) if on_cpu else (),
        )


@dataclass(frozen=True)
class Look:
    """One measured step.

    Args:
        peak: bytes alive at once besides parameters, buffers and the optimiser's state.
        kept: bytes alive between forward and backward pass.
        sizes: of the tensors that they belong to; only on the CPU.
    """

    peak: int
    kept: int
    sizes: tuple[int, ...] = ()


def look(step: TrainingStep, batch_size: int) -> Look:
    """Takes one step and watches the memory."""
    kept: list[Look] = []
    if step.options.accumulate == 1:  # otherwise the first part's gradients are there already
        step.optimizer.zero_grad(set_to_none=True)
    if step.options.device.type == "cuda":
        device = step.options.device
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run_part(step, batch_size, between=lambda: kept.append(Look(0, torch.cuda.memory_allocated(device) - before)))
        return Look(torch.cuda.max_memory_allocated(device) - before, kept[0].kept)
    with Living() as living:
        run_part(step, batch_size, between=lambda: kept.append(Look(0, living.now, tuple(living.sizes.values()))))
    gradients = sum(bytes_of(p.grad) for p in step.model.parameters() if p.grad is not None)
    return Look(living.peak + gradients * (step.options.accumulate > 1), kept[0].kept, kept[0].sizes)


def run_part(step: TrainingStep, batch_size: int, *, between: Callable[[], object] = lambda: None) -> None:
    """Forward, backward and step on random images that are computed at once; ``between`` is called before backward."""
    images, labels = random_batch(step, batch_size)
    with autocast(step.options.amp, step.options.device):
        loss = step.task.loss(step.model(images), labels)
    between()
    loss.backward()
    step.optimizer.step()


def random_batch(step: TrainingStep, batch_size: int) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) and labels (N,) on the device."""
    device = step.options.device
    images = torch.randn(batch_size, *step.shape, device=device)
    labels = torch.randint(step.num_classes, (batch_size,), device=device)
    return to_device(images, device, channels_last=step.options.channels_last), labels


class Living(TorchDispatchMode):
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
                self.see(tensor.untyped_storage())
        return result

    def see(self, storage: torch.UntypedStorage) -> None:
        """A result's storage, which may be an old one."""
        if storage._cdata not in self.sizes:
            self.sizes[storage._cdata] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.forget, storage._cdata)

    def forget(self, key: int) -> None:
        """A storage that is gone."""
        self.now -= self.sizes.pop(key)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors of nested dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from chain.from_iterable(map(tensors_in, value.values()))


def bytes_of(tensor: Tensor) -> int:
    """Of a tensor's elements."""
    return tensor.numel() * tensor.element_size()


# ---- how large a batch fits


def largest_batch(step: TrainingStep, *, at_most: int = MOST) -> int | None:
    """The largest batch that fits into the free memory.

    Args:
        step: what is trained.
        at_most: no more is tried.

    Returns:
        0 if not even one image fits; None where the free memory is unknown.
    """
    if step.options.device.type == "cuda":
        with unchanged(step.model, step.optimizer), freed(step.options.device):
            return search(lambda batch_size: fits(step, batch_size), at_most=at_most)
    free = free_memory(step.options.device)
    return None if free is None else min(at_most, step_memory(step).largest(free))


def search(is_good: Callable[[int], bool], *, at_most: int) -> int:
    """The largest good number, to one part in 64, where all below a good one are good: by doubling, then by halves.

    Example:
        >>> tried = []
        >>> search(lambda number: tried.append(number) or number <= 100, at_most=1000), tried
        (100, [1, 2, 4, 8, 16, 32, 64, 128, 96, 112, 104, 100, 102, 101])
    """
    good, bad = 0, at_most + 1
    while (number := min(at_most, max(1, 2 * good))) < bad:
        if not is_good(number):
            bad = number
            break
        good = number
        if good == at_most:
            return good
    while bad - good > max(1, good // FINE):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if is_good(middle) else (good, middle)
    return good


def fits(step: TrainingStep, batch_size: int) -> bool:
    """Whether a step with this batch goes through; call it where the model may change."""
    step.optimizer.zero_grad(set_to_none=True)
    try:
        images, labels = random_batch(step, batch_size)
        scaler = torch.amp.GradScaler(step.options.device.type, enabled=False)
        backward(step.model, step.task, images, labels, options=step.options, scaler=scaler)
        step.optimizer.step()
        torch.cuda.synchronize(step.options.device)
    except torch.OutOfMemoryError:
        return False
    finally:
        step.optimizer.zero_grad(set_to_none=True)
    return True


def check_batch(step: TrainingStep, batch_size: int, *, halve: bool, sharing: int = 1) -> int:
    """The batch to train with: the wanted one if a step with it fits into the free memory.

    Args:
        step: what is trained.
        batch_size: wanted, of this process.
        halve: take half of it, a quarter, ... where it doesn't fit, instead of an error.
        sharing: processes that share the memory: all of a machine on its CPU, one on a GPU.

    Raises:
        RequestError: if it doesn't fit, with the largest that does; and if not even one image fits.
    """
    if batch_size <= LOOKS[-1]:
        return batch_size  # what a smaller look than this would find is not worth the time
    if step.options.device.type == "cuda":
        largest = batch_size if try_batch(step, batch_size) else largest_batch(step, at_most=batch_size - 1) or 0
        needed, parts = "more", 1 << math.ceil(math.log2(1.1 * batch_size / max(1, largest)))
    else:
        free = free_memory(step.options.device)
        if free is None:
            return batch_size
        memory = step_memory(step)
        largest, needed = memory.largest(free // sharing), f"{gib(memory.needs(batch_size))}, more"
        parts = memory.parts_for(batch_size, free // sharing)
    if batch_size <= largest:
        return batch_size
    if not largest:
        raise RequestError(f"Not even one image fits into the memory of {step.options.device}. {LESS}")
    if not halve:
        free_words = gib((free_memory(step.options.device) or 0) // sharing)
        split = f"split (--set train.accumulate={parts * step.options.accumulate}), or " if parts else ""
        raise RequestError(
            f"A step with {batch_size} images takes {needed} than the {free_words} that are free. The largest batch"
            f" that fits is {largest}: --batch-size {largest}. Or let it be halved until it fits (--fit-batch), or"
            f" {split}keep the blocks' inputs only (--checkpoint-blocks)."
        )
    while batch_size > largest:
        batch_size = max(1, batch_size // 2)
    return batch_size


def try_batch(step: TrainingStep, batch_size: int) -> bool:
    """Whether a step with this batch goes through on a GPU, without a trace."""
    with unchanged(step.model, step.optimizer), freed(step.options.device):
        return fits(step, batch_size)


# ---- and back


@contextmanager
def freed(device: torch.device) -> Iterator[None]:
    """Gives memory that nobody uses back to the device, before and after."""

    def give_back() -> None:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()

    give_back()
    try:
        yield
    finally:
        give_back()
