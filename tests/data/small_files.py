"""Small images and files of the formats that several tests write."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image


def noise_image(seed: int, *, width: int = 8, height: int = 8, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def png_bytes(seed: int) -> bytes:
    buffer = io.BytesIO()
    noise_image(seed).save(buffer, "PNG")
    return buffer.getvalue()


def idx(array: np.ndarray) -> bytes:
    """The content of an idx file."""
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return head + array.astype(np.uint8).tobytes()
