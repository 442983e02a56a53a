"""What the optimiser makes of a gradient: the true update, after momentum, decay, clipping and the rate.

Weights are copied before the step and compared after it, so that it is true of any optimiser. Optimisers are followed
by torch's own hooks, which run around every step of every optimiser; those with none of the model's weights are left
alone, and so are steps with a closure, which makes gradients in the middle of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from reslab.probe._norms import norms_of
from reslab.records import ReadingRecord
from reslab.records.diagnosis import UpdateRecord

DECOUPLED = {"AdamW", "Muon", "Lion", "Adafactor", "SGDW", "RAdamW", "NAdamW"}
"""Optimisers whose decay doesn't go through the gradient; others say so by ``decoupled_weight_decay``."""


@dataclass(frozen=True)
class Step:
    """One step as it was taken.

    Args:
        record: of all parameters together.
        update_norms: by name of the parameter.
    """

    record: UpdateRecord
    update_norms: dict[str, float]


class UpdateFollower:
    """Follows the steps that are taken with a model's gradients, and measures those that are asked for.

    Args:
        model: whose weights are updated.
        optimizer: the one to follow; by default any that holds weights of the model.

    Attributes:
        taken: the last step that was measured; None since the last backward pass.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        self.names = {parameter: name for name, parameter in model.named_parameters()}
        self.optimizer = optimizer
        self.taken: Step | None = None
        self._is_due, self._is_stale = False, False  # whether a step was taken with the gradients that are there
        self._grad_norm = self._leftover_norm = self._taken_norm = 0.0
        self._before: dict[nn.Parameter, Tensor] = {}

    @contextmanager
    def following(self) -> Iterator[None]:
        """While this is open, steps are seen."""
        with ExitStack() as stack:
            stack.callback(register_optimizer_step_pre_hook(self._before_step).remove)
            stack.callback(register_optimizer_step_post_hook(self._after_step).remove)
            stack.callback(self._before.clear)
            yield

    def before_backward(self, *, is_due: bool) -> None:
        """A backward pass begins: what lies in the gradients now was left there; ``is_due`` if the step is measured."""
        self._is_due, self.taken = is_due, None
        if is_due:
            self._leftover_norm = total_norm(self.names) if self._is_stale else 0.0
        self._is_stale = False

    def after_backward(self, *, grad_scale: float = 1.0) -> None:
        """It is over; the gradients are divided by ``grad_scale`` before the step."""
        if self._is_due:
            self._grad_norm = total_norm(self.names) / grad_scale

    def _holds(self, optimizer: torch.optim.Optimizer) -> bool:
        return optimizer is self.optimizer if self.optimizer is not None else bool(own(optimizer, self.names))

    def _before_step(
        self, optimizer: torch.optim.Optimizer, arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> None:
        if not self._holds(optimizer):
            return
        self._is_stale = True
        has_closure = any(map(callable, (*arguments[1:], keywords.get("closure"))))
        if self._is_due and not has_closure:  # a closure makes the gradients that the step takes, only then
            self._taken_norm = total_norm(self.names)
            self._before |= copies_of(own(optimizer, self.names))

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if not self._is_due or not self._holds(optimizer) or not self._before:
            return
        step = step_taken(
            optimizer,
            self.names,
            self._before,
            grad_norm=self._grad_norm,
            taken_norm=self._taken_norm,
            leftover_norm=self._leftover_norm,
        )
        earlier = {} if self.taken is None else self.taken.update_norms  # of another optimiser of the same model
        self.taken = Step(step.record, earlier | step.update_norms)
        for parameter in own(optimizer, self.names):
            self._before.pop(parameter, None)


@torch.no_grad()
def step_taken(
    optimizer: torch.optim.Optimizer,
    names: dict[nn.Parameter, str],
    before: dict[nn.Parameter, Tensor],
    *,
    grad_norm: float,
    taken_norm: float,
    leftover_norm: float,
) -> Step:
    """Measure what an optimiser has just made of the gradients of a model.

    Args:
        optimizer: whose step it was; its parameters' gradients are still those of the step.
        names: of the model's parameters.
        before: copies of those that have a gradient, from before the step.
        grad_norm: L2 of all gradients after the backward pass.
        taken_norm: the same as the step found it: after clipping.
        leftover_norm: the same before the backward pass.
    """
    parameters = [parameter for parameter in own(optimizer, names) if parameter in before]
    updates = {parameter: parameter.detach() - before[parameter] for parameter in parameters}
    record = UpdateRecord(
        optimizer=type(optimizer).__name__,
        lr=float(optimizer.param_groups[0]["lr"]),
        grad_norm=grad_norm,
        taken_norm=taken_norm,
        leftover_norm=leftover_norm,
        decay_ratio=decay_ratio(optimizer, before, updates),
    )
    norms = norms_of(list(updates.values()))
    return Step(record, dict(zip((names[parameter] for parameter in updates), norms, strict=True)))


def with_step(record: ReadingRecord, step: Step) -> ReadingRecord:
    """Return the reading with what the optimiser made of its gradients."""
    parameters = tuple(replace(p, update_norm=step.update_norms.get(p.name)) for p in record.parameters)
    return replace(record, parameters=parameters, update=step.record)


def own(optimizer: torch.optim.Optimizer, names: dict[nn.Parameter, str]) -> list[nn.Parameter]:
    """The model's parameters among the optimiser's."""
    return [p for group in optimizer.param_groups for p in group["params"] if p in names]


def copies_of(parameters: Iterable[nn.Parameter]) -> dict[nn.Parameter, Tensor]:
    """Copies of the parameters that have a gradient."""
    return {parameter: parameter.detach().clone() for parameter in parameters if parameter.grad is not None}


def total_norm(parameters: Iterable[nn.Parameter]) -> float:
    """L2 of all gradients together."""
    norms = norms_of([parameter.grad for parameter in parameters if parameter.grad is not None])
    return math.sqrt(sum(norm**2 for norm in norms))


def decay_ratio(
    optimizer: torch.optim.Optimizer, before: dict[nn.Parameter, Tensor], updates: dict[nn.Parameter, Tensor]
) -> float:
    """Norm of what weight decay takes off over that of what the gradient does.

    A decay that goes through the gradient is compared with the gradient, a decoupled one with the rest of the step.
    NaN for LAMB, which scales both together.
    """
    if type(optimizer).__name__.lower() == "lamb":
        return math.nan
    if not any(group.get("weight_decay") for group in optimizer.param_groups):
        return 0.0
    decayed = pulled = 0.0
    for group in optimizer.param_groups:
        decay = float(group.get("weight_decay") or 0.0)
        decoupled = group.get("decoupled_weight_decay") or type(optimizer).__name__ in DECOUPLED
        factor = decay * float(group["lr"]) if decoupled else decay
        found = [parameter for parameter in group["params"] if parameter in updates]
        pulls = [torch.add(updates[p], before[p], alpha=factor) if decoupled else p.grad for p in found]
        pulled += sum(norm**2 for norm in norms_of(pulls))
        decayed += sum((factor * norm) ** 2 for norm in norms_of([before[p] for p in found])) if decay else 0.0
    return math.sqrt(decayed / pulled) if pulled else math.inf if decayed else 0.0
