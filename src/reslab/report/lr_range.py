"""The chart of a learning-rate range test."""

from __future__ import annotations

import math
from typing import Literal

import altair as alt

from reslab.errors import RequestError
from reslab.records import RangeRecord
from reslab.report.portraits import OKABE_ITO
from reslab.report.theme import ALARM, CARD, FULL_WIDTH, INK, QUIET, Row, dress, log_ticks

HEIGHT = 330
AIR = 0.08
"""Share of the axis that stays free above and below the mean loss."""
READ_TO = 2.0
"""The axis ends where the loss is so far above its start, in falls: the explosion at the end would flatten all else."""


def lr_range_chart(record: RangeRecord) -> alt.TopLevelMixin:
    """Loss of each batch as dots and their mean as a line, against the rate; the suggested rate is marked.

    Raises:
        RequestError: if no loss was finite.
    """
    steps = [step for step in record.steps if math.isfinite(step.loss) and math.isfinite(step.mean_loss)]
    if not steps:
        raise RequestError(f"The range test of {record.name} has no finite loss to draw. Lower --lowest.")
    low, high = loss_axis(record)
    dots: list[Row] = [{"lr": s.lr, "loss": float(f"{s.loss:.6g}")} for s in steps]
    means: list[Row] = [{"lr": s.mean_lr, "loss": float(f"{s.mean_loss:.6g}")} for s in steps]
    cut = ", above not shown" if max(row["loss"] for row in dots) > high else ""
    first, last = 0.8 * record.lowest, 1.25 * max(step.lr for step in record.steps)
    x = alt.X(
        "lr:Q",
        title="learning rate",
        scale=alt.Scale(type="log", domain=[first, last], nice=False),
        axis=log_ticks(first, last),
    )
    y = alt.Y("loss:Q", title=f"training loss{cut}", scale=alt.Scale(domain=[low, high], zero=False, nice=False))
    tooltip = [alt.Tooltip("lr:Q", format=".3~g"), alt.Tooltip("loss:Q", format=".4~g")]
    each = alt.Chart(alt.InlineData(values=dots)).mark_circle(size=22, opacity=0.45, color=QUIET, clip=True)
    line = alt.Chart(alt.InlineData(values=means)).mark_line(strokeWidth=2.4, color=OKABE_ITO[0], clip=True)
    layers = [each.encode(x=x, y=y, tooltip=tooltip), line.encode(x=x, y=y, tooltip=tooltip)]
    layers += [layer for rate, words, colour in marks(record) for layer in marked(rate, words, colour, x=x, top=high)]
    title = alt.TitleParams(f"Learning-rate range test: {record.name}", subtitle=subtitle(record), subtitleColor=QUIET)
    chart = alt.layer(*layers).properties(width=FULL_WIDTH, height=HEIGHT, title=title)
    return dress(alt.vconcat(chart))


def loss_axis(record: RangeRecord) -> tuple[float, float]:
    """From a little below the lowest loss to where the mean has risen well above its start."""
    losses = [step.loss for step in record.steps if math.isfinite(step.loss)]
    means = [step.mean_loss for step in record.steps if math.isfinite(step.mean_loss)]
    lowest, start = min(losses), max(means[: max(1, len(means) // 4)])
    fall = max(start - min(means), 0.05 * abs(start), 1e-9)
    high = min(max(losses), start + READ_TO * fall)
    high = max(high, start + AIR * fall)
    return lowest - AIR * (high - lowest), high + AIR * (high - lowest)


def marks(record: RangeRecord) -> list[tuple[float, str, str]]:
    """Rates that stand out, with words and colour; the suggested one last, so that it lies on top."""
    found = []
    if record.steepest_lr is not None and record.steepest_lr != record.lr:
        found.append((record.steepest_lr, f"falls fastest: {record.steepest_lr:.2g}", QUIET))
    if record.lr is not None:
        found.append((record.lr, f"suggested: {record.lr:.2g}", INK))
    if record.ending != "done":
        end = max(step.lr for step in record.steps)
        found.append((end, record.ending, ALARM))
    return found


def marked(rate: float, words: str, colour: str, *, x: alt.X, top: float) -> list[alt.Chart]:
    """A vertical line with a word at its upper end; at its lower one where the loss has left through the top."""
    base = alt.Chart(alt.InlineData(values=[{"lr": rate, "loss": top, "words": words}]))
    rule = base.mark_rule(color=colour, strokeWidth=1.4, strokeDash=[4, 3]).encode(x=x)
    level = 12 if colour == INK else 30 if colour == QUIET else HEIGHT - 14
    align: Literal["left", "right"] = "left" if colour == INK else "right"
    shown = {"x": x, "y": alt.value(level), "text": "words:N"}
    layers = [rule]
    for halo in (CARD, None):  # a light edge about the letters, under them
        text = base.mark_text(align=align, dx=6 if colour == INK else -6, baseline="middle", fontSize=13, color=colour)
        edge = {} if halo is None else {"stroke": alt.value(halo), "strokeWidth": alt.value(4)}
        layers.append(text.encode(**shown, **edge))
    return layers


def subtitle(record: RangeRecord) -> list[str]:
    """What was done, and the answer."""
    steps = f"{len(record.steps)} of {record.num_steps} steps"
    done = f"{steps}, {record.optimizer}, batch {record.batch_size}, seed {record.seed}"
    return [f"{done}. Dots: loss of each batch; line: their mean.", record.reason]
