"""What changes while a network trains: each block's gradient, and how far a step moves each parameter."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Sequence

import altair as alt

from reslab.records import ReadingRecord
from reslab.records.diagnosis import FindingRecord
from reslab.report import _chart as ch
from reslab.report._style import ALARM, BLUE, DIVERGING, INK, OTHER, QUIET, UNKNOWN, VERMILION
from reslab.report.figure import DataRow, Figure
from reslab.report.profile import GradientProfile, StageSpan, depth_profile, is_measured, stages_of
from reslab.report.text import plural, ratio

# ---- the gradient

MAX_ROWS, MAX_COLUMNS = 256, 120
LIMITS = (0.5, 3.0)  # decades at which colours end: at least, so that noise stays pale, and at most
ODD = {"exactly 0": INK, "not finite": ALARM, "not read": UNKNOWN}
SIGNS = {"critical": ("\u2716", ALARM), "warning": ("\u25b2", VERMILION), "info": ("\u25cf", BLUE)}
HEATMAP_NOTES = (
    "Colour: log10 of the gradient norm over the row's own median, in decades; green is more than usual, purple less."
    " The limits hold 98 % of all cells; what lies beyond has the outermost colour, and its number under the mouse."
)
Cell = float | str
"""Decades from the row's median, or why there is no such number."""


def heatmap_figure(readings: Sequence[ReadingRecord], *, findings: Sequence[FindingRecord] = ()) -> Figure:
    """Draw the gradient along the depth at each step that was read.

    Args:
        readings: of one network, in order of step.
        findings: a sign in the margin for each block that one names.
    """
    key, title = "heatmap", "Gradient over time"
    profile = depth_profile(readings[-1])
    if len(readings) < 2 or not profile.names:
        why = "one step was read" if len(readings) < 2 else "no gradient along the depth was read"
        return Figure(key, title, f"No picture over time, because {why}: watch a training to see it change.")
    readings = [readings[place] for place in spread(len(readings), MAX_COLUMNS)]
    norms = norms_over_time(profile, readings)
    cells, steps = [decades(row) for row in norms], [reading.step for reading in readings]
    groups = pooled(profile.names)
    picks = (median_of, worst_of) if len(groups) < len(cells) else (median_of,)
    signs = [sign for finding in findings if (sign := _finding_signs(profile, groups, finding))]
    panels = [alt.layer(_heatmap_panel(groups, cells, steps, pick), *signs) for pick in picks]
    rows = [
        {"index": place, "name": name} | {f"step_{step}": norm for step, norm in zip(steps, row, strict=True)}
        for place, (name, row) in enumerate(zip(profile.names, norms, strict=True))
    ]
    caption, chart = heatmap_caption(profile, steps, norms), ch.arrange(panels, columns=2)
    return Figure(key, title, caption, chart, rows, HEATMAP_NOTES, on_canvas=True)


def spread(count: int, most: int) -> list[int]:
    """Return at most so many of ``count`` places, evenly spaced, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(place * (count - 1) / (most - 1)) for place in range(most)]


# ---- cells and rows


def norms_over_time(profile: GradientProfile, readings: Sequence[ReadingRecord]) -> list[list[float | None]]:
    """A row for each block or layer, a column for each reading; None where a reading doesn't have it."""
    columns: list[Sequence[float | None]] = []
    for reading in readings:
        same, places = depth_profile(reading), reading.blocks if profile.unit == "block" else reading.layers
        found = {place.name: place.grad_norm for place in places}
        columns.append(same.norms if same.names == profile.names else [found.get(name) for name in profile.names])
    return [list(row) for row in zip(*columns, strict=True)]


def decades(norms: Sequence[float | None]) -> list[Cell]:
    measured = [math.log10(norm) for norm in norms if norm is not None and is_measured(norm)]
    middle, odd = statistics.median(measured) if measured else 0.0, {None: "not read", 0.0: "exactly 0"}
    return [
        odd[norm] if norm in odd else math.log10(norm) - middle if norm and math.isfinite(norm) else "not finite"
        for norm in norms
    ]


def limit_of(cells: list[list[Cell]]) -> float:
    """Where the colours end: symmetric, so that 0 is the middle colour, with 98 % of the cells within."""
    sizes = sorted(abs(cell) for row in cells for cell in row if not isinstance(cell, str)) or [0.0]
    return min(max(sizes[math.floor(0.98 * (len(sizes) - 1))], LIMITS[0]), LIMITS[1])


def pooled(names: Sequence[str]) -> list[StageSpan]:
    """Spans of neighbours of one stage that share a row, so that there are at most ``MAX_ROWS``."""
    stages, size = stages_of(names), 1
    while sum(math.ceil((stage.last - stage.first + 1) / size) for stage in stages) > MAX_ROWS and size < len(names):
        size += 1
    return [
        StageSpan(names[first], first, min(first + size - 1, stage.last))
        for stage in stages
        for first in range(stage.first, stage.last + 1, size)
    ]


