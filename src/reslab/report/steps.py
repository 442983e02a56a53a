"""One run, step by step."""

from __future__ import annotations

import math

import altair as alt

from reslab.errors import RequestError
from reslab.records import RunFolder, StepRecord
from reslab.report.portraits import OKABE_ITO
from reslab.report.theme import ALARM, FULL_WIDTH, POWERS, Panel, count_axis, dress, log_ticks

MAX_POINTS = 1000
"""More points than so many are thinned out."""


def loss_and_lr(run: RunFolder) -> alt.TopLevelMixin:
    """Loss, gradient norm and learning rate of every step of one run, above each other.

    Long runs are thinned out so that the lowest and the highest value of every bin stay: no spike is lost. Steps whose
    value was not finite have a red mark at the top.

    Raises:
        RequestError: if the run has taken no step.
    """
    steps = run.read_steps()
    if not steps:
        raise RequestError(f"{run.name} has taken no step yet.")
    names = {"loss": "loss", "grad_norm": "gradient norm", "lr": "learning rate"}
    panels = [_step_panel(steps, key, title=title) for key, title in names.items()]
    return dress(alt.vconcat(*panels, spacing=14))


def _step_panel(steps: list[StepRecord], key: str, *, title: str) -> Panel:
    values = [(record.step, float(getattr(record, key))) for record in steps]
    finite = [(step, value) for step, value in values if math.isfinite(value)]
    bottom = key == "lr"
    rows = [{"step": step, "value": float(f"{value:.6g}")} for step, value in thin_out(finite)]
    line = alt.Chart(alt.InlineData(values=rows)).mark_line(strokeWidth=1.2, color=OKABE_ITO[0])
    drawn = line.encode(
        x=count_axis("step:Q", [step for step, _ in values], title="step" if bottom else None),
        y=_value_axis([value for _, value in finite], title=title, logarithmic=not bottom),
        tooltip=["step:Q", alt.Tooltip("value:Q", title=title, format=".4~g")],
    )
    bad = [{"step": step, "reading": str(value)} for step, value in values if not math.isfinite(value)][:MAX_POINTS]
    marks = alt.Chart(alt.InlineData(values=bad)).mark_point(shape="cross", filled=True, color=ALARM, size=50)
    placed = marks.encode(x="step:Q", y=alt.value(4), tooltip=["step:Q", alt.Tooltip("reading:N", title=title)])
    layers = [drawn, placed] if bad else [drawn]
    return alt.layer(*layers).properties(width=FULL_WIDTH, height=110 if bottom else 150)


def _value_axis(values: list[float], *, title: str, logarithmic: bool) -> alt.Y:
    """A logarithm has no place for 0: one value that is not positive makes the axis linear."""
    if not logarithmic or not values or min(values) <= 0:
        linear, axis = alt.Scale(type="linear", zero=True), alt.Axis(tickCount=4, labelExpr=POWERS)
        return alt.Y("value:Q", title=title, scale=linear, axis=axis)
    low, high = 0.9 * min(values), 1.1 * max(values)
    scale = alt.Scale(type="log", domain=[low, high], nice=False)
    return alt.Y("value:Q", title=title, scale=scale, axis=log_ticks(low, high))


def thin_out(points: list[tuple[int, float]], *, limit: int = MAX_POINTS) -> list[tuple[int, float]]:
    """At most ``limit`` points, among them the lowest and the highest of every bin, in their order.

    Example:
        >>> thin_out([(0, 1.0), (1, 9.0), (2, 1.0), (3, 1.0)], limit=2)
        [(0, 1.0), (1, 9.0)]
    """
    if len(points) <= limit:
        return points
    width = math.ceil(len(points) / (limit // 2))
    kept = []
    for left in range(0, len(points), width):
        in_bin = points[left : left + width]
        kept += sorted({min(in_bin, key=lambda point: point[1]), max(in_bin, key=lambda point: point[1])})
    return kept
