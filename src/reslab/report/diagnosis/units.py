"""The strip of units that do nothing: dead rectifiers, and values where a sigmoid or tanh is flat."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import altair as alt

from reslab.records import ActivationRecord, DepthRecord, ReadingRecord
from reslab.report.diagnosis.axes import MARGIN, WIDTH, inline, number
from reslab.report.diagnosis.palette import BRANCH, LINE, OTHER
from reslab.report.diagnosis.picture import Picture
from reslab.report.theme import Row, dress

KEY, TITLE = "units", "Dead and saturated units"
HEIGHT = 120
INNER, JOINED, SATURATED = "dead, inside a branch or before", "dead, after an addition", "saturated"
INKS = {INNER: BRANCH, JOINED: LINE, SATURATED: OTHER}
LEAST_TOP = 0.1
"""The axis goes up to it at least, so that one dead unit of many doesn't look like all."""
NOTES = (
    "Of a rectifier: the share of channels that no position of any sample in the batch made active; of sigmoid and"
    " tanh: the share of values where less than 6 % of the gradient comes through."
)


def unit_strip(readings: Sequence[ReadingRecord], depth: DepthRecord | None = None) -> Picture:
    """The last reading's activations, in order of execution; nothing is drawn where every unit works.

    Args:
        readings: of one network; at least one.
        depth: not drawn here.
    """
    units = [unit for unit in readings[-1].activations if math.isfinite(unit.share)]
    rows = [unit_row(place, unit) for place, unit in enumerate(units)]
    if not any(row["share"] for row in rows):
        return Picture(KEY, TITLE, unit_caption(rows), None, rows)
    return Picture(
        KEY, TITLE, unit_caption(rows), dress(alt.vconcat(_panel(rows)), legend_columns=3), rows, notes=NOTES
    )


def unit_row(place: int, unit: ActivationRecord) -> Row:
    """The numbers behind it."""
    dead = JOINED if unit.follows_addition else INNER
    return {
        "index": place,
        "name": unit.name or unit.kind,
        "kind": unit.kind,
        "what": dead if unit.kind == "Relu" else SATURATED,
        "share": unit.share,
        "units": unit.num_channels,
    }


def _panel(rows: list[Row]) -> Any:
    last = len(rows) - 1
    drawn = [
        {**row, "share": round(row["share"], 4), "left": row["index"] - 0.42, "right": row["index"] + 0.42}
        for row in rows
        if row["share"]
    ]
    kinds = [what for what in INKS if any(row["what"] == what for row in rows)]
    inks = alt.Scale(domain=kinds, range=[INKS[what] for what in kinds])
    x = alt.X(
        "left:Q",
        title="\u2190 input\u2003\u2003activation, in order of execution\u2003\u2003loss \u2192",
        scale=alt.Scale(domain=[-0.5, last + 0.5], nice=False),
        axis=alt.Axis(tickMinStep=1, tickCount=6, format=",d", grid=False),
    )
    y = alt.Y(
        "share:Q",
        title=["share of", "units"],
        scale=alt.Scale(domain=[0, max(LEAST_TOP, *(row["share"] for row in drawn))], nice=True),
        axis=alt.Axis(format="%", tickCount=4, minExtent=MARGIN - 18, maxExtent=MARGIN - 18),
    )
    bars = alt.Chart(inline(drawn)).mark_bar(tooltip=True)
    return bars.encode(
        x=x,
        x2="right:Q",
        y=y,
        y2=alt.datum(0),
        color=alt.Color("what:N", title=None, scale=inks, legend=alt.Legend(orient="top", symbolType="square")),
        tooltip=["name:N", "kind:N", "what:N", number("share", "share of its units"), number("units", "units")],
    ).properties(width=WIDTH, height=HEIGHT)


# ---- in words


def unit_caption(rows: Sequence[Row]) -> str:
    """How many there are in all, and where they are most."""
    if not rows:
        return "No rectifier, sigmoid or tanh was seen."
    return " ".join(filter(None, (_dead_words(rows), _saturated_words(rows))))


def _dead_words(rows: Sequence[Row]) -> str:
    rows = [row for row in rows if row["what"] != SATURATED]
    if not rows:
        return ""
    units, dead = sum(row["units"] for row in rows), sum(round(row["share"] * row["units"]) for row in rows)
    if not dead:
        return (
            f"None of the {units:,} channels of {len(rows):,} rectifier{'s' * (len(rows) != 1)} is dead in this batch."
        )
    worst = max(rows, key=lambda row: row["share"])
    joined = sum(round(row["share"] * row["units"]) for row in rows if row["what"] == JOINED)
    where = f", {joined:,} of them after an addition" if joined else ""
    return (
        f"{dead:,} of {units:,} channels of rectifiers ({dead / units:.1%}) are dead in this batch{where}; most at"
        f" {worst['name']}: {worst['share']:.0%} of {worst['units']:,}."
    )


def _saturated_words(rows: Sequence[Row]) -> str:
    rows = [row for row in rows if row["what"] == SATURATED]
    if not rows:
        return ""
    worst = max(rows, key=lambda row: row["share"])
    if not worst["share"]:
        return f"None of {len(rows):,} sigmoids and tanhs is saturated."
    return f"Of the values of sigmoids and tanhs, most are saturated at {worst['name']}: {worst['share']:.0%}."
