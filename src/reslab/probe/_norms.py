"""Sums of squares and products, exact enough and as fast as the device allows: norms of many tensors, of each sample.

The CPU sums what is in single precision in runs of single precision, which reads each value once, and the runs in
double precision. What is too small or too large for that is taken again in double precision.

Shape letters: N samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

TINY = 1e-20
"""Sums of squares below it are taken again in double precision: single precision would round them to 0."""
RUN = 1024
"""Values that single precision sums at a time; longer sums are less exact."""
FEW = 2**16
"""Values up to which a tensor's sum takes less time than the call."""


def dot(first: Tensor, second: Tensor) -> Tensor:
    """Sum of products, 0-dim, in double precision."""
    if first is second:
        return square(first)
    if in_runs(first):
        total = torch.dot(*flat(first.float(), second.float()))
        if TINY < abs(total.item()) < math.inf:
            return total.double()
    return torch.dot(*flat(first.double(), second.double()))


def square(values: Tensor) -> Tensor:
    """Sum of squares, 0-dim, in double precision."""
    if in_runs(values):
        single = values.float()
        vector, _ = flat(single, single)
        whole = len(vector) - len(vector) % RUN
        runs, rest = torch.linalg.vector_norm(vector[:whole].view(-1, RUN), dim=1).double(), vector[whole:].double()
        total = torch.dot(runs, runs) + torch.dot(rest, rest)
        if TINY < total.item() < math.inf:
            return total
    exact = values.double()
    return torch.dot(*flat(exact, exact))


def in_runs(values: Tensor) -> bool:
    """Whether single precision is tried first: on the CPU, of what isn't double already."""
    return values.device.type == "cpu" and values.dtype != torch.float64


def sample_norms(values: Tensor) -> Tensor:
    """L2 norm of each sample in double precision, (N,).

    Args:
        values: (N, *).
    """
    count, size = len(values), values[0].numel()
    rows = values.as_strided((count, size), (size, 1)) if is_dense(values) else values.flatten(1)
    if not in_runs(rows):
        exact: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
        return exact
    rows = rows.float()
    parts = rows.view(count, -1, RUN) if size % RUN == 0 and rows.is_contiguous() else rows[:, None]
    norms: Tensor = torch.linalg.vector_norm(torch.linalg.vector_norm(parts, dim=2).double(), dim=1)  # (N, runs) -> (N)
    if not math.sqrt(TINY) < norms.amin().item() <= norms.amax().item() < math.inf:
        norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    return norms


@torch.no_grad()
def norms_of(tensors: Sequence[Tensor]) -> list[float]:
    """L2 norm of each, read at once from each device."""
    values = [tensor.detach() for tensor in tensors]
    together = [place for place, value in enumerate(values) if is_small(value)]
    norms_together = torch._foreach_norm([values[place] for place in together]) if together else ()
    found = dict(zip(together, norms_together, strict=True))
    norms = at_once([found[place] if place in found else square(value).sqrt() for place, value in enumerate(values)])
    for place in together:
        if not TINY < norms[place] ** 2 < math.inf:  # too small or too large for single precision, or zero
            norms[place] = values[place].double().norm().item()
    return norms


def is_small(values: Tensor) -> bool:
    """Whether it is best summed in one call with others, in its own precision."""
    return values.device.type == "cpu" and values.dtype in (torch.float32, torch.float64) and values.numel() <= FEW


def at_once(numbers: Sequence[Tensor]) -> list[float]:
    """0-dim tensors, read at once from each device."""
    found = dict[int, float]()
    for device in {number.device for number in numbers}:
        places = [place for place, number in enumerate(numbers) if number.device == device]
        found |= zip(places, torch.stack([numbers[place] for place in places]).tolist(), strict=True)
    return [found[place] for place in range(len(numbers))]


# ---- layout


def flat(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both as vectors in one order: that of memory, where it is the same, without a copy."""
    if first.is_contiguous() and second.is_contiguous():
        return first.view(-1), second.view(-1)
    if is_dense(first) and first.stride() == second.stride():
        return first.as_strided((first.numel(),), (1,)), second.as_strided((second.numel(),), (1,))
    return first.reshape(-1), second.reshape(-1)


def is_dense(values: Tensor) -> bool:
    """Whether one sample lies behind the other, without gaps, though perhaps with the channels last."""
    return values.is_contiguous() or (values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last))
