"""Norms of many tensors at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from reslab.probe.split import TINY, at_once, flat


@torch.no_grad()
def norms_of(tensors: Sequence[Tensor]) -> list[float]:
    """L2 norms, read at once from each device: of sums in double precision, but on the CPU as ``split.dot`` has it."""
    values = [tensor.detach() for tensor in tensors]
    norms = [math.sqrt(square) for square in at_once([square_of(tensor) for tensor in values])]
    for place, norm in enumerate(norms):
        if not TINY < norm**2 < math.inf:  # too small or too large for single precision, or zero
            norms[place] = values[place].double().norm().item()
    return norms


def square_of(values: Tensor) -> Tensor:
    """Sum of squares, 0-dim, in the precision that the device sums best in."""
    if values.device.type == "cpu":
        values = values if values.dtype == torch.float64 else values.float()
    else:
        values = values.double()
    return torch.dot(*flat(values, values))
