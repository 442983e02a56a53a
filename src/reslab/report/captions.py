"""The sentences under the charts, computed from the records that the charts draw."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

from reslab.records import BlockNorm, EpochRecord, RunFolder, StepRecord, as_percent
from reslab.report.portraits import Family, Portrait, are_paired, portraits
from reslab.report.words import percent, ratio

Reading = list[BlockNorm]
"""One step's gradients, in execution order."""
MAX_GROUPS = 4
"""So many runs, or sets of seeds, a caption tells about."""
ERRORS_OF: dict[str, Callable[[EpochRecord], float | None]] = {
    "validation": lambda record: record.scores.get("val_error"),
    "training": lambda record: record.scores.get("train_error"),
}
ODD: dict[str, Callable[[float], bool]] = {
    "exactly 0": lambda norm: norm == 0,
    "not finite": lambda norm: not math.isfinite(norm),
}


# ---- learning curves


def curves_caption(runs: Sequence[RunFolder], epochs: dict[RunFolder, list[EpochRecord]]) -> str:
    """Where the errors of all runs end; at least one has finished an epoch."""
    faces = [face for face in portraits(runs) if epochs[face.run]]
    last = {face.run: epochs[face.run][-1] for face in faces}
    if len(runs) == 1:
        sentences = [_one_curve(runs[0].name, epochs[runs[0]])]
    elif any(face.twin for face in faces):
        sentences = _by_depth(faces, last)
    else:
        sentences = [_by_run(last)]
    counts = {record.epoch + 1 for record in last.values()}
    if len(counts) > 1:
        sentences.append(f"The runs have different lengths: {min(counts)} to {max(counts)} epochs.")
    absent = [run.name for run in runs if not epochs[run]]
    sentences.append(f"No epoch finished: {', '.join(absent)}." if absent else "")
    return " ".join(filter(None, sentences))


def _one_curve(name: str, epochs: list[EpochRecord]) -> str:
    last = epochs[-1]
    trained = as_percent(last.scores.get("train_error"))
    text = f"After epoch {last.epoch + 1}, {name} has a training error (as it ran) of {trained}"
    measured = [(record.scores["val_error"], record.epoch) for record in epochs if "val_error" in record.scores]
    if not measured:
        return f"{text}; there is no validation split."
    error, epoch = min(measured)
    return (
        f"{text} and a validation error of {percent(last.scores.get('val_error'))};"
        f" the lowest validation error was {as_percent(error)}, after epoch {epoch + 1}."
    )


def _by_depth(faces: list[Portrait], last: dict[RunFolder, EpochRecord]) -> list[str]:
    """A sentence for each family: how its errors move from the shallowest to the deepest network."""
    families: dict[Family, dict[int, list[EpochRecord]]] = {"plain": {}, "residual": {}}
    for face in faces:
        if face.twin:
            families[face.twin.family].setdefault(face.twin.depth, []).append(last[face.run])
    sentences = []
    for family, depths in families.items():
        if depths:
            low, high = min(depths), max(depths)
            span = f"from {low} to {high}" if high > low else f"of {low}"
            same = family == "residual" and depths.keys() == families["plain"].keys()
            who = "Their residual twins" if same else f"{family.capitalize()} networks {span} layers"
            sentences.append(f"{who}: {_ends(depths[low], depths[high])}.")
    return sentences


def _ends(shallow: list[EpochRecord], deep: list[EpochRecord]) -> str:
    """Errors of the shallowest and of the deepest network; where that is one and the same, nothing moves."""
    phrases, verb = [], ""
    for kind, pick in ERRORS_OF.items():
        start, end = _mean(map(pick, shallow)), _mean(map(pick, deep))
        if start is not None and end is not None:
            moves, figures = _movement(start, end) if shallow is not deep else ("", as_percent(end))
            phrases.append(" ".join(filter(None, (f"{kind} error", moves if moves != verb else "", figures))))
            verb = moves
    seeds = max(len(shallow), len(deep))
    return ", ".join(phrases) + (f" (means of up to {seeds} runs)" if seeds > 1 else "")


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _movement(start: float, end: float) -> tuple[str, str]:
    """Verb and figures, as far as two decimals show it.

    Example:
        >>> _movement(0.1, 0.25), _movement(0.1, 0.1)
        (('rises', 'from 10.00 % to 25.00 %'), ('stays', 'at 10.00 %'))
    """
    first, last = as_percent(start), as_percent(end)
    if first == last:
        return "stays", f"at {last}"
    return "rises" if end > start else "falls", f"from {first} to {last}"


