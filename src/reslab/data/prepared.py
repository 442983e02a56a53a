"""From a source to loaders: the validation split, what fits in memory, the recorded preprocessing."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reslab.data._augment import BatchAugment, derive_seed
from reslab.data._thumbnails import Thumbnails, open_thumbnails
from reslab.data._workers import WatchedSamples
from reslab.data.loader import Collate, DecodedSamples, Loader, MemoryLoader, Order, StreamLoader, pair
from reslab.data.options import DataOptions, Geometry, check_options
from reslab.data.preprocess import Preprocess, channel_statistics
from reslab.data.sources import Source
from reslab.data.splits import ArraySplit, EncodedSplit, Split, stratified_split
from reslab.distributed import LOCAL, Ranks
from reslab.errors import RequestError

SMALL_SIDE = 64  # pixels: images of one size up to this are decoded once and kept in memory
MEMORY_LIMIT_BYTES = 2**30
MAX_SCANNED = 20_000  # images of a folder that are all decoded before training
STATISTICS_SAMPLE = 2_048  # images that mean and deviation of streamed data are computed from
PHOTO_SIDE = 224
PHOTO_CROP = 0.875  # fraction of the shorter side that the centre crop keeps, as everywhere since AlexNet
TIMED_IMAGES = 8
PLAIN = DataOptions(augment="none")
AUGMENTATION = ("max_shift", "alternate_flip", "min_crop_area", "policy", "policy_ops", "policy_magnitude",
                "colour_jitter", "erasing", "mixup", "cutmix")  # fmt: skip


@dataclass(frozen=True)
class Data:
    """A data set ready for training.

    Args:
        source: where it came from, with its classes.
        train: training split without the validation images.
        val: validation split or None.
        test: test split or None.
        preprocess: what every image goes through.
        options: what was asked for, with ``augment`` chosen.
        eval_preprocess: what validation and test images go through, where that is another size.
        thumbnails: of the training photographs, to crop from while training.
    """

    source: Source
    train: Split
    val: Split | None
    test: Split | None
    preprocess: Preprocess
    options: DataOptions
    eval_preprocess: Preprocess | None = None
    thumbnails: Thumbnails | None = None

    @property
    def is_streamed(self) -> bool:
        """Whether images are decoded while the network trains, instead of kept in memory."""
        return isinstance(self.train, EncodedSplit)

    @property
    def notes(self) -> list[str]:
        """What the user should know about what was found and kept."""
        return [*self.source.notes, *([self.thumbnails.describe()] if self.thumbnails else [])]

    def loader(
        self,
        split: Split,
        *,
        batch_size: int,
        training: bool = False,
        seed: int = 0,
        workers: int = 0,
        ranks: Ranks = LOCAL,
        collate: Collate = pair,
    ) -> Loader:
        """Make a loader over one of the splits; shuffled and augmented only while training.

        Args:
            split: ``train``, ``val`` or ``test``.
            batch_size: of all processes together.
            training: shuffle, augment, and drop a short last batch.
            seed: of order and augmentation.
            workers: processes that decode photographs; 0 decodes in this one.
            ranks: this process among those that train together, and the device where batches end.
            collate: from inputs and targets to a batch, at the very end; by default a pair.
        """
        size, order_seed = min(batch_size, len(split)), derive_seed(seed, 1)
        order = Order(len(split), size, training=training, seed=order_seed, ranks=ranks)
        options = self.options if training else PLAIN
        preprocess = self.preprocess if training else self.eval_preprocess or self.preprocess
        augment = BatchAugment(preprocess, options, num_classes=len(self.source.classes), seed=order_seed)
        if isinstance(split, ArraySplit):
            return MemoryLoader(split, augment, order, collate=collate)
        thumbnails = self.thumbnails if training and split is self.train else None
        samples = DecodedSamples(split, preprocess, options, seed=order_seed, thumbnails=thumbnails)
        return StreamLoader(WatchedSamples(samples, split.names, workers=workers), augment, order, collate=collate)

    def decoding_s(self) -> float:
        """Measure the seconds that one process takes to decode, crop and augment one training photograph."""
        assert isinstance(self.train, EncodedSplit)
        samples = DecodedSamples(self.train, self.preprocess, self.options, seed=0, thumbnails=self.thumbnails)
        _ = samples[0, 0]  # not timed: it loads the libraries
        started = time.perf_counter()
        chosen = range(0, len(self.train), max(1, len(self.train) // TIMED_IMAGES))
        for index in chosen:
            _ = samples[0, index]
        return (time.perf_counter() - started) / len(chosen)

    def describe(self) -> dict[str, Any]:
        """Return what run.json says about the data."""
        chosen = {name: getattr(self.options, name) for name in AUGMENTATION}
        geometry = {"geometry": self.options.augment} if self.options.augment != "none" else {}
        return {
            "name": self.source.name,
            "path": self.source.path,
            "classes": self.source.classes,
            "fingerprint": self.train.fingerprint(),
            "num_train": len(self.train),
            "num_val": None if self.val is None else len(self.val),
            "num_test": None if self.test is None else len(self.test),
            "in_memory": not self.is_streamed,
            "preprocess": self.preprocess.to_dict(),
            "augment": self.options.augment,
            "augmentation": geometry | {key: v for key, v in chosen.items() if v != getattr(PLAIN, key)},
            "thumbnails": None if self.thumbnails is None else self.thumbnails.describe(),
            "eval_preprocess": None if self.eval_preprocess is None else self.eval_preprocess.to_dict(),
        }


def prepare(source: Source, options: DataOptions, *, seed: int = 0, preprocess: Preprocess | None = None) -> Data:
    """Draw the validation split, decode what is small, and compute mean and deviation from the training part.

    Args:
        source: from ``find_source``.
        options: of splits, sizes and augmentation; without ``options.test`` the test split is left alone.
        seed: of the validation split.
        preprocess: a recorded one to use again, instead of computing it.

    Raises:
        RequestError: for an impossible split or size, for options that don't go together, and for an image that can't
            be read, by name.

    Reference:
        Touvron et al. 2019, arXiv:1906.06423, why another ``eval_size``: objects look larger in training crops.
    """
    if not options.test:
        source = replace(source, splits={name: split for name, split in source.splits.items() if name != "test"})
    splits = _pack_all(source, options, preprocess)
    train, val = splits["train"], splits.get("val")
    has_labels = isinstance(train.targets, Tensor) and train.targets.ndim == 1
    if val is None and options.val_split:
        labels, classes = train.targets, source.classes
        if not isinstance(labels, Tensor) or not has_labels:  # nothing to stratify by
            labels, classes = torch.zeros(len(train), dtype=torch.int64), [source.name]
        indices = stratified_split(labels, options.val_split, seed=seed, classes=classes)
        train, val = (train.subset(part) for part in indices)
    memory_side = train.images.shape[2] if isinstance(train, ArraySplit) else 0
    if options.augment == "auto":
        suited: Geometry = "crop_flip" if memory_side and source.augment == "resized_crop_flip" else source.augment
        options = replace(options, augment=suited)
    check_options(options, memory_side=memory_side, has_labels=has_labels)
    for split in splits.values():
        if isinstance(split, EncodedSplit) and len(split) <= MAX_SCANNED:
            split.map(lambda image: np.empty(0))  # so that a broken image stops the run now and not in an hour
    preprocess = preprocess or _compute_preprocess(train, image_size=options.image_size, seed=seed)
    eval_preprocess = thumbnails = None
    if (side := options.eval_size) not in (0, preprocess.height):  # with the same fraction of the image in the crop
        eval_preprocess = replace(preprocess, height=side, width=side, resize=round(side / PHOTO_CROP))
    if options.cache_mib and isinstance(train, EncodedSplit) and preprocess.resize:  # as large as evaluation resizes
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reslab"
        thumbnails = open_thumbnails(train, folder, side=preprocess.resize, limit_mib=options.cache_mib)
    return Data(source, train, val, splits.get("test"), preprocess, options, eval_preprocess, thumbnails)


def _pack_all(source: Source, options: DataOptions, recorded: Preprocess | None) -> dict[str, Split]:
    """Every split in memory if all of their images are small, and as it is otherwise."""
    side = options.image_size
    geometry = recorded or Preprocess(side, side, 1, mean=(), std=(), resize=side or None)
    splits = {name: _pack(split, geometry) for name, split in source.splits.items()}
    if len({_shape_of(split) for split in splits.values()}) > 1:  # one split small, another not: stream all
        splits = dict(source.splits)
    if recorded is not None and recorded.resize is None:
        wanted = recorded.channels, *recorded.size
        for shape in map(_shape_of, splits.values()):
            if shape != wanted:
                found = "x".join(map(str, shape or ())) or "photographs or images of several sizes"
                raise RequestError(
                    f"The network takes images of {'x'.join(map(str, wanted))} as they are; {source.name} has {found}."
                    " Resize the data, or train with --image-size."
                )
    return splits


def _pack(split: Split, geometry: Preprocess) -> Split:
    """Decode a split into memory if its images are small, of one size, and fit; resized to a geometry on the way."""
    if isinstance(split, ArraySplit):
        if geometry.resize is None:
            return split
        images = [geometry.fit(_to_pil(image)) for image in split.images]  # by the same path that ``predict`` takes
        return ArraySplit(torch.stack(images), split.targets)
    side = geometry.height if geometry.resize else max(split.open(0).size)
    is_small = side <= SMALL_SIDE and len(split) * side * side * split.channels <= MEMORY_LIMIT_BYTES
    # Masks and boxes are cropped with their image, which is done image by image.
    if not is_small or not isinstance(split.targets, Tensor):
        return split
    arrays = split.map(lambda image: geometry.fit(image).numpy())
    if len({array.shape for array in arrays}) > 1:
        return split
    return ArraySplit(torch.from_numpy(np.stack(arrays)), split.targets)


def _to_pil(image: Tensor) -> Image.Image:
    """uint8 (C, H, W) -> PIL image of mode ``L`` or ``RGB``."""
    array = image.permute(1, 2, 0).numpy()  # (C, H, W) -> (H, W, C)
    return Image.fromarray(array if array.shape[2] == 3 else array[:, :, 0])


def _shape_of(split: Split) -> tuple[int, ...] | None:
    """(C, H, W) of images in memory, None for encoded ones."""
    return tuple(split.images.shape[1:]) if isinstance(split, ArraySplit) else None


def shorter_side(split: Split) -> int:
    """Return the shorter side of the images as they come, in pixels; of encoded ones, that of the first."""
    return min(split.images.shape[2:]) if isinstance(split, ArraySplit) else min(split.open(0).size)


def _compute_preprocess(train: Split, *, image_size: int, seed: int) -> Preprocess:
    """Geometry from ``image_size`` and the data, mean and deviation from the training images."""
    if isinstance(train, ArraySplit):
        _, channels, height, width = train.images.shape
        return Preprocess(height, width, channels, *channel_statistics(train.images), resize=image_size or None)
    side = image_size or PHOTO_SIDE
    geometry = Preprocess(side, side, train.channels, mean=(), std=(), resize=round(side / PHOTO_CROP))
    sample = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:STATISTICS_SAMPLE].tolist()
    arrays = train.map(lambda image: geometry.fit(image).numpy(), sample)
    mean, std = channel_statistics(torch.from_numpy(np.stack(arrays)))
    return replace(geometry, mean=mean, std=std)


def check_classes(trained: list[str], found: list[str], *, where: str) -> None:
    """Refuse data whose classes are not those that the network was trained on, in the same order."""
    if trained == found:
        return
    if len(trained) != len(found):
        detail = f"{len(trained)} and {len(found)} classes"
    else:
        index = next(i for i, (ours, theirs) in enumerate(zip(trained, found, strict=True)) if ours != theirs)
        detail = f"class {index} is {trained[index]!r} in the run and {found[index]!r} here"
    raise RequestError(f"{where} has other classes than the run was trained on: {detail}.")
