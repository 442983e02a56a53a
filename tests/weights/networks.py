"""Networks with values that count, and images for them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def scramble(model: nn.Module, seed: int = 0) -> nn.Module:
    """Norms away from 1 and 0, biases and gains from 0, statistics from their start, so that each of them counts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim <= 1 or (set(parameter.shape[1:]) == {1} and parameter.shape[0] > 1):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
        for buffer in model.buffers():
            if buffer.is_floating_point() and buffer.ndim == 1:
                buffer.add_(0.3 * torch.rand(buffer.shape, generator=generator, dtype=buffer.dtype))
    return model.eval()


def images(side: int = 64, channels: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    """Two of them, (2, C, side, side)."""
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(1)).to(dtype)