def _by_run(last: dict[RunFolder, EpochRecord]) -> str:
    kind = "validation" if all("val_error" in record.scores for record in last.values()) else "training"
    errors = {run.name: ERRORS_OF[kind](record) or 0.0 for run, record in last.items()}
    low, high = min(errors, key=lambda name: errors[name]), max(errors, key=lambda name: errors[name])
    return (
        f"{kind.capitalize()} error at the end: lowest {low} with {as_percent(errors[low])},"
        f" highest {high} with {as_percent(errors[high])}."
    )


# ---- gradient flow


def flow_caption(runs: Sequence[RunFolder], readings: dict[RunFolder, tuple[Reading, Reading]]) -> str:
    """How much gradient is left, or gained, on the way to the input; of twins, the deepest pair tells."""
    groups: dict[str, list[RunFolder]] = {}  # seeds of one network are told together
    for face in _deepest(portraits(runs)):
        if face.run in readings:
            groups.setdefault(face.label, []).append(face.run)
    shown = list(groups.items())[:MAX_GROUPS]
    sentences = [_stem_against_head(label, [readings[run] for run in group]) for label, group in shown]
    sentences += [_count_odd(readings, word) for word in ODD]
    return " ".join(filter(None, sentences))


def _deepest(faces: list[Portrait]) -> list[Portrait]:
    """Of twins the deepest pair, where the difference is largest; all runs where there are none."""
    if not are_paired(face.twin for face in faces):
        return faces
    depth = max(face.twin.depth for face in faces if face.twin)
    return [face for face in faces if face.twin and face.twin.depth == depth]


def _stem_against_head(label: str, readings: list[tuple[Reading, Reading]]) -> str:
    """The gradient next to the stem against the one next to the head, first and last, of one run or several seeds."""
    firsts, lasts = [first for first, _ in readings], [last for _, last in readings]
    seeds = f" ({len(readings)} runs)" if len(readings) > 1 else ""
    text = f"{label}{seeds}: in the first reading (step {firsts[0][0].step:,}) the gradient next to the stem is"
    if lasts[0][0].step == firsts[0][0].step:
        return f"{text} {_times(firsts)}."
    return f"{text} {_times(firsts)}; in the last (step {lasts[0][0].step:,}) {_times(lasts)}."


def _times(readings: list[Reading]) -> str:
    pairs = [(records[0].grad_norm, records[-1].grad_norm) for records in readings]
    ratios = sorted(stem / head for stem, head in pairs if 0 < stem < math.inf and 0 < head < math.inf)
    if ratios:
        span = dict.fromkeys(map(ratio, (ratios[0], ratios[-1])))  # one if both ends read the same
        return f"{' to '.join(span)} \N{MULTIPLICATION SIGN} that next to the head"
    stem, head = pairs[0]
    return f"{_norm(stem)}, that next to the head {_norm(head)}"


def _norm(value: float) -> str:
    return next((word for word, holds in ODD.items() if holds(value)), f"{value:.3g}")


def _count_odd(readings: dict[RunFolder, tuple[Reading, Reading]], word: str) -> str:
    """How many of the drawn readings the axis has no place for."""
    counts = {}
    for run, (first, last) in readings.items():
        drawn = first if first == last else first + last
        counts[run.name] = sum(ODD[word](record.grad_norm) for record in drawn)
    listed = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
    return f"Readings that are {word}: {listed}." if listed else ""


# ---- one run, step by step


def steps_caption(steps: list[StepRecord]) -> str:
    """Where the loss goes, the largest gradient, and what was not finite."""
    finite = [record for record in steps if math.isfinite(record.loss)]
    window = max(1, min(100, len(finite) // 10))
    sentences = []
    if finite:
        ends = [fmean(record.loss for record in part) for part in (finite[:window], finite[-window:])]
        span = f"mean of the first and of the last {window} steps" if window > 1 else "first and last step"
        sentences.append(f"The loss goes from {ends[0]:.3g} to {ends[1]:.3g} ({span}).")
    norms = [record for record in steps if math.isfinite(record.grad_norm)]
    if norms:
        peak = max(norms, key=lambda record: record.grad_norm)
        sentences.append(f"The largest gradient norm is {peak.grad_norm:.3g}, in step {peak.step:,}.")
    for name, bad in (("Loss", len(steps) - len(finite)), ("Gradient norm", len(steps) - len(norms))):
        sentences.append(f"{name} not finite in {bad:,} of {len(steps):,} steps." if bad else "")
    skipped = sum(record.skipped for record in steps)
    sentences.append(f"The loss scaler skipped {skipped:,} steps." if skipped else "")
    return " ".join(filter(None, sentences))
