"""The records of a training run: its score, steps and epochs, run.json, and those of a learning-rate range test."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from reslab.records.files import decode, encode, from_plain, to_plain

SCHEMA_VERSION = 2


def as_percent(fraction: float | None) -> str:
    """Write a fraction as percent with two decimals; a dash where there is none.

    Example:
        >>> as_percent(0.0827), as_percent(None)
        ('8.27 %', '-')
    """
    return "-" if fraction is None else f"{100 * fraction:.2f} %"


def as_short(count: int | None) -> str:
    """Write a large count with three digits and a unit; a dash where there is none.

    Example:
        >>> as_short(4_089_184_256), as_short(853_018), as_short(10), as_short(None)
        ('4.09 G', '853 k', '10', '-')
    """
    if count is None:
        return "-"
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= 0.9995 * size:
            number = count / size
            return f"{number:.{0 if number >= 99.95 else 1 if number >= 9.995 else 2}f} {unit}"
    return str(count)


@dataclass(frozen=True)
class Score:
    """The number that a task is judged by: it chooses the best weights, ends a run early, heads columns and axes.

    Args:
        name: its key among a task's metrics, and what columns and axes call it, such as ``error``.
        better: which way is better.
        unit: ``percent`` is kept as a fraction and shown in percent; ``number`` is shown as it is.

    Example:
        >>> dice = Score("dice", better="higher")
        >>> dice.is_better(0.8, than=0.7), dice.format(0.81234)
        (True, '81.23 %')
    """

    name: str
    better: Literal["lower", "higher"] = "lower"
    unit: Literal["percent", "number"] = "percent"

    def is_better(self, value: float, *, than: float) -> bool:
        """Return whether a value is better than another; NaN is never better, and anything is better than NaN."""
        if value != value or than != than:
            return value == value
        return value < than if self.better == "lower" else value > than

    def format(self, value: float | None) -> str:
        """Write a value as tables do; a dash where there is none."""
        return as_percent(value) if self.unit == "percent" or value is None else f"{value:.4g}"


ERROR = Score("error")
"""The fraction of wrong answers, which classification is judged by."""


@dataclass(frozen=True)
class StepRecord:
    """One optimiser step, as it was really taken.

    Args:
        step: counts from 0 over the whole run.
        epoch: counts from 0.
        lr: learning rate applied in this step (of the first parameter group).
        loss: mean over the step's batch, without the L1 penalty.
        grad_norm: L2 norm of the gradient of all parameters together, before clipping, of the batch-mean loss.
        l1_penalty: the L1 term that was added to the loss; None without one.
        skipped: fp16 overflowed, and the loss scaler skipped this step.
    """

    step: int
    epoch: int
    lr: float
    loss: float
    grad_norm: float
    l1_penalty: float | None = None
    skipped: bool = False


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


@dataclass(frozen=True)
class EpochRecord:
    """One pass over the training data.

    Args:
        epoch: counts from 0.
        step: optimiser steps taken so far.
        lr: learning rate of the epoch's last step.
        items_per_s: training throughput, data included, validation not.
        duration_s: seconds for the epoch with its validation.
        data_wait_frac: fraction of the training time that the loop waited for its batches: what a faster loader would
            save. None in records from before it was measured.
        scores: numbers by split and name, such as ``train_loss`` and ``val_error``; on disk each has its own key.
            Those of ``train`` are means over the epoch's batches as trained (train mode, augmented, while the weights
            moved): not the clean error. Those of ``val`` are of the whole split in eval mode, and absent without one.
            Where a moving average is kept, ``val_error`` is the average's and ``val_error_plain`` that of the weights.
    """

    epoch: int
    step: int
    lr: float
    items_per_s: float
    duration_s: float
    data_wait_frac: float | None = None
    scores: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """What one set of weights scores on every split, in eval mode and without augmentation.

    Args:
        epoch: that the weights are from, counted from 0.
        scores: numbers by split and name, such as ``train_error`` (the clean training error) and ``test_loss``; absent
            where there is no such split. On disk each has its own key.
    """

    epoch: int
    scores: dict[str, float] = field(default_factory=dict)


RunStatus = Literal["running", "done", "interrupted", "failed"]


@dataclass
class RunRecord:
    """run.json: what was run on what, under which protocol, and how it ended.

    Args:
        model: ``name``, ``num_parameters`` and the arguments of the builder.
        data: ``name``, ``path``, ``classes``, ``fingerprint``, split sizes, and the recorded preprocessing.
        protocol: how numbers came about: validation split, selection, what the test set was read for.
        deviations: in words, where this run leaves the paper whose network it trains.
        versions: of reslab, Python, torch and torchvision.
        machine: processor, cores, threads, memory, device.
        seed: everything random in the run follows from it.
        status: ``running``, then ``done``, ``interrupted`` or ``failed``.
        started: ISO 8601, UTC.
        duration_s: training and the final evaluation, all sittings together.
        last: scores of the weights after the last step. Training scores are clean: eval mode, no augmentation.
        best: scores of the weights with the best validation score; None without a validation split.
        plain: scores of the weights themselves after the last step, where ``last`` and ``best`` are of their moving
            average; None without one.
        failure: what went wrong, for status ``failed``.
        task: what the network was trained for.
        score: the number it is judged by.
        schema_version: of this record; a newer one than this reslab knows is refused.
    """

    model: dict[str, Any]
    data: dict[str, Any]
    protocol: dict[str, Any]
    deviations: list[str]
    versions: dict[str, str]
    machine: dict[str, Any]
    seed: int
    status: RunStatus
    started: str
    duration_s: float = 0.0
    last: Evaluation | None = None
    best: Evaluation | None = None
    plain: Evaluation | None = None
    failure: dict[str, Any] | None = None
    task: str = "classify"
    score: Score = ERROR
    schema_version: int = SCHEMA_VERSION

    @property
    def chosen(self) -> Evaluation | None:
        """Scores of the weights that the run saves as its result: the best, or else the last."""
        return self.best or self.last

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what ``to_json`` wrote; refuse a schema newer than this version knows."""
        raw = decode(text)
        if raw.get("schema_version", 0) > SCHEMA_VERSION:
            raise ValueError(
                f"run.json has schema {raw['schema_version']}, this reslab knows {SCHEMA_VERSION}: upgrade reslab."
            )
        for key in ("last", "best", "plain"):
            raw[key] = None if raw.get(key) is None else from_plain(Evaluation, raw[key])
        return from_plain(cls, raw)

    def to_json(self) -> str:
        """Return the text of run.json."""
        named = {"last": self.last, "best": self.best, "plain": self.plain}
        scores = {key: None if value is None else to_plain(value) for key, value in named.items()}
        return encode({**asdict(self), **scores, "schema_version": SCHEMA_VERSION}, indent=2)


