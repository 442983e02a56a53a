"""How noisy the gradient is: the batch size at which its noise is as large as itself.

Reference:
    McCandlish et al. 2018, arXiv:1812.06162, appendix A.1. Deviates: the norms of four parts of one batch are compared
    with that of their mean; batch norms take their statistics from each part.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from reslab.errors import RequestError
from reslab.probe.inputs import call, samples_of, size_of
from reslab.probe.reading import Batch, LossFn
from reslab.probe.untouched import untouched

PARTS = 4


def noise_scale(model: nn.Module, batch: Batch, loss_fn: LossFn) -> float:
    """The simple noise scale: trace of the samples' gradient covariance over the squared gradient, in samples.

    Infinite where the noise hides the gradient altogether. In train mode; the model is left as it was.

    Args:
        model: any.
        batch: inputs and targets, whose samples lie along the first dimension.
        loss_fn: outputs and targets to the mean over the samples.

    Raises:
        RequestError: if there are too few samples for four parts of two.

    Example:
        >>> model = nn.Linear(3, 1, bias=False)
        >>> x = torch.ones(8, 3)
        >>> noise_scale(model, (x, torch.zeros(8, 1)), nn.functional.mse_loss)
        0.0
    """
    size = size_of(batch[0])
    part = size // PARTS
    if part < 2:
        raise RequestError(f"{size} samples are too few for the noise of the gradient; it takes {2 * PARTS}.")
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.inference_mode(False), torch.enable_grad(), untouched(model):
        model.train()
        rows = [
            gradient(model, samples_of(batch, torch.arange(start, start + part)), loss_fn, parameters)
            for start in range(0, PARTS * part, part)
        ]
    mean = torch.stack(rows).mean(dim=0)
    squares = [(row - mean).square().sum() for row in rows]
    spread, square = torch.stack([torch.stack(squares).sum(), mean.square().sum()]).tolist()
    variance = spread / (PARTS - 1)  # of one part's gradient
    signal = square - variance / PARTS
    if variance == 0:
        return 0.0
    return variance * part / signal if signal > 0 else math.inf


def gradient(model: nn.Module, batch: Batch, loss_fn: LossFn, parameters: list[nn.Parameter]) -> Tensor:
    """Of all parameters together, (P,), in double precision; zeros for those that none reaches."""
    inputs, targets = batch
    found = torch.autograd.grad(loss_fn(call(model, inputs), targets), parameters, allow_unused=True)
    return torch.cat(
        [
            torch.zeros_like(p).flatten().double() if g is None else g.flatten().double()
            for p, g in zip(parameters, found, strict=True)
        ]
    )
