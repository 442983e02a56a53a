"""Does depth help? Networks of rising depth with and without shortcuts, by one recipe, compared on the training images.

The claim is about the training error: a deeper network could copy a shallower one and do nothing with the rest, so that
it can't be a matter of fitting too well.

Reference:
    He et al. 2015, arXiv:1512.03385, sections 1 and 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence

from reslab.config import RunConfig, load_recipe, override
from reslab.records import StudyRow
from reslab.studies.presets import CIFAR10, DIGITS, OFFLINE, ONLINE, Choices, Preset, check_kinds
from reslab.studies.study import Entry, Study
from reslab.studies.training import DEPTH, ERRORS, FLOW, Training
from reslab.studies.words import told

KINDS = {
    "plain": ("plain{depth}", "auto"),
    "residual": ("resnet{depth}", "auto"),
    "pre-activation": ("preresnet{depth}", "auto"),
    "plain without norm": ("plain{depth}", "none"),
    "residual without norm": ("resnet{depth}", "none"),
}
"""Name of the network, and its norms."""
CLEARLY = 0.05
"""Difference in clean training error that is called worse."""


def presets() -> dict[str, Preset]:
    """By name, the shortest first."""
    pair = ("plain", "residual")
    one_precision = {"train.amp": "none", "train.threads": 1}
    full = override(load_recipe("he2015-cifar"), one_precision, where="the study")
    paper = "CIFAR-10 by the recipe of the paper"
    return {
        "digits": Preset(DIGITS, OFFLINE, depths=(20, 56, 110), kinds=pair),
        "quick": Preset(CIFAR10, ONLINE, depths=(20, 56), kinds=pair, seeds=1),
        "paper": Preset(full, paper, depths=(20, 56, 110), kinds=pair, seeds=1),
    }


def degradation(choices: Choices) -> Study:
    """The study.

    Raises:
        RequestError: for an unknown preset, depth or kind.
    """
    choices.check("degradation")
    chosen = choices.pick(presets())
    check_kinds(chosen.kinds, KINDS)
    return Study(
        name=choices.label("degradation", presets()),
        title="Does depth help?",
        question="Do deeper networks fit the training images better, with and without shortcuts?",
        protocol=(
            f"{chosen.about}; {chosen.config.train.epochs} epochs.",
            "One recipe for all networks; plain networks are their residual twins without the shortcuts.",
            "Clean training error: eval mode, no augmentation, over all training images, after the last step.",
            "Gradient: norm a sample, in the first step and in the last one that was read, in train mode.",
            "Half distance (shattering) and effective depth: on the first step's batch, before it and after the last.",
        ),
        entries=tuple(entry_of(chosen.config, kind, depth) for kind in chosen.kinds for depth in chosen.depths),
        seeds=tuple(range(chosen.seeds)),
        conclude=conclude,
        command=choices.command("degradation", presets()),
        measures=(*ERRORS, *FLOW, *DEPTH),
    )


def entry_of(config: RunConfig, kind: str, depth: int) -> Entry:
    """One network of the study."""
    pattern, norm = KINDS[kind]
    name = pattern.format(depth=depth)
    job = Training(override(config, {"model.name": name, "model.norm": norm}, where="the study"), looks=("depth",))
    suffix = "-without-norm" if norm == "none" else ""
    return Entry(f"{name}{suffix}", {"depth": depth, "kind": kind}, job, cost=depth)


# ---- in words


def conclude(rows: Sequence[StudyRow]) -> str:
    """What becomes of the training error from the least depth to the greatest, kind by kind; honest either way."""
    told = [sentence for kind in KINDS if (sentence := of_kind([row for row in rows if row.factors["kind"] == kind]))]
    return " ".join([verdict_of(rows), *told]).strip() or "Two depths at least are needed to say something about depth."


def change_of(rows: Sequence[StudyRow], kind: str) -> float | None:
    """How much the mean clean training error rises from the least depth to the greatest; None where it isn't known."""
    mine = sorted((row for row in rows if row.factors["kind"] == kind), key=depth_of)
    if len(mine) < 2 or not (mine[0].num_ended and mine[-1].num_ended):
        return None
    return mine[-1].mean("train_error") - mine[0].mean("train_error")


def depth_of(row: StudyRow) -> int:
    """Weighted layers on the longest path."""
    return int(row.factors["depth"])


def verdict_of(rows: Sequence[StudyRow]) -> str:
    """The answer, where both plain and residual networks have been trained."""
    plain, residual = change_of(rows, "plain"), change_of(rows, "residual")
    return "" if plain is None or residual is None else f"{answer(plain, residual)}."


def answer(plain: float, residual: float) -> str:
    """What it means that the training error rises so much with depth in plain networks and in residual ones.

    Example:
        >>> answer(0.9, 0.01)
        'Without shortcuts deeper is worse, with them it is not'
    """
    if plain > CLEARLY >= residual:
        return "Without shortcuts deeper is worse, with them it is not"
    if plain > CLEARLY:
        return "Deeper is worse here with and without shortcuts"
    if residual > CLEARLY:
        return "Here it is the residual networks that get worse with depth"
    return "No degradation shows in these runs"


def of_kind(rows: Sequence[StudyRow]) -> str:
    """One kind's errors at both ends, and what has diverged."""
    rows = sorted(rows, key=depth_of)
    ended = [row for row in rows if row.num_ended]
    lost = [f"{row.name} ({len(row.failed)} of {len(row.failed) + row.num_ended})" for row in rows if row.failed]
    diverged = f" Diverged: {', '.join(lost)}." if lost else ""
    if len(ended) < 2:
        return diverged.strip()
    first, last = ended[0], ended[-1]
    kind = str(first.factors["kind"])
    return (
        f"{kind[0].upper()}{kind[1:]}: from {depth_of(first)} to {depth_of(last)} layers the clean training error goes"
        f" from {told(first, 'train_error')} to {told(last, 'train_error')}.{diverged}"
    )
