from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor


def make_pictures(channels: int, side: int) -> Tensor:
    """Digits, noise, a ramp, few levels, and one level: uint8 (8, channels, side, side)."""
    generator = torch.Generator().manual_seed(side)
    digits = torch.from_numpy(load_digits().images[: 3 * channels]).float().view(3, channels, 8, 8) * (255 / 16)
    noise = torch.randint(256, (2, channels, side, side), generator=generator)
    ramp = torch.arange(channels * side * side).view(1, channels, side, side) * 200 // (channels * side * side) + 20
    few = torch.randint(2, (1, channels, side, side), generator=generator) * 90 + 77
    flat = torch.full((1, channels, side, side), 131)
    return torch.cat([F.interpolate(digits, side, mode="bilinear"), noise, ramp, few, flat]).to(torch.uint8)


@pytest.fixture
def pictures() -> Callable[[int, int], Tensor]:
    """``pictures(channels, side)``: eight of all sorts, uint8 (8, C, H, W)."""
    return make_pictures


@pytest.fixture
def generator() -> Callable[[int], torch.Generator]:
    """``generator(seed)``."""
    return lambda seed=0: torch.Generator().manual_seed(seed)
