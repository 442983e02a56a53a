"""From a source to loaders: the validation split, what fits in memory, the recorded preprocessing."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from reslab.data.augment.options import Augmentation, Geometry, check_augmentation
from reslab.data.augment.pipeline import BatchAugment
from reslab.data.decoding import derive_seed
from reslab.data.images import open_image
from reslab.data.jpeg import decode_fit
from reslab.data.loader import MemoryLoader, Order, StreamLoader, make_loader
from reslab.data.sources import Source
from reslab.data.splits import ArraySplit, EncodedSplit, Split, stratified_split
from reslab.data.thumbnails import Thumbnails, open_thumbnails
from reslab.data.transforms import Preprocess, channel_statistics, to_tensor
from reslab.distributed import LOCAL, Ranks
from reslab.errors import RequestError

SMALL_SIDE = 64  # pixels: images of one size up to this are decoded once and kept in memory
MEMORY_LIMIT_BYTES = 2**30
SCAN_LIMIT = 20_000  # images of a folder that are all decoded before training, so that a broken one is named at once
STATISTICS_SAMPLE = 2_048  # images that mean and deviation of streamed data are computed from
PHOTO_SIDE = 224
LONGEST = 20  # sides of an image to predict, longer to shorter
PHOTO_CROP = 0.875  # share of the shorter side that the centre crop keeps, as everywhere since AlexNet


@dataclass(frozen=True)
class Place:
    """Where batches go: which process's share, and to which device.

    Args:
        device: by default the CPU.
        rank: of this process among those that train together.
        world: how many there are.
    """

    device: torch.device | None = None
    rank: int = 0
    world: int = 1


HERE = Place()
PLAIN = asdict(Augmentation())


@dataclass(frozen=True)
class Data:
    """A data set ready for training.

    Args:
        source: where it came from, with its classes.
        train: training split without the validation images.
        val: validation split or None.
        test: test split or None.
        preprocess: what every image goes through.
        augmentation: what training images go through besides.
        eval_preprocess: what validation and test images go through, where that is another size.
        thumbnails: of the training photographs, to crop from while training.
    """

    source: Source
    train: Split
    val: Split | None
    test: Split | None
    preprocess: Preprocess
    augmentation: Augmentation
    eval_preprocess: Preprocess | None = None
    thumbnails: Thumbnails | None = None

    def loader(
        self,
        split: Split,
        *,
        batch_size: int,
        training: bool = False,
        seed: int = 0,
        workers: int = 0,
        ranks: Ranks = LOCAL,
        collate: Any = None,
    ) -> MemoryLoader | StreamLoader:
        """A loader over one of the splits; shuffled and augmented only while training."""
        order_seed = derive_seed(seed, 1)
        augment = BatchAugment(
            self.preprocess if training or self.eval_preprocess is None else self.eval_preprocess,
            self.augmentation if training else Augmentation(),
            num_classes=len(self.source.classes),
            seed=order_seed,
        )
        size = min(batch_size, len(split))
        order = Order(len(split), size, training=training, seed=order_seed, rank=ranks.rank, world=ranks.world)
        thumbnails = self.thumbnails if training and split is self.train else None
        found = make_loader(split, augment, order, workers=workers, device=ranks.device, thumbnails=thumbnails)
        return Arranged(found, collate) if collate else found

    def describe(self) -> dict[str, Any]:
        """For run.json."""
        return {
            "name": self.source.name,
            "path": self.source.path,
            "classes": self.source.classes,
            "fingerprint": self.train.fingerprint(),
            "num_train": len(self.train),
            "num_val": None if self.val is None else len(self.val),
            "num_test": None if self.test is None else len(self.test),
            "in_memory": isinstance(self.train, ArraySplit),
            "preprocess": self.preprocess.to_dict(),
            "augment": self.augmentation.geometry,
            "augmentation": {key: v for key, v in asdict(self.augmentation).items() if v != PLAIN[key]},
            "thumbnails": None if self.thumbnails is None else self.thumbnails.describe(),
            "eval_preprocess": None if self.eval_preprocess is None else self.eval_preprocess.to_dict(),
        }


def _prepare(
    source: Source,
    *,
    val_split: float = 0.1,
    seed: int = 0,
    image_size: int | None = None,
    augment: Callable[[Geometry], Augmentation] = Augmentation,
    eval_size: int | None = None,
    preprocess: Preprocess | None = None,
    cache_mib: int = 0,
    cache: Path | None = None,
) -> Data:
    """Draws the validation split, decodes what is small, and computes mean and deviation from the training part.

    Args:
        source: from ``find_source``.
        val_split: share or number of training images for validation, where the source has no validation split of its
            own; 0 for none.
        seed: of the split.
        image_size: side of the network's input; by default small images keep their size and photographs get 224.
        augment: from the geometry that suits the source to the whole augmentation; by default nothing but that.
        eval_size: side of photographs in validation and test; by default the training size.
        preprocess: a recorded one to use again, instead of computing it.
        cache_mib: keep thumbnails of the training photographs, up to so many MiB; 0 for none.
        cache: folder of the thumbnails; by default ``thumbnails_folder()``.

    Raises:
        RequestError: for an impossible split or size, and for an image that can't be read, by name.
    """
    if preprocess is None:
        geometry = square(image_size, channels=1) if image_size else None
    else:
        geometry = preprocess if preprocess.resize is not None else None
    splits = {name: pack(split, geometry) for name, split in source.splits.items()}
    if len({shape_of(split) for split in splits.values()}) > 1:  # one split small, another not: stream all
        splits = dict(source.splits)
    if preprocess is not None:
        check_sizes(splits, preprocess, where=source.name)
    train, val = splits["train"], splits.get("val")
    if val is None and val_split:
        train_indices, val_indices = stratified_split(train.labels, val_split, seed=seed, classes=source.classes)
        train, val = train.subset(train_indices), train.subset(val_indices)
    suited = "crop_flip" if isinstance(train, ArraySplit) and source.augment == "resized_crop_flip" else source.augment
    augmentation = augment(suited)
    check_augmentation(augmentation, in_memory=isinstance(train, ArraySplit))
    for split in splits.values():
        scan(split)
    preprocess = preprocess or compute_preprocess(train, image_size=image_size, seed=seed)
    return Data(
        source,
        train,
        val,
        splits.get("test"),
        preprocess,
        augmentation,
        evaluation_size(preprocess, train, eval_size),
        keep_thumbnails(train, preprocess, augmentation, limit_mib=cache_mib, folder=cache) if cache_mib else None,
    )


def keep_thumbnails(
    train: Split, preprocess: Preprocess, augmentation: Augmentation, *, limit_mib: int, folder: Path | None
) -> Thumbnails:
    """Thumbnails of the training photographs, as large as evaluation resizes them."""
    if isinstance(train, ArraySplit):
        raise RequestError("cache_mib is for photographs; these small images are kept in memory anyway. Leave it out.")
    if augmentation.geometry != "resized_crop_flip" or preprocess.resize is None:
        raise RequestError(
            f"cache_mib is for random crops of photographs (augment resized_crop_flip), not {augmentation.geometry}."
            " Leave one of the two out."
        )
    return open_thumbnails(train, folder or thumbnails_folder(), side=preprocess.resize, limit_mib=limit_mib)


def thumbnails_folder() -> Path:
    """Where thumbnails are kept: in the user's cache, ``$XDG_CACHE_HOME/reslab`` or ``~/.cache/reslab``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reslab"


