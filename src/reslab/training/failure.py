"""When training fails: the last steps before it, where the first bad number came from, and how it began."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import Any

import torch
from torch import Tensor, nn

from reslab.errors import WorkFailed
from reslab.records import StepRecord
from reslab.records.training import FlightRecord
from reslab.training.batches import tensors_in
from reslab.training.progress import Reading

KEPT_STEPS = 100
WINDOW, RISE, MIN_LOSS_FRACTION = 10, 3.0, 0.8
"""Training diverges if the median loss of a window of steps is this many times the lowest one's, and at least this
fraction of the first one's: what had been learnt is lost."""


# ---- the last steps, kept without asking the device


@torch.no_grad()
def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float) -> tuple[Tensor, Tensor]:
    """Scale all gradients down together where their norm is larger than ``max_norm``.

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


class FlightRecorder:
    """The last hundred steps: loss, rate, and each parameter's gradient norm, which stay on the device until asked for.

    A run that is resumed has forgotten the steps before.

    Args:
        model: whose parameters are named.
        parameters: in the order of the norms.
        read_every: steps whose loss isn't known yet, at most.
    """

    def __init__(self, model: nn.Module, parameters: Iterable[nn.Parameter], *, read_every: int = 1) -> None:
        names = {parameter: name for name, parameter in model.named_parameters()}
        self.names = [names.get(p, f"parameter {place}") for place, p in enumerate(parameters)]
        self.norms = deque[tuple[int, Tensor]](maxlen=KEPT_STEPS + read_every)
        self.steps = deque[StepRecord](maxlen=KEPT_STEPS)
        self.first = self.lowest = math.nan  # median losses of windows
        self.has_warned = False

    def note(self, step: int, norms: Tensor) -> None:
        """Keep each parameter's gradient norm at a step, (P,), where it is."""
        self.norms.append((step, norms))

    def complete(self, record: StepRecord) -> str | None:
        """Keep what else is known of the step; return a warning at the first one at which training diverges."""
        self.steps.append(record)
        if (record.step + 1) % WINDOW or len(self.steps) < WINDOW:
            return None
        now = statistics.median([step.loss for step in self.steps][-WINDOW:])
        if math.isnan(self.first):
            self.first = self.lowest = now
        lowest, self.lowest = self.lowest, min(self.lowest, now)
        is_worse = math.isfinite(now) and now > RISE * lowest and now > MIN_LOSS_FRACTION * self.first
        if self.has_warned or not is_worse:
            return None
        self.has_warned = True
        warning = f"The loss is {now:.3g} at step {record.step} and was {lowest:.3g}: training diverges."
        return f"{warning} {describe_onset(self.records())}".rstrip()

    def complete_until(self, failed: StepRecord, readings: Iterable[Reading]) -> list[FlightRecord]:
        """Complete the steps up to the failed one, and return the last hundred; later ones were skipped."""
        for reading in readings:
            if reading.record.step <= failed.step:
                self.complete(reading.record)
        return self.records()

    def records(self) -> list[FlightRecord]:
        """Read the last complete steps from the device, at once."""
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


# ---- the error, and where the first bad number came from


@dataclass(frozen=True)
class Origin:
    """Where a non-finite number first appeared.

    Args:
        module: name of the first module, in execution order of the pass, that produced it; empty if no module did.
        direction: ``"input"`` (the batch itself), ``"forward"``, ``"backward"``, or ``"norm"`` (all values are finite,
            their norm is not).
    """

    module: str
    direction: str

    def __str__(self) -> str:
        if self.direction == "input":
            return "the batch itself contains NaN or infinity"
        if self.direction == "norm":
            return f"every gradient is finite but their norm overflows; the largest is in {self.module}"
        return f"the first module to produce it, in the {self.direction} pass, is {self.module or 'the loss itself'}"


class NonFiniteError(WorkFailed):
    """Training stopped at a non-finite loss or gradient.

    Args:
        record: of the failed optimiser step, with its step, epoch and rate; the weights are those before it.
        what: ``"loss"`` or ``"gradient"``.
        origin: where it first appeared.
        batch: of that step, on the CPU or not.
        before: what the steps before were like, in words; empty if there were none.
    """

    def __init__(self, record: StepRecord, what: str, *, origin: Origin, batch: Any, before: str = "") -> None:
        where = f"step {record.step} (epoch {record.epoch}, lr {record.lr:.4g})"
        super().__init__(f"Non-finite {what} at {where}: {origin}. {before}".rstrip())
        self.step, self.epoch, self.what, self.lr = record.step, record.epoch, what, record.lr
        self.origin, self.before, self.batch = origin, before, batch


def find_origin(model: nn.Module, batch: Any, loss_of: Callable[[], Tensor]) -> Origin:
    """Run a batch once more and watch every leaf module.

    Args:
        model: as it was at the failed step, in train mode. Its norms' running statistics move by one more batch.
        batch: whose tensors may be bad themselves.
        loss_of: runs the model on the batch and returns the loss as trained, scaling included.
    """
    if not all(torch.isfinite(tensor).all() for tensor in tensors_in(batch)):
        return Origin("", "input")
    forward: list[str] = []
    backward: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if not isinstance(output, Tensor):
                return
            if not torch.isfinite(output).all():
                forward.append(name)
            elif output.requires_grad:
                output.register_hook(lambda gradient: None if torch.isfinite(gradient).all() else backward.append(name))

        return hook

    leaves = [(name, module) for name, module in model.named_modules() if not any(module.children())]
    handles = [module.register_forward_hook(watch(name)) for name, module in leaves]
    model.zero_grad(set_to_none=True)
    try:
        loss = loss_of()
        if forward or not torch.isfinite(loss):
            return Origin(forward[0] if forward else "", "forward")
        loss.backward()
    finally:
        for handle in handles:
            handle.remove()
    named = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
    # A gradient that is wrong at a module's parameters only, and at no output: the parameter's own module made it.
    broken = backward or [
        name.rpartition(".")[0] for name, gradient in reversed(named) if not gradient.isfinite().all()
    ]
    if broken:
        return Origin(broken[0], "backward")
    return Origin(max(named, key=lambda item: float(item[1].abs().max()))[0], "norm")


