"""The heatmap: how each block's gradient changed while the network trained."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from reslab.records import DepthRecord, FindingRecord, ReadingRecord
from reslab.report.diagnosis.axes import inline
from reslab.report.diagnosis.palette import DIVERGING, LINE, TWIN
from reslab.report.diagnosis.picture import Picture
from reslab.report.diagnosis.places import Depth, Place, depth_of, is_measured, stages_of
from reslab.report.theme import ALARM, INK, QUIET, Row, dress
from reslab.report.words import ratio

KEY, TITLE = "heatmap", "Gradient over time"
MAX_ROWS, MAX_COLUMNS = 256, 120
LIMITS = (0.5, 3.0)
"""Decades at which the colours end: at least, so that noise stays pale, and at most, so that a change shows."""
ODD = {"exactly 0": INK, "not finite": ALARM, "not read": "#BDBDBD"}
OVERLAP = 0.1
"""Share of a cell that lies under the next one, so that no light comes through between them."""
SIGNED = "datum.value == 0 ? '0' : format(datum.value, '+.2~f')"
GLYPHS = {"critical": ("\u2716", ALARM), "warning": ("\u25b2", TWIN), "info": ("\u25cf", LINE)}
NOTES = (
    "Colour: log10 of the gradient norm over the row's own median, in decades; orange is more than usual, purple less."
    " The limits hold 98 % of all cells; what lies beyond has the outermost colour, and its number under the mouse."
)


@dataclass(frozen=True)
class Group:
    """Neighbouring places of one stage that share a row.

    Args:
        first: index of the first.
        last: index of the last.
        name: of the first.
    """

    first: int
    last: int
    name: str


def heatmap(
    readings: Sequence[ReadingRecord], depth: DepthRecord | None = None, *, findings: Sequence[FindingRecord] = ()
) -> Picture:
    """The gradient along the depth at each step that was read.

    Args:
        readings: of one network, in order of step.
        depth: not drawn here.
        findings: a mark in the margin for each block that one names.
    """
    along = depth_of(readings[-1])
    if len(readings) < 2 or not along.places:
        why = "one step was read" if len(readings) < 2 else "no gradient along the depth was read"
        return Picture(KEY, TITLE, f"No picture over time, because {why}: watch a training to see it change.", None)
    readings = spread(readings)
    cells = deviations(along, readings)
    groups = pooled(along)
    steps = [reading.step for reading in readings]
    limit = limit_of(cells)
    panels = [_panel(_rows(groups, cells, steps, worst=False), groups, limit, title=_title(groups, worst=False))]
    if len(groups) < len(along.places):
        panels.append(_panel(_rows(groups, cells, steps, worst=True), groups, limit, title=_title(groups, worst=True)))
    marked = [alt.layer(panel, *_marks(groups, along, findings)) for panel in panels]
    chart = dress(alt.concat(*marked, columns=len(marked), spacing=24).resolve_scale(color="shared"))
    return Picture(
        KEY,
        TITLE,
        heatmap_caption(along, readings, cells),
        chart,
        _twin(along, readings),
        notes=NOTES,
        renderer="canvas",
    )


def spread(readings: Sequence[ReadingRecord]) -> Sequence[ReadingRecord]:
    """At most ``MAX_COLUMNS`` of them, evenly spaced, the first and the last among them."""
    if len(readings) <= MAX_COLUMNS:
        return readings
    return [readings[round(place * (len(readings) - 1) / (MAX_COLUMNS - 1))] for place in range(MAX_COLUMNS)]


# ---- the cells


def norms_over_time(along: Depth, readings: Sequence[ReadingRecord]) -> list[list[float | None]]:
    """A row a place, a column a reading; None where a reading has no such place."""
    columns = []
    for reading in readings:
        places: tuple[Place, ...] = reading.blocks if along.unit == "block" else reading.layers
        found = {(place.index, place.name): place.grad_norm for place in places}
        columns.append([found.get((place.index, place.name)) for place in along.places])
    return [list(row) for row in zip(*columns, strict=True)]


def deviations(along: Depth, readings: Sequence[ReadingRecord]) -> list[list[float | str]]:
    """Decades from the row's median; words where there is no such number."""
    return [_deviation_row(row) for row in norms_over_time(along, readings)]


