"""Encoded photographs to crops of the network's size, decoding no more of a JPEG than the crop needs.

A JPEG is coded in blocks of 8 x 8 frequencies, row of blocks after row of blocks. Leaving out the high frequencies
gives the image at 1/2, 1/4 or 1/8 of its size, and a decoder that is told of fewer rows stops after those. Everything
else (other formats, four colours, twelve bits, damage) goes through ``open_image``, with its rules and its errors.

Boxes are (top, left, height, width) in pixels of the upright image at full resolution. Shape letters: C channels,
H height, W width.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from reslab.data.images import DECODE_ERRORS, MAX_PIXELS, open_image
from reslab.errors import RequestError

Box = tuple[int, int, int, int]
Size = tuple[int, int]
CropRule = Callable[[int, int], Box]
Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]  # (H, W, C)

START, END = b"\xff\xd8\xff", b"\xff\xd9"
READABLE_FRAMES = (0xC0, 0xC1, 0xC2)  # Huffman-coded: baseline, extended, progressive
UNREADABLE = (0xFF, 0xD9, 0xDA, 0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))  # lossless, ..., data
APP1 = 0xE1  # the segment of EXIF and XMP
REDUCTIONS = (8, 4, 2, 1)

# EXIF orientation -> the upright image is the stored one with (axes swapped, then rows reversed, columns reversed)
TURNS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


@dataclass(frozen=True)
class Header:
    """What a JPEG says about itself before its pixels.

    Args:
        height: as stored, in pixels.
        width: the same.
        frame: where the frame header begins, in bytes.
        step: pixel rows that are coded together.
        turn: from ``TURNS``.
    """

    height: int
    width: int
    frame: int
    step: int
    turn: tuple[bool, bool, bool]


def read_header(content: bytes) -> Header | None:
    """The header of a grey or colour JPEG with eight bits a channel; None for anything else or anything odd.

    Reference:
        ITU-T T.81, B.1.1.4 (segments) and B.2.2 (frame header).
    """
    if not content.startswith(START):
        return None
    try:
        frame, tagged = find_frame(content)
        bits, height, width, channels = struct.unpack_from(">BHHB", content, frame + 4)
        if bits != 8 or channels not in (1, 3) or not 0 < height * width <= MAX_PIXELS:
            return None
        step = 8 * max(sampling & 15 for sampling in content[frame + 11 : frame + 11 + 3 * channels : 3])
        orientation = read_orientation(content) if tagged else 1
    except (*DECODE_ERRORS, IndexError):
        return None
    return Header(height, width, frame, step, TURNS.get(orientation, TURNS[1])) if step else None


def find_frame(content: bytes) -> tuple[int, bool]:
    """Where the frame header begins, and whether a segment that may hold an orientation comes before it."""
    at, tagged = 2, False
    while True:
        kind = content[at + 1]
        if content[at] != 0xFF or kind in UNREADABLE:
            raise ValueError("no frame header that is read here")
        if kind in READABLE_FRAMES:
            return at, tagged
        tagged = tagged or kind == APP1
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")


def read_orientation(content: bytes) -> int:
    """The EXIF orientation as Pillow finds it, so that every path turns an image the same way."""
    with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))


def turn_back(box: Box, turn: tuple[bool, bool, bool], *, height: int, width: int) -> Box:
    """A box of the upright image, ``height`` x ``width``, as a box of the stored one."""
    swap, rows, columns = turn
    top, left, tall, wide = box
    top = height - top - tall if rows else top
    left = width - left - wide if columns else left
    return (left, top, wide, tall) if swap else (top, left, tall, wide)


def turn_upright(pixels: Pixels, turn: tuple[bool, bool, bool]) -> Pixels:
    """Stored pixels to upright ones; a view."""
    swap, rows, columns = turn
    pixels = pixels.swapaxes(0, 1) if swap else pixels
    return pixels[:: -1 if rows else 1, :: -1 if columns else 1]


def largest_reduction(part: Size, size: Size) -> int:
    """The most that ``part`` can be reduced by without becoming smaller than ``size``."""
    return next((r for r in REDUCTIONS if part[0] >= r * size[0] and part[1] >= r * size[1]), 1)


def reduced_box(box: Box, scale: tuple[float, float], *, shape: tuple[int, ...]) -> Box:
    """A box of the full image as the nearest box of one that is ``scale`` (rows, columns) as large."""
    height, width = (max(1, round(length * factor)) for length, factor in zip(box[2:], scale, strict=True))
    top = min(round(box[0] * scale[0]), shape[0] - height)
    left = min(round(box[1] * scale[1]), shape[1] - width)
    return max(0, top), max(0, left), height, width


def cut_out(pixels: Pixels, box: Box) -> Pixels:
    """The part of ``pixels`` in the box; a view."""
    top, left, height, width = box
    return pixels[top : top + height, left : left + width]


def stop_after(content: bytes, header: Header, rows: int) -> bytes:
    """The same JPEG with a header that tells of fewer rows, after which a decoder stops."""
    at = header.frame + 5
    return b"".join((content[:at], rows.to_bytes(2, "big"), content[at + 2 :]))


def decode_part(content: bytes, header: Header, box: Box, *, size: Size, channels: int) -> Pixels | None:
    """The stored pixels of a box at the least scale that has ``size`` pixels; None if the decoder complains.

    Args:
        content: the whole file.
        header: from ``read_header(content)``.
        box: of the stored image.
        size: (height, width) that the box will be resized to, turned as the stored image is.
        channels: 1 or 3.
    """
    reduction = largest_reduction(box[2:], size)
    # One step more than the box needs: colours coded at half the resolution are interpolated between steps.
    needed = (-(-(box[0] + box[2]) // header.step) + 1) * header.step
    # A file that lost its end would not be noticed by a decoder that stops earlier.
    stops = needed < header.height and content.endswith(END)
    rows = needed if stops else header.height
    shape = -(-rows // reduction), -(-header.width // reduction)
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(
            stop_after(content, header, rows) if stops else content,
            "GRAY" if channels == 1 else "RGB",
            min_height=shape[0],
            min_width=shape[1],
            min_factor=reduction,
            strict=not stops,  # strictness would complain of the rows left over
        )
    except (ValueError, RuntimeError):
        return None
    if pixels.shape != (*shape, channels):
        return None
    return cut_out(pixels, reduced_box(box, (1 / reduction, 1 / reduction), shape=shape))


def resize_pixels(pixels: Pixels, size: Size) -> Tensor:
    """Resizes with an antialiased bilinear filter, as ``torchvision.transforms.v2`` resizes uint8 tensors.

    Shape:
        pixels uint8 (H, W, C) -> uint8 (C, *size)
    """
    image = torch.from_numpy(np.ascontiguousarray(pixels))
    batch = image.unsqueeze(0).permute(0, 3, 1, 2)  # (H, W, C) -> (1, C, H, W); torch is fastest in this layout
    if image.shape[:2] != size:
        batch = F.interpolate(batch, size, mode="bilinear", antialias=True)
    return batch[0].contiguous()


class Photo:
    """An encoded image that knows its size and decodes what a crop needs, when it is asked for the crop.

    Args:
        source: a file or its content.
        channels: 1 for grey, 3 for RGB.
        name: what errors call it.

    Raises:
        RequestError: as ``open_image``; for a JPEG that breaks off, by the first crop.

    Deviates:
        From decoding whole, then cropping and resizing as torchvision: a crop at least twice as large as its target is
        decoded at a reduced scale, which filters by frequency instead of by distance. That is about as far off as
        torchvision's bicubic resizing is from its bilinear one: 1.1 grey levels and 43 dB against 1.5 and 40 on the
        photographs and by the test ``test_real_photographs_at_half_their_size_are_close_to_whole_ones``. Besides, the
        box is moved to whole reduced pixels, by at most half of one; counting this shift, it is 4.0 and 33. Grey is
        the JPEG's own luma, rounded once where RGB to grey rounds twice. Damage below the crop is not seen.
    """

    def __init__(self, source: Path | bytes, *, channels: int, name: str) -> None:
        self.source, self.channels, self.name = source, channels, name
        try:
            self.content = source if isinstance(source, bytes) else source.read_bytes()
        except OSError:
            self.content = b""  # open_image says what is the matter
        self.header = read_header(self.content)
        self.whole = self.decode_whole() if self.header is None else None
        self.height, self.width = self.upright_size()

    def upright_size(self) -> Size:
        """(height, width) in pixels."""
        if self.header is None:
            assert self.whole is not None
            return self.whole.shape[0], self.whole.shape[1]
        height, width = self.header.height, self.header.width
        return (width, height) if self.header.turn[0] else (height, width)

    def decode_whole(self) -> Pixels:
        """The safe way: upright pixels of the whole image (H, W, C)."""
        pixels = np.array(open_image(self.source, channels=self.channels, name=self.name), dtype=np.uint8)
        return pixels if pixels.ndim == 3 else pixels[:, :, None]

    def crop(self, box: Box, size: Size) -> Tensor:
        """The box, resized.

        Shape:
            -> uint8 (C, *size)
        """
        assert 0 <= box[0] < box[0] + box[2] <= self.height, box
        assert 0 <= box[1] < box[1] + box[3] <= self.width, box
        if self.header is not None and self.whole is None:
            turn = self.header.turn
            stored = turn_back(box, turn, height=self.height, width=self.width)
            turned_size = size[::-1] if turn[0] else size
            part = decode_part(self.content, self.header, stored, size=turned_size, channels=self.channels)
            if part is not None:
                return resize_pixels(turn_upright(part, turn), size)
            self.whole = self.decode_whole()
        assert self.whole is not None
        return resize_pixels(cut_out(self.whole, box), size)


def decode_crop(source: Path | bytes, crop: Box | CropRule, *, size: Size, channels: int, name: str) -> Tensor:
    """A crop of an encoded image, resized; what follows a crop (mirroring, colours) takes its result.

    Args:
        source: a file or its content.
        crop: a box, or a function from the image's height and width to one, such as ``draw_resized_crop``.
        size: (height, width) of the result.
        channels: 1 or 3.
        name: what errors call the image.

    Shape:
        -> uint8 (C, *size)

    Raises:
        RequestError: as ``open_image``.

    Deviates:
        As ``Photo``.
    """
    photo = Photo(source, channels=channels, name=name)
    return photo.crop(crop if isinstance(crop, tuple) else crop(photo.height, photo.width), size)


def decode_fit(source: Path | bytes, resize: int, *, size: Size, channels: int, name: str) -> Tensor:
    """What evaluation sees: the shorter side resized to ``resize`` pixels, then the centre crop.

    Shape:
        -> uint8 (C, *size)

    Raises:
        RequestError: as ``open_image``.

    Deviates:
        As ``Photo``: images at least twice as large as ``resize`` are decoded at a reduced scale.
    """
    photo = Photo(source, channels=channels, name=name)
    whole = (0, 0, photo.height, photo.width)
    fitted = photo.crop(whole, fitted_size(photo.height, photo.width, shorter=resize))
    cropped: Tensor = TF.center_crop(fitted, list(size))
    return cropped


def fitted_size(height: int, width: int, *, shorter: int) -> Size:
    """The size with the shorter side at ``shorter`` pixels and the longer one rounded down, as torchvision does it.

    Example:
        >>> fitted_size(375, 500, shorter=256)
        (256, 341)
    """
    if height <= width:
        return shorter, shorter * width // height
    return shorter * height // width, shorter


def draw_resized_crop(
    height: int,
    width: int,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    generator: torch.Generator | None = None,
) -> Box:
    """A random box with a share of the area from ``scale`` and an aspect from ``ratio``, uniform in its logarithm.

    After ten boxes that don't fit, the largest centred one with an aspect in ``ratio``. It draws from the generator
    (torch's global one by default) as torchvision's ``RandomResizedCrop`` does: the same seed gives the same box.

    Raises:
        RequestError: for ranges that no crop has.

    Reference:
        Szegedy et al. 2014, arXiv:1409.4842, sec. 6.
    """
    check_ranges(scale, ratio)
    logs = torch.tensor(ratio).log().tolist()  # float32, as torchvision has them
    for _ in range(10):
        area = height * width * float(draw_uniform(*scale, generator=generator))
        aspect = float(draw_uniform(*logs, generator=generator).exp())
        tall, wide = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < tall <= height and 0 < wide <= width:
            top = int(torch.randint(height - tall + 1, (1,), generator=generator))
            return top, int(torch.randint(width - wide + 1, (1,), generator=generator)), tall, wide
    aspect = min(max(width / height, ratio[0]), ratio[1])
    tall, wide = min(height, round(width / aspect)), min(width, round(height * aspect))
    return (height - tall) // 2, (width - wide) // 2, tall, wide


def draw_uniform(low: float, high: float, *, generator: torch.Generator | None) -> Tensor:
    """A float32 number between ``low`` and ``high``, of shape (1,)."""
    return torch.empty(1).uniform_(low, high, generator=generator)


def check_ranges(scale: tuple[float, float], ratio: tuple[float, float]) -> None:
    """Refuses shares of the area and aspects that no crop has."""
    if not 0 < scale[0] <= scale[1] <= 1:
        raise RequestError(f"The crop's share of the area is two rising numbers in (0, 1], got {scale}.")
    if not 0 < ratio[0] <= ratio[1]:
        raise RequestError(f"The crop's aspect, width over height, is two rising positive numbers, got {ratio}.")