# ---- how it began: which gradient grew first, when, and how fast; or that nothing did

MIN_POINTS = 6
"""Steps below which nothing counts as usual, so that nothing can be said to have left it."""
MAX_DEVIATIONS = 4.0
"""Deviations from what is usual, beyond which a value is outside of it."""
GRADIENT_GROWTH, LOSS_GROWTH = 10.0, 1.5
"""Times the usual norm, or loss, that the last value must be at least for it to have grown."""


@dataclass(frozen=True)
class Growth:
    """How something grew, up to the last step.

    Args:
        start: step at which it left what was usual, as the line through its logarithm says.
        factor: per step, from there on.
        times: the last value over the usual one.
        has_jumped: it was outside of what is usual at the last step only.
        before: step up to which what is usual was taken, where the growth began before it; None otherwise.
    """

    start: int
    factor: float
    times: float
    has_jumped: bool = False
    before: int | None = None

    def __str__(self) -> str:
        times = f"{self.times:.3g} times the usual"
        if self.has_jumped:
            return f"jumped at step {self.start}, to {times}"
        since = f"from step {self.start} on" if self.before is None else f"from before step {self.before} on"
        return f"grew {since} by a factor of {self.factor:.3g} per step, to {times}"


def growth_of(history: Sequence[tuple[int, float]], *, least: float) -> Growth | None:
    """Describe how values grew towards the end; None if they didn't.

    What is usual is the median of the first quarter, and the spread of the changes from step to step, all on a
    logarithmic axis. Values that are 0 or not finite are left out.

    Args:
        history: steps and values.
        least: times the usual value that the last one must be.

    Example:
        >>> found = growth_of([(step, max(1.0, 2.0 ** (step - 20))) for step in range(30)], least=10)
        >>> found.start, round(found.factor, 2), round(found.times)
        (20, 2.0, 512)
    """
    known = [(step, math.log(value)) for step, value in history if math.isfinite(value) and value > 0]
    if len(known) < MIN_POINTS:
        return None
    early = known[: max(3, len(known) // 4)]
    usual = statistics.median(log for _, log in early)
    spread = _spread([log for _, log in known])
    limit = usual + max(math.log(2 if least > 2 else (1 + least) / 2), MAX_DEVIATIONS * spread)
    outside = list(takewhile(lambda point: point[1] > limit, reversed(known)))[::-1]
    if not outside or outside[-1][1] < usual + math.log(least):
        return None
    times = math.exp(known[-1][1] - usual)
    if len(outside) == 1:
        return Growth(outside[0][0], times, times, has_jumped=True)
    slope, offset = statistics.linear_regression(*zip(*outside, strict=True))
    start = (usual - offset) / slope if slope > 0 else outside[0][0]
    start = min(max(round(start), known[0][0]), outside[0][0])
    return Growth(start, math.exp(slope), times, before=early[-1][0] if start <= early[-1][0] else None)


def _spread(logs: Sequence[float]) -> float:
    """Standard deviation of independent noise with such changes from one value to the next, without a trend."""
    changes = [after - before for before, after in pairwise(logs)]
    middle = statistics.median(changes)
    return 1.4826 / math.sqrt(2) * statistics.median(abs(change - middle) for change in changes)


def describe_before(records: Sequence[FlightRecord]) -> str:
    """Say in one or two sentences what went before the last record's step, which failed; empty if nothing did."""
    before = len(records) - 1
    if before < 1:
        return ""
    if before < MIN_POINTS:
        losses = ", ".join(f"{record.loss:.3g}" for record in records[:-1])
        norms = ", ".join(f"{record.grad_norm:.3g}" for record in records[:-1])
        steps = "The only step before it" if before == 1 else f"The {before} steps before it"
        return f"{steps} had a loss of {losses} and a gradient norm of {norms}."
    return describe_onset(records) or (
        f"Nothing led up to it: in the {before} steps before it neither the loss nor any parameter's gradient had"
        " grown. Look at this one batch."
    )


def describe_onset(records: Sequence[FlightRecord]) -> str:
    """Say what began to grow first, how fast, and what followed; empty if nothing has grown up to the last record."""
    names = records[-1].grad_norms
    grown = {
        name: growth
        for name in names
        if (growth := growth_of([(r.step, r.grad_norms.get(name, 0.0)) for r in records], least=GRADIENT_GROWTH))
    }
    loss = growth_of([(record.step, record.loss) for record in records], least=LOSS_GROWTH)
    if not grown:
        return "" if loss is None else f"The loss {loss}, while no parameter's gradient did."
    first = min(grown, key=lambda name: (grown[name].start, -grown[name].times))
    count, start = f"{len(grown)} of {len(names)} parameters", grown[first].start
    if loss is not None and loss.start < start:
        return f"The loss {loss}; the gradients of {count} followed, first that of {first}, which {grown[first]}."
    if loss is None:
        rest = "the loss had not risen yet"
    elif loss.start == start:
        rest = "the loss rose with it"
    else:
        later = loss.start - start
        rest = f"the loss followed {later} step{'s' if later > 1 else ''} later"
    return f"The gradient of {first} {grown[first]}, the first of {count} to grow; {rest}."
