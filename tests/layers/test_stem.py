"""Stems: what stands between the image and the first block."""

import pytest
import torch
from torch import nn

from reslab.errors import RequestError
from reslab.layers.stem import make_stem


def run(kind: str, images: torch.Tensor, width: int) -> torch.Tensor:
    conv, norm, pool = make_stem(kind, images.shape[1], width)
    return pool(torch.relu(norm(conv(images))))


@pytest.mark.parametrize(("side", "expected"), [(224, 56), (64, 16), (33, 9), (7, 2), (1, 1)])
def test_imagenet_stem_quarters_the_image(side, expected):
    assert run("imagenet", torch.randn(2, 3, side, side), 8).shape == (2, 8, expected, expected)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (28, 28), (7, 9), (1, 1)])
def test_small_stem_keeps_the_size(height, width):
    assert run("small", torch.randn(2, 3, height, width), 8).shape == (2, 8, height, width)


@pytest.mark.parametrize("kind", ["imagenet", "small"])
@pytest.mark.parametrize("in_channels", [1, 3, 4])
def test_stem_takes_any_number_of_channels(kind, in_channels):
    assert run(kind, torch.randn(2, in_channels, 16, 16), 5).shape[1] == 5


def test_kernels_are_the_papers():
    conv, norm, pool = make_stem("imagenet", 3, 64)
    assert conv.weight.shape == (64, 3, 7, 7)
    assert (conv.stride, conv.bias, norm.num_features) == ((2, 2), None, 64)
    assert (pool.kernel_size, pool.stride, pool.padding) == (3, 2, 1)
    conv, norm, pool = make_stem("small", 3, 16)
    assert conv.weight.shape == (16, 3, 3, 3)
    assert (conv.stride, conv.bias, norm.num_features) == ((1, 1), None, 16)
    assert isinstance(pool, nn.Identity)


def test_unknown_stem_names_what_was_expected():
    with pytest.raises(RequestError, match=r"Unknown stem 'cifar'\. Expected 'imagenet' or 'small'"):
        make_stem("cifar", 3, 16)
