"""What does each part of a recipe bring? Warm-up, label smoothing and mixed precision, one at a time and together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reslab.errors import RequestError
from reslab.records import StudyRow
from reslab.run.config import override
from reslab.studies.presets import CIFAR10, DIGITS, OFFLINE, ONLINE, Choices, Preset, together
from reslab.studies.study import Entry, Study
from reslab.studies.training import KEPT, STEP, TEST_ERROR, TRAIN_ERROR, Training
from reslab.studies.words import compared

NONE = "none"
PARTS: dict[str, dict[str, Any]] = {
    "warm-up": {"schedule.warmup_epochs": 1.0, "schedule.warmup_start": 0.1},
    "label smoothing": {"train.label_smoothing": 0.1},
    "mixed precision": {"train.amp": "bf16"},
}
KINDS: dict[str, dict[str, Any]] = {NONE: {}, **PARTS, "together": together(PARTS)}
"""What is changed of the bare recipe."""
BARE = {"schedule.kind": "cosine", "train.amp": "none", "train.channels_last": "off", "train.compile": "off"}
"""Cosine, because a schedule that rises by itself has a warm-up of its own; nothing that a trial would choose."""


def presets() -> dict[str, Preset]:
    """By name, the shortest first."""
    return {
        "digits": Preset(DIGITS, OFFLINE, (56,), tuple(KINDS)),
        "quick": Preset(CIFAR10, ONLINE, (20,), tuple(KINDS)),
    }


def recipe(choices: Choices) -> Study:
    """The study.

    Raises:
        RequestError: for an unknown preset, depth or kind.
    """
    if choices.epochs == 1:
        raise RequestError("The study recipe warms up for an epoch, so that it takes two at least, got --epochs 1.")
    chosen = choices.settle("recipe", presets(), KINDS)
    return Study(
        chosen=chosen,
        title="What does each part of a recipe bring?",
        question="Accuracy, time and memory with warm-up, label smoothing and mixed precision, and without?",
        protocol=(
            chosen.setting(),
            f"Residual networks, SGD with momentum, cosine from {chosen.config.optim.lr:g}; the last step's weights.",
            "Warm-up: one epoch from a tenth of the rate. Label smoothing: 0.1. Mixed precision: bf16 autocast.",
            "Memory: tensors that a forward pass keeps for the backward pass, of one batch, by autograd itself.",
            "Time: of forward and backward pass over that in fp32, by turns in one process, the median over pairs.",
        ),
        entries=tuple(
            Entry(
                f"resnet{depth}-{kind.replace(' ', '-')}",
                {"depth": depth, "recipe": kind},
                Training(
                    override(chosen.config, {**BARE, **KINDS[kind], "model.name": f"resnet{depth}"}, where="the study"),
                    looks=("costs",),
                ),
                cost=depth,
            )
            for depth in chosen.depths
            for kind in chosen.kinds
        ),
        conclude=conclude,
        measures=(TRAIN_ERROR, TEST_ERROR, STEP, KEPT),
    )


def conclude(rows: Sequence[StudyRow]) -> str:
    """Each part against none, by test error; time and memory where they change by more than a twentieth."""
    found = []
    for depth in sorted({int(row.factors["depth"]) for row in rows}):
        ended = {row.factors["recipe"]: row for row in rows if row.factors["depth"] == depth and row.num_ended}
        if NONE not in ended or len(ended) < 2:
            continue
        for name, row in ended.items():
            if name != NONE:
                words = compared(row, ended[NONE], "test_error", names=(str(name), "without"))
                found.append(f"resnet{depth}, {words}{costs(row, ended[NONE])}.")
    return " ".join(found) or "The recipe without a part, and one with, are needed to compare them."


def costs(row: StudyRow, bare: StudyRow) -> str:
    """Time of a step and memory over those of the bare recipe."""
    words = []
    for key, what in (("step_ratio", "time"), ("kept_mib", "memory")):
        if row.values.get(key) and bare.values.get(key) and abs(ratio := row.mean(key) / bare.mean(key) - 1) > 0.05:
            words.append(f"{what} {1 + ratio:.2f}x")
    return f"; {', '.join(words)}" if words else ""
