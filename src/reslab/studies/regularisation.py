"""What keeps a network from learning its images by heart? One regulariser at a time, on one network and budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from reslab.records import StudyRow
from reslab.run.config import override
from reslab.studies.presets import CIFAR10, DIGITS, OFFLINE, ONLINE, Choices, Preset, together
from reslab.studies.study import Entry, Study
from reslab.studies.training import DURATION, GAP, TEST_ERROR, TRAIN_ERROR, Training
from reslab.studies.words import compared, told

NONE = "none"
BARE: Mapping[str, Any] = MappingProxyType(
    {
        "model.name": "resnet20",
        "model.norm": "none",
        "model.connection": "fixup",
        "optim.weight_decay": 0.0,
        "data.augment": "none",
    }
)
"""The network that everything is added to. Fixup, for without norms and with plain additions it would not train."""
EARLY, ALL = "early stopping", "all but early stopping"
ADDED: dict[str, dict[str, Any]] = {
    "dropout": {"model.dropout": 0.5},
    "batch norm": {"model.norm": "batch", "model.connection": "add"},
    "augmentation": {"data.augment": "crop_flip"},
    EARLY: {},  # its patience follows from the epochs
    "L1": {"optim.l1": 1e-5},
    "L2": {"optim.weight_decay": 5e-4},
}
KINDS: dict[str, dict[str, Any]] = {NONE: {}, **ADDED, ALL: together(ADDED)}
"""What is changed of the bare network's config."""
PATIENT = 6
"""Early stopping waits this part of the epochs."""
DIGITS_AUGMENT = {"data.augment": "crop", "data.max_shift": 1}
"""Of 8 pixels, and without flips: a mirrored digit is another one, or none."""


def presets() -> dict[str, Preset]:
    """By name, the shortest first."""
    few = {"train.epochs": 60, "data.val_split": 0.8}
    longer = {"train.epochs": 8, "data.val_split": 0.1}
    return {
        "digits": Preset(override(DIGITS, few, where="the study"), OFFLINE, kinds=tuple(KINDS)),
        "quick": Preset(override(CIFAR10, longer, where="the study"), ONLINE, kinds=tuple(KINDS)),
    }


def regularisation(choices: Choices) -> Study:
    """The study.

    Raises:
        RequestError: for an unknown preset or kind, and for depths: there is one network.
    """
    chosen = choices.settle("regularisation", presets(), KINDS, without=("depths",))
    entries, patience = [], max(1, chosen.config.train.epochs // PATIENT)
    for kind in chosen.kinds:
        changes = {**BARE, **KINDS[kind]}
        if kind == EARLY:
            changes["train.patience"] = patience
        if chosen.config.data.name == "digits" and changes["data.augment"] != "none":
            changes |= DIGITS_AUGMENT
        job = Training(override(chosen.config, changes, where="the study"), weights="best" if kind == EARLY else "last")
        entries.append(Entry(kind.replace(" ", "-"), {"regulariser": kind}, job))
    return Study(
        chosen=chosen,
        title="What keeps a network from learning by heart?",
        question="How far does each regulariser close the gap between training and test error?",
        protocol=(
            chosen.setting(),
            "resnet20 without norms (Fixup), without decay and without augmentation; each row adds one thing to it, and"
            " batch norm takes the place of Fixup.",
            f"The weights after the last step, but with early stopping (after {patience} epochs without a better one)"
            " those of the lowest validation error.",
            f"{chosen.config.data.val_split:.0%} of the training images are the validation split of every row: with few"
            " to learn from, the gap shows.",
        ),
        entries=tuple(entries),
        conclude=conclude,
        measures=(TRAIN_ERROR, TEST_ERROR, GAP, DURATION),
    )


def conclude(rows: Sequence[StudyRow]) -> str:
    """The best by test error against none, and the smallest gap."""
    ended = {row.factors["regulariser"]: row for row in rows if row.num_ended}
    if NONE not in ended or len(ended) < 2:
        return "The network without a regulariser, and one with, are needed to compare them."
    others = [name for name in ended if name != NONE]
    best = min(others, key=lambda name: ended[name].mean("test_error"))
    closest = min(ended, key=lambda name: abs(ended[name].mean("gap")))
    words = compared(ended[best], ended[NONE], "test_error", names=(str(best), "none"))
    gap = (
        f"Test less training error: {100 * ended[NONE].mean('gap'):+.2f} points without, least with {closest}:"
        f" {100 * ended[closest].mean('gap'):+.2f}"
    )
    worse = [
        f"{name} ({told(ended[name], 'test_error')})"
        for name in others
        if ended[name].mean("test_error") > ended[NONE].mean("test_error")
    ]
    hurt = f" No better than none by mean test error: {', '.join(worse)}." if worse else ""
    return f"Lowest test error: {words}. {gap}.{hurt}"
