"""The flow strip: the gradient at each block, from the loss back to the input."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import altair as alt

from reslab.errors import RequestError
from reslab.records import RunFolder
from reslab.report.portraits import RAMPS, Portrait, are_paired, portraits
from reslab.report.theme import (
    ALARM,
    FEW_DOTS,
    PANEL_HEIGHT,
    QUIET,
    Ink,
    Panel,
    Row,
    count_axis,
    ink_of,
    log_ticks,
    side_by_side,
)

START, END = "first reading", "last reading"
RAIL = 30
"""Height in pixels of a rail: the strip for readings that a logarithmic axis has no place for."""
AXIS_TITLE = "\u2190 input" + "\u00a0" * 4 + "block, in order of execution" + "\u00a0" * 4 + "loss \u2192"


@dataclass(frozen=True)
class Frame:
    """The vertical axis that all panels share.

    Args:
        low: exponent of ten at the bottom of the axis.
        high: exponent of ten at its top.
        zeros: whether a rail for exact zeros lies below it.
        others: whether a rail for readings that are not finite lies above it.
    """

    low: int
    high: int
    zeros: bool
    others: bool


def gradient_flow(runs: Sequence[RunFolder]) -> alt.TopLevelMixin:
    """The gradient that arrives at each block, on a logarithmic axis; the input left, the loss right.

    The first reading is dashed, the last one solid. One panel for each pair of twins, or for each run where there are
    none. Nothing is clamped: readings of exactly 0 and readings that are not finite have rails of their own.

    Raises:
        RequestError: if no run was probed.
    """
    groups = _panels(portraits(runs))
    panels = {title: [row for face in faces for row in _flow_rows(face)] for title, faces in groups.items()}
    panels = {title: rows for title, rows in panels.items() if rows}
    if not panels:
        raise RequestError(f"No gradient was read in {', '.join(run.name for run in runs)}: train with probes.")
    frame = _frame([row["grad_norm"] for rows in panels.values() for row in rows])
    ink = ink_of([face for faces in groups.values() for face in faces], solid=END, dashed=START)
    charts = [_flow_panel(rows, ink, title=title, frame=frame) for title, rows in panels.items()]
    return side_by_side(charts, ink, columns=3)


def _panels(faces: list[Portrait]) -> dict[str, list[Portrait]]:
    """What stands on each panel: twins of one depth, where only the family tells lines apart, or a run by itself."""
    panels: dict[str, list[Portrait]] = {}
    twins = [(face, face.twin) for face in faces if face.twin]
    if not are_paired(twin for _, twin in twins):
        for face in faces:
            panels.setdefault(face.run.name, []).append(face)
        return panels
    for face, twin in sorted(twins, key=lambda pair: (pair[1].depth, pair[1].variant)):
        looks = replace(face, label=twin.family, colour=RAMPS[twin.family][1])
        panels.setdefault(f"{twin.depth} layers{twin.variant}", []).append(looks)
    return panels


def _flow_rows(face: Portrait) -> list[Row]:
    readings = face.run.read_readings()
    ends = (
        [(START, readings[0]), (END, readings[-1])][: len(readings)] if readings else []
    )  # a single reading is drawn once
    return [
        {
            "run": face.run.name,
            "label": face.label,
            "line": line,
            **vars(norm),
        }
        for line, reading in ends
        for norm in reading.block_norms()
    ]


def _frame(norms: list[float]) -> Frame:
    exponents = [math.log10(norm) for norm in norms if math.isfinite(norm) and norm > 0] or [0.0]
    low = math.floor(min(exponents))
    high = max(math.ceil(max(exponents)), low + 1)
    return Frame(low, high, zeros=0 in norms, others=not all(map(math.isfinite, norms)))


def _flow_panel(rows: list[Row], ink: Ink, *, title: str, frame: Frame) -> Panel:
    measured = [_for_log_axis(row) for row in rows]
    places = [row["index"] for row in rows]
    base = alt.Chart(alt.InlineData(values=measured)).encode(
        x=count_axis("index:Q", places, title=AXIS_TITLE),
        y=_gradient_axis(frame),
        color=ink.colour,
        opacity=ink.fade,
        detail="run:N",
        tooltip=["run:N", "line:N", "step:Q", "block:N", "index:Q", alt.Tooltip("grad_norm:Q", format=".3~e")],
    )
    lines = base.mark_line().encode(strokeDash=ink.dash, strokeWidth=ink.width)
    few = len(set(places)) <= FEW_DOTS
    dots = base.transform_filter("isValid(datum.grad_norm)").mark_circle(size=22 if few else 6)
    rails = []
    if frame.zeros:
        zeros = [row for row in rows if row["grad_norm"] == 0]
        rails.append(_rail(zeros, ink, text="exactly 0", y=PANEL_HEIGHT - RAIL / 2, shape="triangle-down"))
    if frame.others:
        others = [row for row in rows if not math.isfinite(row["grad_norm"])]
        rails.append(_rail(others, ink, text="not finite", y=RAIL / 2, shape="cross"))
    layers = [*_stage_borders(rows), lines, dots, *rails]
    return alt.layer(*layers).properties(title=title, width=290, height=PANEL_HEIGHT)


def _for_log_axis(row: Row) -> Row:
    """Five digits, or a gap in the line where the axis has no place for the value: its rail shows it."""
    norm = row["grad_norm"]
    return row | {"grad_norm": float(f"{norm:.5g}") if math.isfinite(norm) and norm > 0 else None}


def _gradient_axis(frame: Frame) -> alt.Y:
    low, high = 10.0**frame.low, 10.0**frame.high
    scale = alt.Scale(
        type="log",
        domain=[low, high],
        rangeMin=PANEL_HEIGHT - (RAIL if frame.zeros else 0),
        rangeMax=RAIL if frame.others else 0,
        nice=False,
    )
    return alt.Y("grad_norm:Q", title="gradient norm at the block's input", scale=scale, axis=log_ticks(low, high))


def _rail(rows: list[Row], ink: Ink, *, text: str, y: float, shape: str) -> Panel:
    """A strip with its name where the axis has its labels, and one mark for each reading that belongs there."""
    line = alt.Chart(alt.InlineData(values=[{}])).mark_rule(color=QUIET, strokeDash=[1, 3]).encode(y=alt.value(y))
    name = alt.Chart(alt.InlineData(values=[{}])).mark_text(
        align="right", baseline="middle", color=ALARM, fontWeight="bold"
    )
    named = name.encode(x=alt.value(-8), y=alt.value(y), text=alt.value(text))
    described = [row | {"grad_norm": None, "reading": text} for row in rows]
    marks = alt.Chart(alt.InlineData(values=described)).mark_point(shape=shape, filled=True, size=60)
    placed = marks.encode(
        x="index:Q",
        y=alt.value(y),
        color=ink.colour,
        opacity=ink.fade,
        tooltip=["run:N", "line:N", "step:Q", "block:N", "index:Q", "reading:N"],
    )
    return alt.layer(line, named, *([placed] if rows else []))


def _stage_borders(rows: list[Row]) -> list[alt.Chart]:
    """Thin rules between stages, and the stages' names above the panel; nothing where names have no stage."""
    stages: dict[str, list[int]] = {}
    for row in rows:
        if match := re.search(r"(?:^|\.)layer(\d+)\.", row["block"]):
            stages.setdefault(match[1], []).append(row["index"])
    if not stages:
        return []
    names = [{"index": (min(at) + max(at)) / 2, "stage": f"stage {stage}"} for stage, at in stages.items()]
    borders = [{"index": max(at) + 0.5} for at in stages.values() if max(at) < max(row["index"] for row in rows)]
    rules = alt.Chart(alt.InlineData(values=borders)).mark_rule(color="#B0B0B0").encode(x="index:Q")
    labels = alt.Chart(alt.InlineData(values=names)).mark_text(baseline="bottom", color=QUIET, fontSize=11)
    return [rules, labels.encode(x="index:Q", y=alt.value(-4), text="stage:N")]
