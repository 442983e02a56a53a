"""The flight recorder: what the last steps were like, kept without asking the device, for when training fails."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from reslab.records import FlightRecord, StepRecord
from reslab.train.onset import onset

LENGTH = 100
"""Steps that are kept."""
STRETCH, RISE, BACK = 10, 3.0, 0.8
"""Training diverges if the median loss of a stretch of steps is so many times the lowest one's, and all but a fifth of
what the first one's was: what had been learnt is lost."""


@torch.no_grad()
def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float) -> tuple[Tensor, Tensor]:
    """Scales all gradients down together where their norm is larger than ``max_norm``.

    As ``torch.nn.utils.clip_grad_norm_``, which computes the norm of each gradient too, and throws it away.

    Returns:
        L2 norm of all gradients together, 0-dim, and of each, (P,), before clipping; 0 where there is none.
    """
    reached = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not reached:
        return torch.zeros(()), torch.zeros(len(parameters))
    device, found = reached[0].device, iter(torch._foreach_norm(reached))
    nothing = torch.zeros((), dtype=reached[0].dtype, device=device)
    norms = torch.stack([nothing if p.grad is None else next(found).to(device) for p in parameters])
    total = torch.linalg.vector_norm(norms)
    nn.utils.clip_grads_with_norm_(parameters, max_norm, total, foreach=True)
    return total, norms


class Flight:
    """The last hundred steps: loss, rate, and each parameter's gradient norm.

    The norms stay on the device until they are asked for. A run that goes on has forgotten the steps before.

    Args:
        model: whose parameters are named.
        parameters: in the order of the norms.
        read_every: steps whose loss isn't known yet, at most.
    """

    def __init__(self, model: nn.Module, parameters: Iterable[nn.Parameter], *, read_every: int = 1) -> None:
        names = {parameter: name for name, parameter in model.named_parameters()}
        self.names = [names.get(p, f"parameter {place}") for place, p in enumerate(parameters)]
        self.norms = deque[tuple[int, Tensor]](maxlen=LENGTH + read_every)
        self.steps = deque[StepRecord](maxlen=LENGTH)
        self.first = self.lowest = math.nan  # median losses of stretches
        self.has_warned = False

    def note(self, step: int, norms: Tensor) -> None:
        """Keeps each parameter's gradient norm at a step, (P,), where it is."""
        self.norms.append((step, norms))

    def complete(self, record: StepRecord) -> str | None:
        """Keeps what else is known of the step; a sentence at the first one at which training diverges."""
        self.steps.append(record)
        if (record.step + 1) % STRETCH or len(self.steps) < STRETCH:
            return None
        now = statistics.median([step.loss for step in self.steps][-STRETCH:])
        if math.isnan(self.first):
            self.first = self.lowest = now
        lowest, self.lowest = self.lowest, min(self.lowest, now)
        is_worse = math.isfinite(now) and now > RISE * lowest and now > BACK * self.first
        if self.has_warned or not is_worse:
            return None
        self.has_warned = True
        warning = f"The loss is {now:.3g} at step {record.step} and was {lowest:.3g}: training diverges."
        return f"{warning} {onset(self.records())}".rstrip()

    def records(self) -> list[FlightRecord]:
        """The last steps that are complete, read from the device at once."""
        losses = {record.step: record for record in self.steps}
        kept = [(losses[step], norms) for step, norms in self.norms if step in losses]
        table = torch.stack([norms.float() for _, norms in kept]).tolist() if kept else []
        return [
            FlightRecord(
                step=record.step,
                epoch=record.epoch,
                lr=record.lr,
                loss=record.loss,
                grad_norm=record.grad_norm,
                grad_norms=dict(zip(self.names, row, strict=True)),
            )
            for (record, _), row in zip(kept, table, strict=True)
        ]
