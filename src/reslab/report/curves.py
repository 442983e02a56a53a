"""Learning curves: error against epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import altair as alt

from reslab.errors import RequestError
from reslab.records import RunFolder
from reslab.report.portraits import Family, Portrait, portraits
from reslab.report.theme import FEW_DOTS, PANEL_HEIGHT, Ink, Panel, Row, count_axis, ink_of, side_by_side

TITLES: dict[Family, str] = {"plain": "Plain: no shortcuts", "residual": "Residual: with shortcuts"}
VALIDATION, TRAINING = "validation", "training (as it ran)"


def learning_curves(runs: Sequence[RunFolder]) -> alt.TopLevelMixin:
    """Error in percent against epoch: validation solid, training as it ran dashed; plain left, residual right.

    The training error is of the epoch's own augmented batches, taken while the weights moved: the clean one stands in
    the table of results. Epochs are counted from 1, as people do.

    Raises:
        RequestError: if no run has finished an epoch.

    Reference:
        He et al. 2015, arXiv:1512.03385, Figure 6.
    """
    faces = portraits(runs)
    panels: dict[str, list[Row]] = {title: [] for title in TITLES.values()}
    for face in faces:
        panels.setdefault(TITLES[face.twin.family] if face.twin else "", []).extend(_error_rows(face))
    panels = {title: rows for title, rows in panels.items() if rows}
    if not panels:
        raise RequestError(f"No run has finished an epoch yet: {', '.join(run.name for run in runs)}.")
    end = _axis_end([row for rows in panels.values() for row in rows])
    ink = ink_of(faces, solid=VALIDATION, dashed=TRAINING)
    alone = len(panels) == 1
    charts = [_error_panel(rows, ink, title="" if alone else title, end=end) for title, rows in panels.items()]
    return side_by_side(charts, ink, columns=2)


def _error_rows(face: Portrait) -> list[Row]:
    rows: list[Row] = []
    for record in face.run.read_epochs():
        for line, error in ((VALIDATION, record.scores.get("val_error")), (TRAINING, record.scores.get("train_error"))):
            if error is not None and math.isfinite(error):
                row = {"run": face.run.name, "label": face.label, "line": line, "epoch": record.epoch + 1}
                rows.append(row | {"error": round(100 * error, 4)})
    return rows


def _axis_end(rows: list[Row]) -> float:
    """Where the error axis ends: the first epochs may lie above it if they would flatten everything after them."""
    highest: float = max(row["error"] for row in rows)
    beginning = max(row["epoch"] for row in rows) / 5
    settled: float = max((row["error"] for row in rows if row["epoch"] > beginning), default=highest)
    end = 1.15 * settled if highest > 2 * settled else highest
    return min(100.0, 5.0 * math.ceil(max(end, 1) / 5))


def _error_panel(rows: list[Row], ink: Ink, *, title: str, end: float) -> Panel:
    cut = f", above {end:g} not shown" if max(row["error"] for row in rows) > end else ""
    epochs = [row["epoch"] for row in rows]
    base = alt.Chart().encode(
        x=count_axis("epoch:Q", epochs, title="epoch"),
        y=alt.Y("error:Q", title=f"error (%{cut})", scale=alt.Scale(domain=[0, end])),
        color=ink.colour,
        opacity=ink.fade,
        detail="run:N",
        tooltip=["run:N", "line:N", "epoch:Q", alt.Tooltip("error:Q", title="error (%)", format=".2f")],
    )
    lines = base.mark_line(clip=True).encode(strokeDash=ink.dash, strokeWidth=ink.width)
    few = len(set(epochs)) <= FEW_DOTS
    dots = base.mark_circle(clip=True, size=24).encode(opacity=ink.fade if few else alt.value(0))
    layers = alt.layer(lines, dots, data=alt.InlineData(values=rows))
    return layers.properties(title=title, width=420, height=PANEL_HEIGHT)
