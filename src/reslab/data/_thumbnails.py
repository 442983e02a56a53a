"""Decoded photographs, kept small in one file that every process maps: made once, from then on only cropped.

``thumbnails-KEY.bin`` has the pixels of one thumbnail after the other, ``.npz`` beside it where each begins and the
checksum of the pixels. It is written last, so that pixels without it, or with an older one, count as damaged.
"""

from __future__ import annotations

import hashlib
import os
import sys
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reslab.data._images import Box, Photo, Pixels, Size, cut_out, reduced_box, resize_pixels
from reslab.data.preprocess import fitted_size
from reslab.data.splits import EncodedSplit
from reslab.errors import RequestError

MIB = 2**20
DECODED_AHEAD = 64  # images in memory before the disk has them


class Thumbnail:
    """To be cropped in place of its photograph, by boxes in the photograph's pixels: a seed draws the same ones."""

    def __init__(self, pixels: Pixels, full: Size) -> None:
        self.pixels, (self.height, self.width) = pixels, full

    def crop(self, box: Box, size: Size) -> Tensor:
        """Return the pixels in a box, resized: uint8 (C, *size)."""
        scale = self.pixels.shape[0] / self.height, self.pixels.shape[1] / self.width
        return resize_pixels(cut_out(self.pixels, reduced_box(box, scale, shape=self.pixels.shape)), size)