@dataclass(frozen=True)
class RangeStep:
    """One step of a learning-rate range test.

    Args:
        step: counts from 0.
        lr: rate of this step.
        loss: of its batch, before the weights move.
        mean_lr: exponential average of the rates so far, over their logarithms, bias-corrected.
        mean_loss: exponential average of the losses so far, with the same weights.
    """

    step: int
    lr: float
    loss: float
    mean_lr: float
    mean_loss: float


@dataclass(frozen=True)
class RangeRecord:
    """lr-range.json: what a learning-rate range test found.

    Args:
        name: network and data.
        optimizer: its kind.
        batch_size: images per step.
        seed: of everything random.
        lowest: first rate of the range.
        highest: last rate of the range.
        num_steps: planned.
        ending: ``done``, ``diverged`` or ``not finite``.
        lr: suggested rate; None if there is nothing to suggest.
        steepest_lr: where the mean loss falls fastest.
        tenth_lr: a tenth of the rate at the lowest mean loss.
        reason: in words.
        steps: those that were taken.
    """

    name: str
    optimizer: str
    batch_size: int
    seed: int
    lowest: float
    highest: float
    num_steps: int
    ending: str
    lr: float | None
    steepest_lr: float | None
    tenth_lr: float | None
    reason: str
    steps: list[RangeStep]
