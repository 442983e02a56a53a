"""What the depth is used for: paths, shattering, lesions, Jacobians."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import altair as alt

from reslab.records import DepthRecord, JacobianRecord, LesionRecord, PathRecord, ReadingRecord, ShatteringRecord
from reslab.report.diagnosis.axes import MARGIN, WIDTH, bands, depth_axis, inline, number, pointed_at, rounded
from reslab.report.diagnosis.palette import BRANCH, LINE
from reslab.report.diagnosis.picture import Picture
from reslab.report.diagnosis.places import Depth, depth_of, is_measured
from reslab.report.loss_slice import slice_caption, slice_chart, slice_rows
from reslab.report.theme import ALARM, INK, SOLID, Row, dress, log_ticks

HEIGHT = 200
SHATTERED = 1e-3
"""A half distance below it is that of plain networks too deep to train, measured at 56 and 110 layers."""


def _missing(key: str, title: str, field: str, depth: DepthRecord | None) -> Picture:
    reason = depth.not_measured.get(field) if depth else None
    return Picture(
        key, title, f"Not measured: {reason or 'ask for the depth to be measured, which takes longer'}.", None
    )


def _axis(title: str, **settings: Any) -> dict[str, Any]:
    axis = alt.Axis(minExtent=MARGIN - 18, maxExtent=MARGIN - 18, tickCount=5, **settings)
    return {"title": title, "axis": axis}


def _rule(field: str, value: float, *, upright: bool, dash: Sequence[int] = (5, 3)) -> Any:
    line = alt.Chart(inline([{field: value}])).mark_rule(color=INK, strokeDash=list(dash))
    return line.encode(x=f"{field}:Q") if upright else line.encode(y=f"{field}:Q")


# ---- paths


def path_spectrum(readings: Sequence[ReadingRecord], depth: DepthRecord | None = None) -> Picture:
    """How many branches the gradient goes through, on its way to the input.

    Reference:
        Veit et al. 2016, arXiv:1605.06431, section 5.
    """
    key, title = "paths", "Path lengths"
    if depth is None or depth.paths is None:
        return _missing(key, title, "paths", depth)
    paths = depth.paths
    rows: list[Row] = [{"index": k, "share": energy} for k, energy in enumerate(paths.energies)]
    notes = (
        "The gradient at the first block's input, taken apart by how many branches a path goes through; the squared"
        " norm of each part as a share of their sum. Bracket: 5 to 95 %."
    )
    return Picture(key, title, _path_words(paths), dress(alt.vconcat(_path_panel(paths))), rows, notes=notes)


def _path_panel(paths: PathRecord) -> Any:
    shown = shown_paths(paths)
    rows = [
        {"index": k, "left": k - 0.45, "right": k + 0.45, "low": 0.0, "share": rounded(100 * paths.energies[k])}
        for k in range(shown + 1)
    ]
    top = max(row["share"] or 0.0 for row in rows) or 1.0
    scale = alt.Scale(domain=[-0.5, shown + 0.5], nice=False)
    axis = alt.Axis(tickMinStep=1, tickCount=10, format=",d", grid=False)
    x = alt.X("left:Q", title="branches on the path", scale=scale, axis=axis)
    y = alt.Y("share:Q", scale=alt.Scale(domain=[0, 1.4 * top], nice=False), **_axis("share of energy (%)"))
    bars = alt.Chart(inline(rows)).mark_rect(color=LINE, opacity=1)
    tooltip = [number("index", "branches"), number("share", "share (%)")]
    bracket = {"from": paths.low, "to": min(paths.high, shown), "share": 1.1 * top}
    reach = alt.Chart(inline([bracket])).mark_rule(color=INK, strokeWidth=2)
    ends = [{"index": bracket[end], "share": bracket["share"]} for end in ("from", "to")]
    ticks = alt.Chart(inline(ends)).mark_tick(color=INK, orient="vertical", size=12, thickness=2)
    mean = alt.Chart(inline([{"left": paths.effective, "share": bracket["share"]}]))
    diamond = mean.mark_point(shape="diamond", filled=True, size=110, color=BRANCH, opacity=1, stroke=INK)
    words = f"mean {paths.effective:.1f}, 5 to 95 %: {paths.low} to {paths.high}"
    text = alt.Chart(inline([{"words": words}]))
    placed = text.mark_text(align="right", baseline="top", color=INK, fontSize=13, fontWeight="bold", dx=-8, dy=2)
    layers = [
        bars.encode(x=x, x2="right:Q", y=y, y2=alt.datum(0), tooltip=tooltip),
        reach.encode(x="from:Q", x2="to:Q", y="share:Q"),
        ticks.encode(x="index:Q", y="share:Q"),
        diamond.encode(x="left:Q", y="share:Q"),
        placed.encode(x=alt.value("width"), y=alt.value(0), text="words:N"),
    ]
    return alt.layer(*layers).properties(width=WIDTH, height=HEIGHT)


def shown_paths(paths: PathRecord) -> int:
    """The greatest length drawn: what lies beyond has less than a thousandth of the highest bar."""
    least = max(paths.energies) / 1000
    last = max(k for k, energy in enumerate(paths.energies) if energy >= least)
    return min(len(paths.energies) - 1, max(last, paths.high) + 1)


def _path_words(paths: PathRecord) -> str:
    blocks = len(paths.energies) - 1
    share = f", {paths.effective / blocks:.0%} of the {blocks:,}".replace("%", "\u00a0%") if blocks else ""
    return (
        f"The gradient that reaches the first block went through {paths.effective:.1f} branches on average{share};"
        f" 90\u00a0% of its energy through {paths.low} to {paths.high}."
    )


# ---- shattering


def shattering_curve(readings: Sequence[ReadingRecord], depth: DepthRecord | None = None) -> Picture:
    """How similar the gradient at the input stays, on the way from one image to another.

    Reference:
        Balduzzi et al. 2017, arXiv:1702.08591 (the effect; the curve is ours).
    """
    key, title = "shattering", "Shattering"
    if depth is None or depth.shattering is None:
        return _missing(key, title, "shattering", depth)
    record = depth.shattering
    pairs = zip(record.distances, record.similarities, strict=True)
    rows: list[Row] = [{"distance": distance, "similarity": similarity} for distance, similarity in pairs]
    chart = dress(alt.vconcat(_shattering_panel(rows, record)))
    notes = "Mean cosine between the gradient at one image and that a share of the way to another."
    return Picture(key, title, _shattering_words(record), chart, rows, notes=notes)


def _shattering_panel(rows: list[Row], record: ShatteringRecord) -> Any:
    drawn = [{key: rounded(value) for key, value in row.items()} for row in rows if row["distance"] > 0]
    found = [row["distance"] for row in rows if row["distance"] > 0]
    ends = [min([*found, SHATTERED]), max([*found, 1.0])]
    scale = alt.Scale(type="log", domain=ends, nice=False)
    x = alt.X("distance:Q", title="share of the way", scale=scale, axis=log_ticks(*ends))
    low = min([0.0, *(row["similarity"] for row in drawn if row["similarity"] is not None)])
    y = alt.Y("similarity:Q", scale=alt.Scale(domain=[low, 1.05], nice=False), **_axis("cosine", format=".1f"))
    base = alt.Chart(inline(drawn)).encode(x=x, y=y)
    tooltip = [number("distance", "share of the way"), number("similarity", "cosine")]
    layers = [
        _rule("similarity", 0.5, upright=False),
        _half(),
        base.mark_line(color=LINE, strokeWidth=2),
        base.mark_point(color=LINE, filled=True, size=60, opacity=1).encode(tooltip=tooltip),
    ]
    if 0 < record.half < math.inf:
        mark = alt.Chart(inline([{"distance": record.half, "similarity": 0.5}]))
        diamond = mark.mark_point(shape="diamond", filled=True, size=150, color=BRANCH, stroke=INK, opacity=1)
        layers.append(diamond.encode(x="distance:Q", y="similarity:Q"))
    return alt.layer(*layers).properties(width=WIDTH, height=HEIGHT)


def _half() -> Any:
    words = alt.Chart(inline([{"words": "half", "similarity": 0.5}]))
    text = words.mark_text(align="left", baseline="bottom", color=INK, fontSize=12, dx=6, dy=-3)
    return text.encode(x=alt.value(0), y="similarity:Q", text="words:N")


def _shattering_words(record: ShatteringRecord) -> str:
    if not math.isfinite(record.half):
        far = max(record.distances, default=0.0)
        return f"The gradient keeps its direction: the cosine stays above a half as far as {far:.3g} of the way."
    text = f"The gradient's direction is lost at {record.half:.3g} of the way from one image to another"
    if record.half <= SHATTERED:
        return f"{text}: shattered, as in plain networks that are too deep to train."
    return f"{text}: further than in shattered networks ({SHATTERED:g})."


# ---- lesions


def lesion_bars(readings: Sequence[ReadingRecord], depth: DepthRecord | None = None) -> Picture:
    """What the loss gains when one block's branch is left out.

    Reference:
        Veit et al. 2016, arXiv:1605.06431, section 4.1.
    """
    key, title = "lesions", "Lesions"
    if depth is None or not depth.lesions:
        return _missing(key, title, "lesions", depth)
    rows: list[Row] = [
        {"index": place, "name": lesion.name, "loss": lesion.loss, "increase": lesion.increase}
        for place, lesion in enumerate(depth.lesions)
    ]
    panel = _lesion_panel(rows, depth.lesions, depth_of(readings[-1]))
    notes = "The loss of the same batch without one block's branch, less the whole network's; its shortcut stays."
    return Picture(key, title, _lesion_words(depth), dress(alt.vconcat(panel), legend_columns=2), rows, notes=notes)


def _lesion_panel(rows: list[Row], lesions: Sequence[LesionRecord], along: Depth) -> Any:
    same = along.unit == "block" and len(along.places) == len(lesions)
    drawn = [
        {
            "index": row["index"],
            "name": row["name"],
            "left": row["index"] - 0.42,
            "right": row["index"] + 0.42,
            "increase": rounded(row["increase"]),
            "loss": rounded(row["loss"]),
            "sign": "worse without it" if row["increase"] >= 0 else "better without it",
        }
        for row in rows
    ]
    values = [row["increase"] for row in drawn if row["increase"] is not None]
    low, high = min([0.0, *values]), max([0.0, *values])
    air = 0.06 * (high - low) or 1.0
    if same:
        x = depth_axis(along)
    else:
        scale = alt.Scale(domain=[-0.5, len(rows) - 0.5], nice=False)
        x = alt.X("index:Q", title="block", scale=scale, axis=alt.Axis(tickMinStep=1, format=",d", grid=False))
    x.shorthand = "left:Q"
    scale = alt.Scale(domain=[low - (air if low < 0 else 0), high + air], nice=False)
    y = alt.Y("increase:Q", scale=scale, **_axis("change of the loss"))
    signs = alt.Scale(domain=["worse without it", "better without it"], range=[LINE, BRANCH])
    colour = alt.Color("sign:N", title=None, scale=signs, legend=alt.Legend(orient="top", symbolType="square"))
    finite = [row for row in drawn if row["increase"] is not None]
    bars = alt.Chart(inline(finite)).mark_rect(opacity=1)
    odd = [row for row in drawn if row["increase"] is None]
    layers = [
        *(bands(along) if same else []),
        bars.encode(x=x, x2="right:Q", y=y, y2=alt.datum(0), color=colour),
        _rule("increase", 0, upright=False, dash=SOLID),
        pointed_at(drawn, "name:N", number("increase", "change of the loss"), number("loss", "loss without it")),
    ]
    if odd:
        at = alt.Chart(inline([{"left": row["index"], "name": row["name"]} for row in odd]))
        crosses = at.mark_point(shape="cross", filled=True, size=80, color=ALARM, opacity=1)
        layers.append(crosses.encode(x="left:Q", y=alt.value(8), tooltip=["name:N"]))
    return alt.layer(*layers).properties(width=WIDTH, height=HEIGHT)


def _lesion_words(depth: DepthRecord) -> str:
    known = [lesion for lesion in depth.lesions if math.isfinite(lesion.increase)]
    if not known:
        return "Without any block the loss is not finite."
    worst = max(known, key=lambda lesion: lesion.increase)
    whole = f" of {depth.loss:.3g}" if depth.loss is not None else ""
    idle = sum(lesion.increase <= 0 for lesion in known)
    odd = len(depth.lesions) - len(known)
    middle = statistics.median(lesion.increase for lesion in known)
    return (
        f"Most is lost without {worst.name}: the loss{whole} rises by {worst.increase:.3g}; the median block costs"
        f" {middle:.3g}, and {idle} of {len(known)} cost nothing or less."
        + (f" Without {odd} the loss is not finite." if odd else "")
    )


# ---- Jacobians


def jacobian_spectra(readings: Sequence[ReadingRecord], depth: DepthRecord | None = None) -> Picture:
    """Singular values of the network and of its stages, from the greatest."""
    key, title = "jacobian", "Jacobian"
    if depth is None or not depth.jacobians:
        return _missing(key, title, "jacobians", depth)
    rows: list[Row] = [
        {"part": record.name, "rank": rank, "singular_value": value}
        for record in depth.jacobians
        for rank, value in enumerate(record.singular_values)
    ]
    if not any(is_measured(value) for each in depth.jacobians for value in (each.mean_square, *each.singular_values)):
        return Picture(
            key, title, "All singular values are 0 or not finite: no small change comes through.", None, rows
        )
    notes = (
        "How much small changes of a part's input are stretched, by direction. At the dashed line lengths stay as they"
        " are; the mark on each row is the root mean square over directions of the output."
    )
    return Picture(
        key, title, _jacobian_words(depth.jacobians), dress(_jacobian_chart(depth.jacobians)), rows, notes=notes
    )


def _jacobian_chart(records: Sequence[JacobianRecord]) -> Any:
    values: list[Row] = [
        {"part": record.name, "value": rounded(value)}
        for record in records
        for value in record.singular_values
        if is_measured(value)
    ]
    means: list[Row] = [
        {"part": record.name, "value": rounded(math.sqrt(record.mean_square))}
        for record in records
        if is_measured(record.mean_square)
    ]
    found = [row["value"] for row in (*values, *means)] + [1.0]
    ends = [min(found) / 1.5, max(found) * 1.5]
    scale = alt.Scale(type="log", domain=ends, nice=False)
    x = alt.X("value:Q", title="singular value", scale=scale, axis=log_ticks(*ends))
    order = [record.name for record in records]
    y = alt.Y("part:N", title=None, scale=alt.Scale(domain=order), axis=alt.Axis(grid=True, labelLimit=120))
    ticks = alt.Chart(inline(values)).mark_tick(color=LINE, thickness=2, size=20, opacity=0.8)
    tooltip = ["part:N", number("value", "singular value")]
    diamonds = alt.Chart(inline(means)).mark_point(
        shape="diamond", filled=True, size=120, color=BRANCH, stroke=INK, opacity=1
    )
    layers = [
        _rule("value", 1.0, upright=True),
        ticks.encode(x=x, y=y, tooltip=tooltip),
        diamonds.encode(x=x, y=y, tooltip=["part:N", number("value", "root mean square")]),
    ]
    return alt.vconcat(alt.layer(*layers).properties(width=WIDTH, height=max(90, 36 * len(records))))


def _jacobian_words(records: Sequence[JacobianRecord]) -> str:
    record = next((record for record in records if record.name == "all"), records[0])
    what = "The network" if record.name == "all" else record.name
    mean = math.sqrt(record.mean_square) if record.mean_square >= 0 else math.nan
    verb = "keeps" if 0.5 <= mean <= 2 else ("stretches" if mean > 2 else "shrinks")
    most = f", {record.largest:.3g} times at most" if math.isfinite(record.largest) else ""
    return (
        f"{what} {verb} small changes: {mean:.3g} times at the root mean square{most}. At 1 lengths stay as they are."
    )


# ---- the loss around the weights


def surface_slice(readings: Sequence[ReadingRecord], depth: DepthRecord | None = None) -> Picture:
    """The loss along one random direction in the space of the weights.

    Reference:
        Li et al. 2018, arXiv:1712.09913, sec. 4.
    """
    key, title = "surface", "The loss around the weights"
    if depth is None or depth.slice is None:
        return _missing(key, title, "slice", depth)
    records = [depth.slice]
    if not any(map(math.isfinite, depth.slice.losses)):
        return Picture(key, title, "No loss along the direction is finite.", None)
    curvature = depth.curvature
    words = slice_caption(records)
    if curvature is not None and curvature.has_converged:
        words += f" The greatest curvature of the loss is {curvature.largest:.3g}."
    notes = (
        "Each filter of a random direction is scaled to the norm of the filter that it moves; 0 is the network itself."
    )
    return Picture(key, title, words, slice_chart(records), slice_rows(records), notes=notes)