def median_of(cells: Sequence[Cell]) -> Cell:
    numbers = [cell for cell in cells if not isinstance(cell, str)]
    return statistics.median(numbers) if numbers else statistics.mode(cells)


def worst_of(cells: Sequence[Cell]) -> Cell:
    """Not finite before exactly 0 before the greatest deviation."""
    words = [word for word in ("not finite", "exactly 0") if word in cells]
    numbers = [cell for cell in cells if not isinstance(cell, str)]
    return words[0] if words else max(numbers, key=abs) if numbers else "not read"


# ---- the chart


def _heatmap_panel(
    groups: list[StageSpan], cells: list[list[Cell]], steps: list[int], pick: Callable[[Sequence[Cell]], Cell]
) -> ch.Panel:
    rows: list[DataRow] = []
    for place, group in enumerate(groups):
        more = f" and {group.last - group.first} more" if group.last > group.first else ""
        for column, step in enumerate(steps):
            cell = pick([each[column] for each in cells[group.first : group.last + 1]])
            value = {"decades": None, "odd": cell} if isinstance(cell, str) else {"decades": round(cell, 3), "odd": ""}
            rows.append({"row": place, "name": group.name + more, "step": step, **value})
    stages = {span.first: span.name for span in stages_of([group.name for group in groups])}
    names, few = f"{json.dumps(stages)}[datum.value]", steps[:: math.ceil(len(steps) / 7)]
    across = alt.Axis(values=few, format=",", grid=False, labelAngle=0)
    down = alt.Axis(values=list(stages), labelExpr=names, ticks=False, grid=False, labelLimit=90)
    whole = alt.Scale(round=True)  # pixels, so that no light comes through between cells
    y = alt.Y("row:O", title="\u2190 loss\u2003\u2003input \u2192", scale=whole, axis=down)
    at: ch.Channels = {"x": alt.X("step:O", axis=across), "y": y}
    at["tooltip"] = ["name:N", "step:Q", alt.Tooltip("decades:Q", format="+.2f"), alt.Tooltip("odd:N", title="or")]
    limit = limit_of(cells)
    ends = [-limit, -limit / 2, 0, limit / 2, limit]
    scale = alt.Scale(type="linear", domain=ends, range=list(DIVERGING), clamp=True, interpolate="rgb")
    signed = "datum.value == 0 ? '0' : format(datum.value, '+.2~f')"
    legend = alt.Legend(orient="top", gradientLength=220, gradientThickness=10, labelExpr=signed, titleLimit=300)
    colour = alt.Color("decades:Q", title="decades from the row's median", scale=scale, legend=legend)
    layers = [ch.mark("rect", [row for row in rows if not row["odd"]], color=colour, **at)]
    for word, ink in ODD.items():
        if odd := [row for row in rows if row["odd"] == word]:
            layers.append(ch.mark("rect", odd, color=ink, **at))
    border = alt.Y("row:O", bandPosition=0)
    layers.append(ch.mark("rule", [{"row": first} for first in stages], color=QUIET, strokeWidth=0.7, y=border))
    size = max(group.last - group.first + 1 for group in groups)
    title = "" if size == 1 else f"the furthest of each {size}" if pick is worst_of else f"median of each {size}"
    return ch.panel(layers, width=340, height=len(groups) * max(1, min(12, round(420 / len(groups)))), title=title)


def _finding_signs(profile: GradientProfile, groups: list[StageSpan], finding: FindingRecord) -> ch.Panel | None:
    """In the margin, beside the rows of blocks that a finding names."""
    places = [place for place, name in enumerate(profile.names) if is_named(finding, name)]
    sign, colour = SIGNS[finding.severity]
    said = {"sign": sign, "finding": finding.id, "sentence": finding.sentence, "where": finding.where}
    found = (row for row, group in enumerate(groups) if any(group.first <= place <= group.last for place in places))
    rows = [{"row": row, **said} for row in found]
    look = {"align": "left", "baseline": "middle", "fontSize": 13, "fontWeight": "bold", "color": colour}
    at = {"x": alt.value("width"), "y": "row:O", "text": "sign:N", "tooltip": ["finding:N", "where:N", "sentence:N"]}
    return ch.mark("text", rows, **look, **at) if rows else None


def is_named(finding: FindingRecord, name: str) -> bool:
    """Whether a finding is about this block or layer, or about something in it."""
    return bool(finding.where) and (finding.where == name or finding.where.startswith(f"{name}."))


def heatmap_caption(profile: GradientProfile, steps: Sequence[int], norms: list[list[float | None]]) -> str:
    over = f"steps {steps[0]:,} to {steps[-1]:,}, {len(steps)} readings"
    known = [[norm for norm in row if norm is not None and is_measured(norm)] for row in norms]
    moved = [(max(row) / min(row), name) for name, row in zip(profile.names, known, strict=True) if len(row) > 1]
    sentences = []
    if moved:
        (factor, name), typical = max(moved), statistics.median(found for found, _ in moved)
        sentences.append(
            f"Over {over}, the gradient of the median {profile.unit} moved {ratio(typical)}-fold between its extremes,"
            f" that of {name} most: {ratio(factor)}-fold."
        )
    for word in ("exactly 0", "not finite"):
        if count := sum(word in decades(row) for row in norms):
            sentences.append(f"In {count} of {len(norms)} {profile.unit}s it was {word} at some step.")
    return " ".join(sentences) or f"No gradient that can be measured was read ({over})."


