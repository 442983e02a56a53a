"""What the numbers of a study say, in sentences computed from its rows; honest either way.

One function per study, of its name, and the comparison of two rows that they share with the claims.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from reslab.records.study import StudyRow
from reslab.records.training import as_percent

SIGNIFICANCE = 0.05
"""Welch's test: a difference that seeds alone would make less often than this is called clear."""
MIN_DIFFERENCE = 0.003
"""And it is three tenths of a point at least: one image of the digits' test split is 0.28."""
MIN_DIFFERENCE_OF_SINGLE_RUNS = 0.05
"""Five points, for there is no spread to compare with."""


# ---- two rows


def error_text(row: StudyRow, key: str) -> str:
    """Write the mean of an error, its deviation and how many: ``26.00 % (± 1.41, n = 2)``."""
    if not row.num_ended:
        return "diverged"
    mean, count, spread = as_percent(row.mean(key)), len(row.values.get(key, ())), row.deviation(key)
    if count < 2 or math.isnan(spread):
        return mean
    return f"{mean} (\N{PLUS-MINUS SIGN} {100 * spread:.2f}, n = {count})"


def p_value(first: StudyRow, second: StudyRow, key: str) -> float:
    """Compute how often seeds alone would make two means differ so much; NaN for a single seed of either.

    Reference:
        Welch 1947, Biometrika 34: the t-test without equal variances.
    """
    from scipy.stats import ttest_ind

    samples = [row.values.get(key, ()) for row in (first, second)]
    if min(map(len, samples)) < 2:
        return math.nan
    if all(len(set(numbers)) == 1 for numbers in samples):  # no spread at all
        return float(samples[0][0] == samples[1][0])
    return float(ttest_ind(*samples, equal_var=False).pvalue)


def compare(first: StudyRow, second: StudyRow, key: str) -> Literal["better", "worse", "equal", "one seed"]:
    """Say whether the first's error is clearly lower, clearly higher, or seeds can't tell."""
    difference, chance = first.mean(key) - second.mean(key), p_value(first, second, key)
    if math.isnan(chance):
        return "one seed"
    if chance >= SIGNIFICANCE or abs(difference) < MIN_DIFFERENCE:
        return "equal"
    return "better" if difference < 0 else "worse"


def is_worse(row: StudyRow, other: StudyRow, key: str) -> bool:
    """Say whether an error is clearly higher; of single runs, by five points; diverged every time is worse than any."""
    if not row.num_ended:
        return True
    found = compare(row, other, key)
    return row.mean(key) - other.mean(key) > MIN_DIFFERENCE_OF_SINGLE_RUNS if found == "one seed" else found == "worse"


def comparison_text(first: StudyRow, second: StudyRow, key: str, *, names: tuple[str, str]) -> str:
    """Write two errors, and whether they differ by more than their seeds do."""
    figures = f"{names[0]} {error_text(first, key)}, {names[1]} {error_text(second, key)}"
    found = compare(first, second, key)
    if found == "one seed":
        return f"{figures}; one seed says nothing about the spread"
    if found == "equal":
        return f"{figures}: no difference that {len(first.values[key])} seeds can show"
    points = 100 * abs(first.mean(key) - second.mean(key))
    return f"{figures}: {names[0] if found == 'better' else names[1]} is better by {points:.2f} points"


# ---- rows of a table


def by_depth(rows: Sequence[StudyRow], column: str = "depth") -> dict[int, list[StudyRow]]:
    """Group rows, the least depth first."""
    groups: dict[int, list[StudyRow]] = {}
    for row in sorted(rows, key=lambda row: int(row.factors[column])):
        groups.setdefault(int(row.factors[column]), []).append(row)
    return groups


def ended_by(rows: Sequence[StudyRow], column: str) -> dict[str, StudyRow]:
    """Index the rows of which a run came to its end by one of their factors."""
    return {str(row.factors[column]): row for row in rows if row.num_ended}


def depth_of(row: StudyRow) -> int:
    return int(row.factors["depth"])


# ---- degradation

