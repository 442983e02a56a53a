"""Decoded photographs, kept small in one file that every process maps: made once, from then on only cropped.

The file: a head of 4096 bytes (magic, CRC-32 of the rest of the head, JSON with the CRC-32 of each of the other two
parts), the index (int64, a row an image: where its pixels begin, its height and width, the photograph's height and
width; zeros for one that did not fit), and the pixels.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from reslab.data.jpeg import Box, CropRule, Photo, Pixels, Size, cut_out, fitted_size, reduced_box, resize_pixels
from reslab.data.splits import EncodedSplit
from reslab.errors import RequestError

Index = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

MAGIC = b"RESLAB\0\1"  # the last byte counts up when the layout changes
HEAD_BYTES = 4096
COLUMNS = 5
MIB = 2**20
DECODED_AHEAD = 64  # images in memory before the disk has them


@dataclass(frozen=True)
class Head:
    """What a file of thumbnails says about itself.

    Args:
        key: of the images and of what was done to them.
        channels: of all of them.
        num_images: rows of the index.
        limit: bytes that the pixels were allowed.
        num_bytes: that they have.
        index_crc: CRC-32 of the index.
        pixels_crc: the same of the pixels.
    """

    key: str
    channels: int
    num_images: int
    limit: int
    num_bytes: int = 0
    index_crc: int = 0
    pixels_crc: int = 0

    @property
    def pixels_at(self) -> int:
        """Where the pixels begin, in bytes."""
        return HEAD_BYTES + self.num_images * COLUMNS * 8

    def to_bytes(self) -> bytes:
        """The first 4096 bytes of the file."""
        text = json.dumps(asdict(self)).encode().ljust(HEAD_BYTES - len(MAGIC) - 4)
        return MAGIC + zlib.crc32(text).to_bytes(4, "little") + text

    @classmethod
    def from_bytes(cls, raw: bytes) -> Head:
        """From what ``to_bytes`` made; ValueError for anything else."""
        crc, text = raw[len(MAGIC) : len(MAGIC) + 4], raw[len(MAGIC) + 4 : HEAD_BYTES]
        if not raw.startswith(MAGIC) or zlib.crc32(text).to_bytes(4, "little") != crc:
            raise ValueError("not a file of thumbnails")
        return cls(**json.loads(text))


class Thumbnails:
    """Thumbnails of a split's photographs, or of as many as fit; worker processes share the memory that holds them.

    Made by ``open_thumbnails``. It can be sent to another process, which maps the file again.

    Args:
        path: of the file.
        key: that the file must have.

    Raises:
        ValueError: if the file is another one, or not whole.
        OSError: if it can't be read.

    Deviates:
        From crops of the photograph: a crop has fewer pixels, by the thumbnail's shorter side over the photograph's,
        and what the network sees is blurred where that leaves fewer than it takes. Small crops suffer most.
        Photographs that are no larger than their thumbnail would be are kept as they are, and lose nothing.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        with path.open("rb") as file:
            self.head = Head.from_bytes(file.read(HEAD_BYTES))
            size = os.fstat(file.fileno()).st_size
            if self.head.key != key or size != self.head.pixels_at + self.head.num_bytes:
                raise ValueError("thumbnails of other images, or not all of them")
            # Copy-on-write, so that torch, which knows no read-only tensors, has nothing to warn of; nobody writes.
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        flat = np.frombuffer(content, np.int64, self.head.num_images * COLUMNS, HEAD_BYTES)
        self.index: Index = flat.reshape(-1, COLUMNS)
        self.pixels: Pixels = np.frombuffer(content, np.uint8, self.head.num_bytes, self.head.pixels_at)

    def __getstate__(self) -> tuple[Path, str]:
        return self.path, self.key

    def __setstate__(self, state: tuple[Path, str]) -> None:
        Thumbnails.__init__(self, *state)

    def __contains__(self, number: int) -> bool:
        return bool(self.index[number, 1])

    @property
    def num_cached(self) -> int:
        """Photographs that have a thumbnail."""
        return int(np.count_nonzero(self.index[:, 1]))

    def whole(self) -> bool:
        """Reads everything once and compares it with its checksums."""
        crcs = zlib.crc32(self.index.data), zlib.crc32(self.pixels.data)
        return crcs == (self.head.index_crc, self.head.pixels_crc)

    def describe(self) -> str:
        """How many fit, as a sentence."""
        total, size = self.head.num_images, self.head.num_bytes / MIB
        if self.num_cached == total:
            return f"All {total} photographs are kept as thumbnails: {size:.1f} MiB in {self.path}."
        return (
            f"{self.num_cached} of {total} photographs fit as thumbnails into {self.head.limit / MIB:g} MiB; the others"
            " are decoded every time. All would fit into about"
            f" {-(-size * total // self.num_cached):.0f} MiB."
        )

    def thumbnail(self, number: int) -> Pixels:
        """The pixels (H, W, C) of one that fit."""
        start, height, width = self.index[number, :3].tolist()
        shape = height, width, self.head.channels
        return self.pixels[start : start + math.prod(shape)].reshape(shape)

    def crop(self, number: int, crop: Box | CropRule, *, size: Size) -> Tensor | None:
        """As ``decode_crop``, out of the thumbnail; None for a photograph that has none.

        The box is drawn and given in pixels of the photograph, so that a seed gives the same one with and without
        thumbnails.

        Shape:
            -> uint8 (C, *size)
        """
        if number not in self:
            return None
        pixels = self.thumbnail(number)
        height, width = self.index[number, 3:].tolist()
        box = crop if isinstance(crop, tuple) else crop(height, width)
        scale = pixels.shape[0] / height, pixels.shape[1] / width
        return resize_pixels(cut_out(pixels, reduced_box(box, scale, shape=pixels.shape)), size)


