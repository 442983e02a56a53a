"""The flight recorder's last steps before training failed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FlightRecord:
    """One of the last steps of a training that failed or diverged.

    Args:
        step: counts from 0 over the whole run.
        epoch: counts from 0.
        lr: learning rate of the step (of the first parameter group).
        loss: mean over the step's batch, without the L1 penalty.
        grad_norm: L2 norm of the gradient of all parameters together, before clipping, of the batch-mean loss.
        grad_norms: the same of each parameter by itself, by its name; 0 where no gradient arrived.
    """

    step: int
    epoch: int
    lr: float
    loss: float
    grad_norm: float
    grad_norms: dict[str, float]