def evaluation_size(preprocess: Preprocess, train: Split, side: int | None) -> Preprocess | None:
    """The preprocessing for another size in validation and test, with the same share of the image in the crop.

    Reference:
        Touvron et al. 2019, arXiv:1906.06423: objects look larger in training crops than in test images.
    """
    if not side or side == preprocess.height:
        return None
    if isinstance(train, ArraySplit):
        raise RequestError(f"eval_size {side} is for photographs; these images stay {preprocess.height} pixels high.")
    return replace(preprocess, height=side, width=side, resize=round(side / PHOTO_CROP))


def shorter_side(split: Split) -> int:
    """Of the images as they come, in pixels; of encoded ones, of the first."""
    return min(split.images.shape[2:]) if isinstance(split, ArraySplit) else min(split.open(0).size)


def shape_of(split: Split) -> tuple[int, ...] | None:
    """(C, H, W) of images in memory, None for encoded ones."""
    return tuple(split.images.shape[1:]) if isinstance(split, ArraySplit) else None


def check_sizes(splits: dict[str, Split], preprocess: Preprocess, *, where: str) -> None:
    """Refuses images that a network which takes one size as it is can't take."""
    wanted = (preprocess.channels, preprocess.height, preprocess.width)
    for split in splits.values():
        if preprocess.resize is None and shape_of(split) != wanted:
            found = "x".join(map(str, shape_of(split) or ())) or "photographs or images of several sizes"
            raise RequestError(
                f"The network takes images of {'x'.join(map(str, wanted))} as they are; {where} has {found}."
                " Resize the data, or train with --image-size."
            )


