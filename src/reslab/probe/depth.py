"""All that is measured of the depth of a network, and of the loss around its weights: what ``depth="full"`` adds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar

import torch
from torch import nn

from reslab.errors import RequestError
from reslab.probe.curvature import largest_curvature
from reslab.probe.inputs import samples_of, size_of
from reslab.probe.jacobian import jacobians
from reslab.probe.lesion import Lesions, lesions
from reslab.probe.noise import noise_scale
from reslab.probe.paths import path_spectrum
from reslab.probe.reading import Batch, LossFn
from reslab.probe.shattering import shattering
from reslab.probe.surface import loss_slice
from reslab.probe.twin import cut_twin
from reslab.records import DepthRecord

ENOUGH = 16
"""Samples that paths, curvature and the slice are measured on, at most: each takes many passes."""
Found = TypeVar("Found")


def measure_depth(
    model: nn.Module, batch: Batch, loss_fn: LossFn, *, is_full: bool, twin: bool, is_trained: bool
) -> DepthRecord:
    """Measures one thing after the other; what can't be measured is listed with the reason.

    Paths, shattering, Jacobians, curvature and noise are those of the network as it trains; see their files for what
    that means of its norms. Lesions of a network that was trained are made in eval mode, others in train mode.

    Args:
        model: in train mode; it is left as it was.
        batch: inputs and targets.
        loss_fn: outputs and targets to a scalar.
        is_full: everything; otherwise the twin alone.
        twin: the same network with its shortcuts cut, too.
        is_trained: whether stored statistics of the norms are worth anything.
    """
    missing: dict[str, str] = {}
    few = fewer(batch, ENOUGH)

    cut = measured("twin", lambda: cut_twin(model, batch, loss_fn), missing) if twin else None
    if not is_full:
        return DepthRecord(twin=cut, not_measured=missing)
    mode: Literal["eval", "train"] = "eval" if is_trained else "train"
    hurt = measured("lesions", lambda: lesions(model, batch, loss_fn, mode=mode), missing) or Lesions(
        float("nan"), (), {}
    )
    missing |= {f"lesion of {name}": reason for name, reason in hurt.not_cut.items()}
    return DepthRecord(
        paths=measured("paths", lambda: path_spectrum(model, few, loss_fn), missing),
        shattering=measured("shattering", lambda: shattering(model, batch), missing),
        jacobians=measured("jacobians", lambda: jacobians(model, batch), missing) or (),
        lesions=hurt.lesions,
        loss=hurt.loss if hurt.lesions else None,
        twin=cut,
        curvature=measured("curvature", lambda: largest_curvature(model, few, loss_fn), missing),
        slice=measured("slice", lambda: loss_slice(model, few, loss_fn, name=type(model).__name__), missing),
        noise_scale=measured("noise_scale", lambda: noise_scale(model, batch, loss_fn), missing),
        not_measured=missing,
    )


def measured(name: str, measure: Callable[[], Found], missing: dict[str, str]) -> Found | None:
    """The measurement, or None with the reason in ``missing`` where it can't be made."""
    try:
        return measure()
    except RequestError as reason:
        missing[name] = str(reason)
        return None


def fewer(batch: Batch, count: int) -> Batch:
    """The first samples of a batch, at most so many."""
    size = size_of(batch[0])
    return batch if size <= count else samples_of(batch, torch.arange(count))
