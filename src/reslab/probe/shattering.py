"""How far one can go from an image before the gradient at the input has nothing to do with what it was.

In a deep network without shortcuts the gradient, taken along a line between two images, looks like white noise: it is
shattered. What a step of training learns from one image then says nothing about the image beside it.

Reference:
    Balduzzi et al. 2017, arXiv:1702.08591. Deviates: they measure autocorrelation over a grid of inputs; here it is the
    cosine with the gradient at the beginning of the way, and the way leads from one sample to another.

Shape letters: N samples, P pairs, D all values of one sample.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from reslab.errors import RequestError
from reslab.probe.batch import call, chosen, mapped, size_of, tensors_in, with_gradients
from reslab.records.depth import ShatteringRecord
from reslab.untouched import untouched

DISTANCES = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0)
"""Fractions of the way; the verdict's limit, 1e-3, is well inside."""


def shattering(
    model: nn.Module, inputs: Any, *, distances: Sequence[float] = DISTANCES, num_pairs: int = 8, seed: int = 0
) -> ShatteringRecord:
    """Measure the mean cosine of the gradients at ``a`` and at ``(1 - distance) a + distance b``, for pairs of samples.

    The gradient is that of a random projection of the outputs, the same everywhere. Batch norms are frozen to the
    statistics of the whole batch, so that samples don't depend on each other, and dropout is off, whatever mode the
    model is in; see ``frozen_norms``. A gradient of exactly zero has the cosine 0 with any other. Where the first
    distance is already too far, ``half`` is that distance, an upper bound.

    Args:
        model: any; it is left as it was, bit for bit.
        inputs: of the model; their first dimension counts samples. What is no floating-point tensor stays what it is
            for ``a``.
        distances: rising, above 0 and up to 1.
        num_pairs: P; no more than there are samples.
        seed: for pairs and projection.

    Raises:
        RequestError: if there is no way from one input to another, as between words, or no gradient along it.

    Example:
        >>> shattering(nn.Linear(4, 2), torch.randn(8, 4), distances=(0.1, 1.0)).half
        inf
    """
    check_way(inputs, distances, num_pairs)
    order = torch.randperm(size_of(inputs), generator=torch.Generator().manual_seed(seed))
    start, end = chosen(inputs, order[:num_pairs]), chosen(inputs, order.roll(-1)[:num_pairs])
    with untouched(model), torch.enable_grad(), frozen_norms(model, inputs):
        before = gradients(model, start, seed=seed)
        found = [
            cosines(before, gradients(model, between(start, end, distance), seed=seed)).mean() for distance in distances
        ]
        similarities, size = torch.stack(found).tolist(), before.abs().amax().item()
    if not 0 < size < math.inf or not all(map(math.isfinite, similarities)):
        found_size = "zero, as with a head that begins at zero" if size == 0 else "not finite"
        raise RequestError(f"The gradient at the input is {found_size}: there is nothing to compare along the way.")
    half = half_of(distances, similarities)
    return ShatteringRecord(tuple(distances), tuple(similarities), half, num_pairs=len(before))


def check_way(inputs: Any, distances: Sequence[float], num_pairs: int) -> None:
    """Refuse inputs between which there is no way, and distances that aren't on it."""
    if not any(tensor.is_floating_point() for tensor in tensors_in(inputs)):
        raise RequestError("Inputs are whole numbers, such as words: there is no way from one to another.")
    if size_of(inputs) < 2:
        raise RequestError("The batch has one sample; a way from one to another takes at least 2.")
    if num_pairs < 1:
        raise RequestError(f"num_pairs is {num_pairs}; expected at least 1.")
    rises = all(near < far for near, far in itertools.pairwise(distances))
    if not distances or not rises or not 0 < distances[0] <= distances[-1] <= 1:
        raise RequestError(f"distances are {tuple(distances)}; expected rising fractions, above 0 and up to 1.")