def pack(split: Split, geometry: Preprocess | None) -> Split:
    """Decodes a split into memory if its images are small, of one size, and fit; leaves it as it is otherwise.

    With a geometry the images are resized on the way.
    """
    if isinstance(split, ArraySplit):
        return split if geometry is None else resize_arrays(split, geometry)
    first = split.open(0)
    side = geometry.height if geometry else max(first.size)
    if side > SMALL_SIDE or len(split) * side * side * split.channels > MEMORY_LIMIT_BYTES:
        return split
    arrays = split.map(lambda image: (geometry.fit(image) if geometry else to_tensor(image)).numpy())
    if len({array.shape for array in arrays}) > 1:
        return split
    return ArraySplit(torch.from_numpy(np.stack(arrays)), split.labels)


def square(side: int, *, channels: int) -> Preprocess:
    """Resizes the shorter side to ``side`` and crops to a square; mean and deviation are still unknown."""
    return Preprocess(side, side, channels, mean=(0.0,) * channels, std=(1.0,) * channels, resize=side)


def resize_arrays(split: ArraySplit, geometry: Preprocess) -> ArraySplit:
    """Resizes images in memory through PIL, by the same path that ``predict`` takes."""
    images = [geometry.fit(from_tensor(image)) for image in split.images]
    return ArraySplit(torch.stack(images), split.labels)


def from_tensor(image: torch.Tensor) -> Image.Image:
    """uint8 (C, H, W) -> PIL image of mode ``L`` or ``RGB``."""
    array = image.permute(1, 2, 0).numpy()  # (C, H, W) -> (H, W, C)
    return Image.fromarray(array if array.shape[2] == 3 else array[:, :, 0])


def scan(split: Split) -> None:
    """Decodes every image of a streamed split once, so that a broken one stops the run now and not in an hour."""
    if isinstance(split, EncodedSplit) and len(split) <= SCAN_LIMIT:
        split.map(lambda image: np.empty(0))


def compute_preprocess(train: Split, *, image_size: int | None, seed: int) -> Preprocess:
    """Geometry from ``image_size`` and the data, mean and deviation from the training images."""
    if isinstance(train, ArraySplit):
        _, channels, height, width = train.images.shape
        mean, std = channel_statistics(train.images)
        return Preprocess(height, width, channels, mean, std, resize=image_size)
    side = image_size or PHOTO_SIDE
    geometry = replace(square(side, channels=train.channels), resize=round(side / PHOTO_CROP))
    sample = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:STATISTICS_SAMPLE].tolist()
    arrays = train.map(lambda image: geometry.fit(image).numpy(), sample)
    mean, std = channel_statistics(torch.from_numpy(np.stack(arrays)))
    return replace(geometry, mean=mean, std=std)


def check_classes(trained: list[str], found: list[str], *, where: str) -> None:
    """Refuses data whose classes are not those that the network was trained on, in the same order."""
    if trained == found:
        return
    if len(trained) != len(found):
        detail = f"{len(trained)} and {len(found)} classes"
    else:
        index = next(i for i, (ours, theirs) in enumerate(zip(trained, found, strict=True)) if ours != theirs)
        detail = f"class {index} is {trained[index]!r} in the run and {found[index]!r} here"
    raise RequestError(f"{where} has other classes than the run was trained on: {detail}.")


