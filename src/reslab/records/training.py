"""What a training run records: its steps, epochs and gradients, and run.json at its end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from reslab.records.strict_json import decode, encode

SCHEMA_VERSION = 1


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
class EpochRecord:
    """One pass over the training data.

    Args:
        epoch: counts from 0.
        step: optimiser steps taken so far.
        lr: learning rate of the epoch's last step.
        train_loss: mean over the epoch's batches, as trained (train mode, augmented).
        train_error: share of wrong answers among the same batches, while the weights moved. Not the clean error.
        val_loss: mean over the validation split in eval mode; None without a split.
        val_error: share of wrong answers on it.
        images_per_s: training throughput, data included, validation not.
        duration_s: seconds for the epoch with its validation.
        data_wait_frac: share of the training time that the loop waited for its batches: what a faster loader would
            save. None in records of before it was measured.
        val_error_plain: validation error of the weights themselves, where a moving average is kept and ``val_error`` is
            that of the average.
    """

    epoch: int
    step: int
    lr: float
    train_loss: float
    train_error: float
    val_loss: float | None
    val_error: float | None
    images_per_s: float
    duration_s: float
    data_wait_frac: float | None = None
    val_error_plain: float | None = None


@dataclass(frozen=True)
class BlockGradientRecord:
    """The gradient that arrived at the output of one block at one step.

    Args:
        step: optimiser steps taken before this reading.
        block: the module's name, such as ``layer2.3``.
        index: position in execution order, 0 next to the stem.
        grad_norm: L2 norm over each sample of d(sample's loss)/d(block output), as RMS over the batch.
    """

    step: int
    block: str
    index: int
    grad_norm: float


@dataclass(frozen=True)
class Errors:
    """Losses and errors of one set of weights on every split, in eval mode; None where there is no split.

    Args:
        epoch: that the weights are from, counted from 0.
        train_loss: mean cross-entropy over the training images, not augmented.
        train_error: share of wrong answers among them: the clean training error.
        val_loss: the same for the validation split.
        val_error: the same for the validation split.
        test_loss: the same for the test split.
        test_error: the same for the test split.
    """

    epoch: int
    train_loss: float
    train_error: float
    val_loss: float | None = None
    val_error: float | None = None
    test_loss: float | None = None
    test_error: float | None = None


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
        last: errors of the weights after the last step. Training error is clean: eval mode, no augmentation.
        best: errors of the weights with the lowest validation error; None without a validation split.
        plain: errors of the weights themselves after the last step, where ``last`` and ``best`` are of their moving
            average; None without one.
        failure: what went wrong, for status ``failed``.
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
    last: Errors | None = None
    best: Errors | None = None
    plain: Errors | None = None
    failure: dict[str, Any] | None = None
    schema_version: int = field(default=SCHEMA_VERSION)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads what ``to_json`` wrote; refuses a schema newer than this version knows."""
        raw = decode(text)
        if raw.get("schema_version", 0) > SCHEMA_VERSION:
            raise ValueError(
                f"run.json has schema {raw['schema_version']}, this reslab knows {SCHEMA_VERSION}: upgrade reslab."
            )
        for key in ("last", "best", "plain"):
            raw[key] = None if raw.get(key) is None else Errors(**raw[key])
        return cls(**raw)

    def to_json(self) -> str:
        """One indented JSON object."""
        return encode(asdict(self), indent=2)


def first_and_last(
    records: Iterable[BlockGradientRecord],
) -> tuple[list[BlockGradientRecord], list[BlockGradientRecord]]:
    """Readings of the first and of the last step that was probed, each in execution order."""
    by_step: dict[int, list[BlockGradientRecord]] = {}
    for record in records:
        by_step.setdefault(record.step, []).append(record)
    if not by_step:
        return [], []
    return by_step[min(by_step)], by_step[max(by_step)]
