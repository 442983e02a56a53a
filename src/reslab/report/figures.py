"""A chart together with what it says and the numbers behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from reslab.records import RunFolder, first_and_last
from reslab.report.captions import curves_caption, flow_caption, steps_caption
from reslab.report.curves import learning_curves
from reslab.report.flow import gradient_flow
from reslab.report.steps import loss_and_lr
from reslab.report.tables import Table, curves_table, flow_table, steps_table


@dataclass(frozen=True)
class Figure:
    """A chart, what it says, and the numbers behind it. Without a chart the caption says why there is none.

    Args:
        key: names it inside the page.
        title: its heading.
        caption: its conclusion, computed from the records.
        spec: Vega-Lite, or None.
        tables: its numbers.
    """

    key: str
    title: str
    caption: str
    spec: dict[str, Any] | None
    tables: list[Table]


def curves_figure(runs: Sequence[RunFolder]) -> Figure:
    """Error against epoch."""
    key, title = "curves", "Learning curves"
    epochs = {run: run.read_epochs() for run in runs}
    finished = {run.name: records for run, records in epochs.items() if records}
    if not finished:
        return Figure(key, title, "No epoch was finished, so there is no curve to draw.", None, [])
    caption = curves_caption(runs, epochs)
    return Figure(key, title, caption, spec_of(learning_curves(runs), caption), [curves_table(finished)])


def flow_figure(runs: Sequence[RunFolder]) -> Figure:
    """Gradient against block."""
    key, title = "flow", "Gradient flow, from the loss back to the input"
    read = {run: first_and_last(run.read_readings()) for run in runs}
    readings = {run: ends for run, ends in read.items() if ends[0]}
    if not readings:
        return Figure(key, title, "No gradient was recorded block by block, so there is nothing to draw.", None, [])
    caption = flow_caption(runs, readings)
    tables = [flow_table(run.name, first, last) for run, (first, last) in readings.items()]
    return Figure(key, title, caption, spec_of(gradient_flow(runs), caption), tables)


def steps_figure(run: RunFolder) -> Figure:
    """Loss, gradient norm and learning rate against step."""
    key, title = "steps", "Step by step"
    steps = run.read_steps()
    if not steps:
        return Figure(key, title, "No step was taken, so there is nothing to draw.", None, [])
    caption = steps_caption(steps)
    return Figure(key, title, caption, spec_of(loss_and_lr(run), caption), [steps_table(steps)])


def spec_of(chart: alt.TopLevelMixin, caption: str) -> dict[str, Any]:
    """The chart for a page; ``caption`` is what a screen reader says about the chart."""
    return {**chart.to_dict(), "description": caption}