def between(start: Any, end: Any, distance: float) -> Any:
    """What lies at that fraction of the way from one nest of tensors to another."""
    others = iter(tensors_in(end))

    def go(tensor: Tensor) -> Tensor:
        other = next(others)
        return torch.lerp(tensor, other, distance) if tensor.is_floating_point() else tensor

    return mapped(start, go)


def gradients(model: nn.Module, inputs: Any, *, seed: int) -> Tensor:
    """The gradient at each sample of a random projection of the outputs, (P, D), in double precision."""
    leaves, arguments = with_gradients(inputs)
    outputs = [tensor for tensor in tensors_in(call(model, arguments)) if tensor.requires_grad]
    if not outputs:
        raise RequestError("The outputs contain no tensor that depends on the inputs: there is no gradient to follow.")
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same projection on every device
    projected = [(out * torch.randn(out.shape, generator=generator).to(out)).sum() for out in outputs]
    found = torch.autograd.grad(torch.stack(projected).sum(), leaves, allow_unused=True)
    count = size_of(inputs)
    rows = [
        torch.zeros_like(leaf) if gradient is None else gradient
        for leaf, gradient in zip(leaves, found, strict=True)
        if leaf.ndim and len(leaf) == count
    ]
    return torch.cat([row.flatten(1).double() for row in rows], dim=1)


def cosines(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of each pair of rows, (P, D) -> (P); 0 where one of them is zero."""
    lengths = first.norm(dim=1) * second.norm(dim=1)
    return torch.where(lengths == 0, 0.0, (first * second).sum(dim=1) / lengths)


def half_of(distances: Sequence[float], similarities: Sequence[float]) -> float:
    """Return where the cosine falls below a half, by a straight line over the logarithm of the distance."""
    below = next((place for place, similarity in enumerate(similarities) if similarity < 0.5), None)
    if below is None:
        return math.inf
    if below == 0:
        return distances[0]
    fraction = (similarities[below - 1] - 0.5) / (similarities[below - 1] - similarities[below])
    return float(distances[below - 1] ** (1 - fraction) * distances[below] ** fraction)


# ---- norms that tie no samples together


@contextmanager
def frozen_norms(model: nn.Module, inputs: Any) -> Iterator[None]:
    """Eval mode, in which batch norms have the statistics of these inputs: no sample depends on another.

    A batch norm that is called several times keeps the statistics of its last call; one that was in eval mode while the
    model was in train mode keeps its own. Instance norms take those of each sample. Norms of other classes do what they
    do in eval mode. Only inside of ``untouched``: buffers and modes are left changed.

    Args:
        model: whose norms they are.
        inputs: the whole batch.
    """
    norms = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and not (model.training and not module.training)
    ]
    model.eval()
    for module in model.modules():
        if isinstance(module, _InstanceNorm):
            module.train()
    with ExitStack() as stack:
        for norm in norms:
            if norm.running_mean is None:
                stack.callback(setattr, norm, "track_running_stats", norm.track_running_stats)
                stack.callback(norm._buffers.update, running_mean=None, running_var=None)
                norm.track_running_stats = True
        with ExitStack() as hooks, torch.no_grad():
            for norm in norms:
                hooks.callback(norm.register_forward_pre_hook(take_statistics).remove)
            call(model, with_gradients(inputs)[1])
        yield


@torch.no_grad()
def take_statistics(norm: nn.Module, arguments: tuple[Any, ...]) -> None:
    """Set a batch norm's statistics to those of what goes into it, (N, C, *): those that train mode divides by."""
    values, mean, variance = arguments[0], norm.running_mean, norm.running_var
    found = torch.var_mean(values, dim=[d for d in range(values.ndim) if d != 1], correction=0)
    if isinstance(mean, Tensor) and isinstance(variance, Tensor):
        mean.copy_(found[1])
        variance.copy_(found[0])
    else:
        norm.running_var, norm.running_mean = found