def fit_for_prediction(path_or_bytes: Any, preprocess: Preprocess, *, name: str) -> tuple[torch.Tensor, str]:
    """One image of any size as the network's input, and a note if it had to be resized.

    Raises:
        RequestError: if it can't be read; if the network takes images of one size as they are and this one is
            smaller, or so long that its centre would not stand for it (over 2:1); or if it is longer than 20:1.

    Returns:
        float32 (C, H, W), and the note or an empty string.
    """
    image = open_image(path_or_bytes, channels=preprocess.channels, name=name)
    wanted = (preprocess.width, preprocess.height)
    if max(image.size) > LONGEST * min(image.size):  # resizing the shorter side would make the longer one huge, too
        raise RequestError(
            f"{name} has {image.width}x{image.height} pixels: its centre would not stand for it. Crop it to at most"
            f" {LONGEST}:1."
        )
    if preprocess.resize is not None:  # by the same path as in training and evaluation
        size = (preprocess.height, preprocess.width)
        fitted = decode_fit(path_or_bytes, preprocess.resize, size=size, channels=preprocess.channels, name=name)
        return preprocess.normalise(fitted), ""
    if image.size == wanted:
        return preprocess(image), ""
    width, height = image.size
    if min(width, height) < min(wanted) or max(width, height) > 2 * min(width, height):
        raise RequestError(
            f"{name} has {width}x{height} pixels; this network was trained on {wanted[0]}x{wanted[1]} as they are."
            " Larger images up to 2:1 are resized; smaller or longer ones are refused. Crop or enlarge it yourself."
        )
    resized = replace(preprocess, resize=min(wanted))
    return resized(image), f"resized from {width}x{height}, centre crop"


class Arranged:
    def __init__(self, loader, collate):
        self.loader, self.collate, self.batch_size, self.num_samples = (
            loader,
            collate,
            loader.batch_size,
            loader.num_samples,
        )

    def __len__(self):
        return len(self.loader)

    def batches(self, epoch=0, *, start=0):
        for images, labels in self.loader.batches(epoch, start=start):
            yield self.collate(images, labels)


def prepare(source, options=None, *, seed=0, preprocess=None, **old):
    if options is None:
        return _prepare(source, seed=seed, preprocess=preprocess, **old)

    def augmentation(suited):
        return Augmentation(
            geometry=suited if options.augment == "auto" else options.augment,
            **{
                k: getattr(options, k)
                for k in (
                    "max_shift",
                    "alternate_flip",
                    "min_crop_area",
                    "policy",
                    "policy_ops",
                    "policy_magnitude",
                    "colour_jitter",
                    "erasing",
                    "mixup",
                    "cutmix",
                )
            },
        )

    splits = {name: split for name, split in source.splits.items() if options.test or name != "test"}
    return _prepare(
        replace(source, splits=splits),
        val_split=options.val_split,
        seed=seed,
        image_size=options.image_size or None,
        augment=augmentation,
        eval_size=options.eval_size or None,
        preprocess=preprocess,
        cache_mib=options.cache_mib,
    )


def image_files(paths):
    from reslab.data.images import EXTENSIONS

    found = []
    for path in paths:
        if path.is_dir():
            images = sorted(p for p in path.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file())
            if not images:
                raise RequestError(f"{path} holds no images ({' '.join(EXTENSIONS)}).")
            found += images
        else:
            found.append(path)
    return found


def _decoding_s(data):
    import time

    from reslab.data.decoding import decoding

    decode = decoding(data.preprocess, data.augmentation, thumbnails=data.thumbnails)
    with torch.random.fork_rng(devices=()):
        decode(data.train, 0)
        started = time.perf_counter()
        chosen = range(0, len(data.train), max(1, len(data.train) // 8))
        for index in chosen:
            decode(data.train, index)
    return (time.perf_counter() - started) / len(chosen)


Data.is_streamed = property(lambda self: isinstance(self.train, EncodedSplit))
Data.decoding_s = _decoding_s
Data.notes = property(lambda self: [*self.source.notes, *([self.thumbnails.describe()] if self.thumbnails else [])])
Preprocess.shape = property(lambda self: (self.channels, self.height, self.width))
