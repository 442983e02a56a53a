"""Does depth help? Networks of rising depth with and without shortcuts, by one recipe, compared on the training images.

The claim is about the training error: a deeper network could copy a shallower one and do nothing with the rest, so that
it can't be a matter of fitting too well.

Reference:
    He et al. 2015, arXiv:1512.03385, sections 1 and 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence

from reslab.records import StudyRow
from reslab.run.config import RunConfig, load_recipe, override
from reslab.studies.presets import CIFAR10, DIGITS, OFFLINE, ONLINE, Choices, Preset
from reslab.studies.study import Entry, Study
from reslab.studies.training import DEPTH, ERRORS, FLOW, Training
from reslab.studies.words import is_worse, told

KINDS = {
    "plain": ("plain{depth}", "auto"),
    "residual": ("resnet{depth}", "auto"),
    "pre-activation": ("preresnet{depth}", "auto"),
    "plain without norm": ("plain{depth}", "none"),
    "residual without norm": ("resnet{depth}", "none"),
}
"""Name of the network, and its norms."""
TWINS = ("plain", "residual")


def presets() -> dict[str, Preset]:
    """By name, the shortest first."""
    one_precision = {"train.amp": "none", "train.threads": 1}
    full = override(load_recipe("he2015-cifar"), one_precision, where="the study")
    paper = "CIFAR-10 by the recipe of the paper"
    return {
        "digits": Preset(DIGITS, OFFLINE, depths=(20, 56, 110), kinds=TWINS),
        "quick": Preset(CIFAR10, ONLINE, depths=(20, 56), kinds=TWINS, seeds=1),
        "paper": Preset(full, paper, depths=(20, 56, 110), kinds=TWINS, seeds=1),
    }


def degradation(choices: Choices) -> Study:
    """The study.

    Raises:
        RequestError: for an unknown preset, depth or kind.
    """
    chosen = choices.settle("degradation", presets(), KINDS)
    return Study(
        chosen=chosen,
        title="Does depth help?",
        question="Do deeper networks fit the training images better, with and without shortcuts?",
        protocol=(
            chosen.setting(),
            "One recipe for all networks; plain networks are their residual twins without the shortcuts.",
            "Clean training error: eval mode, no augmentation, over all training images, after the last step.",
            "Gradient: norm a sample, in the first step and in the last one that was read, in train mode.",
            "Half distance (shattering) and effective depth: on the first step's batch, before it and after the last.",
        ),
        entries=tuple(entry_of(chosen.config, kind, depth) for kind in chosen.kinds for depth in chosen.depths),
        conclude=conclude,
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
    kinds = [[row for row in rows if row.factors["kind"] == kind] for kind in KINDS]
    sentences = [verdict_of(rows), *map(of_kind, kinds)]
    return " ".join(filter(None, sentences)) or "Two depths at least are needed to say something about depth."


def verdict_of(rows: Sequence[StudyRow]) -> str:
    """The answer, where both plain and residual networks have been trained."""
    plain, residual = (gets_worse([row for row in rows if row.factors["kind"] == kind]) for kind in TWINS)
    return "" if plain is None or residual is None else f"{answer(plain=plain, residual=residual)}."


def gets_worse(rows: Sequence[StudyRow]) -> bool | None:
    """Whether the deepest of one kind fits the training images clearly worse than the shallowest; None if not known."""
    known = sorted((row for row in rows if row.num_ended or row.failed), key=depth_of)
    if len(known) < 2 or not known[0].num_ended:
        return None
    return is_worse(known[-1], known[0], "train_error")


def depth_of(row: StudyRow) -> int:
    """Weighted layers on the longest path."""
    return int(row.factors["depth"])


def answer(*, plain: bool, residual: bool) -> str:
    """What it means that the training error gets clearly worse with depth, in plain networks and in residual ones.

    Example:
        >>> answer(plain=True, residual=False)
        'Without shortcuts deeper is worse, with them it is not'
    """
    if plain and residual:
        return "Deeper is worse here with and without shortcuts"
    if plain:
        return "Without shortcuts deeper is worse, with them it is not"
    return (
        "Here it is the residual networks that get worse with depth"
        if residual
        else "No degradation shows in these runs"
    )


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
