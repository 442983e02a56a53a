"""Image files to pixels: decoded whole by one set of rules, or only as far as a crop needs.

A JPEG is coded in blocks of 8 x 8 frequencies, row of blocks after row of blocks. Leaving out the high frequencies
gives the image at 1/2, 1/4 or 1/8 of its size, and a decoder stops early if the header names fewer rows. Everything
else (other formats, four colours, twelve bits, damage) goes through ``open_image``, with its rules and its errors.

Boxes are (top, left, height, width) in pixels of the upright image at full resolution. Shape letters: C channels,
H height, W width.
"""

from __future__ import annotations

import io
import math
import struct
from pathlib import Path

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from reslab.errors import RequestError

Box = tuple[int, int, int, int]
Size = tuple[int, int]  # height, width
Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]  # (H, W, C)

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's list
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
MAX_PIXELS = 89_478_485  # Pillow's own warning limit: 256 MiB as RGB
DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
ALPHA_MODES = ("RGBA", "LA", "PA", "La", "RGBa")
EIGHT_BIT_MODES = ("1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB", "HSV", *ALPHA_MODES)

FRAMES = (0xC0, 0xC1, 0xC2)  # markers of Huffman-coded JPEGs: baseline, extended, progressive
APP1 = b"\xff\xe1"  # the segment of EXIF and XMP, which may hold an orientation
END = b"\xff\xd9"
NUM_COLOURS = {"Gray": 1, "YCbCr": 3, "RGB": 3}  # by simplejpeg's names
ROWS_TOGETHER = {"420": 16, "440": 16, "441": 32}  # pixel rows that are coded together, by subsampling; else 8
REDUCTIONS = (8, 4, 2, 1)

Turn = tuple[bool, bool, bool]  # the upright image is the stored one with axes swapped, then rows, columns reversed
UPRIGHT: Turn = (False, False, False)
TURNS: dict[int, Turn] = {  # by EXIF orientation
    2: (False, False, True), 3: (False, True, True), 4: (False, True, False), 5: (True, False, False),
    6: (True, False, True), 7: (True, True, True), 8: (True, True, False),
}  # fmt: skip


# ---- decoding whole images


