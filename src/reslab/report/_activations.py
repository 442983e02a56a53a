"""What the forward pass looks like along the depth: means and variances of the stream, and units that do nothing."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from reslab.records import ReadingRecord
from reslab.records.diagnosis import BlockFlowRecord
from reslab.report import _chart as ch
from reslab.report._style import BLUE, BRANCH, EXPECTED, OTHER
from reslab.report.figure import DataRow, Figure
from reslab.report.profile import stages_of
from reslab.report.text import percent, plural

HEIGHT = 120
PER_BLOCK = 1 - 1 / math.pi
"""Variance that a branch of batch norm, ReLU and a layer initialised after He adds: the variance of a rectified
standard normal, doubled."""
CONFIRMS = (0.5, 0.9)
"""A median branch variance within it bears that out."""
PANELS = {
    "mean_square": ["squared", "channel mean"],
    "stream_variance": ["variance of", "the stream"],
    "branch_variance": ["variance of", "the branch"],
}
SIGNAL_NOTES = (
    "Of the sum at each residual addition and of what its branch adds: channel means squared, and channel variances,"
    " averaged over channels. Layer responses: standard deviation of each norm layer's output before anything follows."
)
INNER, AFTER_ADDITION, SATURATED = "dead, inside a branch or before", "dead, after an addition", "saturated"
UNIT_COLOURS = {INNER: BRANCH, AFTER_ADDITION: BLUE, SATURATED: OTHER}
UNIT_NOTES = (
    "Of a rectifier: the fraction of channels that no position of any sample in the batch made active; of sigmoid and"
    " tanh: the fraction of values where less than 6 % of the gradient comes through."
)


# ---- the signal


def signal_figure(reading: ReadingRecord) -> Figure:
    """Draw the signal at each residual addition of one reading, and its layer responses.

    Reference:
        Brock et al. 2021, arXiv:2101.08692, section 3 (the plots); He et al. 2015, arXiv:1512.03385, Figure 7 (layer
        responses).
    """
    key, title = "signal", "Signal through the depth"
    rows = [_signal_row(place, block) for place, block in enumerate(reading.blocks)]
    responses: list[DataRow] = [
        {"index": place, "name": name, "std": std} for place, (name, std) in enumerate(reading.responses)
    ]
    has_stream = any(math.isfinite(row["stream_variance"]) for row in rows)
    if not has_stream and not responses:
        why = "there is no residual addition, and no norm layer whose responses could be drawn"
        return Figure(key, title, f"No signal to draw: {why}.")
    panels = [_signal_panel(reading, rows, field) for field in PANELS] if has_stream else []
    panels += [_responses_panel(responses)] if responses else []
    return Figure(
        key, title, signal_caption(reading), ch.arrange(panels), rows if has_stream else responses, SIGNAL_NOTES
    )


def _signal_row(place: int, block: BlockFlowRecord) -> DataRow:
    """The numbers of one block; NaN for what went by unseen."""
    row: DataRow = {"index": place, "name": block.name}
    row["mean_square"] = block.stream.mean_square if block.stream else math.nan
    for part in ("stream", "branch", "shortcut"):
        moments = getattr(block, part)
        row[f"{part}_variance"] = moments.variance if moments else math.nan
    return row | {"branch_size": branch_size(block)}


def why_not_expected(reading: ReadingRecord) -> str:
    """Say why the line of pre-activation with batch norm doesn't apply; empty if it does."""
    if reading.step:
        return f"the network has been trained for {plural(reading.step, 'step')}"
    if any(block.pass_through < 0.9999 for block in reading.blocks):
        return "an activation follows the additions"
    variances = [block.branch.variance for block in reading.blocks if block.branch]
    if not variances or not reading.responses:
        return "the branches have no norm" if variances else "what the branches add went by unseen"
    typical = statistics.median(variances)
    if not CONFIRMS[0] <= typical <= CONFIRMS[1]:
        return f"the median branch adds a variance of {typical:.2g}, not {PER_BLOCK:.2f}"
    return ""


