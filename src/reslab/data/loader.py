"""Loaders: batches in an order that follows from seed, epoch and position alone, so that a run can go on anywhere.

``loader.batches(epoch, start=k)`` gives exactly the batches that ``loader.batches(epoch)`` gives from the k-th on.
"""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from reslab.data.splits import ArraySplit, EncodedSplit, Split
from reslab.data.transforms import AugmentKind, Preprocess, augment_batch, check_augmentation, training_transform
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


def derive_seed(*parts: int) -> int:
    """A seed for one purpose out of the run's seed: the same on every machine, unrelated for different parts.

    Example:
        >>> derive_seed(0, 1) == derive_seed(0, 1), derive_seed(0, 1) == derive_seed(1, 0)
        (True, False)
    """
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def epoch_order(num_samples: int, *, shuffle: bool, seed: int, epoch: int) -> Tensor:
    """The order of one epoch: a permutation from seed and epoch, or as stored."""
    if not shuffle:
        return torch.arange(num_samples)
    return torch.randperm(num_samples, generator=torch.Generator().manual_seed(derive_seed(seed, epoch)))


def num_batches(num_samples: int, batch_size: int, *, drop_last: bool) -> int:
    """Batches an epoch; a short last one is dropped while training unless it is the only one."""
    return max(1, num_samples // batch_size) if drop_last else -(-num_samples // batch_size)


class MemoryLoader:
    """Batches out of one uint8 tensor, normalised and augmented as whole batches.

    Args:
        split: images and labels in memory.
        preprocess: its mean and deviation are applied; the geometry was, when the split was packed.
        batch_size: images a batch.
        augment: kind of augmentation.
        training: shuffle, and drop a short last batch.
        seed: of order and augmentation.
    """

    def __init__(
        self,
        split: ArraySplit,
        preprocess: Preprocess,
        *,
        batch_size: int,
        augment: AugmentKind = "none",
        training: bool = False,
        seed: int = 0,
    ) -> None:
        check_augmentation(augment, in_memory=True)
        self.split, self.preprocess, self.augment = split, preprocess, augment
        self.batch_size, self.training, self.seed = batch_size, training, seed
        self.num_samples = len(split)

    def __len__(self) -> int:
        return num_batches(self.num_samples, self.batch_size, drop_last=self.training)

    def batches(self, epoch: int = 0, *, start: int = 0) -> Iterator[Batch]:
        """Batches of one epoch."""
        order = epoch_order(self.num_samples, shuffle=self.training, seed=self.seed, epoch=epoch)
        for index in range(start, len(self)):
            chosen = order[index * self.batch_size : (index + 1) * self.batch_size]
            images = self.preprocess.normalise(self.split.images[chosen])
            generator = torch.Generator().manual_seed(derive_seed(self.seed, epoch, index))
            yield augment_batch(images, self.augment, generator=generator), self.split.labels[chosen]


class DecodingDataset(Dataset[Batch]):
    """Decodes and transforms one image; its key is (epoch, index), its randomness follows from seed and key."""

    def __init__(self, split: EncodedSplit, preprocess: Preprocess, *, augment: AugmentKind, seed: int) -> None:
        self.split, self.seed = split, seed
        # Without augmentation the recorded preprocessing is the transform, for training as for evaluation.
        self.transform = preprocess if augment == "none" else training_transform(preprocess, augment)

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        epoch, index = key
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(derive_seed(self.seed, epoch, index))
            return self.transform(self.split.open(index)), self.split.labels[index]


class KeySampler:
    """Batches of (epoch, index) keys; the epoch travels with the key, so that workers can stay alive between epochs."""

    def __init__(self, num_samples: int, batch_size: int, *, training: bool, seed: int) -> None:
        self.num_samples, self.batch_size, self.training, self.seed = num_samples, batch_size, training, seed
        self.epoch, self.start = 0, 0

    def __len__(self) -> int:
        return num_batches(self.num_samples, self.batch_size, drop_last=self.training)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = epoch_order(self.num_samples, shuffle=self.training, seed=self.seed, epoch=self.epoch).tolist()
        for index in range(self.start, len(self)):
            yield [(self.epoch, i) for i in order[index * self.batch_size : (index + 1) * self.batch_size]]


def leave_interrupts_to_the_main_process(worker: int) -> None:
    """Ctrl-C goes to every process of a terminal; a worker that died of it would fail the ending run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class StreamLoader:
    """Batches of images that worker processes decode and transform while the network trains.

    Args:
        split: encoded images.
        preprocess: geometry, mean and deviation.
        batch_size: images a batch.
        augment: kind of augmentation.
        training: shuffle, and drop a short last batch.
        seed: of order and augmentation.
        workers: processes that decode; 0 decodes in this one.
    """

    def __init__(
        self,
        split: EncodedSplit,
        preprocess: Preprocess,
        *,
        batch_size: int,
        augment: AugmentKind = "none",
        training: bool = False,
        seed: int = 0,
        workers: int = 2,
    ) -> None:
        self.batch_size, self.num_samples = batch_size, len(split)
        self.sampler = KeySampler(len(split), batch_size, training=training, seed=seed)
        self.loader: DataLoader[Batch] = DataLoader(
            DecodingDataset(split, preprocess, augment=augment, seed=seed),
            batch_sampler=self.sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=leave_interrupts_to_the_main_process,
            # for the workers' seeds; without it torch's global generator is drawn from
            generator=torch.Generator().manual_seed(seed),
        )

    def __len__(self) -> int:
        return len(self.sampler)

    def batches(self, epoch: int = 0, *, start: int = 0) -> Iterator[Batch]:
        """Batches of one epoch."""
        self.sampler.epoch, self.sampler.start = epoch, start
        try:
            yield from self.loader
        except RequestError as error:  # a worker's comes wrapped in its traceback
            raise RequestError(str(error).rpartition(f"{RequestError.__name__}: ")[2].strip()) from None


def make_loader(
    split: Split,
    preprocess: Preprocess,
    *,
    batch_size: int,
    augment: AugmentKind = "none",
    training: bool = False,
    seed: int = 0,
    workers: int = 0,
) -> MemoryLoader | StreamLoader:
    """The loader for a split: out of memory if it is there, by worker processes otherwise."""
    if isinstance(split, ArraySplit):
        return MemoryLoader(split, preprocess, batch_size=batch_size, augment=augment, training=training, seed=seed)
    return StreamLoader(
        split, preprocess, batch_size=batch_size, augment=augment, training=training, seed=seed, workers=workers
    )