def open_thumbnails(split: EncodedSplit, folder: Path, *, side: int = 256, limit_mib: float = 2048) -> Thumbnails:
    """Thumbnails of a split: those that an earlier run left in the folder, if they are whole, or new ones.

    Which photographs are kept when not all fit is drawn at random, so that it tells nothing about their class: their
    sharpness would give it away otherwise. Of several processes that ask at once, one makes them, the others wait.

    Args:
        split: the photographs.
        folder: where the file lies or will lie; made if need be.
        side: of the shorter side, in pixels.
        limit_mib: of all pixels together, in MiB.

    Raises:
        RequestError: for an impossible side or limit, a folder that can't be written or is full, and as ``open_image``.
    """
    if side < 1 or limit_mib <= 0:
        raise RequestError(
            f"Thumbnails have a side of at least 1 pixel and a limit above 0 MiB, got {side}, {limit_mib}."
        )
    key = thumbnails_key(split, side=side)
    path, head = folder / f"thumbnails-{key[:16]}.bin", Head(key, split.channels, len(split), int(limit_mib * MIB))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone(path.with_suffix(".lock")):
            return intact(path, head) or make(split, path, side=side, head=head)
    except OSError as error:
        raise RequestError(
            f"Can't keep thumbnails in {folder}: {error.strerror or error}. They take up to {limit_mib:g} MiB there:"
            " choose another folder, or go without."
        ) from None


def thumbnails_key(split: EncodedSplit, *, side: int) -> str:
    """SHA-256 over what the pixels depend on; a file that was changed counts as another one, by its time."""
    try:
        times = [item.stat().st_mtime_ns for item in split.items if isinstance(item, Path)]
    except OSError as error:
        raise RequestError(f"Can't read the image {error.filename}: {error.strerror}. Restore or remove it.") from None
    text = f"{split.fingerprint()}\0{split.channels}\0{side}\0{times}"
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """One process at a time; the lock goes with the process that holds it. Without effect on Windows."""
    with lock.open("w") as file:
        if sys.platform != "win32":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def intact(path: Path, wanted: Head) -> Thumbnails | None:
    """What an earlier run left, if it is whole, of these images, and would come out the same with this limit."""
    try:
        found = Thumbnails(path, wanted.key)
    except (OSError, ValueError, TypeError):
        return None
    complete = found.num_cached == len(found.index) and found.head.num_bytes <= wanted.limit
    return found if (complete or found.head.limit == wanted.limit) and found.whole() else None


def make(split: EncodedSplit, path: Path, *, side: int, head: Head) -> Thumbnails:
    """Writes the file beside its place, and moves it there when it is whole."""
    unfinished = path.with_suffix(".unfinished")
    try:
        with unfinished.open("wb") as file:
            write(split, file, side=side, head=head)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return Thumbnails(path, head.key)


def write(split: EncodedSplit, file: BinaryIO, *, side: int, head: Head) -> None:
    """Pixels first, then the index and the head that are known when the pixels are."""
    index = np.zeros((head.num_images, COLUMNS), np.int64)
    num_bytes = crc = 0
    file.seek(head.pixels_at)
    for number, pixels, full in thumbnails_of(split, side=side):
        if num_bytes + pixels.nbytes > head.limit:
            break
        index[number] = num_bytes, *pixels.shape[:2], *full
        file.write(pixels.data)
        num_bytes, crc = num_bytes + pixels.nbytes, zlib.crc32(pixels.data, crc)
    if not num_bytes:
        raise RequestError(f"Not one thumbnail of {side} pixels fits into {head.limit / MIB:g} MiB. Raise the limit.")
    file.seek(0)
    file.write(replace(head, num_bytes=num_bytes, index_crc=zlib.crc32(index.data), pixels_crc=crc).to_bytes())
    file.write(index.data)


def thumbnails_of(split: EncodedSplit, *, side: int) -> Iterator[tuple[int, Pixels, Size]]:
    """Number, thumbnail and full size of all photographs in a drawn order, decoded by two threads."""
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0)).tolist()

    def shrink(number: int) -> tuple[int, Pixels, Size]:
        photo = Photo(split.items[number], channels=split.channels, name=split.names[number])
        return number, *shrunk(photo, side=side)

    with ThreadPoolExecutor(2) as pool:
        for start in range(0, len(order), DECODED_AHEAD):
            yield from pool.map(shrink, order[start : start + DECODED_AHEAD])


def shrunk(photo: Photo, *, side: int) -> tuple[Pixels, Size]:
    """The whole photograph with its shorter side at ``side`` pixels if that is smaller, and its own size."""
    full = photo.height, photo.width
    image = photo.crop((0, 0, *full), fitted_size(*full, shorter=min(side, *full)))
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy()), full  # (C, H, W) -> (H, W, C)
