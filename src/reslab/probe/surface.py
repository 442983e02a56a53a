"""The loss around the weights that a network has: on a line, and on a plane.

The directions are those of Li et al. 2018, arXiv:1712.09913, sec. 4: Gaussian, with every filter scaled to the norm of
the filter that it moves. A network whose filters are larger is moved farther, so that two networks which differ in
the scale of their weights only, as batch norm allows, look the same. What is not moved: biases, gains and whatever else
has rank 1 or 0, and frozen parameters, since training doesn't move them either. A filter of zeros stays.

The filters of a weight are its first dimension, as in linear layers and convolutions. In transposed convolutions that
dimension is the input; each row of an embedding is a filter, and so is the whole of a (1, N, D) position embedding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, Self, get_args

import torch
from torch import Tensor, nn

from reslab.errors import RequestError
from reslab.probe.checks import check_batch, check_loss, check_model
from reslab.probe.eager import eagerly
from reslab.probe.inputs import call, with_gradients
from reslab.probe.reading import Batch, LossFn
from reslab.probe.untouched import untouched
from reslab.records import PlaneRecord, SliceRecord

Norms = Literal["batch", "frozen"]
"""``batch``: train mode, statistics of the batch at every point. ``frozen``: eval mode, with the stored ones."""


def loss_slice(
    model: nn.Module,
    batch: Batch,
    loss_fn: LossFn,
    *,
    name: str = "",
    span: float = 1.0,
    num_points: int = 51,
    norms: Norms = "batch",
    seed: int = 0,
) -> SliceRecord:
    """The loss along one direction, from ``-span`` to ``span``; the model is left as it was, bit for bit.

    The same seed moves two networks along the same direction if the shapes of their weights are the same, in the same
    order, as those of plain and residual twins are. Random numbers, such as dropout's, are the same at every point, and
    so are the buffers that the forward pass begins with. A model in train mode that holds some layers in eval mode
    keeps them there.

    Args:
        model: any.
        batch: inputs and targets, on the model's device; one, since the loss is that of a batch.
        loss_fn: outputs and targets to a scalar.
        name: noted in the record.
        span: how far to go; 1 is as far as the weights are from 0.
        num_points: forward passes: odd, so that the network itself is the middle one.
        norms: ``batch`` or ``frozen``, see ``Norms``; the second needs statistics that fit the weights, which those of
            an untrained network don't.
        seed: of the direction, and of what the network draws.

    Raises:
        RequestError: if the model can't be moved, the loss is no scalar, or an argument is out of range. A loss that
            is not finite is no error; it is noted as it is.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 2.0)
        >>> record = loss_slice(model, (torch.ones(1, 1), torch.zeros(1, 1)), nn.functional.mse_loss, num_points=3)
        >>> sorted(record.losses)  # the weight at 0, 2 and 4
        [0.0, 4.0, 16.0]
    """
    positions = positions_of(span, num_points)
    check(model, batch, norms)
    with Surroundings(model, batch, loss_fn, norms=norms, seed=seed).opened(num_directions=1) as around:
        losses = [around.loss(position) for position in positions]
        return SliceRecord(name, positions, numbers(losses), norms, seed)


def loss_plane(
    model: nn.Module,
    batch: Batch,
    loss_fn: LossFn,
    *,
    name: str = "",
    span: float = 1.0,
    num_points: int = 25,
    norms: Norms = "batch",
    seed: int = 0,
) -> PlaneRecord:
    """The loss on the plane of two directions, ``num_points`` squared of them; else as ``loss_slice``.

    The first direction is that of the slice with the same seed. The second is drawn after it, and nearly at a right
    angle to it, as random directions in many dimensions are; it isn't turned.

    Args:
        model: any.
        batch: as for ``loss_slice``.
        loss_fn: as for ``loss_slice``.
        name: noted in the record.
        span: how far to go along each direction.
        num_points: along each direction, odd.
        norms: as for ``loss_slice``.
        seed: as for ``loss_slice``.

    Raises:
        RequestError: as ``loss_slice`` does.
    """
    positions = positions_of(span, num_points)
    check(model, batch, norms)
    with Surroundings(model, batch, loss_fn, norms=norms, seed=seed).opened(num_directions=2) as around:
        losses = numbers([around.loss(first, second) for second in positions for first in positions])
    rows = tuple(losses[start : start + num_points] for start in range(0, len(losses), num_points))
    return PlaneRecord(name, positions, rows, norms, seed)


class Surroundings:
    """The loss at points around a network.

    Args:
        model: to move.
        batch: inputs and targets.
        loss_fn: outputs and targets to a scalar.
        norms: see ``Norms``.
        seed: of the directions, and of what the network draws at each point.
    """

    def __init__(self, model: nn.Module, batch: Batch, loss_fn: LossFn, *, norms: Norms, seed: int) -> None:
        self.model, self.loss_fn, self.norms, self.seed = model, loss_fn, norms, seed
        self.inputs, self.targets = batch

    @contextmanager
    def opened(self, *, num_directions: int) -> Iterator[Self]:
        """While this is open the model may be moved; afterwards it is where it was."""
        eager = eagerly()
        with torch.inference_mode(False), torch.no_grad(), untouched(self.model), eager:
            if self.norms == "frozen":
                self.model.eval()
            elif not self.model.training:
                self.model.train()
            generator = torch.Generator().manual_seed(self.seed)
            drawn = [directions(self.model, generator) for _ in range(num_directions)]
            self.moved = [
                (parameter, parameter.clone(), ways)
                for parameter, *ways in zip(self.model.parameters(), *drawn, strict=True)
                if ways[0] is not None
            ]
            self.buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
            yield self

    def loss(self, *steps: float) -> Tensor:
        """That many steps along each direction, 0-dim; buffers and random numbers are the same for each point."""
        for parameter, start, ways in self.moved:
            parameter.copy_(start)
            for step, way in zip(steps, ways, strict=True):
                parameter.add_(way, alpha=step)
        for buffer, before in self.buffers:
            buffer.copy_(before)
        seed_draws(self.model, self.seed)
        _, arguments = with_gradients(self.inputs)  # copies: an in-place activation writes over its input
        loss = check_loss(self.loss_fn(call(self.model, arguments), self.targets))
        return loss.detach().reshape(())


def seed_draws(model: nn.Module, seed: int) -> None:
    """Of the CPU and the model's own devices; ``torch.manual_seed`` would reach devices that aren't put back."""
    torch.default_generator.manual_seed(seed)
    for device in {tensor.device for tensor in (*model.parameters(), *model.buffers()) if tensor.is_cuda}:
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def directions(model: nn.Module, generator: torch.Generator) -> list[Tensor | None]:
    """One for each parameter, None where it isn't moved; on the parameter's device.

    Drawn on the CPU in single precision, and for frozen weights too, so that neither device, precision nor freezing
    changes the direction of the others.
    """
    found: list[Tensor | None] = []
    for weight in model.parameters():
        is_weight = weight.ndim >= 2 and weight.is_floating_point()
        noise = torch.randn(weight.shape, generator=generator) if is_weight else None
        found.append(scaled(noise, weight) if noise is not None and weight.requires_grad else None)
    return found


def scaled(noise: Tensor, weight: Tensor) -> Tensor:
    """The noise, each filter with the norm of the weight's.

    Shape:
        (F, *), (F, *) -> (F, *), with the precision of the weight
    """
    exact = torch.promote_types(weight.dtype, torch.float32)
    noise = noise.to(weight.device, exact)
    kept = tuple(range(1, weight.ndim))
    lengths = torch.linalg.vector_norm(weight.to(exact), dim=kept, keepdim=True)
    drawn = torch.linalg.vector_norm(noise, dim=kept, keepdim=True)
    noise *= lengths / drawn.clamp_min(torch.finfo(exact).tiny)
    return noise.to(weight.dtype)


def positions_of(span: float, num_points: int) -> tuple[float, ...]:
    """Evenly from ``-span`` to ``span``, exactly 0 in the middle.

    Example:
        >>> positions_of(1.0, 5)
        (-1.0, -0.5, 0.0, 0.5, 1.0)

    Raises:
        RequestError: if there is no such row.
    """
    if num_points < 3 or num_points % 2 == 0:
        raise RequestError(
            f"num_points is odd and at least 3, so that the network itself is in the middle; got {num_points}."
        )
    if not 0 < span < math.inf:
        raise RequestError(f"span is a distance above 0, such as 1.0; got {span}.")
    half = num_points // 2
    return tuple(span * (place / half) for place in range(-half, half + 1))


def check(model: nn.Module, batch: Batch, norms: str) -> None:
    """Refuses what can't be moved or evaluated, by name."""
    check_model(model)
    check_batch(batch)
    if norms not in get_args(Norms):
        raise RequestError(f"norms is {' or '.join(map(repr, get_args(Norms)))}, got {norms!r}.")
    if not any(weight.ndim >= 2 and weight.requires_grad for weight in model.parameters()):
        raise RequestError(
            "No weight of the model has two dimensions and asks for a gradient: there is nothing to move."
        )


def numbers(losses: list[Tensor]) -> tuple[float, ...]:
    """All of them, read from the device at once."""
    return tuple(torch.stack(losses).tolist())
