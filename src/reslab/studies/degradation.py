"""Does depth help? Networks of rising depth with and without shortcuts, by one recipe, compared on the training images.

The claim is about the training error: a deeper network could copy a shallower one and do nothing with the rest, so that
it can't be a matter of fitting too well.

Reference:
    He et al. 2015, arXiv:1512.03385, sections 1 and 4.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reslab.config import DataConfig, ModelConfig, OptimConfig, RunConfig, ScheduleConfig, TrainConfig, load_recipe
from reslab.errors import RequestError, unknown
from reslab.records import as_percent
from reslab.studies.study import Entry, Row, Study, deviation_of, mean_of

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
DIGITS = RunConfig(
    data=DataConfig(name="digits", batch_size=64, workers=0),
    optim=OptimConfig(lr=0.1, momentum=0.9, weight_decay=1e-4, clip_grad_norm=1.0),
    schedule=ScheduleConfig(kind="one_cycle"),
    train=TrainConfig(epochs=15, device="cpu", threads=1),
)
"""The recipe for handwritten digits. Without clipping, one seed of resnet110 in two diverges on the way up to the peak
rate (dev/LOG.md); the paper met the same and warmed up."""


@dataclass(frozen=True)
class Preset:
    """How large the study is.

    Args:
        config: the one recipe of all runs.
        depths: each 6n+2.
        kinds: of ``KINDS``.
        about: in a sentence.
    """

    config: RunConfig
    depths: tuple[int, ...]
    kinds: tuple[str, ...]
    about: str


def presets() -> dict[str, Preset]:
    """By name, the shortest first."""
    return {
        "digits": Preset(
            DIGITS,
            depths=(20, 56, 110),
            kinds=("plain", "residual"),
            about="scikit-learn's handwritten digits, 8 x 8, offline; minutes",
        ),
        "quick": Preset(
            RunConfig(
                data=DataConfig(name="cifar10", batch_size=128, val_split=0),
                optim=OptimConfig(lr=0.1, momentum=0.9, weight_decay=1e-4),
                schedule=ScheduleConfig(kind="one_cycle"),
                train=TrainConfig(epochs=4, threads=1, amp="none"),  # twins in one precision, whatever a trial finds
            ),
            depths=(20, 56),
            kinds=("plain", "residual"),
            about="CIFAR-10, all images, 4 epochs; about an hour on two cores",
        ),
        "paper": Preset(
            load_recipe("he2015-cifar"),
            depths=(20, 56, 110),
            kinds=("plain", "residual"),
            about="CIFAR-10 by the recipe of the paper; days on a CPU, made for a GPU",
        ),
    }


def degradation(
    preset: str,
    *,
    seeds: int = 3,
    depths: Sequence[int] = (),
    kinds: Sequence[str] = (),
    epochs: int = 0,
    data_dir: str = "",
) -> Study:
    """The study.

    Args:
        preset: of ``presets``.
        seeds: runs of each network.
        depths: in place of the preset's.
        kinds: in place of the preset's.
        epochs: in place of the preset's; 0 for these.
        data_dir: where named data sets lie.

    Raises:
        RequestError: for an unknown preset, depth or kind.
    """
    known = presets()
    if preset not in known:
        raise unknown("preset", preset, known)
    chosen = known[preset]
    depths, kinds = tuple(depths) or chosen.depths, tuple(kinds) or chosen.kinds
    check_depths(depths)
    for kind in kinds:
        if kind not in KINDS:
            raise unknown("kind", kind, KINDS, hint=f"There are {', '.join(KINDS)}.")
    if seeds < 1 or epochs < 0:
        raise RequestError(f"seeds starts at 1 and epochs at 0, got {seeds} and {epochs}.")
    config = chosen.config
    if epochs:
        config = config.model_copy(update={"train": config.train.model_copy(update={"epochs": epochs, "steps": 0})})
    if data_dir:
        config = config.model_copy(update={"data": config.data.model_copy(update={"dir": data_dir})})
    return Study(
        name=f"degradation-{preset}",
        title="Does depth help?",
        question="Do deeper networks fit the training images better, with and without shortcuts?",
        protocol=(
            f"{chosen.about.partition(';')[0]}.",
            "One recipe for all networks; plain networks are their residual twins without the shortcuts.",
            "Clean training error: eval mode, no augmentation, over all training images, after the last step.",
        ),
        entries=tuple(entry_of(config, kind, depth) for kind in kinds for depth in depths),
        seeds=tuple(range(seeds)),
        conclude=conclude,
    )


def check_depths(depths: Sequence[int]) -> None:
    """Refuses what isn't a depth of the paper's networks for small images, and no depth at all."""
    wrong = [depth for depth in depths if (depth - 2) % 6 or depth < 8]
    if wrong or not depths:
        raise RequestError(f"Depths are 6n+2 (8, 14, 20, ...), got {', '.join(map(str, wrong)) or 'none'}.")


def entry_of(config: RunConfig, kind: str, depth: int) -> Entry:
    """One network of the study."""
    pattern, norm = KINDS[kind]
    name = pattern.format(depth=depth)
    model = ModelConfig.model_validate({**config.model.model_dump(), "name": name, "norm": norm})
    suffix = "-without-norm" if norm == "none" else ""
    return Entry(f"{name}{suffix}", {"depth": depth, "kind": kind}, config.model_copy(update={"model": model}), depth)


# ---- in words


def conclude(rows: Sequence[Row]) -> str:
    """What becomes of the training error from the least depth to the greatest, kind by kind; honest either way."""
    told = [
        sentence for kind in KINDS if (sentence := of_kind([row for row in rows if row.entry.factors["kind"] == kind]))
    ]
    return " ".join([verdict_of(rows), *told]).strip() or "Two depths at least are needed to say something about depth."


def change_of(rows: Sequence[Row], kind: str) -> float | None:
    """How much the mean clean training error rises from the least depth to the greatest; None where it isn't known."""
    mine = sorted((row for row in rows if row.entry.factors["kind"] == kind), key=depth_of)
    if len(mine) < 2 or not (mine[0].train_errors and mine[-1].train_errors):
        return None
    return mean_of(mine[-1].train_errors) - mean_of(mine[0].train_errors)


