"""Stems: what stands between the image and the first block."""

import pytest
import torch
from torch import nn

from reslab.errors import RequestError
from reslab.layers.nd import Parts
from reslab.layers.stem import STEM_KINDS, make_stem


def run(kind: str, images: torch.Tensor, width: int) -> torch.Tensor:
    conv, pool = make_stem(kind, images.shape[1], width, parts=Parts())
    return pool(torch.relu(conv(images)))


@pytest.mark.parametrize(("side", "expected"), [(224, 56), (64, 16), (33, 9), (7, 2), (1, 1)])
@pytest.mark.parametrize("kind", ["imagenet", "tensorflow", "deep", "deep_tiered"])
def test_all_but_the_small_stem_quarter_the_image(kind, side, expected):
    assert run(kind, torch.randn(2, 3, side, side), 8).shape == (2, 8, expected, expected)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (28, 28), (7, 9), (1, 1)])
def test_small_stem_keeps_the_size(height, width):
    assert run("small", torch.randn(2, 3, height, width), 8).shape == (2, 8, height, width)


@pytest.mark.parametrize("kind", STEM_KINDS)
@pytest.mark.parametrize("in_channels", [1, 3, 4])
def test_stem_takes_any_number_of_channels(kind, in_channels):
    assert run(kind, torch.randn(2, in_channels, 16, 16), 5).shape[1] == 5


def test_kernels_are_the_papers():
    conv, pool = make_stem("imagenet", 3, 64, parts=Parts())
    assert conv.weight.shape == (64, 3, 7, 7)
    assert (conv.stride, conv.bias) == ((2, 2), None)
    assert (pool.kernel_size, pool.stride, pool.padding) == (3, 2, 1)
    conv, pool = make_stem("small", 3, 16, parts=Parts())
    assert conv.weight.shape == (16, 3, 3, 3)
    assert (conv.stride, conv.bias) == ((1, 1), None)
    assert isinstance(pool, nn.Identity)


def test_unknown_stem_names_what_was_expected():
    with pytest.raises(RequestError, match=r"Unknown stem 'cifar'\. Expected one of: imagenet, .*small"):
        make_stem("cifar", 3, 16, parts=Parts())