ANSWERS = {
    # whether the training error gets clearly worse with depth: in plain networks, in residual ones
    (True, True): "Deeper is worse here with and without shortcuts.",
    (True, False): "Without shortcuts deeper is worse, with them it is not.",
    (False, True): "Here the residual networks get worse with depth.",
    (False, False): "No degradation shows in these runs.",
}


def degradation(rows: Sequence[StudyRow]) -> str:
    """What becomes of the training error from the least depth to the greatest, kind by kind."""
    kinds: dict[str, list[StudyRow]] = {str(row.factors["kind"]): [] for row in rows}
    for row in sorted(rows, key=depth_of):
        kinds[str(row.factors["kind"])].append(row)
    plain, residual = (gets_worse(kinds.get(kind, [])) for kind in ("plain", "residual"))
    sentences = [] if plain is None or residual is None else [ANSWERS[plain, residual]]
    sentences += [text for some in kinds.values() if (text := error_over_depth(some))]
    return " ".join(sentences) or "At least two depths are needed to say something about depth."


def gets_worse(rows: Sequence[StudyRow]) -> bool | None:
    """Say whether the deepest of one kind fits the training images clearly worse than the shallowest, if known."""
    known = [row for row in rows if row.num_ended or row.failed]
    if len(known) < 2 or not known[0].num_ended:
        return None
    return is_worse(known[-1], known[0], "train_error")


def error_over_depth(rows: Sequence[StudyRow]) -> str:
    """Write one kind's errors at both ends, and what has diverged."""
    ended = [row for row in rows if row.num_ended]
    lost = [f"{row.name} ({len(row.failed)} of {len(row.failed) + row.num_ended})" for row in rows if row.failed]
    diverged = f" Diverged: {', '.join(lost)}." if lost else ""
    if len(ended) < 2:
        return diverged.strip()
    first, last, kind = ended[0], ended[-1], str(rows[0].factors["kind"])
    errors = f"{error_text(first, 'train_error')} to {error_text(last, 'train_error')}"
    layers = f"from {depth_of(first)} to {depth_of(last)} layers"
    return f"{kind[0].upper()}{kind[1:]}: {layers} the clean training error goes from {errors}.{diverged}"


# ---- the other studies


def mnist(rows: Sequence[StudyRow]) -> str:
    """Plain against residual by test error, depth by depth."""
    found = []
    for depth, some in by_depth(rows).items():
        pair = ended_by(some, "kind")
        if len(pair) == 2:
            text = comparison_text(pair["residual"], pair["plain"], "test_error", names=("residual", "plain"))
            found.append(f"{depth} layers, test error: {text}.")
    return " ".join(found) or "Both kinds of network at one depth are needed to compare them."


def recipe(rows: Sequence[StudyRow]) -> str:
    """Each part against none, by test error; time and memory where they change by more than a twentieth."""
    found = []
    for depth, some in by_depth(rows).items():
        parts = ended_by(some, "recipe")
        bare = parts.pop("none", None)
        if bare is None:
            continue
        for name, row in parts.items():
            text = comparison_text(row, bare, "test_error", names=(name, "without"))
            ratios = {word: row.mean(key) / bare.mean(key) for word, key in COSTS.items() if bare.values.get(key)}
            costs = [f"{word} {ratio:.2f}x" for word, ratio in ratios.items() if abs(ratio - 1) > 0.05]
            found.append(f"resnet{depth}, {text}{'; ' if costs else ''}{', '.join(costs)}.")
    return " ".join(found) or "The recipe without a part, and one with, are needed to compare them."


COSTS = {"time": "step_ratio", "memory": "kept_mib"}


