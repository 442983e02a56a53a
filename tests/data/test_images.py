"""One image to a PIL image that is safe to use, or a sentence that names it."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from reslab.data.images import MAX_PIXELS, open_image
from reslab.errors import RequestError


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("mode", "kind"), [("1", "PNG"), ("L", "PNG"), ("P", "PNG"), ("RGB", "BMP"), ("CMYK", "JPEG"),
                                            ("RGB", "WEBP"), ("RGB", "PPM"), ("L", "TIFF")])  # fmt: skip
@pytest.mark.parametrize(("channels", "wanted"), [(1, "L"), (3, "RGB")])
def test_eight_bit_modes_are_converted(noise, mode, kind, channels, wanted):
    image = open_image(encoded(noise(0, mode=mode), kind), channels=channels, name="x")
    assert (image.mode, image.size) == (wanted, (8, 8))


def test_pixels_are_those_of_the_file(noise):
    image = noise(3)
    assert np.array_equal(np.array(open_image(encoded(image), channels=3, name="x")), np.array(image))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_opaque_alpha_is_dropped(noise, mode):
    image = noise(1).convert(mode)
    assert np.array_equal(np.array(open_image(encoded(image), channels=3, name="x")), np.array(image.convert("RGB")))


def test_transparency_is_refused(noise):
    image = noise(1, mode="RGBA")
    image.putpixel((2, 2), (1, 2, 3, 254))
    with pytest.raises(RequestError, match=r"leaf\.png is partly transparent.*Flatten it"):
        open_image(encoded(image), channels=3, name="leaf.png")


def test_a_transparent_palette_colour_is_refused(noise):
    with pytest.raises(RequestError, match="partly transparent"):
        open_image(encoded(noise(1, mode="P"), transparency=bytes([0] * 256)), channels=3, name="x")


@pytest.mark.parametrize("options", [{}, {"transparency": 5}])
def test_sixteen_bits_are_refused(options):
    with pytest.raises(RequestError, match=r"scan\.png has mode 'I;16'.*8 bits"):
        open_image(encoded(Image.new("I;16", (4, 4)), **options), channels=1, name="scan.png")


def test_float_is_refused():
    with pytest.raises(RequestError, match="mode 'F'"):
        open_image(encoded(Image.new("F", (4, 4)), "TIFF"), channels=1, name="x")


def test_the_exif_rotation_is_applied(noise):
    image, exif = noise(2, width=12, height=5), Image.Exif()
    exif[0x0112] = 6  # turn by 270 degrees to see it upright
    upright = open_image(encoded(image, exif=exif), channels=3, name="x")
    assert np.array_equal(np.array(upright), np.array(image.transpose(Image.Transpose.ROTATE_270)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_a_truncated_file_is_named(noise, kind):
    content = encoded(noise(0, width=64, height=64), kind)
    with pytest.raises(RequestError, match=r"Can't read the image a/cut\.jpg: .*Replace or remove it"):
        open_image(content[: len(content) // 2], channels=3, name="a/cut.jpg")


@pytest.mark.parametrize("content", [b"", b"hello", b"GIF89a" + bytes(40)])
def test_what_is_no_image_is_refused_without_an_address_in_memory(content):
    with pytest.raises(RequestError, match="format is not recognised") as caught:
        open_image(content, channels=3, name="x")
    assert "0x" not in str(caught.value)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(RequestError, match=r"No such image or folder: gone\.png"):
        open_image(tmp_path / "gone.png", channels=3, name="gone.png")


def test_a_folder_is_no_image(tmp_path):
    with pytest.raises(RequestError, match="Can't read the image"):
        open_image(tmp_path, channels=3, name="x")


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_bomb_is_refused_by_its_header(side):
    assert side * side > MAX_PIXELS
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b"\0")) + png_chunk(b"IEND", b"")
    with pytest.raises(RequestError, match=r"at most 89,478,485 pixels"):
        open_image(bomb, channels=1, name="bomb.png")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's about damaged TIFF tags
def test_damage_anywhere_gives_an_image_or_one_sentence(noise, kind):
    content, random = encoded(noise(0, width=16, height=16), kind), np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = np.frombuffer(content, np.uint8).copy()
        damaged[random.integers(0, min(len(damaged), 120), 3)] = random.integers(0, 256, 3)
        try:
            assert open_image(damaged.tobytes(), channels=3, name="x").mode == "RGB"
        except RequestError:
            refused += 1
    assert refused > 0