def expected_line(reading: ReadingRecord) -> list[DataRow]:
    """By stage, from its first block on, ``PER_BLOCK`` more with each; empty where it doesn't apply."""
    if why_not_expected(reading):
        return []
    return [
        {"index": place, "stage": stage.name, "value": first.variance + PER_BLOCK * (place - stage.first)}
        for stage in stages_of([block.name for block in reading.blocks])
        if (first := reading.blocks[stage.first].stream)
        for place in range(stage.first, stage.last + 1)
    ]


def _signal_panel(reading: ReadingRecord, rows: list[DataRow], field: str) -> ch.Panel:
    names = [block.name for block in reading.blocks]
    expected = expected_line(reading) if field == "stream_variance" else []
    known = [
        {"index": row["index"], "name": row["name"], "value": row[field]} for row in rows if not math.isnan(row[field])
    ]
    axis = ch.LogAxis.over([row["value"] for row in (*known, *expected)], height=HEIGHT)
    at = {"x": ch.depth_axis(names, labels=field == "branch_variance"), "y": axis.y("value:Q", PANELS[field])}
    drawn = axis.line(known, "value")
    layers = [*ch.stage_bands(names, named=field == "mean_square"), ch.mark("line", drawn, color=BLUE, **at)]
    if len(rows) <= ch.MAX_LARGE_DOTS:
        layers.append(ch.mark("circle", [row for row in drawn if row["value"]], color=BLUE, size=24, opacity=1, **at))
    if expected:
        look = {"color": EXPECTED, "strokeDash": [5, 3], "strokeWidth": 2}
        words = f"expected: + {PER_BLOCK:.2f} per block"
        layers.append(ch.mark("line", expected, detail="stage:N", **look, **at))
        layers.append(ch.label(words, y=HEIGHT - 6, color=EXPECTED, dx=-8, fontWeight="bold"))
    layers.append(ch.hover_columns(rows, *(ch.number(key, " ".join(words)) for key, words in PANELS.items())))
    return ch.panel([*layers, *axis.rails(known, "value", color=BLUE)], height=HEIGHT)


def _responses_panel(rows: list[DataRow]) -> ch.Panel:
    axis = ch.LogAxis.over([row["std"] for row in rows], height=HEIGHT)
    x = ch.order_axis(len(rows), "norm layer, in order of execution")
    y = axis.y("std:Q", ["layer response", "(standard dev.)"])
    line = ch.mark("line", axis.line(rows, "std"), color=OTHER, interpolate="step", x=x, y=y)
    hover = ch.hover_columns(rows, ch.number("std", "standard deviation"))
    return ch.panel([line, hover, *axis.rails(rows, "std", color=OTHER)], height=HEIGHT)


def branch_size(block: BlockFlowRecord) -> float:
    """Root mean square of what the branch adds over that of what the shortcut does: how near the block is to identity.

    Reference:
        He et al. 2015, arXiv:1512.03385, sections 3.1 and 4.2: residual functions are thought to be near zero.
    """
    if block.branch is None or block.shortcut is None:
        return math.nan
    added, there = (part.mean_square + part.variance for part in (block.branch, block.shortcut))
    return math.sqrt(added / there) if there else math.nan