def open_image(source: Path | bytes, *, channels: int, name: str) -> Image.Image:
    """Decode a file or its content whole, turn it upright by its EXIF tag, and convert it to ``L`` or ``RGB``.

    Grey becomes RGB and RGB grey, as ``channels`` 1 or 3 asks; opaque alpha is dropped. Errors call it by ``name``.

    Raises:
        RequestError: if it can't be read (absent, truncated, no known format, over 89 million pixels), or has a mode
            with no clear meaning as eight-bit colour (16 bit, float, transparency).
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:  # Pillow itself refuses twice as many, and warns of these
                raise Image.DecompressionBombError(f"it has {image.width}x{image.height} pixels")
            image.load()  # decode here, so that a truncated file is noticed here
            upright = ImageOps.exif_transpose(image)
    except FileNotFoundError:
        raise RequestError(f"No such image or folder: {name}.") from None
    except (*DECODE_ERRORS, Image.DecompressionBombWarning) as error:
        # Pillow's reason, without the memory address that it prints for files in memory
        reason = "the format is not recognised" if "cannot identify" in str(error) else str(error)
        raise RequestError(
            f"Can't read the image {name}: {reason or type(error).__name__}. Expected a whole {', '.join(FORMATS)}"
            f" file of at most {MAX_PIXELS:,} pixels. Replace or remove it."
        ) from None
    return _eight_bits(upright, channels=channels, name=name)


def _eight_bits(image: Image.Image, *, channels: int, name: str) -> Image.Image:
    """Convert to ``L`` (1 channel) or ``RGB`` (3) where that loses nothing but colour."""
    if image.mode not in EIGHT_BIT_MODES:
        raise RequestError(
            f"{name} has mode {image.mode!r} (16-bit or float), whose range is unknown."
            " Save it with 8 bits per channel."
        )
    if image.mode in ALPHA_MODES or "transparency" in image.info:
        rgba = image.convert("RGBA")
        if rgba.getchannel("A").getextrema() != (255, 255):
            raise RequestError(f"{name} is partly transparent, and what lies behind it is unknown. Flatten it first.")
        image = rgba.convert("RGB")
    return image.convert("L" if channels == 1 else "RGB")


def to_pixels(image: Image.Image) -> Pixels:
    """PIL image of mode ``L`` or ``RGB`` -> uint8 (H, W, C)."""
    array = np.array(image, dtype=np.uint8)
    return array if array.ndim == 3 else array[:, :, None]


# ---- decoding what a crop needs


class Photo:
    """An encoded image that knows its size and decodes what a crop needs, when it is asked for the crop.

    It raises what ``open_image`` raises; for a JPEG that breaks off, by the first crop.

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
        self.whole: Pixels | None = None  # upright, once it had to be decoded whole
        try:
            self.content = source if isinstance(source, bytes) else source.read_bytes()
            self.height, self.width = self._read_header()
        except DECODE_ERRORS:
            self.whole = self._decode_whole()  # or says what is the matter
            self.height, self.width = self.whole.shape[:2]

    def crop(self, box: Box, size: Size) -> Tensor:
        """Return the pixels in a box, resized: uint8 (C, *size)."""
        assert 0 <= box[0] < box[0] + box[2] <= self.height, box
        assert 0 <= box[1] < box[1] + box[3] <= self.width, box
        if self.whole is None:
            swap, rows, columns = self.turn
            part = self._decode(self._as_stored(box), size=size[::-1] if swap else size)
            if part is not None:
                part = part.swapaxes(0, 1) if swap else part
                return resize_pixels(part[:: -1 if rows else 1, :: -1 if columns else 1], size)
            self.whole = self._decode_whole()
        return resize_pixels(cut_out(self.whole, box), size)

    def _read_header(self) -> Size:
        """Height and width of the upright image; ValueError for all but a grey or colour JPEG of eight bits.

        Reference:
            ITU-T T.81, B.2.2 (frame header).
        """
        height, width, colours, subsampling = simplejpeg.decode_jpeg_header(self.content)
        num_colours = NUM_COLOURS.get(colours, 0)
        if not num_colours or height * width > MAX_PIXELS:
            raise ValueError("not a JPEG that is decoded in parts")
        frame = self.content.find(struct.pack(">HBHHB", 8 + 3 * num_colours, 8, height, width, num_colours)) - 2
        if frame < 0 or self.content[frame] != 0xFF or self.content[frame + 1] not in FRAMES:
            raise ValueError("no frame header of eight bits, Huffman-coded")
        self.stored_height, self.stored_width, self.frame = height, width, frame
        self.step = ROWS_TOGETHER.get(subsampling, 8)
        self.turn = self._read_turn() if self.content.find(APP1, 0, frame) >= 0 else UPRIGHT
        return (width, height) if self.turn[0] else (height, width)

    def _read_turn(self) -> Turn:
        """By the EXIF orientation as Pillow finds it, so that every path turns an image the same way."""
        with Image.open(io.BytesIO(self.content), formats=("JPEG",)) as image:
            return TURNS.get(int(image.getexif().get(ExifTags.Base.Orientation, 1)), UPRIGHT)

    def _as_stored(self, box: Box) -> Box:
        """A box of the upright image as a box of the stored one."""
        (swap, rows, columns), (top, left, tall, wide) = self.turn, box
        top = self.height - top - tall if rows else top
        left = self.width - left - wide if columns else left
        return (left, top, wide, tall) if swap else (top, left, tall, wide)

    def _decode(self, box: Box, *, size: Size) -> Pixels | None:
        """Decode a box of the stored image at the least scale that leaves ``size``; None if the decoder complains."""
        content, rows, reduction = self.content, self.stored_height, largest_reduction(box[2:], size)
        # One step more than the box needs: colours coded at half the resolution are interpolated between steps.
        needed = (-(-(box[0] + box[2]) // self.step) + 1) * self.step
        # A file that lost its end would not be noticed by a decoder that stops earlier.
        stops = needed < rows and content.endswith(END)
        if stops:
            rows, at = needed, self.frame + 5  # where the header has the height
            content = b"".join((content[:at], rows.to_bytes(2, "big"), content[at + 2 :]))
        shape = -(-rows // reduction), -(-self.stored_width // reduction)
        try:
            pixels: Pixels = simplejpeg.decode_jpeg(
                content,
                "GRAY" if self.channels == 1 else "RGB",
                min_height=shape[0],
                min_width=shape[1],
                min_factor=reduction,
                strict=not stops,  # strictness would complain about the rows left over
            )
        except (ValueError, RuntimeError):
            return None
        if pixels.shape != (*shape, self.channels):
            return None
        return cut_out(pixels, reduced_box(box, (1 / reduction, 1 / reduction), shape=shape))

    def _decode_whole(self) -> Pixels:
        return to_pixels(open_image(self.source, channels=self.channels, name=self.name))


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


def resize_pixels(pixels: Pixels, size: Size) -> Tensor:
    """uint8 (H, W, C) -> uint8 (C, *size), by an antialiased bilinear filter as torchvision resizes uint8 tensors."""
    image = torch.from_numpy(np.ascontiguousarray(pixels))
    batch = image.unsqueeze(0).permute(0, 3, 1, 2)  # (H, W, C) -> (1, C, H, W); torch is fastest in this layout
    if image.shape[:2] != size:
        batch = F.interpolate(batch, size, mode="bilinear", antialias=True)
    return batch[0].contiguous()


def draw_resized_crop(height: int, width: int, *, min_area: float = 0.08) -> Box:
    """Draw a random box with ``min_area`` to all of the area and an aspect of 3/4 to 4/3, uniform in its logarithm.

    After ten boxes that don't fit, the largest centred one with such an aspect. It draws from torch's global generator
    as torchvision's ``RandomResizedCrop`` does: the same seed gives the same box.

    Reference:
        Szegedy et al. 2014, arXiv:1409.4842, sec. 6.
    """
    low, high = torch.tensor([3 / 4, 4 / 3]).log().tolist()  # float32, as torchvision has them
    for _ in range(10):
        area = height * width * float(torch.empty(1).uniform_(min_area, 1.0))
        aspect = float(torch.empty(1).uniform_(low, high).exp())
        tall, wide = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < tall <= height and 0 < wide <= width:
            top = int(torch.randint(height - tall + 1, (1,)))
            return top, int(torch.randint(width - wide + 1, (1,))), tall, wide
    aspect = min(max(width / height, 3 / 4), 4 / 3)
    tall, wide = min(height, round(width / aspect)), min(width, round(height * aspect))
    return (height - tall) // 2, (width - wide) // 2, tall, wide
