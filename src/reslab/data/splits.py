"""A split is inputs with targets, in memory or encoded; and how a validation split is drawn.

A target is whatever a task makes of a sample: the number of a class, or a mask, boxes, several of these in a dict.
Shape letters: N images, C channels, H height, W width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reslab.data._images import open_image
from reslab.errors import RequestError


@dataclass(frozen=True)
class ArraySplit:
    """A split in memory.

    Args:
        images: uint8, (N, C, H, W).
        targets: (N, ...), of what crops and flips leave as it is, such as class numbers: int64 (N,).
    """

    images: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def subset(self, indices: Tensor) -> ArraySplit:
        """Return the samples at ``indices``, in their order."""
        return ArraySplit(self.images[indices], self.targets[indices])

    def with_channels(self, channels: int) -> ArraySplit:
        """Return grey images as RGB or RGB images as grey, as Pillow converts them."""
        if channels == self.images.shape[1]:
            return self
        if channels == 3:
            return ArraySplit(self.images.expand(-1, 3, -1, -1).contiguous(), self.targets)
        weights = torch.tensor([19595, 38470, 7471], dtype=torch.int32).view(-1, 1, 1)  # ITU-R 601-2, in 1/65536
        grey = ((self.images * weights).sum(1, keepdim=True) + 32768) >> 16  # (N, 3, H, W) -> (N, 1, H, W)
        return ArraySplit(grey.to(torch.uint8), self.targets)

    def fingerprint(self) -> str:
        """Return the SHA-256 over all pixels and targets."""
        digest = hashlib.sha256(str(tuple(self.images.shape)).encode())
        digest.update(self.images.contiguous().numpy().data)
        digest.update(self.targets.contiguous().numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True)
class EncodedSplit:
    """A split of encoded images, decoded when they are needed.

    Args:
        items: files, or contents of files.
        names: what each item is called in errors and predictions.
        targets: int64 (N,) for class numbers; otherwise one target per image, in which every mask and box is a
            torchvision tv_tensor of the upright image, so that it is cropped and flipped with it.
        channels: 1 or 3.
    """

    items: Sequence[Path] | Sequence[bytes]
    names: Sequence[str]
    targets: Tensor | Sequence[Any]
    channels: int

    def __len__(self) -> int:
        return len(self.items)

    def subset(self, indices: Tensor) -> EncodedSplit:
        """Return the samples at ``indices``, in their order."""
        chosen = indices.tolist()
        items, names = [self.items[i] for i in chosen], [self.names[i] for i in chosen]
        targets = self.targets[indices] if isinstance(self.targets, Tensor) else [self.targets[i] for i in chosen]
        return EncodedSplit(items, names, targets, self.channels)

    def open(self, index: int) -> Image.Image:
        """Decode one image; RequestError names it if that fails."""
        return open_image(self.items[index], channels=self.channels, name=self.names[index])

    def map(
        self, function: Callable[[Image.Image], np.ndarray], indices: Iterable[int] | None = None
    ) -> list[np.ndarray]:
        """Apply ``function`` to every decoded image, or to those at ``indices``, in two threads.

        Decoding leaves the interpreter lock, handing over does not: images go out in chunks.
        """
        chosen = list(range(len(self)) if indices is None else indices)
        size = min(256, max(1, len(chosen) // 8))
        chunks = [chosen[start : start + size] for start in range(0, len(chosen), size)]
        with ThreadPoolExecutor(2) as pool:
            done = pool.map(lambda chunk: [function(self.open(index)) for index in chunk], chunks)
            return [array for arrays in done for array in arrays]

    def fingerprint(self) -> str:
        """Return the SHA-256 over targets and contents; of files over names and sizes, to spare a pass over them."""
        digest = hashlib.sha256()
        for item, target in zip(self.items, plain(self.targets), strict=True):
            if isinstance(item, bytes):
                digest.update(hashlib.sha256(item).digest() + f"\0{target}\n".encode())
            else:
                assert isinstance(item, Path)
                digest.update(f"{item.name}\0{item.stat().st_size}\0{target}\n".encode())
        return digest.hexdigest()


Split = ArraySplit | EncodedSplit


def plain(target: Any) -> Any:
    """Targets as Python's own numbers, lists and dicts, whose text is the same everywhere."""
    if isinstance(target, Tensor):
        return target.tolist()
    if isinstance(target, dict):
        return {key: plain(part) for key, part in target.items()}
    return [plain(part) for part in target] if isinstance(target, list | tuple) else target


def stratified_split(labels: Tensor, val_split: float, *, seed: int, classes: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Draw the indices of a training and a validation part, each class with the same fraction in both.

    Args:
        labels: int64, (N,).
        val_split: a fraction in (0, 1), or a whole number of images; the largest remainders get the odd images.
        seed: the same seed gives the same split.
        classes: names, for the error.

    Returns:
        Two sorted index tensors that together hold every index once.

    Raises:
        RequestError: if a class would be left without a training or without a validation image.

    Example:
        >>> train, val = stratified_split(torch.tensor([0, 0, 1, 1]), 0.5, seed=0, classes=["ant", "bee"])
        >>> len(train), len(val)
        (2, 2)
    """
    total = round(val_split * len(labels)) if val_split < 1 else int(val_split)
    if total != val_split and val_split >= 1:
        raise RequestError(f"val_split is a fraction in (0, 1) or a whole number of images, got {val_split}.")
    generator = torch.Generator().manual_seed(seed)
    counts = torch.bincount(labels, minlength=len(classes))
    exact = counts.double() * total / max(1, len(labels))
    sizes = exact.floor().long()
    remainders = (exact - sizes).argsort(descending=True, stable=True)
    sizes[remainders[: total - int(sizes.sum())]] += 1

    chosen = []
    for index, (count, size) in enumerate(zip(counts.tolist(), sizes.tolist(), strict=True)):
        if count < 2:
            raise RequestError(
                f"Class {classes[index]!r} has {count} training images; a validation split needs at least 2 of every"
                " class. Add some, remove the class, or go without validation: val_split 0."
            )
        if not 0 < size < count:
            raise RequestError(
                f"val_split {val_split:g} takes {size} of the {count} images of class {classes[index]!r}; every class"
                f" needs at least one image on each side. {'Choose a smaller one.' if size else 'Choose a larger one.'}"
            )
        members = torch.nonzero(labels == index).flatten()
        chosen.append(members[torch.randperm(count, generator=generator)[:size]])
    is_val = torch.zeros(len(labels), dtype=torch.bool)
    is_val[torch.cat(chosen)] = True
    return torch.nonzero(~is_val).flatten(), torch.nonzero(is_val).flatten()