def regularisation(rows: Sequence[StudyRow]) -> str:
    """The best by test error against none, and the smallest gap."""
    ended = ended_by(rows, "regulariser")
    if "none" not in ended or len(ended) < 2:
        return "The network without a regulariser, and one with, are needed to compare them."
    bare, others = ended["none"], {name: row for name, row in ended.items() if name != "none"}
    best = min(others, key=lambda name: others[name].mean("test_error"))
    text = comparison_text(others[best], bare, "test_error", names=(best, "none"))
    closest = min(ended, key=lambda name: abs(ended[name].mean("gap")))
    gaps = [f"{100 * row.mean('gap'):+.2f}" for row in (bare, ended[closest])]
    sentences = [
        f"Lowest test error: {text}.",
        f"Test less training error: {gaps[0]} points without, smallest with {closest}: {gaps[1]}.",
    ]
    worse = [name for name, row in others.items() if row.mean("test_error") > bare.mean("test_error")]
    if worse:
        errors = ", ".join(f"{name} ({error_text(others[name], 'test_error')})" for name in worse)
        sentences.append(f"No better than none by mean test error: {errors}.")
    return " ".join(sentences)


MAX_TRAINED_ERROR = 0.1
"""Clean training error that counts as trained."""
MAX_NAMED = 12
"""At most this many kinds that don't train are named; the table has them all."""


def variants(rows: Sequence[StudyRow]) -> str:
    """At each depth, which kinds fit the training images and which don't."""
    found = []
    for depth, some in by_depth([row for row in rows if row.num_ended or row.failed]).items():
        lost = [
            f"{row.factors['variant']} ({as_percent(row.mean('train_error')) if row.num_ended else 'diverged'})"
            for row in some
            if row.failed or not row.mean("train_error") <= MAX_TRAINED_ERROR
        ]
        more = f" and {len(lost) - MAX_NAMED} more" if len(lost) > MAX_NAMED else ""
        rest = f"; not {', '.join(lost[:MAX_NAMED])}{more}" if lost else ""
        found.append(f"{depth} layers: {len(some) - len(lost)} of {len(some)} kinds{rest}.")
    limit = f"Kinds with a clean training error of {as_percent(MAX_TRAINED_ERROR)} or less: "
    return limit + " ".join(found) if found else "No run has ended yet."


STACKS = {
    "plain": "without shortcuts",
    "residual": "with shortcuts",
    "residual, zero init": "with shortcuts and branches that start at zero",
}


def identity(rows: Sequence[StudyRow]) -> str:
    """For each target at the greatest depth, who comes nearest, and from where."""
    sentences = []
    blocks, deepest = ([*by_depth(rows, "blocks").items()] or [(0, [])])[-1]
    for target in dict.fromkeys(row.factors["target"] for row in deepest):
        kinds = ended_by([row for row in deepest if row.factors["target"] == target], "kind")
        if len(kinds) > 1:
            best = STACKS[min(kinds, key=lambda kind: kinds[kind].mean("test_error"))]
            errors = "; ".join(
                f"{STACKS[kind]} {row.mean('start_error'):.2g} to {row.mean('test_error'):.2g}"
                for kind, row in kinds.items()
            )
            text = f"best {best}. Error from the start to the end: {errors}."
            sentences.append(f"Target {target}, {blocks} blocks: {text}")
    return " ".join(sentences) or "Two kinds of network at one depth are needed to compare them."


def scale(rows: Sequence[StudyRow]) -> str:
    """How memory grows from the least depth to the greatest, and what checkpointing saves and costs there."""

    def ratios(row: StudyRow, other: StudyRow) -> list[float]:
        return [row.mean(key) / other.mean(key) for key in ("peak_mib", "step_s")]

    sentences, groups = [], by_depth(rows)
    for kind in ("all kept", "checkpointed"):
        depths = {depth: row for depth, some in groups.items() if (row := ended_by(some, "blocks").get(kind))}
        if len(depths) > 1:
            (low, first), *_, (high, last) = depths.items()
            memory, time = ratios(last, first)
            layers = f"{kind[0].upper()}{kind[1:]}, from {low} to {high} layers ({high / low:.0f} times as many)"
            sentences.append(f"{layers}: memory {memory:.1f} times, time {time:.1f} times.")
    pair = ended_by(groups[max(groups)], "blocks") if groups else {}
    if len(pair) == 2:
        memory, time = ratios(pair["checkpointed"], pair["all kept"])
        text = f"checkpointing takes {memory:.2f} of the memory and {time:.2f} of the time."
        sentences.append(f"At {max(groups)} layers {text}")
    return " ".join(sentences) or "At least two depths are needed to say something about depth."
