"""Curves of trainings: scores epoch by epoch, one run step by step, and the learning-rate range test."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import reduce
from statistics import fmean

import altair as alt

from reslab.records import EpochRecord, RunFolder, Score, StepRecord
from reslab.records.training import RangeRecord
from reslab.report import _chart as ch
from reslab.report._style import ALARM, BLUE, CARD, INK, QUIET, RunStyle, run_styles
from reslab.report.figure import DataRow, Figure
from reslab.report.text import plural

VALIDATION, TRAINING = "validation", "training (as it ran)"
SPLITS = {VALIDATION: "val", TRAINING: "train"}
PANELS = {"plain": "Plain: no shortcuts", "residual": "Residual: with shortcuts"}
MAX_POINTS = 1000
"""More steps are thinned out."""
STEP_PANELS = {"loss": "loss", "grad_norm": "gradient norm", "lr": "learning rate"}

Ends = Sequence[tuple[RunStyle, EpochRecord]]
"""Runs with their last epoch."""


# ---- epoch by epoch


def learning_curves(runs: Sequence[RunFolder]) -> Figure:
    """Draw each run's score against its epochs: validation solid, training as it ran dashed; plain networks left.

    The training score is of the epoch's own augmented batches, taken while the weights moved: the clean one is in the
    table of results. Epochs are counted from 1, as people do.

    Raises:
        RequestError: if there is no run.

    Reference:
        He et al. 2015, arXiv:1512.03385, Figure 6.
    """
    key, heading = "curves", "Learning curves"
    styles = run_styles(runs)
    history = [(style, style.run.read_epochs()) for style in styles]
    if not any(epochs for _, epochs in history):
        return Figure(key, heading, f"No epoch was finished yet: {', '.join(run.name for run in runs)}.")
    panels: dict[tuple[Score, str], list[DataRow]] = {}
    for style, epochs in sorted(history, key=lambda pair: pair[0].network is None or pair[0].network.family != "plain"):
        name = PANELS[style.network.family] if style.network else ""
        if rows := list(_score_rows(style, epochs)):
            panels.setdefault((style.record.score, name), []).extend(rows)
    everything = [row for rows in panels.values() for row in rows]
    colours, drawn = {style.label: style.colour for style in styles}, []
    channels = ch.series(colours, (VALIDATION, TRAINING))
    for (score, name), rows in panels.items():
        ends = _axis_ends(score, [row for row in everything if row["score"] == score.name])
        layers = _score_layers(rows, score, ends, channels)
        drawn.append(ch.panel(layers, width=420, height=270, title=name if len(panels) > 1 else ""))
    table = [{key: row[key] for key in ("run", "line", "epoch", "score", "value")} for row in everything]
    chart = ch.arrange(drawn, columns=2, names=colours) if drawn else None
    return Figure(key, heading, curves_caption(history), chart, table)


def _score_rows(style: RunStyle, epochs: Sequence[EpochRecord]) -> Iterator[DataRow]:
    score = style.record.score
    for record in epochs:
        for line, split in SPLITS.items():
            value = record.scores.get(f"{split}_{score.name}", math.nan)
            if math.isfinite(value):
                row = {"run": style.run.name, "label": style.label, "line": line, "epoch": record.epoch + 1}
                shown = float(f"{100 * value if score.unit == 'percent' else value:.6g}")
                yield row | {"score": score.name, "value": value, "shown": shown, "who": f"{style.run.name}, {line}"}


def _axis_ends(score: Score, rows: Sequence[DataRow]) -> tuple[float, float] | None:
    """Where an axis in percent ends: the first epochs may lie beyond it if they would flatten everything after them."""
    if score.unit != "percent":
        return None
    lower = score.better == "lower"
    distances = [(row["epoch"], row["shown"] if lower else 100 - row["shown"]) for row in rows]
    beginning, highest = max(epoch for epoch, _ in distances) / 5, max(distance for _, distance in distances)
    settled = max((distance for epoch, distance in distances if epoch > beginning), default=highest)
    end = min(100.0, 5.0 * math.ceil(max(1.15 * settled if highest > 2 * settled else highest, 1) / 5))
    return (0.0, end) if lower else (100 - end, 100.0)


def _score_layers(
    rows: list[DataRow], score: Score, ends: tuple[float, float] | None, channels: ch.Channels
) -> list[ch.Panel]:
    title, scale, values = score.name, alt.Scale(zero=False), [row["shown"] for row in rows]
    if ends:
        cut = f", above {ends[1]:g} not shown" if max(values) > ends[1] else ""
        cut = cut or (f", below {ends[0]:g} not shown" if min(values) < ends[0] else "")
        title, scale = f"{score.name} (%{cut})", alt.Scale(domain=list(ends))
    epochs = [row["epoch"] for row in rows]
    at = {"x": ch.count_axis("epoch:Q", epochs, "epoch"), "y": alt.Y("shown:Q", title=title, scale=scale), "clip": True}
    line = ch.mark("line", rows, detail="run:N", **at, **channels)
    few = len(set(epochs)) <= ch.MAX_LARGE_DOTS
    dots = [ch.mark("circle", rows, **at, **ch.of_dots(channels, size=24))] if few else []
    return [line, *dots, ch.hover_table(rows, "shown", "epoch", x="epoch", by="who")]


# ---- in words


def curves_caption(history: Sequence[tuple[RunStyle, list[EpochRecord]]]) -> str:
    """Say where the scores end. Only runs on the same data, judged by the same score, are compared."""
    ends = [(style, epochs[-1]) for style, epochs in history if epochs]
    data = {(str(style.record.data.get("name")), str(style.record.data.get("fingerprint"))) for style, _ in ends}
    if len(history) == 1:
        sentences = [_one_run(*history[0])]
    elif len(data) > 1 or len({style.record.score for style, _ in ends}) > 1:
        each = [
            f"{style.run.name} ends at {_end(style, record)} on {style.record.data.get('name')}"
            for style, record in ends
        ]
        sentences = [f"{'; '.join(each)}.", "These runs differ in data or score, so their numbers can't be compared."]
    elif all(style.network for style, _ in ends):
        sentences = _by_depth(ends)
    else:
        sentences = [_best_and_worst(ends)]
    counts = {record.epoch + 1 for _, record in ends}
    if len(counts) > 1:
        sentences.append(f"The runs have different lengths: {min(counts)} to {max(counts)} epochs.")
    if absent := [style.run.name for style, epochs in history if not epochs]:
        sentences.append(f"No epoch finished: {', '.join(absent)}.")
    return " ".join(sentences)


def _value(style: RunStyle, record: EpochRecord, split: str) -> float | None:
    return record.scores.get(f"{split}_{style.record.score.name}")


def _end(style: RunStyle, record: EpochRecord) -> str:
    kind = "training" if _value(style, record, "val") is None else "validation"
    score = style.record.score
    value = _value(style, record, "val" if kind == "validation" else "train")
    return f"a {kind} {score.name} of {score.format(value)}"


def _one_run(style: RunStyle, epochs: list[EpochRecord]) -> str:
    score, last = style.record.score, epochs[-1]
    trained = score.format(_value(style, last, "train"))
    text = f"After epoch {last.epoch + 1}, {style.run.name} has a training {score.name} (as it ran) of {trained}"
    found = [(value, record.epoch + 1) for record in epochs if (value := _value(style, record, "val")) is not None]
    if not found:
        return f"{text}; there is no validation split."
    best, epoch = reduce(lambda one, other: other if score.is_better(other[0], than=one[0]) else one, found)
    return (
        f"{text} and a validation {score.name} of {score.format(found[-1][0])}; the best validation {score.name} was"
        f" {score.format(best)}, after epoch {epoch}."
    )


def _by_depth(ends: Ends) -> list[str]:
    """A sentence for each family: how its scores move from the shallowest to the deepest network."""
    families: dict[str, dict[int, list[tuple[RunStyle, EpochRecord]]]] = {"plain": {}, "residual": {}}
    for style, record in ends:
        if style.network:
            families[style.network.family].setdefault(style.network.depth, []).append((style, record))
    score, sentences = ends[0][0].record.score, []
    for family, depths in ((family, depths) for family, depths in families.items() if depths):
        low, high = min(depths), max(depths)
        span = f"from {low} to {high}" if high > low else f"of {low}"
        same = family == "residual" and depths.keys() == families["plain"].keys()
        phrases, before = [], ""
        for kind, split in (("validation", "val"), ("training", "train")):
            start, end = (_mean([_value(*pair, split) for pair in depths[depth]]) for depth in (low, high))
            if start is not None and end is not None:
                first, last = score.format(start), score.format(end)
                verb = "stays" if first == last else "rises" if end > start else "falls"
                moves = f"at {last}" if first == last else f"from {first} to {last}"
                says = [f"{kind} {score.name}", *([verb] if verb != before else []), moves]
                phrases.append(" ".join(says) if high > low else f"{kind} {score.name} {last}")
                before = verb
        seeds = max(len(depths[low]), len(depths[high]))
        means = f" (means of up to {seeds} runs)" if seeds > 1 else ""
        who = "Their residual twins" if same else f"{family.capitalize()} networks {span} layers"
        sentences.append(f"{who}: {', '.join(phrases)}{means}.")
    return sentences


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _best_and_worst(ends: Ends) -> str:
    score = ends[0][0].record.score
    split = "val" if all(_value(*end, "val") is not None for end in ends) else "train"
    found = [(value, style.run.name) for style, record in ends if (value := _value(style, record, split)) is not None]
    if not found:
        return "No score was recorded."
    found.sort(reverse=score.better == "higher")
    (best, first), (worst, last) = found[0], found[-1]
    kind, ends_at = "Validation" if split == "val" else "Training", f"best {first} with {score.format(best)}"
    return f"{kind} {score.name} at the end: {ends_at}, worst {last} with {score.format(worst)}."


# ---- step by step


def step_curves(run: RunFolder) -> Figure:
    """Draw loss, gradient norm and learning rate of every step of one run, above each other.

    Long runs are thinned out so that the lowest and the highest value of every bin stay: no spike is lost. Steps whose
    value was not finite have a red mark at the top.
    """
    key, title = "steps", "Step by step"
    steps = run.read_steps()
    if not steps:
        return Figure(key, title, "No step was taken, so there is nothing to draw.")
    panels = [_step_panel([(step.step, float(getattr(step, field))) for step in steps], field) for field in STEP_PANELS]
    rows = [{"step": step.step} | {field: getattr(step, field) for field in STEP_PANELS} for step in steps]
    return Figure(key, title, steps_caption(steps), ch.arrange(panels), rows)


def _step_panel(values: list[tuple[int, float]], field: str) -> ch.Panel:
    finite = [(step, value) for step, value in values if math.isfinite(value)]
    rows = [{"step": step, "value": float(f"{value:.6g}")} for step, value in thin_out(finite)]
    bottom, title = field == "lr", STEP_PANELS[field]
    x = ch.count_axis("step:Q", [step for step, _ in values], "step" if bottom else None)
    low, high = min((value for _, value in finite), default=0.0), max((value for _, value in finite), default=1.0)
    axis = alt.Axis(tickCount=4, labelExpr=ch.POWERS, **ch.SAME_WIDTH)
    y = alt.Y("value:Q", title=title, scale=alt.Scale(type="linear", zero=True), axis=axis)
    if not bottom and low > 0:  # a logarithm has no place for 0
        y = ch.log_axis(alt.Y, "value:Q", title, 0.9 * low, 1.1 * high)
    line = ch.mark("line", rows, strokeWidth=1.2, color=BLUE, x=x, y=y)
    tooltip = ["step:Q", alt.Tooltip("value:Q", title=title, format=".4~g")]
    layers = [line, *([ch.hover_columns(rows, *tooltip, x="step")] if rows else [])]
    if odd := [{"step": step, "reading": str(value)} for step, value in values if not math.isfinite(value)]:
        look = {"shape": "cross", "color": ALARM, "size": 50, "tooltip": ["step:Q", "reading:N"]}
        layers.append(ch.mark("point", odd[:MAX_POINTS], x="step:Q", y=alt.value(4), **look))
    return ch.panel(layers, width=ch.FULL_WIDTH, height=110 if bottom else 150)


def thin_out(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Keep at most ``MAX_POINTS`` points, among them the lowest and the highest of every bin, in their order."""
    if len(points) <= MAX_POINTS:
        return points
    width = math.ceil(len(points) / (MAX_POINTS // 2))
    bins = (points[left : left + width] for left in range(0, len(points), width))
    return [point for each in bins for point in sorted({pick(each, key=lambda p: p[1]) for pick in (min, max)})]


def steps_caption(steps: list[StepRecord]) -> str:
    """Say where the loss goes, the largest gradient, and what was not finite."""
    finite = [record for record in steps if math.isfinite(record.loss)]
    norms = [record for record in steps if math.isfinite(record.grad_norm)]
    window = max(1, min(100, len(finite) // 10))
    sentences = []
    if finite:
        start, end = (fmean(record.loss for record in part) for part in (finite[:window], finite[-window:]))
        span = f"mean of the first and of the last {window} steps" if window > 1 else "first and last step"
        sentences.append(f"The loss goes from {start:.3g} to {end:.3g} ({span}).")
    if norms:
        peak = max(norms, key=lambda record: record.grad_norm)
        sentences.append(f"The largest gradient norm of all parameters is {peak.grad_norm:.3g}, in step {peak.step:,}.")
    for name, odd in (("Loss", len(steps) - len(finite)), ("Gradient norm", len(steps) - len(norms))):
        sentences += [f"{name} not finite in {odd:,} of {plural(len(steps), 'step')}."] if odd else []
    if skipped := sum(record.skipped for record in steps):
        sentences.append(f"The loss scaler skipped {plural(skipped, 'step')}.")
    return " ".join(sentences)


# ---- the learning-rate range test


RANGE_HEIGHT, RANGE_AIR, RANGE_READ_TO = 330, 0.08, 2.0
"""Pixels; fraction of the axis that stays free; and where it ends above the loss at the start, in falls of the loss:
the explosion at the end would flatten all else."""


def rate_range(record: RangeRecord) -> Figure:
    """Draw the loss of each batch and their mean against the learning rate; the suggested rate is marked."""
    key, title = "lr-range", f"Learning-rate range test: {record.name}"
    steps = [step for step in record.steps if math.isfinite(step.loss) and math.isfinite(step.mean_loss)]
    if not steps:
        return Figure(key, title, f"The range test of {record.name} has no finite loss to draw. Lower --lowest.")
    losses, means = [step.loss for step in steps], [step.mean_loss for step in steps]
    start = max(means[: max(1, len(means) // 4)])
    fall = max(start - min(means), 0.05 * abs(start), 1e-9)
    high = max(min(max(losses), start + RANGE_READ_TO * fall), start + RANGE_AIR * fall)
    air = RANGE_AIR * (high - min(losses))
    x = ch.log_axis(alt.X, "lr:Q", "learning rate", 0.8 * record.lowest, 1.25 * max(step.lr for step in record.steps))
    cut = ", above not shown" if max(losses) > high + air else ""
    y = ch.value_axis("loss:Q", f"training loss{cut}", min(losses) - air, high + air)
    at = {"x": x, "y": y, "clip": True, "tooltip": [ch.number("lr"), ch.number("loss")]}
    dots = [{"lr": step.lr, "loss": float(f"{step.loss:.6g}")} for step in steps]
    line = [{"lr": step.mean_lr, "loss": float(f"{step.mean_loss:.6g}")} for step in steps]
    layers = [
        ch.mark("circle", dots, size=22, opacity=0.45, color=QUIET, **at),
        ch.mark("line", line, strokeWidth=2.4, color=BLUE, **at),
        *_rate_marks(record, x),
    ]
    done = f"{len(record.steps)} of {record.num_steps} steps, {record.optimizer}, batch {record.batch_size}"
    caption = f"{done}, seed {record.seed}. Dots: loss of each batch; line: their mean."
    heading = alt.TitleParams(title, subtitle=[caption, record.reason])
    panel = ch.panel(layers, width=ch.FULL_WIDTH, height=RANGE_HEIGHT, title=heading)
    return Figure(key, title, f"{caption} {record.reason}", ch.arrange([panel]), dots)


def _rate_marks(record: RangeRecord, x: alt.X) -> Iterator[ch.Panel]:
    """Vertical lines with words at rates that stand out; the suggested one last, so that it lies on top."""
    found: list[tuple[float, str, str, float]] = []
    if record.steepest_lr is not None and record.steepest_lr != record.lr:
        found.append((record.steepest_lr, f"falls fastest: {record.steepest_lr:.2g}", QUIET, 30))
    if record.lr is not None:
        found.append((record.lr, f"suggested: {record.lr:.2g}", INK, 12))
    if record.ending != "done":  # below, because the loss has left through the top
        found.append((max(step.lr for step in record.steps), record.ending, ALARM, RANGE_HEIGHT - 14))
    for rate, words, colour, level in found:
        yield ch.mark("rule", [{"lr": rate}], color=colour, strokeWidth=1.4, strokeDash=[4, 3], x=x)
        look = {"align": "left", "dx": 6} if colour == INK else {"align": "right", "dx": -6}
        for edge in ({"stroke": CARD, "strokeWidth": 4}, {}):  # light, under the letters
            yield ch.label(
                words, x=x, y=level, row={"lr": rate}, color=colour, baseline="middle", fontSize=13, **look, **edge
            )
