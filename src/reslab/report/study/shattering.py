"""How long the gradient at the input stays the same, before training and after it, network by network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import altair as alt

from reslab.records import DepthRecord, RunFolder, ShatteringRecord
from reslab.report.figures import Figure, spec_of
from reslab.report.portraits import Portrait, portraits
from reslab.report.tables import Table
from reslab.report.theme import PANEL_HEIGHT, Ink, Panel, Row, ink_of, log_ticks, side_by_side

START, END = "before the first step", "after the last step"
MOMENTS = {"start": START, "end": END}


def depth_figure(runs: Sequence[RunFolder]) -> Figure:
    """Cosine between the gradient at an image and the gradient a little way towards another image.

    Reference:
        Balduzzi et al. 2017, arXiv:1702.08591 (the effect; the curve is ours).
    """
    key, title = "shattering", "Shattering: how far the gradient at the input stays itself"
    faces = [face for face in portraits(runs) if face.run.read_depth()] if runs else []
    panels: dict[str, list[Row]] = {}
    for face in faces:
        if rows := shattering_rows(face):
            panels.setdefault(face.twin.family if face.twin else face.run.name, []).extend(rows)
    if not panels:
        tables = [table_of(faces)] if faces else []
        return Figure(key, title, "Shattering wasn't measured, so there is nothing to draw.", None, tables)
    ink = ink_of(faces, solid=END, dashed=START)
    charts = [panel(rows, ink, title="" if len(panels) == 1 else name) for name, rows in panels.items()]
    caption = caption_of(faces)
    return Figure(key, title, caption, spec_of(side_by_side(charts, ink, columns=2), caption), [table_of(faces)])


def shattering_rows(face: Portrait) -> list[Row]:
    """One row for each distance, at the start and at the end."""
    rows = []
    for moment, record in face.run.read_depth().items():
        if record.shattering:
            for distance, cosine in zip(record.shattering.distances, record.shattering.similarities, strict=True):
                row = {"run": face.run.name, "label": face.label, "line": MOMENTS[moment], "distance": distance}
                rows.append(row | {"cosine": round(cosine, 4)})
    return rows


def panel(rows: list[Row], ink: Ink, *, title: str) -> Panel:
    """One family's networks."""
    low, high = min(row["distance"] for row in rows), max(row["distance"] for row in rows)
    x = alt.X(
        "distance:Q",
        title="way to another image, as a share",
        scale=alt.Scale(type="log", domain=[low, high], nice=False),
        axis=log_ticks(low, high),
    )
    y = alt.Y("cosine:Q", title="cosine with the gradient at the image", scale=alt.Scale(domain=[-1, 1]))
    base = alt.Chart(alt.InlineData(values=rows)).encode(
        x=x,
        y=y,
        color=ink.colour,
        opacity=ink.fade,
        detail="run:N",
        tooltip=["run:N", "line:N", "distance:Q", "cosine:Q"],
    )
    lines = base.mark_line(clip=True).encode(strokeDash=ink.dash, strokeWidth=ink.width)
    half = alt.Chart(alt.InlineData(values=[{"cosine": 0.5}])).mark_rule(color="#B0B0B0").encode(y="cosine:Q")
    return alt.layer(half, lines).properties(title=title, width=340, height=PANEL_HEIGHT)


def caption_of(faces: Sequence[Portrait]) -> str:
    """How far each deepest network of a family stays itself, at both ends."""
    deepest: dict[str, Portrait] = {}
    for face in faces:
        if face.twin and (face.twin.family not in deepest or face.twin.depth > depth_in(deepest[face.twin.family])):
            deepest[face.twin.family] = face
    sentences = [
        f"{face.label}: the cosine falls below a half {far(record['start'].shattering)} before training and"
        f" {far(record['end'].shattering)} after it."
        for face in deepest.values()
        if {"start", "end"} <= set(record := face.run.read_depth())
    ]
    return (
        " ".join(sentences) or "Where a line falls early, the gradient at one image says little about its neighbours."
    )


def depth_in(face: Portrait) -> int:
    """Of the network."""
    return face.twin.depth if face.twin else 0


def far(record: ShatteringRecord | None) -> str:
    """Where the cosine falls below a half, in words."""
    if record is None:
        return "at an unknown distance"
    if math.isinf(record.half):
        return "nowhere on the way"
    first = record.half <= record.distances[0]
    return f"{'within' if first else 'after'} {100 * record.half:.2g}\N{NO-BREAK SPACE}% of the way"


def table_of(faces: Sequence[Portrait]) -> Table:
    """Half distances and effective depths."""
    rows = []
    for face in faces:
        found = face.run.read_depth()
        cells = [face.run.name]
        for moment in MOMENTS:
            cells += [half_in(found.get(moment)), effective_in(found.get(moment), face)]
        rows.append(cells)
    names = ["half distance", "effective depth"]
    return Table("", ["run", *(f"{name}, {moment}" for moment in MOMENTS.values() for name in names)], rows)


def half_in(record: DepthRecord | None) -> str:
    """A cell: the half distance."""
    if record is None or record.shattering is None:
        return "not measured"
    return "nowhere" if math.isinf(record.shattering.half) else f"{record.shattering.half:.2g}"


def effective_in(record: DepthRecord | None, face: Portrait) -> str:
    """A cell: the effective depth. A plain network has one path."""
    if record is None or record.paths is None:
        return "one path" if face.twin and face.twin.family == "plain" else "not measured"
    return f"{record.paths.effective:.1f} of {len(record.paths.energies) - 1} branches"