def signal_caption(reading: ReadingRecord) -> str:
    """Say how the variance moves from the first block to the last, and whether the expected line applies."""
    sentences = []
    if known := [(block.name, block.stream.variance) for block in reading.blocks if block.stream]:
        (first, start), (last, end) = known[0], known[-1]
        top, peak = max(known, key=lambda pair: pair[1])
        more = f", with its highest at {top}: {peak:.3g}" if top not in (first, last) else ""
        sentences.append(f"The stream's variance goes from {start:.3g} at {first} to {end:.3g} at {last}{more}.")
    if sizes := [size for block in reading.blocks if math.isfinite(size := branch_size(block))]:
        middle, span = statistics.median(sizes), f"{min(sizes):.2g} to {max(sizes):.2g}"
        sentences.append(f"The median branch is {middle:.2g} times the size of what its shortcut carries ({span}).")
    if stds := [std for _, std in reading.responses if math.isfinite(std)]:
        low, middle, high = min(stds), statistics.median(stds), max(stds)
        sentences.append(
            f"All {len(stds):,} layer responses have a standard deviation of {middle:.2g}."
            if f"{low:.2g}" == f"{high:.2g}"
            else f"Layer responses have standard deviations from {low:.3g} to {high:.3g}, {middle:.3g} at the median."
        )
    if reading.blocks:
        reason = why_not_expected(reading)
        sentences.append(
            f"The line that is expected of pre-activation with batch norm is not drawn: {reason}."
            if reason
            else f"The dashed line is what pre-activation with batch norm adds at the start: {PER_BLOCK:.2f} per block."
        )
    return " ".join(sentences)


# ---- units that do nothing


def units_figure(reading: ReadingRecord) -> Figure:
    """Draw dead rectifiers and saturated sigmoids of one reading; nothing is drawn where every unit works."""
    units = [unit for unit in reading.activations if math.isfinite(unit.share)]
    rows: list[DataRow] = [
        {"index": place, "name": unit.name or unit.kind, "kind": unit.kind}
        | {"what": SATURATED if unit.kind != "Relu" else AFTER_ADDITION if unit.follows_addition else INNER}
        | {"share": unit.share, "units": unit.num_channels}
        for place, unit in enumerate(units)
    ]
    chart = ch.arrange([_units_panel(rows)]) if any(row["share"] for row in rows) else None
    return Figure("units", "Dead and saturated units", units_caption(rows), chart, rows, UNIT_NOTES)


def _units_panel(rows: list[DataRow]) -> ch.Panel:
    what = {row["what"] for row in rows}
    top = max(0.1, *(row["share"] for row in rows))  # at least, so that one dead unit of many doesn't look like all
    x = ch.order_axis(len(rows), ch.input_to_loss("activation, in order of execution"), field="left:Q")
    y = ch.value_axis("share:Q", ["fraction of", "units"], 0, 1.05 * top, format="%", tickCount=4)
    colour = ch.colour("what", {kind: colour for kind, colour in UNIT_COLOURS.items() if kind in what})
    tooltip = ["name:N", "kind:N", "what:N", ch.number("share", "fraction of its units"), ch.number("units")]
    return ch.panel([ch.bars(rows, "share", x=x, y=y, color=colour, tooltip=tooltip)], height=HEIGHT)


def units_caption(rows: Sequence[DataRow]) -> str:
    """Say how many there are in all, and where most are."""
    if not rows:
        return "No rectifier, sigmoid or tanh was seen."
    rectifiers = [row for row in rows if row["what"] != SATURATED]
    others = [row for row in rows if row["what"] == SATURATED]
    sentences = []
    if rectifiers:
        dead = {row["index"]: round(row["share"] * row["units"]) for row in rectifiers}
        after = sum(dead[row["index"]] for row in rectifiers if row["what"] == AFTER_ADDITION)
        units, total, worst = sum(row["units"] for row in rectifiers), sum(dead.values()), _worst(rectifiers)
        where = f", {after:,} of them after an addition" if after else ""
        sentences.append(
            f"{total:,} of {units:,} channels of rectifiers ({total / units:.1%}) are dead in this batch{where}; most"
            f" at {worst['name']}: {percent(worst['share'])} of {worst['units']:,}."
            if total
            else f"None of the {units:,} channels of {plural(len(rectifiers), 'rectifier')} is dead in this batch."
        )
    if others:
        worst = _worst(others)
        sentences.append(
            f"Of the values of sigmoids and tanhs, most are saturated at {worst['name']}: {percent(worst['share'])}."
            if worst["share"]
            else f"None of {len(others):,} sigmoids and tanhs is saturated."
        )
    return " ".join(sentences)


def _worst(rows: Sequence[DataRow]) -> DataRow:
    return max(rows, key=lambda row: float(row["share"]))
