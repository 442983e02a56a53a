"""Does a shortcut help on MNIST? A plain network and its residual twin, ten epochs of Adam.

The claim in circulation is 97.8 % for a plain CNN and 98.5 % for a residual network, after ten epochs; its networks and
its recipe beyond batch and rate are not given with it.
"""

from __future__ import annotations

from collections.abc import Sequence

from reslab.data import DataOptions
from reslab.records import MeasureRecord, StudyRow
from reslab.run.config import RunConfig, override
from reslab.studies.presets import Choices, Preset
from reslab.studies.study import Entry, Study
from reslab.studies.training import DURATION, PARAMETERS, TEST_ERROR, TRAIN_ERROR, Training
from reslab.studies.words import compared
from reslab.training.options import OptimOptions, ScheduleOptions, TrainOptions

KINDS = {"plain": "plain{depth}", "residual": "resnet{depth}"}
ADAM = RunConfig(
    data=DataOptions(name="mnist", batch_size=64, val_split=0, augment="none"),
    optim=OptimOptions(kind="adamw", lr=1e-3, weight_decay=0.0),  # without decay AdamW is Adam
    schedule=ScheduleOptions(kind="constant"),
    train=TrainOptions(epochs=10, threads=1, amp="none"),
)
ACCURACY = MeasureRecord("test_accuracy", "test accuracy", "percent")


def presets() -> dict[str, Preset]:
    """By name, the shortest first."""
    pair = tuple(KINDS)
    return {
        "quick": Preset(ADAM, "MNIST", (8,), pair),
        "full": Preset(ADAM, "MNIST", (8, 20, 56), pair),
    }


def mnist(choices: Choices) -> Study:
    """The study.

    Raises:
        RequestError: for an unknown preset, depth or kind.
    """
    chosen = choices.settle("mnist", presets(), KINDS)
    return Study(
        chosen=chosen,
        title="Does a shortcut help on MNIST?",
        question="How far does a plain network come in ten epochs of Adam, and how far its residual twin?",
        protocol=(
            "MNIST, 60,000 images to train on, 10,000 to test on; no augmentation.",
            f"Adam, rate 0.001 throughout, batch 64, {chosen.config.train.epochs} epochs; the last weights.",
            "Plain networks are their residual twins without the shortcuts.",
        ),
        entries=tuple(
            Entry(
                KINDS[kind].format(depth=depth),
                {"depth": depth, "kind": kind},
                Training(override(chosen.config, {"model.name": KINDS[kind].format(depth=depth)}, where="the study")),
                cost=depth,
            )
            for kind in chosen.kinds
            for depth in chosen.depths
        ),
        conclude=conclude,
        measures=(PARAMETERS, TRAIN_ERROR, TEST_ERROR, ACCURACY, DURATION),
    )


def conclude(rows: Sequence[StudyRow]) -> str:
    """Plain against residual by test error, depth by depth."""
    found = []
    for depth in sorted({int(row.factors["depth"]) for row in rows}):
        pair = {row.factors["kind"]: row for row in rows if row.factors["depth"] == depth and row.num_ended}
        if len(pair) == 2:
            words = compared(pair["residual"], pair["plain"], "test_error", names=("residual", "plain"))
            found.append(f"{depth} layers, test error: {words}.")
    return " ".join(found) or "Both kinds of network at one depth are needed to compare them."
