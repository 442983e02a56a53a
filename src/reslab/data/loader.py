"""Loaders: batches in an order that follows from seed, epoch and position alone, so that a run can go on anywhere.

``loader.batches(epoch, start=k)`` gives exactly the batches that ``loader.batches(epoch)`` gives from the k-th on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from reslab.data.augment.pipeline import BatchAugment, finish_batch
from reslab.data.decoding import DecodedSplit, derive_seed
from reslab.data.splits import ArraySplit, EncodedSplit, Split
from reslab.data.thumbnails import Thumbnails
from reslab.data.workers import Watched, batches_of, to_device_uint8, watched_loader
from reslab.errors import RequestError

Batch = tuple[Tensor, Tensor]


class Loader(Protocol):
    """What ``fit`` and ``evaluate`` need of a loader."""

    batch_size: int
    num_samples: int

    def __len__(self) -> int:
        """Batches an epoch."""
        ...

    def batches(self, epoch: int = 0, *, start: int = 0) -> Iterator[Batch]:
        """Images float32 (N, C, H, W) and labels int64 (N,) of one epoch, from batch ``start`` on."""
        ...


@dataclass(frozen=True)
class Order:
    """Which images are in which batch: it follows from seed, epoch and position alone.

    Args:
        num_samples: images of the split.
        batch_size: images a batch, of all processes together.
        training: shuffle, and drop a short last batch unless it is the only one.
        seed: of the order, and of all else that is random in a loader.
        rank: this process among those that train together; it gets its share of every batch.
        world: how many there are.

    Raises:
        RequestError: if the processes can't share a batch evenly; their gradients would not add up to the batch's.
    """

    num_samples: int
    batch_size: int
    training: bool = False
    seed: int = 0
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.training and self.batch_size % self.world:
            raise RequestError(
                f"{self.world} processes can't share a batch of {self.batch_size} evenly. Choose a --batch-size that"
                f" {self.world} divides, such as {max(1, self.batch_size // self.world) * self.world}."
            )

    def __len__(self) -> int:
        """Batches an epoch."""
        full, rest = divmod(self.num_samples, self.batch_size)
        return max(1, full) if self.training else full + (rest > 0)

    def batches(self, epoch: int, *, start: int = 0) -> Iterator[tuple[int, Tensor]]:
        """Position and image indices of each batch of all processes, from batch ``start`` on."""
        if self.training:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, epoch))
            order = torch.randperm(self.num_samples, generator=generator)
        else:
            order = torch.arange(self.num_samples)
        for index in range(start, len(self)):
            yield index, order[index * self.batch_size : (index + 1) * self.batch_size]

    def share(self, batch: Tensor) -> Tensor:
        """What this process gets of a batch: (N, ...) -> (N / world, ...)."""
        return batch if self.world == 1 else batch.tensor_split(self.world)[self.rank]

    def generator(self, *parts: int) -> torch.Generator:
        """For what is random in one place, on the CPU."""
        return torch.Generator().manual_seed(derive_seed(self.seed, *parts))


class MemoryLoader:
    """Batches out of one uint8 tensor, normalised and augmented as whole batches.

    Every process augments the whole batch and keeps its share, so that one process and eight see the same images.

    Args:
        split: images and labels in memory; they are kept on the device.
        augment: what happens to a batch, normalising included.
        order: of the images.
        device: where the batches are made; by default the CPU.
    """

    def __init__(
        self, split: ArraySplit, augment: BatchAugment, order: Order, *, device: torch.device | None = None
    ) -> None:
        self.augment, self.order, self.batch_size = augment, order, order.batch_size
        self.images = split.images.to(device) if device else split.images
        self.labels = split.labels.to(device) if device else split.labels
        self.num_samples = len(split)

    def __len__(self) -> int:
        return len(self.order)

    def batches(self, epoch: int = 0, *, start: int = 0) -> Iterator[Batch]:
        """Batches of one epoch."""
        for index, chosen in self.order.batches(epoch, start=start):
            generator = self.order.generator(epoch, index)
            there = chosen.to(self.images.device)
            images, targets = self.augment(
                self.images[there], self.labels[there], generator=generator, epoch=epoch, indices=chosen
            )
            share = self.order.share(images), self.order.share(targets)
            if len(share[0]):
                yield share


class KeySampler:
    """Batches of (epoch, index) keys; the epoch travels with the key, so that workers can stay alive between epochs."""

    def __init__(self, order: Order) -> None:
        self.order, self.epoch, self.start = order, 0, 0

    def __len__(self) -> int:
        return len(self.order) - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for _, chosen in self.order.batches(self.epoch, start=self.start):
            if share := self.order.share(chosen).tolist():
                yield [(self.epoch, i) for i in share]


class StreamLoader:
    """Batches of images that worker processes decode and crop while the network trains.

    They travel as bytes; what can be done to whole batches (normalising, erasing, mixing) is done on the device.

    Args:
        split: encoded images.
        augment: what happens to images and batches, normalising included.
        order: of the images.
        workers: processes that decode; 0 decodes in this one.
        device: where the batches end; by default the CPU.
        thumbnails: of the same split, to crop from instead of the photographs.
    """

    def __init__(
        self,
        split: EncodedSplit,
        augment: BatchAugment,
        order: Order,
        *,
        workers: int = 2,
        device: torch.device | None = None,
        thumbnails: Thumbnails | None = None,
    ) -> None:
        self.augment, self.order, self.device = augment, order, device or torch.device("cpu")
        self.batch_size, self.num_samples = order.batch_size, len(split)
        self.sampler = KeySampler(order)
        decoded = DecodedSplit(split, augment.preprocess, augment.augmentation, seed=order.seed, thumbnails=thumbnails)
        self.loader = watched_loader(Watched(decoded, split.names, workers=workers), self.sampler, seed=order.seed)

    def __len__(self) -> int:
        return len(self.order)

    def batches(self, epoch: int = 0, *, start: int = 0) -> Iterator[Batch]:
        """Batches of one epoch.

        Raises:
            RequestError: for an image that can't be used.
            WorkFailed: if a worker dies.
        """
        self.sampler.epoch, self.sampler.start = epoch, start
        for index, batch in enumerate(batches_of(self.loader), start):
            images, labels = to_device_uint8(batch, self.device)
            yield finish_batch(
                images,
                labels,
                preprocess=self.augment.preprocess,
                augmentation=self.augment.augmentation,
                num_classes=self.augment.num_classes,
                generator=self.order.generator(epoch, index, self.order.rank),
            )


def make_loader(
    split: Split,
    augment: BatchAugment,
    order: Order,
    *,
    workers: int = 0,
    device: torch.device | None = None,
    thumbnails: Thumbnails | None = None,
) -> MemoryLoader | StreamLoader:
    """The loader for a split: out of memory if it is there, by worker processes otherwise."""
    if isinstance(split, ArraySplit):
        return MemoryLoader(split, augment, order, device=device)
    return StreamLoader(split, augment, order, workers=workers, device=device, thumbnails=thumbnails)