def depth_of(row: Row) -> int:
    """Weighted layers on the longest path."""
    return int(row.entry.factors["depth"])


def verdict_of(rows: Sequence[Row]) -> str:
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


def of_kind(rows: Sequence[Row]) -> str:
    """One kind's errors at both ends, and what has diverged."""
    rows = sorted(rows, key=depth_of)
    ended = [row for row in rows if row.train_errors]
    lost = [
        f"{row.entry.name} ({len(row.diverged)} of {len(row.diverged) + len(row.train_errors)})"
        for row in rows
        if row.diverged
    ]
    diverged = f" Diverged: {', '.join(lost)}." if lost else ""
    if len(ended) < 2:
        return diverged.strip()
    first, last = ended[0], ended[-1]
    kind = str(first.entry.factors["kind"])
    return (
        f"{kind[0].upper()}{kind[1:]}: from {depth_of(first)} to {depth_of(last)} layers the clean training error goes"
        f" from {told(first.train_errors)} to {told(last.train_errors)}.{diverged}"
    )


def told(errors: Sequence[float]) -> str:
    """Mean, deviation and how many.

    Example:
        >>> told([0.25, 0.27]), told([0.25])
        ('26.00 % (± 1.41, n = 2)', '25.00 %')
    """
    mean = as_percent(mean_of(errors))
    if len(errors) < 2 or math.isnan(deviation_of(errors)):
        return mean
    return f"{mean} (\N{PLUS-MINUS SIGN} {100 * deviation_of(errors):.2f}, n = {len(errors)})"