class Thumbnails:
    """Thumbnails of a split's photographs, or of as many as fit, in memory that all processes share.

    Made by ``open_thumbnails``. Sent to another process, it maps the file again.

    Deviates:
        From crops of the photograph: a crop has fewer pixels, by the thumbnail's shorter side over the photograph's,
        and what the network sees is blurred where that leaves fewer than it takes. Small crops suffer most.
        Photographs that are no larger than their thumbnail would be are kept as they are, and lose nothing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.with_suffix(".npz").open("rb") as file, np.load(file) as about:
            # (N, 5): where the pixels begin, their height, width, the photograph's height, width; 0 if it did not fit
            self.index = about["index"]
            self.channels, self.limit, self.crc = (int(about[name]) for name in ("channels", "limit", "crc"))
        # Copy-on-write, so that torch, which knows no read-only tensors, has nothing to warn of; nobody writes.
        self.pixels: Pixels = np.memmap(path, np.uint8, "c").view(np.ndarray)

    def __reduce__(self) -> tuple[Any, ...]:
        return Thumbnails, (self.path,)

    @property
    def num_cached(self) -> int:
        """Photographs that have a thumbnail."""
        return int(np.count_nonzero(self.index[:, 1]))

    def find(self, number: int) -> Thumbnail | None:
        """Return the thumbnail of a photograph, or None if it did not fit."""
        start, height, width, *full = self.index[number].tolist()
        pixels = self.pixels[start : start + height * width * self.channels].reshape(height, width, self.channels)
        return Thumbnail(pixels, full) if height else None

    def describe(self) -> str:
        """Say how many fit, in a sentence."""
        total, size = len(self.index), len(self.pixels) / MIB
        if self.num_cached == total:
            return f"All {total} photographs are kept as thumbnails: {size:.1f} MiB in {self.path}."
        return (
            f"{self.num_cached} of {total} photographs fit as thumbnails into {self.limit / MIB:g} MiB; the others are"
            f" decoded every time. All would fit into about {-(-size * total // self.num_cached):.0f} MiB."
        )


def open_thumbnails(split: EncodedSplit, folder: Path, *, side: int, limit_mib: float) -> Thumbnails:
    """Open the thumbnails that an earlier run left in the folder, if they are whole, or make them.

    Which photographs are kept when not all fit is drawn at random, so that it tells nothing about their class: their
    sharpness would give it away otherwise. Of several processes that ask at once, one makes them, the others wait.
    The shorter side has ``side`` pixels; all thumbnails together take at most ``limit_mib`` MiB.

    Raises:
        RequestError: for a limit that nothing fits into, a folder that can't be written or is full, and as
            ``open_image``.
    """
    path, limit = folder / f"thumbnails-{_key(split, side=side)[:16]}.bin", int(limit_mib * MIB)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _file_lock(path.with_suffix(".lock")):
            return _find_whole(path, limit=limit) or _make(split, path, side=side, limit=limit)
    except OSError as error:
        raise RequestError(
            f"Can't keep thumbnails in {folder}: {error.strerror or error}. They take up to {limit_mib:g} MiB there:"
            " choose another folder by XDG_CACHE_HOME, or leave out cache_mib."
        ) from None


def _key(split: EncodedSplit, *, side: int) -> str:
    """SHA-256 over what the pixels depend on; a file that was changed counts as another one, by its time."""
    try:
        times = [item.stat().st_mtime_ns for item in split.items if isinstance(item, Path)]
    except OSError as error:
        raise RequestError(f"Can't read the image {error.filename}: {error.strerror}. Restore or remove it.") from None
    return hashlib.sha256(f"{split.fingerprint()}\0{split.channels}\0{side}\0{times}".encode()).hexdigest()


@contextmanager
def _file_lock(path: Path) -> Iterator[None]:
    """Admit one process at a time; the lock goes with the process that holds it. Without effect on Windows."""
    with path.open("w") as file:
        if sys.platform != "win32":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _find_whole(path: Path, *, limit: int) -> Thumbnails | None:
    """What an earlier run left, if it is whole and would come out the same with this limit."""
    try:
        found = Thumbnails(path)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    fits = found.limit == limit or (found.num_cached == len(found.index) and len(found.pixels) <= limit)
    return found if fits and zlib.crc32(found.pixels.data) == found.crc else None


def _make(split: EncodedSplit, path: Path, *, side: int, limit: int) -> Thumbnails:
    """Write each file beside its place, and move it there when it is whole."""
    unfinished = path.with_suffix(".unfinished")
    index, num_bytes, crc = np.zeros((len(split), 5), np.int64), 0, 0
    try:
        with unfinished.open("wb") as file:
            for number, made in _shrink_all(split, side=side):
                if num_bytes + made.pixels.nbytes > limit:
                    break
                index[number] = num_bytes, *made.pixels.shape[:2], made.height, made.width
                file.write(made.pixels.data)
                num_bytes, crc = num_bytes + made.pixels.nbytes, zlib.crc32(made.pixels.data, crc)
            file.flush()
            os.fsync(file.fileno())
        if not num_bytes:
            raise RequestError(f"Not one thumbnail of {side} pixels fits into {limit / MIB:g} MiB. Raise cache_mib.")
        unfinished.replace(path)
        with unfinished.open("wb") as file:
            np.savez(file, index=index, channels=split.channels, limit=limit, crc=crc)
        unfinished.replace(path.with_suffix(".npz"))
    finally:
        unfinished.unlink(missing_ok=True)
    return Thumbnails(path)


def _shrink_all(split: EncodedSplit, *, side: int) -> Iterator[tuple[int, Thumbnail]]:
    """All photographs in a drawn order, their shorter side at ``side`` pixels if it was longer, by two threads."""

    def shrink(number: int) -> tuple[int, Thumbnail]:
        photo = Photo(split.items[number], channels=split.channels, name=split.names[number])
        full = photo.height, photo.width
        image = photo.crop((0, 0, *full), fitted_size(*full, shorter=min(side, *full)))
        return number, Thumbnail(np.ascontiguousarray(image.permute(1, 2, 0).numpy()), full)  # (C, H, W) -> (H, W, C)

    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0)).tolist()
    with ThreadPoolExecutor(2) as pool:
        for start in range(0, len(order), DECODED_AHEAD):
            yield from pool.map(shrink, order[start : start + DECODED_AHEAD])