def _deviation_row(norms: list[float | None]) -> list[float | str]:
    measured = [math.log10(norm) for norm in norms if norm is not None and is_measured(norm)]
    middle = statistics.median(measured) if measured else 0.0
    return [_deviation(norm, middle) for norm in norms]


def _deviation(norm: float | None, middle: float) -> float | str:
    if norm is None:
        return "not read"
    if norm == 0:
        return "exactly 0"
    return math.log10(norm) - middle if math.isfinite(norm) else "not finite"


def limit_of(cells: list[list[float | str]]) -> float:
    """Symmetric, so that 0 is the middle colour; 98 % of the cells lie within."""
    sizes = sorted(abs(cell) for row in cells for cell in row if not isinstance(cell, str))
    if not sizes:
        return LIMITS[0]
    return min(max(sizes[math.floor(0.98 * (len(sizes) - 1))], LIMITS[0]), LIMITS[1])


# ---- rows


def pooled(along: Depth) -> list[Group]:
    """One group a place, or runs of neighbours of one stage so that there are at most ``MAX_ROWS``."""
    stages = stages_of(along.names)
    size = 1
    while sum(math.ceil((stage.last - stage.first + 1) / size) for stage in stages) > MAX_ROWS and size < len(
        along.places
    ):
        size += 1
    return [
        Group(first, min(first + size - 1, stage.last), along.names[first])
        for stage in stages
        for first in range(stage.first, stage.last + 1, size)
    ]


def _rows(groups: list[Group], cells: list[list[float | str]], steps: list[int], *, worst: bool) -> list[Row]:
    pick = worst_of if worst else median_of
    return [
        {
            "row": place,
            "under": place + 1 + (OVERLAP if place + 1 < len(groups) else 0),
            "name": group.name if group.first == group.last else f"{group.name} and {group.last - group.first} more",
            "column": column,
            "next": column + 1 + (OVERLAP if column + 1 < len(steps) else 0),
            "step": step,
            **_cell(pick([row[column] for row in cells[group.first : group.last + 1]])),
        }
        for place, group in enumerate(groups)
        for column, step in enumerate(steps)
    ]


def _cell(value: float | str) -> Row:
    if isinstance(value, str):
        return {"decades": None, "odd": value}
    return {"decades": round(value, 3), "odd": ""}


def median_of(cells: list[float | str]) -> float | str:
    """Of the numbers; the commonest word where there is none."""
    numbers = [cell for cell in cells if not isinstance(cell, str)]
    return statistics.median(numbers) if numbers else statistics.mode(cells)


def worst_of(cells: list[float | str]) -> float | str:
    """Not finite before exactly 0 before the greatest deviation."""
    words = [word for word in ("not finite", "exactly 0") if word in cells]
    numbers = [cell for cell in cells if not isinstance(cell, str)]
    if words or not numbers:
        return words[0] if words else "not read"
    return max(numbers, key=abs)


# ---- the panel


def _title(groups: list[Group], *, worst: bool) -> str:
    most = max(group.last - group.first + 1 for group in groups)
    if most == 1:
        return ""
    return f"the furthest of each {most}" if worst else f"median of each {most} neighbours"


