"""The signal panels: means and variances along the depth, as signal propagation plots have them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import altair as alt

from reslab.records import BlockFlowRecord, DepthRecord, ReadingRecord
from reslab.report.diagnosis.axes import (
    WIDTH,
    bands,
    decades_of,
    depth_axis,
    for_log_axis,
    inline,
    number,
    pointed_at,
    rounded,
)
from reslab.report.diagnosis.palette import EXPECTED, LINE, OTHER
from reslab.report.diagnosis.picture import Picture
from reslab.report.diagnosis.places import Depth, Stage, stages_of
from reslab.report.theme import FEW_DOTS, Row, dress

KEY, TITLE = "signal", "Signal through the depth"
HEIGHT = 120
PER_BLOCK = 1 - 1 / math.pi
"""Variance that a branch of batch norm, ReLU and a layer initialised after He adds: the variance of a rectified
standard normal, doubled."""
NEAR = (0.5, 0.9)
"""A median branch variance within it bears that out."""
PANELS = {
    "mean_square": ["squared", "channel mean"],
    "stream_variance": ["variance of", "the stream"],
    "branch_variance": ["variance of", "the branch"],
}
NOTES = (
    "Of the sum at each residual addition and of what its branch adds: channel means squared, and channel variances,"
    " averaged over channels. Layer responses: standard deviation of each norm layer's output before anything follows."
)


def signal_panels(readings: Sequence[ReadingRecord], depth: DepthRecord | None = None) -> Picture:
    """The last reading's signal at each residual addition, and its layer responses.

    Args:
        readings: of one network; at least one.
        depth: not drawn here.

    Reference:
        Brock et al. 2021, arXiv:2101.08692, section 3 (the plots); He et al. 2015, arXiv:1512.03385, Figure 7 (layer
        responses).
    """
    reading = readings[-1]
    rows = [signal_row(place, block) for place, block in enumerate(reading.blocks)]
    has_stream = any(math.isfinite(row["stream_variance"]) for row in rows)
    if not has_stream and not reading.responses:
        why = "there is no residual addition, and no norm layer whose responses could be drawn"
        return Picture(KEY, TITLE, f"No signal to draw: {why}.", None)
    panels = []
    if has_stream:
        along = Depth(reading.blocks, "block")
        expected = expected_line(reading)
        panels = [_panel(along, rows, field, expected if field == "stream_variance" else []) for field in PANELS]
    if reading.responses:
        panels.append(_responses_panel(reading))
    twin = rows if has_stream else response_rows(reading)
    return Picture(KEY, TITLE, signal_caption(reading), dress(alt.vconcat(*panels, spacing=14)), twin, notes=NOTES)


def signal_row(place: int, block: BlockFlowRecord) -> Row:
    """The numbers behind it; NaN for what went by unseen."""
    nan = math.nan
    return {
        "index": place,
        "name": block.name,
        "mean_square": block.stream.mean_square if block.stream else nan,
        "stream_variance": block.stream.variance if block.stream else nan,
        "branch_variance": block.branch.variance if block.branch else nan,
        "shortcut_variance": block.shortcut.variance if block.shortcut else nan,
        "branch_size": branch_size(block),
    }


def response_rows(reading: ReadingRecord) -> list[Row]:
    """Norm layers in order of execution."""
    return [{"index": place, "name": name, "std": std} for place, (name, std) in enumerate(reading.responses)]


# ---- the expected line


def why_not_expected(reading: ReadingRecord) -> str:
    """Why the line of pre-activation with batch norm doesn't apply; empty if it does."""
    if not reading.blocks:
        return "there is no residual addition"
    if reading.step:
        return f"the network has been trained for {reading.step:,} steps"
    if any(block.pass_through < 0.9999 for block in reading.blocks):
        return "an activation follows the additions"
    variances = [block.branch.variance for block in reading.blocks if block.branch]
    if not variances or not reading.responses:
        return "the branches have no norm" if variances else "what the branches add went by unseen"
    typical = statistics.median(variances)
    if not NEAR[0] <= typical <= NEAR[1]:
        return f"the median branch adds a variance of {typical:.2g}, not {PER_BLOCK:.2f}"
    return ""


def expected_line(reading: ReadingRecord) -> list[Row]:
    """By stage, from its first block on: ``PER_BLOCK`` more with each; empty where it doesn't apply."""
    if why_not_expected(reading):
        return []
    stages = stages_of([block.name for block in reading.blocks])
    return [row for stage in stages for row in _expected_in(stage, reading.blocks)]


def _expected_in(stage: Stage, blocks: Sequence[BlockFlowRecord]) -> list[Row]:
    first = blocks[stage.first].stream
    if first is None:
        return []
    start = first.variance
    return [
        {"index": place, "stage": stage.name, "value": start + PER_BLOCK * (place - stage.first)}
        for place in range(stage.first, stage.last + 1)
    ]


# ---- panels


