"""Norms of many tensors at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reslab.probe.split import dot


@torch.no_grad()
def norms_of(tensors: Sequence[Tensor]) -> list[float]:
    """L2 norms in double precision, read at once from each device."""
    squares = [dot(values.detach(), values.detach()) for values in tensors]
    found = dict[int, float]()
    for device in {square.device for square in squares}:
        places = [place for place, square in enumerate(squares) if square.device == device]
        found |= zip(places, torch.stack([squares[place] for place in places]).sqrt().tolist(), strict=True)
    return [found[place] for place in range(len(squares))]
