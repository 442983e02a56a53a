"""One image file or one encoded image to a PIL image that is safe to use: right mode, upright, not a bomb."""

from __future__ import annotations

import io
import struct
from pathlib import Path

from PIL import Image, ImageOps

from reslab.errors import RequestError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's list
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
MAX_PIXELS = 89_478_485  # Pillow's own warning limit: 256 MiB as RGB

DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
ALPHA_MODES = ("RGBA", "LA", "PA", "La", "RGBa")
EIGHT_BIT_MODES = ("1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB", "HSV", *ALPHA_MODES)


def open_image(source: Path | bytes, *, channels: int, name: str) -> Image.Image:
    """Decodes an image whole, turns it upright by its EXIF tag, and converts it to ``L`` or ``RGB``.

    Args:
        source: a file or its content.
        channels: 1 for ``L``, 3 for ``RGB``. Grey becomes RGB and RGB grey; opaque alpha is dropped.
        name: what the error calls it.

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
        raise RequestError(
            f"Can't read the image {name}: {describe(error)}. Expected a whole {', '.join(FORMATS)}"
            f" file of at most {MAX_PIXELS:,} pixels. Replace or remove it."
        ) from None
    return to_mode(upright, channels=channels, name=name)


def describe(error: BaseException) -> str:
    """Pillow's reason, without the memory address that it prints for in-memory files."""
    text = str(error)
    return "the format is not recognised" if "cannot identify" in text else text or type(error).__name__


def to_mode(image: Image.Image, *, channels: int, name: str) -> Image.Image:
    """Converts to ``L`` (1 channel) or ``RGB`` (3) where that loses nothing but colour."""
    if image.mode not in EIGHT_BIT_MODES:
        raise RequestError(
            f"{name} has mode {image.mode!r} (16-bit or float), whose range is unknown. Save it with 8 bits a channel."
        )
    if image.mode in ALPHA_MODES or "transparency" in image.info:
        rgba = image.convert("RGBA")
        if rgba.getchannel("A").getextrema() != (255, 255):
            raise RequestError(f"{name} is partly transparent, and what lies behind it is unknown. Flatten it first.")
        image = rgba.convert("RGB")
    return image.convert("L" if channels == 1 else "RGB")
