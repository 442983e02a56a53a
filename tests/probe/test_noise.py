"""The noise scale is that of a gradient whose noise is known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from reslab.errors import RequestError
from reslab.probe._landscape import noise_scale
from reslab.probe.batch import BatchLoss


class Offset(nn.Module):
    """Its gradient under ``mean`` is the mean of what goes in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(width, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.offset * x


def mean(outputs: torch.Tensor, targets: object) -> torch.Tensor:
    return outputs.sum(dim=1).mean()


def test_it_is_the_covariance_over_the_squared_gradient():
    generator = torch.Generator().manual_seed(0)
    width, size, noise = 1000, 64, 0.5
    x = 1 + noise * torch.randn(size, width, generator=generator, dtype=torch.float64)
    found = noise_scale(Offset(width), BatchLoss((x, None), mean))
    assert found == pytest.approx(noise**2, rel=0.1)  # trace width * noise^2 over a squared gradient of width


def test_noise_that_hides_the_gradient():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 1000, generator=generator, dtype=torch.float64)
    x[4:] -= x[4:].mean(dim=0) + x[:4].mean(dim=0)
    assert noise_scale(Offset(1000), BatchLoss((x, None), mean)) == float("inf")


def test_samples_that_are_all_alike():
    assert noise_scale(Offset(3), BatchLoss((torch.ones(8, 3, dtype=torch.float64), None), mean)) == 0


def test_too_few_samples():
    with pytest.raises(RequestError, match="7 samples are too few"):
        noise_scale(Offset(3), BatchLoss((torch.ones(7, 3, dtype=torch.float64), None), mean))
