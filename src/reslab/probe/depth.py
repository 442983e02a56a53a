"""All that is measured of the depth of a network, and of the loss around its weights: what ``depth="full"`` adds."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import nn

from reslab.errors import RequestError
from reslab.probe._cut import Lesions, cut_twin, lesions
from reslab.probe._jacobian import jacobians
from reslab.probe._landscape import largest_curvature, loss_slice, noise_scale
from reslab.probe.batch import LossOf, first_samples, inputs_of
from reslab.probe.paths import path_spectrum
from reslab.probe.shattering import shattering
from reslab.records.depth import DepthRecord
from reslab.untouched import untouched

MAX_SAMPLES = 16
"""Samples that paths, curvature and the slice are measured on, at most: each takes many passes."""
Found = TypeVar("Found")


def measure_depth(model: nn.Module, loss_of: LossOf, *, is_full: bool, twin: bool, is_trained: bool) -> DepthRecord:
    """Measure one thing after the other; what can't be measured is listed with the reason.

    Paths, shattering, Jacobians, curvature and noise are those of the network as it trains; see their files for what
    that means of its norms. Lesions of a network that was trained are made in eval mode, others in train mode.

    Args:
        model: any; it is left as it was.
        loss_of: runs it on one batch up to the loss.
        is_full: everything; otherwise the twin alone.
        twin: the same network with its shortcuts cut, too.
        is_trained: whether stored statistics of the norms are worth anything.
    """
    missing: dict[str, str] = {}
    with untouched(model, is_training=True):
        cut = measured("twin", lambda: cut_twin(model, loss_of), missing) if twin else None
        if not is_full:
            return DepthRecord(twin=cut, not_measured=missing)
        few, inputs = first_samples(loss_of, MAX_SAMPLES), inputs_of(model, loss_of)
        hurt = measured(
            "lesions", lambda: lesions(model, loss_of, mode="eval" if is_trained else "train"), missing
        ) or Lesions(float("nan"), (), {})
        missing |= {f"lesion of {name}": reason for name, reason in hurt.not_cut.items()}
        return DepthRecord(
            paths=measured("paths", lambda: path_spectrum(model, few), missing),
            shattering=measured("shattering", lambda: shattering(model, inputs), missing),
            jacobians=measured("jacobians", lambda: jacobians(model, inputs), missing) or (),
            lesions=hurt.lesions,
            loss=hurt.loss if hurt.lesions else None,
            twin=cut,
            curvature=measured("curvature", lambda: largest_curvature(model, few), missing),
            slice=measured("slice", lambda: loss_slice(model, few, name=type(model).__name__), missing),
            noise_scale=measured("noise_scale", lambda: noise_scale(model, loss_of), missing),
            not_measured=missing,
        )


def measured(name: str, measure: Callable[[], Found], missing: dict[str, str]) -> Found | None:
    """Return the measurement, or None with the reason in ``missing`` where it can't be made."""
    try:
        return measure()
    except RequestError as reason:
        missing[name] = str(reason)
        return None
