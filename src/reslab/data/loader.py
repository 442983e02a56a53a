"""Loaders: batches in an order that follows from seed, epoch and position alone, so that a run can go on anywhere.

``loader.batches(epoch, start=k)`` gives exactly the batches that ``loader.batches(epoch)`` gives from the k-th on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from reslab.data._augment import BatchAugment, derive_seed, image_transform
from reslab.data._images import Box, Photo, Size, draw_resized_crop
from reslab.data._thumbnails import Thumbnails
from reslab.data._workers import Key, Sample, WatchedSamples, batches_of, watched_loader
from reslab.data.options import DataOptions
from reslab.data.preprocess import Preprocess, centre_crop
from reslab.data.splits import ArraySplit, EncodedSplit
from reslab.distributed import LOCAL, Ranks
from reslab.errors import RequestError

Collate = Callable[[Any, Any], Any]


def pair(inputs: Any, targets: Any) -> tuple[Any, Any]:
    """Arrange a batch as a pair."""
    return inputs, targets


class Loader(Protocol):
    """What ``fit`` and ``evaluate`` need of a loader."""

    batch_size: int

    def __len__(self) -> int:
        """Batches per epoch."""

    def batches(self, epoch: int = 0, *, start: int = 0) -> Iterator[Any]:
        """The batches of one epoch, from batch ``start`` on, arranged as the task wants them."""


@dataclass(frozen=True)
class Order:
    """Which samples are in which batch: it follows from seed, epoch and position alone."""

    num_samples: int
    batch_size: int  # of all processes together
    training: bool = False  # shuffle, and drop a short last batch unless it is the only one
    seed: int = 0  # of the order, and of all else that is random in a loader
    ranks: Ranks = LOCAL  # this process gets its part of every batch

    def __post_init__(self) -> None:
        world = self.ranks.world  # of processes with unequal parts the gradients would not add up to the batch's
        if self.training and self.batch_size % world:
            raise RequestError(
                f"{world} processes can't share a batch of {self.batch_size} evenly. Choose a --batch-size that"
                f" {world} divides, such as {max(1, self.batch_size // world) * world}."
            )

    def __len__(self) -> int:
        """Batches per epoch."""
        full, rest = divmod(self.num_samples, self.batch_size)
        return max(1, full) if self.training else full + (rest > 0)

    def batches(self, epoch: int, *, start: int = 0) -> Iterator[tuple[int, Tensor]]:
        """Position and sample numbers of each batch of all processes, from batch ``start`` on."""
        if self.training:
            order = torch.randperm(self.num_samples, generator=self.generator(epoch))
        else:
            order = torch.arange(self.num_samples)
        for position in range(start, len(self)):
            yield position, order[position * self.batch_size : (position + 1) * self.batch_size]

    def part(self, batch: Tensor) -> Tensor:
        """This process's part of a batch: (N, ...) -> (N / world, ...)."""
        return batch if self.ranks.world == 1 else batch.tensor_split(self.ranks.world)[self.ranks.rank]

    def generator(self, *parts: int) -> torch.Generator:
        """For what is random in one place, on the CPU."""
        return torch.Generator().manual_seed(derive_seed(self.seed, *parts))


class MemoryLoader:
    """Batches out of tensors that are kept on the device, normalised and augmented as whole batches.

    Every process augments the whole batch and keeps its part, so that one process and eight see the same images.
    """

    def __init__(self, split: ArraySplit, augment: BatchAugment, order: Order, *, collate: Collate = pair) -> None:
        self.augment, self.order, self.collate, self.batch_size = augment, order, collate, order.batch_size
        self.images, self.targets = (part.to(order.ranks.device) for part in (split.images, split.targets))

    def __len__(self) -> int:
        return len(self.order)

    def batches(self, epoch: int = 0, *, start: int = 0) -> Iterator[Any]:
        """The batches of one epoch, from batch ``start`` on."""
        for position, chosen in self.order.batches(epoch, start=start):
            there, generator = chosen.to(self.images.device), self.order.generator(epoch, position)
            images, targets = self.augment(
                self.images[there], self.targets[there], chosen, epoch=epoch, generator=generator
            )
            images, targets = self.order.part(images), self.order.part(targets)
            if len(images):
                yield self.collate(images, targets)


