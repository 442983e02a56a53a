"""Updates: how far a step of the optimiser moves each parameter, compared with its size."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import altair as alt

from reslab.records import ReadingRecord
from reslab.report import _chart as ch
from reslab.report._style import BLUE, INK, OTHER, QUIET
from reslab.report.figure import DataRow, Figure
from reslab.report.profile import is_measured
from reslab.report.text import plural

KEY, TITLE = "updates", "Update over weight"
HEIGHT = 220
USUAL, TYPICAL = (1e-5, 1e-2), 1e-3
"""Between what the median of healthy trainings lies, and about where."""
KINDS = {"weight": BLUE, "bias or gain": OTHER}
NOTES = (
    "Norm of a step's change over the norm of the parameter, at the highest rate that was read; the change includes"
    " momentum, weight decay and the rate. Round: weights; square: biases and gains, of one dimension. Without a ratio"
    " are parameters that did not move, are 0, or are not finite."
)


def updates_figure(readings: Sequence[ReadingRecord]) -> Figure:
    """Draw the step at the highest rate of those that were read, parameter by parameter; of several, the last.

    At the end of most schedules nothing moves any more, which is not a problem.
    """
    found = [(reading, rows) for reading in readings if (rows := update_rows(reading))]
    if not found:
        why = "no step of an optimiser was seen: watch a training with its optimiser"
        return Figure(KEY, TITLE, f"No updates to draw, because {why}.")
    reading, rows = max(found, key=lambda pair: (pair[0].update.lr if pair[0].update else 0.0, pair[0].step))
    return Figure(KEY, TITLE, update_caption(rows, reading.step), ch.arrange([_panel(rows)]), rows, NOTES)


def update_rows(reading: ReadingRecord) -> list[DataRow]:
    """One row for each parameter that a step was seen of; the ratio is NaN where there is none."""
    return [
        {"index": place, "name": each.name, "kind": "weight" if len(each.shape) > 1 else "bias or gain"}
        | {"update_norm": update, "weight_norm": each.weight_norm}
        | {"ratio": update / each.weight_norm if is_measured(update) and is_measured(each.weight_norm) else math.nan}
        for place, each in enumerate(reading.parameters)
        if (update := each.update_norm) is not None and not math.isnan(update)
    ]


def _panel(rows: list[DataRow]) -> ch.Panel:
    known = [row for row in rows if is_measured(row["ratio"])]
    odd = [row for row in rows if not is_measured(row["ratio"])]
    ratios = [*(row["ratio"] for row in known), *USUAL]
    low, high = 10.0 ** math.floor(math.log10(min(ratios))), 10.0 ** math.ceil(math.log10(max(ratios)))
    ends = {"rangeMin": HEIGHT - (ch.RAIL if odd else 0), "rangeMax": 0}
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
        layers.append(ch.rail("no ratio", HEIGHT - ch.RAIL / 2, odd, shape="triangle-down", color=QUIET))
    return ch.panel(layers, height=HEIGHT)


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
