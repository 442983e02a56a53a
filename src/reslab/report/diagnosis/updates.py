"""The update strip: how far a step of the optimiser moves each parameter, against its size."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import altair as alt

from reslab.records import DepthRecord, ParameterRecord, ReadingRecord
from reslab.report.diagnosis.axes import MARGIN, RAIL, WIDTH, inline, number, rail
from reslab.report.diagnosis.palette import LINE, TWIN
from reslab.report.diagnosis.picture import Picture
from reslab.report.theme import ALARM, INK, Row, dress

KEY, TITLE = "updates", "Update over weight"
HEIGHT = 220
TARGET = -3.0
USUAL = (-5.0, -2.0)
"""Decades between which the median of healthy trainings lies."""
KINDS = {"weight": LINE, "bias or gain": TWIN}
NOTES = (
    "log10 of the norm of a step's change over the norm of the parameter, at the highest rate that was read; the change"
    " includes momentum, weight decay and the rate. Round: weights; square: biases and gains, of one dimension. Around"
    " -3 is usual."
)


def update_strip(readings: Sequence[ReadingRecord], depth: DepthRecord | None = None) -> Picture:
    """The step at the highest rate of those that were read, parameter by parameter; of several, the last.

    At the end of most schedules nothing moves any more, which is no illness.

    Args:
        readings: of one network; at least one.
        depth: not drawn here.
    """
    stepped = [reading for reading in readings if any(update_of(each) is not None for each in reading.parameters)]
    if not stepped:
        why = "no step of an optimiser was seen: watch a training with its optimiser"
        return Picture(KEY, TITLE, f"No updates to draw, because {why}.", None)
    reading = max(stepped, key=lambda reading: (reading.update.lr if reading.update else 0.0, reading.step))
    rows = [row for place, each in enumerate(reading.parameters) if (row := update_row(place, each))]
    chart = dress(alt.vconcat(_panel(rows)), legend_columns=2)
    return Picture(KEY, TITLE, update_caption(rows, reading.step), chart, rows, notes=NOTES)


def update_of(parameter: ParameterRecord) -> float | None:
    """L2 of what the step changed, where it was seen."""
    value: float | None = getattr(parameter, "update_norm", None)
    return value if value is not None and not math.isnan(value) else None


def update_row(place: int, parameter: ParameterRecord) -> Row | None:
    """The numbers behind it; None for a parameter that no step was seen of."""
    update = update_of(parameter)
    if update is None:
        return None
    weight = parameter.weight_norm
    decades = math.log10(update / weight) if 0 < update < math.inf and 0 < weight < math.inf else math.nan
    kind = "weight" if len(parameter.shape) > 1 else "bias or gain"
    return {
        "index": place,
        "name": parameter.name,
        "kind": kind,
        "update_norm": update,
        "weight_norm": weight,
        "decades": decades,
    }


def _panel(rows: list[Row]) -> Any:
    known = [{**row, "decades": round(row["decades"], 3)} for row in rows if math.isfinite(row["decades"])]
    values = [row["decades"] for row in known] or [TARGET]
    domain = [math.floor(min(*values, USUAL[0])), math.ceil(max(*values, USUAL[1]))]
    last = max(row["index"] for row in rows)
    odd = [row for row in rows if not math.isfinite(row["decades"])]
    y = alt.Y(
        "decades:Q",
        title="log10(update / weight)",
        scale=alt.Scale(domain=domain, nice=False, zero=False, rangeMin=HEIGHT - (RAIL if odd else 0), rangeMax=0),
        axis=alt.Axis(tickMinStep=1, format="d", minExtent=MARGIN - 18, maxExtent=MARGIN - 18),
    )
    x = alt.X(
        "index:Q",
        title="\u2190 input\u2003\u2003parameter, in order of definition\u2003\u2003loss \u2192",
        scale=alt.Scale(domain=[-0.5, last + 0.5], nice=False),
        axis=alt.Axis(tickMinStep=1, tickCount=6, format=",d", grid=False),
    )
    inks = alt.Scale(domain=list(KINDS), range=list(KINDS.values()))
    shapes = alt.Scale(domain=list(KINDS), range=["circle", "square"])
    legend = alt.Legend(orient="top", symbolSize=80)
    dots = alt.Chart(
        inline([{key: row[key] for key in ("index", "name", "kind", "decades")} for row in known])
    ).mark_point(filled=True, size=34 if len(rows) < 300 else 10, opacity=0.9)
    placed = dots.encode(
        x=x,
        y=y,
        color=alt.Color("kind:N", title=None, scale=inks, legend=legend),
        shape=alt.Shape("kind:N", title=None, scale=shapes, legend=legend),
        tooltip=["name:N", "kind:N", number("decades", "log10(update/weight)")],
    )
    target = alt.Chart(inline([{"decades": TARGET}])).mark_rule(color=INK, strokeDash=[5, 3])
    words = alt.Chart(inline([{"words": "about -3 is usual", "decades": TARGET}])).mark_text(
        align="right", baseline="bottom", color=INK, fontSize=12, dx=-6, dy=-3
    )
    named = words.encode(x=alt.value("width"), y="decades:Q", text="words:N")
    return alt.layer(target.encode(y="decades:Q"), placed, named, *_rail(odd)).properties(width=WIDTH, height=HEIGHT)


def _rail(odd: list[Row]) -> list[Any]:
    """Parameters that did not move, or that are 0 or not finite."""
    if not odd:
        return []
    return [rail("no ratio", HEIGHT - RAIL / 2, {ALARM: odd}, shape="triangle-down")]


def update_caption(rows: Sequence[Row], step: int) -> str:
    """Where the median lies, the extremes, and what did not move."""
    known = [row for row in rows if math.isfinite(row["decades"])]
    weights = [row["decades"] for row in known if row["kind"] == "weight"] or [row["decades"] for row in known]
    if not weights:
        return f"At step {step:,} no parameter moved by an amount that can be compared with its size."
    middle, low, high = statistics.median(weights), min(known, key=_decades), max(known, key=_decades)
    judged = "as usual" if USUAL[0] <= middle <= USUAL[1] else "outside the usual 1e-05 to 0.01"
    still = sum(row["update_norm"] == 0 for row in rows)
    return (
        f"At step {step:,} the median weight moves by {10**middle:.2g} of itself, {judged}; least {low['name']}"
        f" ({10 ** low['decades']:.2g}), most {high['name']} ({10 ** high['decades']:.2g})."
        + (f" {still} of {len(rows)} parameters did not move." if still else "")
    )


def _decades(row: Row) -> float:
    return float(row["decades"])