class StreamLoader:
    """Batches of samples that worker processes decode and crop while the network trains.

    They travel as bytes; what can be done to whole batches (normalising, erasing, mixing) is done on the device.
    """

    def __init__(
        self, samples: WatchedSamples, augment: BatchAugment, order: Order, *, collate: Collate = pair
    ) -> None:
        self.augment, self.order, self.collate, self.batch_size = augment, order, collate, order.batch_size
        self.keys = EpochKeys(order)
        self.loader = watched_loader(samples, self.keys, seed=order.seed)

    def __len__(self) -> int:
        return len(self.order)

    def batches(self, epoch: int = 0, *, start: int = 0) -> Iterator[Any]:
        """The batches of one epoch, from batch ``start`` on.

        Raises:
            RequestError: for an image that can't be used.
            WorkFailed: if a worker dies.
        """
        ranks = self.order.ranks
        self.keys.epoch, self.keys.start = epoch, start
        for position, batch in enumerate(batches_of(self.loader), start):
            inputs, targets = tree_map(
                lambda part: part.to(ranks.device, non_blocking=True) if isinstance(part, Tensor) else part, batch
            )
            generator = self.order.generator(epoch, position, ranks.rank)
            yield self.collate(*self.augment.finish(inputs, targets, generator=generator))


class EpochKeys:
    """The keys of each batch; the epoch travels with the key, so that workers can stay alive between epochs."""

    def __init__(self, order: Order) -> None:
        self.order, self.epoch, self.start = order, 0, 0

    def __len__(self) -> int:
        return len(self.order) - self.start

    def __iter__(self) -> Iterator[list[Key]]:
        for _, chosen in self.order.batches(self.epoch, start=self.start):
            if part := self.order.part(chosen).tolist():
                yield [(self.epoch, number) for number in part]


class DecodedSamples:
    """Photographs decoded, cropped and augmented one by one, each with its target.

    The key is (epoch, number); all that is random follows from it and the seed. Crops are of ``thumbnails``, if given,
    instead of the photographs. What ``options`` say of whole batches is left to ``BatchAugment``.

    Deviates:
        ``crop`` fills the border with the training mean rounded to one of 256 levels.
    """

    def __init__(
        self,
        split: EncodedSplit,
        preprocess: Preprocess,
        options: DataOptions,
        *,
        seed: int,
        thumbnails: Thumbnails | None = None,
    ) -> None:
        self.split, self.preprocess, self.options, self.seed = split, preprocess, options, seed
        self.thumbnails = thumbnails
        is_plain = options.augment == options.policy == "none" and not options.colour_jitter
        self.transform = None if is_plain else image_transform(options, preprocess)

    def __getitem__(self, key: Key) -> Sample:
        with torch.random.fork_rng(devices=()):
            torch.default_generator.manual_seed(derive_seed(self.seed, *key))
            image, target = self._crop(key[1])
            if self.transform is None:
                return image, target
            from torchvision.tv_tensors import Image

            image, target = self.transform(Image(image), target)
            return image.as_subclass(Tensor), target

    def _crop(self, number: int) -> Sample:
        """The image as uint8 (C, H, W), and its target cropped like it."""
        split, preprocess = self.split, self.preprocess
        thumbnail = self.thumbnails.find(number) if self.thumbnails is not None else None
        photo = thumbnail or Photo(split.items[number], channels=split.channels, name=split.names[number])
        box: Box = (0, 0, photo.height, photo.width)
        resized, size = preprocess.fitted_sizes(photo.height, photo.width)
        if self.options.augment == "resized_crop_flip":
            box = draw_resized_crop(photo.height, photo.width, min_area=self.options.min_crop_area)
            resized = size = preprocess.size
        image = centre_crop(photo.crop(box, resized), size)
        return image, crop_alike(split.targets[number], box, resized, size)


def crop_alike(target: Any, box: Box, resized: Size, size: Size) -> Any:
    """Crop the masks and boxes in a target as the image was: a box of it, resized, and the centre of that."""
    if type(target) in (Tensor, int):  # a class number, without importing torchvision
        return target
    from torchvision.transforms.v2 import functional as TF
    from torchvision.tv_tensors import TVTensor

    def crop(part: Any) -> Any:
        if not isinstance(part, TVTensor):
            return part
        return TF.center_crop(TF.resized_crop(part, *box, list(resized)), list(size))

    return tree_map(crop, target)