def _panel(rows: list[Row], groups: list[Group], limit: float, *, title: str) -> Any:
    height = len(groups) * max(1, min(12, round(420 / len(groups))))
    steps = {row["column"]: row["step"] for row in rows}
    ticks = range(0, len(steps), math.ceil(len(steps) / 7))
    labels = "[" + ",".join(str(steps[column]) for column in range(len(steps))) + "][datum.value - 0.5]"
    x = alt.X(
        "column:Q",
        title="step",
        scale=alt.Scale(domain=[0, len(steps)], nice=False),
        axis=alt.Axis(values=[tick + 0.5 for tick in ticks], labelExpr=f"format({labels}, ',')", grid=False),
    )
    stages = {stage.first: stage.name for stage in stages_of([group.name for group in groups])}
    names = "{" + ",".join(f"'{first}': {name!r}" for first, name in stages.items()) + "}[datum.value]"
    y = alt.Y(
        "row:Q",
        title="\u2190 loss\u2003\u2003input \u2192",
        scale=alt.Scale(domain=[len(groups), 0], nice=False),
        axis=alt.Axis(values=list(stages), labelExpr=names, grid=False, labelBaseline="top", labelLimit=90),
    )
    scale = alt.Scale(
        type="linear",
        domain=[-limit, -limit / 2, 0, limit / 2, limit],
        range=list(DIVERGING),
        clamp=True,
        interpolate="rgb",
    )
    legend = alt.Legend(orient="top", gradientLength=220, gradientThickness=10, labelExpr=SIGNED, titleLimit=300)
    base = alt.Chart(inline(rows)).encode(
        x=x,
        x2="next:Q",
        y=y,
        y2="under:Q",
        tooltip=["name:N", "step:Q", alt.Tooltip("decades:Q", format="+.2f"), alt.Tooltip("odd:N", title="or")],
    )
    colour = alt.Color("decades:Q", title="decades from the row's median", scale=scale, legend=legend)
    layers = [base.transform_filter("isValid(datum.decades)").mark_rect().encode(color=colour)]
    layers += [
        base.transform_filter(alt.datum.odd == word).mark_rect(color=ink)
        for word, ink in ODD.items()
        if any(row["odd"] == word for row in rows)
    ]
    borders = [{"row": first} for first in stages if first]
    rule = alt.Chart(inline(borders)).mark_rule(color=QUIET, strokeWidth=0.7).encode(y="row:Q")
    chart = alt.layer(*layers, *([rule] if borders else []))
    return chart.properties(width=340, height=height, **({"title": title} if title else {}))


def _marks(groups: list[Group], along: Depth, findings: Sequence[FindingRecord]) -> list[Any]:
    """In the margin, beside the rows of blocks that a finding names."""
    rows: list[Row] = []
    for finding in findings:
        places = [place for place, name in enumerate(along.names) if finding.where and named(finding.where, name)]
        for place, group in enumerate(groups):
            if any(group.first <= found <= group.last for found in places):
                glyph, ink = GLYPHS[finding.severity]
                told = {"finding": finding.id, "sentence": finding.sentence, "where": finding.where}
                rows.append({"row": place + 0.5, "glyph": glyph, "ink": ink, **told})
    drawn = []
    for mark_ink in dict.fromkeys(str(row["ink"]) for row in rows):
        marks = alt.Chart(inline([row for row in rows if row["ink"] == mark_ink]))
        text = marks.mark_text(align="left", baseline="middle", fontSize=13, fontWeight="bold", color=mark_ink)
        tooltip = ["finding:N", "where:N", "sentence:N"]
        drawn.append(text.encode(x=alt.value("width"), y="row:Q", text="glyph:N", tooltip=tooltip))
    return drawn


def named(where: str, name: str) -> bool:
    """Whether a finding's place is this place, or lies in it.

    Example:
        >>> named("layer1.0.conv1", "layer1.0"), named("layer1.01", "layer1.0")
        (True, False)
    """
    return where == name or where.startswith(f"{name}.")


def _twin(along: Depth, readings: Sequence[ReadingRecord]) -> list[Row]:
    table = norms_over_time(along, readings)
    return [
        {"index": place, "name": along.names[place]}
        | {f"step_{reading.step}": row[column] for column, reading in enumerate(readings)}
        for place, row in enumerate(table)
    ]


# ---- in words


def heatmap_caption(along: Depth, readings: Sequence[ReadingRecord], cells: list[list[float | str]]) -> str:
    """Where the gradient moved most, and whether anything was 0 or not finite."""
    ends = f"steps {readings[0].step:,} to {readings[-1].step:,}, {len(readings)} readings"
    moved = []
    for name, row in zip(along.names, norms_over_time(along, readings), strict=True):
        measured = [norm for norm in row if norm is not None and is_measured(norm)]
        if len(measured) > 1:
            moved.append((max(measured) / min(measured), name))
    sentences = []
    if moved:
        factor, name = max(moved)
        typical = statistics.median(found for found, _ in moved)
        sentences.append(
            f"Over {ends}, the gradient of the median {along.unit} moved {ratio(typical)}-fold between its extremes,"
            f" that of {name} most: {ratio(factor)}-fold."
        )
    for word in ("exactly 0", "not finite"):
        count = sum(word in row for row in cells)
        if count:
            sentences.append(f"In {count} of {len(cells)} {along.unit}s it was {word} at some step.")
    return " ".join(sentences) or f"No gradient that can be measured was read ({ends})."