def _panel(along: Depth, rows: list[Row], field: str, expected: list[Row]) -> Any:
    known = [row for row in rows if not math.isnan(row[field])]
    frame = decades_of([*(row[field] for row in known), *(row["value"] for row in expected)], height=HEIGHT)
    is_first, is_last = field == "mean_square", field == "branch_variance"
    x = depth_axis(along, labels=is_last)
    y = frame.axis("value", PANELS[field])
    values = [for_log_axis({"index": row["index"], "value": row[field]}, "value") for row in known]
    base = alt.Chart(inline(values)).encode(x=x, y=y)
    layers = [*bands(along, named=is_first), base.mark_line(color=LINE, strokeWidth=2)]
    if len(rows) <= FEW_DOTS:
        layers.append(base.mark_point(filled=True, color=LINE, size=24, opacity=1))
    if expected:
        line = alt.Chart(inline(expected)).mark_line(color=EXPECTED, strokeDash=[5, 3], strokeWidth=2)
        layers += [line.encode(x="index:Q", y=y, detail="stage:N"), _expected_words()]
    told = [{key: row[key] if isinstance(row[key], str) else rounded(row[key]) for key in row} for row in rows]
    tooltip = [number(key, " ".join(words)) for key, words in PANELS.items()]
    layers += [pointed_at(told, "name:N", *tooltip), *frame.rails(known, {field: LINE})]
    return alt.layer(*layers).properties(width=WIDTH, height=HEIGHT)


def _expected_words() -> Any:
    words = alt.Chart(inline([{"words": f"expected: + {PER_BLOCK:.2f} per block"}]))
    text = words.mark_text(align="right", baseline="bottom", color=EXPECTED, fontSize=12, dx=-8, fontWeight="bold")
    return text.encode(x=alt.value("width"), y=alt.value(HEIGHT - 6), text="words:N")


def _responses_panel(reading: ReadingRecord) -> Any:
    rows = response_rows(reading)
    frame = decades_of([row["std"] for row in rows], height=HEIGHT)
    last = len(rows) - 1
    scale = alt.Scale(domain=[-0.5, last + 0.5], nice=False)
    axis = alt.Axis(tickMinStep=1, tickCount=6, format=",d", grid=False)
    x = alt.X("index:Q", title="norm layer, in order of execution", scale=scale, axis=axis)
    y = frame.axis("std", ["layer response", "(standard dev.)"])
    values = [for_log_axis(row, "std") for row in rows]
    base = alt.Chart(inline(values)).encode(x=x, y=y)
    lines = base.mark_line(color=OTHER, strokeWidth=1.6, interpolate="step")
    told = [{**row, "std": rounded(row["std"])} for row in rows]
    layers = [
        lines,
        pointed_at(told, "name:N", number("std", "standard deviation")),
        *frame.rails(rows, {"std": OTHER}),
    ]
    return alt.layer(*layers).properties(width=WIDTH, height=HEIGHT)


# ---- in words


def signal_caption(reading: ReadingRecord) -> str:
    """How the variance moves from the first block to the last, and whether the expected line applies."""
    sentences = [_stream_words(reading.blocks), _identity_words(reading.blocks), _responses_words(reading)]
    reason = why_not_expected(reading)
    if reading.blocks:
        sentences.append(
            f"The line that is expected of pre-activation with batch norm is not drawn: {reason}."
            if reason
            else f"The dashed line is what pre-activation with batch norm adds at the start: {PER_BLOCK:.2f} per block."
        )
    return " ".join(filter(None, sentences))


def _stream_words(blocks: Sequence[BlockFlowRecord]) -> str:
    known = [(block.name, block.stream.variance) for block in blocks if block.stream]
    if not known:
        return ""
    (first, start), (last, end) = known[0], known[-1]
    top, peak = max(known, key=lambda pair: pair[1])
    more = f", with its highest at {top}: {peak:.3g}" if top not in (first, last) else ""
    return f"The stream's variance goes from {start:.3g} at {first} to {end:.3g} at {last}{more}."


def branch_size(block: BlockFlowRecord) -> float:
    """Root mean square of what the branch adds over that of what the shortcut does: how near the block is to identity.

    Reference:
        He et al. 2015, arXiv:1512.03385, sections 3.1 and 4.2: residual functions are thought to be near zero.
    """
    if block.branch is None or block.shortcut is None:
        return math.nan
    added, there = (part.mean_square + part.variance for part in (block.branch, block.shortcut))
    return math.sqrt(added / there) if there else math.nan


def _identity_words(blocks: Sequence[BlockFlowRecord]) -> str:
    sizes = [size for block in blocks if math.isfinite(size := branch_size(block))]
    if not sizes:
        return ""
    low, middle, high = min(sizes), statistics.median(sizes), max(sizes)
    return f"The median branch is {middle:.2g} times the size of what its shortcut carries ({low:.2g} to {high:.2g})."


def _responses_words(reading: ReadingRecord) -> str:
    stds = [std for _, std in reading.responses if math.isfinite(std)]
    if not stds:
        return ""
    low, middle, high = min(stds), statistics.median(stds), max(stds)
    if f"{low:.2g}" == f"{high:.2g}":
        return f"All {len(stds):,} layer responses have a standard deviation of {middle:.2g}."
    return f"Layer responses have standard deviations from {low:.3g} to {high:.3g}, {middle:.3g} at the median."