# ---- the updates

UPDATES_HEIGHT = 220
USUAL, TYPICAL = (1e-5, 1e-2), 1e-3
"""Between what the median of healthy trainings lies, and about where."""
KINDS = {"weight": BLUE, "bias or gain": OTHER}
UPDATE_NOTES = (
    "Norm of a step's change over the norm of the parameter, at the highest rate that was read; the change includes"
    " momentum, weight decay and the rate. Round: weights; square: biases and gains, of one dimension. Without a ratio"
    " are parameters that did not move, are 0, or are not finite."
)


def updates_figure(readings: Sequence[ReadingRecord]) -> Figure:
    """Draw the step at the highest rate of those that were read, parameter by parameter; of several, the last.

    At the end of most schedules nothing moves any more, which is not a problem.
    """
    key, title = "updates", "Update over weight"
    found = [(reading, rows) for reading in readings if (rows := update_rows(reading))]
    if not found:
        why = "no step of an optimiser was seen: watch a training with its optimiser"
        return Figure(key, title, f"No updates to draw, because {why}.")
    reading, rows = max(found, key=lambda pair: (pair[0].update.lr if pair[0].update else 0.0, pair[0].step))
    return Figure(
        key, title, update_caption(rows, reading.step), ch.arrange([_updates_panel(rows)]), rows, UPDATE_NOTES
    )


def update_rows(reading: ReadingRecord) -> list[DataRow]:
    """One row for each parameter that a step was seen of; the ratio is NaN where there is none."""
    return [
        {"index": place, "name": each.name, "kind": "weight" if len(each.shape) > 1 else "bias or gain"}
        | {"update_norm": update, "weight_norm": each.weight_norm}
        | {"ratio": update / each.weight_norm if is_measured(update) and is_measured(each.weight_norm) else math.nan}
        for place, each in enumerate(reading.parameters)
        if (update := each.update_norm) is not None and not math.isnan(update)
    ]


def _updates_panel(rows: list[DataRow]) -> ch.Panel:
    known = [row for row in rows if is_measured(row["ratio"])]
    odd = [row for row in rows if not is_measured(row["ratio"])]
    ratios = [*(row["ratio"] for row in known), *USUAL]
    low, high = 10.0 ** math.floor(math.log10(min(ratios))), 10.0 ** math.ceil(math.log10(max(ratios)))
    ends = {"rangeMin": UPDATES_HEIGHT - (ch.RAIL if odd else 0), "rangeMax": 0}
    look = {
        "x": ch.order_axis(1 + rows[-1]["index"], ch.input_to_loss("parameter, in order of definition")),
        "y": ch.log_axis(alt.Y, "ratio:Q", "update / weight", low, high, **ends),
        "color": ch.colour("kind", KINDS, symbol="circle"),
        "shape": alt.Shape("kind:N", title=None, scale=alt.Scale(domain=list(KINDS), range=["circle", "square"])),
        "tooltip": ["name:N", "kind:N", ch.number("ratio", "update / weight")],
    }
    typical = {"ratio": TYPICAL}
    layers: list[ch.Panel] = [
        ch.mark("rule", [typical], color=INK, strokeDash=[5, 3], y="ratio:Q"),
        ch.mark("point", map(ch.rounded, known), size=34 if len(rows) < 300 else 10, **look),
        ch.label(f"about {TYPICAL:g} is usual", y="ratio:Q", row=typical, baseline="bottom", dx=-6, dy=-3),
    ]
    if odd:
        layers.append(ch.rail("no ratio", UPDATES_HEIGHT - ch.RAIL / 2, odd, shape="triangle-down", color=QUIET))
    return ch.panel(layers, height=UPDATES_HEIGHT)


def update_caption(rows: Sequence[DataRow], step: int) -> str:
    """Say where the median lies, the extremes, and what did not move."""
    known = sorted((row["ratio"], row["name"], row["kind"]) for row in rows if is_measured(row["ratio"]))
    ratios = [ratio for ratio, _, kind in known if kind == "weight"] or [ratio for ratio, _, _ in known]
    if not ratios:
        return f"At step {step:,} no parameter moved by an amount that can be compared with its size."
    middle, (least, low, _), (most, high, _) = statistics.median(ratios), known[0], known[-1]
    judged = "as usual" if USUAL[0] <= middle <= USUAL[1] else "outside the usual 1e-05 to 0.01"
    still = sum(row["update_norm"] == 0 for row in rows)
    return (
        f"At step {step:,} the median weight moves by {middle:.2g} of itself, {judged}; least {low} ({least:.2g}), most"
        f" {high} ({most:.2g})." + (f" {still} of {plural(len(rows), 'parameter')} did not move." if still else "")
    )
