"""What the depth of a network is used for: paths, lesions, Jacobians, and how far gradients keep their direction."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import altair as alt

from reslab.records import RunFolder
from reslab.records.depth import DepthRecord, JacobianRecord, PathRecord, ShatteringRecord
from reslab.report import _chart as ch
from reslab.report._style import ALARM, BLUE, INK, OTHER, RunStyle, run_styles
from reslab.report.figure import DataRow, Figure
from reslab.report.profile import is_measured
from reslab.report.text import five_digits, percent

HEIGHT = 200
DIAMOND: dict[str, Any] = {"shape": "diamond", "size": 120, "color": INK}
SIGNS = {"worse without it": BLUE, "better without it": OTHER}


def missing(key: str, title: str, field: str, depth: DepthRecord | None) -> Figure:
    reason = depth.not_measured.get(field) if depth else None
    return Figure(key, title, f"Not measured: {reason or 'ask for the depth to be measured, which takes longer'}.")


# ---- paths


def paths_figure(depth: DepthRecord | None) -> Figure:
    """Draw how many branches the gradient goes through, on its way to the input.

    Reference:
        Veit et al. 2016, arXiv:1605.06431, section 5.
    """
    key, title = "paths", "Path lengths"
    if depth is None or depth.paths is None:
        return missing(key, title, "paths", depth)
    paths = depth.paths
    blocks = len(paths.energies) - 1
    share = f", {percent(paths.effective / blocks)} of the {blocks:,}" if blocks else ""
    caption = (
        f"The gradient that reaches the first block went through {paths.effective:.1f} branches on average{share};"
        f" {percent(0.9)} of its energy through {paths.low} to {paths.high}."
    )
    notes = (
        "The gradient at the first block's input, taken apart by how many branches a path goes through; the squared"
        " norm of each part as a fraction of their sum. Bracket: 5 to 95 %; diamond: the mean."
    )
    rows: list[DataRow] = [{"index": k, "share": energy} for k, energy in enumerate(paths.energies)]
    return Figure(key, title, caption, ch.arrange([_paths_panel(paths)]), rows, notes)


def _paths_panel(paths: PathRecord) -> ch.Panel:
    shown = shown_paths(paths)
    rows: list[DataRow] = [{"index": k, "share": five_digits(100 * paths.energies[k])} for k in range(shown + 1)]
    top = max(row["share"] or 0.0 for row in rows) or 1.0
    x = ch.order_axis(shown + 1, "branches on the path", field="left:Q")
    y = ch.value_axis("share:Q", "share of energy (%)", 0, 1.4 * top)
    level = {"share": 1.1 * top}
    bracket = {"from": paths.low, "to": min(paths.high, shown)} | level
    ends = [{"index": bracket[end]} | level for end in ("from", "to")]
    tooltip = [ch.number("index", "branches"), ch.number("share", "share (%)")]
    layers = [
        ch.bars(rows, "share", x=x, y=y, color=BLUE, tooltip=tooltip),
        ch.mark("rule", [bracket], color=INK, strokeWidth=2, x="from:Q", x2="to:Q", y="share:Q"),
        ch.mark("tick", ends, color=INK, orient="vertical", size=12, thickness=2, x="index:Q", y="share:Q"),
        ch.mark("point", [{"left": paths.effective} | level], x="left:Q", y="share:Q", **DIAMOND),
        ch.label(f"mean {paths.effective:.1f}, 5 to 95 %: {paths.low} to {paths.high}"),
    ]
    return ch.panel(layers, height=HEIGHT)


def shown_paths(paths: PathRecord) -> int:
    """The greatest length drawn: what lies beyond has less than a thousandth of the highest bar."""
    last = max(k for k, energy in enumerate(paths.energies) if energy >= max(paths.energies) / 1000)
    return min(len(paths.energies) - 1, max(last, paths.high) + 1)


# ---- lesions


def lesions_figure(depth: DepthRecord | None) -> Figure:
    """Draw what the loss gains when one block's branch is left out.

    Reference:
        Veit et al. 2016, arXiv:1605.06431, section 4.1.
    """
    key, title = "lesions", "Lesions"
    if depth is None or not depth.lesions:
        return missing(key, title, "lesions", depth)
    rows: list[DataRow] = [
        {"index": place, "name": lesion.name, "loss": lesion.loss, "increase": lesion.increase}
        for place, lesion in enumerate(depth.lesions)
    ]
    notes = "The loss of the same batch without one block's branch, less the whole network's; its shortcut stays."
    return Figure(key, title, lesions_caption(depth), ch.arrange([_lesions_panel(rows)]), rows, notes)


def _lesions_panel(rows: list[DataRow]) -> ch.Panel:
    names = [row["name"] for row in rows]
    finite = [row | {"sign": list(SIGNS)[row["increase"] < 0]} for row in rows if math.isfinite(row["increase"])]
    values = [0.0, *(row["increase"] for row in finite)]
    low, high = min(values), max(values)
    air = 0.06 * (high - low) or 1.0
    x = ch.depth_axis(names, field="left:Q")
    y = ch.value_axis("increase:Q", "change of the loss", low - (air if low < 0 else 0), high + air)
    layers = [
        *ch.stage_bands(names),
        ch.bars(finite, "increase", x=x, y=y, color=ch.colour("sign", SIGNS)),
        ch.mark("rule", [{"increase": 0}], color=INK, y="increase:Q"),
        ch.hover_columns(rows, ch.number("increase", "change of the loss"), ch.number("loss", "loss without it")),
    ]
    if odd := [{"left": row["index"], "name": row["name"]} for row in rows if not math.isfinite(row["increase"])]:
        look = {"shape": "cross", "size": 80, "color": ALARM}
        layers.append(ch.mark("point", odd, x="left:Q", y=alt.value(8), tooltip=["name:N"], **look))
    return ch.panel(layers, height=HEIGHT)


def lesions_caption(depth: DepthRecord) -> str:
    """Say which block is missed most, and how many are not missed."""
    known = [lesion for lesion in depth.lesions if math.isfinite(lesion.increase)]
    if not known:
        return "Without any block the loss is not finite."
    worst = max(known, key=lambda lesion: lesion.increase)
    whole = f" of {depth.loss:.3g}" if depth.loss is not None else ""
    idle, odd = sum(lesion.increase <= 0 for lesion in known), len(depth.lesions) - len(known)
    middle = statistics.median(lesion.increase for lesion in known)
    return (
        f"Without {worst.name} the loss{whole} changes most, by {worst.increase:+.3g}; without the median block it"
        f" changes by {middle:+.3g}, and without {idle} of {len(known)} it does not rise."
        + (f" Without {odd} it is not finite." if odd else "")
    )


# ---- Jacobians


def jacobian_figure(depth: DepthRecord | None) -> Figure:
    """Draw singular values of the network and of its stages, from the greatest."""
    key, title = "jacobian", "Jacobian"
    if depth is None or not depth.jacobians:
        return missing(key, title, "jacobians", depth)
    records = depth.jacobians
    rows: list[DataRow] = [
        {"part": record.name, "rank": rank, "singular_value": value}
        for record in records
        for rank, value in enumerate(record.singular_values)
    ]
    if not any(is_measured(value) for each in records for value in (each.mean_square, *each.singular_values)):
        why = "All singular values are 0 or not finite: no small change comes through."
        return Figure(key, title, why, rows=rows)
    notes = (
        "How much small changes of a part's input are stretched, by direction. At the dashed line lengths stay as they"
        " are; the diamond on each row is the root mean square over directions of the output."
    )
    return Figure(key, title, jacobian_caption(records), ch.arrange([_jacobian_panel(records)]), rows, notes)


def _jacobian_panel(records: Sequence[JacobianRecord]) -> ch.Panel:
    found = [(each.name, value) for each in records for value in each.singular_values if is_measured(value)]
    means = [(each.name, math.sqrt(each.mean_square)) for each in records if is_measured(each.mean_square)]
    ends = [1.0, *(value for _, value in found + means)]
    x = ch.log_axis(alt.X, "value:Q", "singular value", min(ends) / 1.5, max(ends) * 1.5)
    names = alt.Scale(domain=[record.name for record in records])
    y = alt.Y("part:N", title=None, scale=names, axis=alt.Axis(grid=True, labelLimit=120))
    values, squares = ([{"part": name, "value": five_digits(value)} for name, value in each] for each in (found, means))
    look = {"color": BLUE, "thickness": 2, "size": 20, "opacity": 0.8}
    layers = [
        ch.mark("rule", [{"value": 1.0}], color=INK, strokeDash=[5, 3], x="value:Q"),
        ch.mark("tick", values, x=x, y=y, tooltip=["part:N", ch.number("value", "singular value")], **look),
        ch.mark("point", squares, x=x, y=y, tooltip=["part:N", ch.number("value", "root mean square")], **DIAMOND),
    ]
    return ch.panel(layers, height=max(90, 36 * len(records)))


def jacobian_caption(records: Sequence[JacobianRecord]) -> str:
    """Say whether the whole network keeps the size of small changes."""
    record = next((record for record in records if record.name == "all"), records[0])
    what = "The network" if record.name == "all" else record.name
    mean = math.sqrt(record.mean_square) if record.mean_square >= 0 else math.nan
    verb = "keeps" if 0.5 <= mean <= 2 else ("stretches" if mean > 2 else "shrinks")
    most = f", {record.largest:.3g} times at most" if math.isfinite(record.largest) else ""
    return (
        f"{what} {verb} small changes: {mean:.3g} times at the root mean square{most}. At 1 lengths stay as they are."
    )


# ---- shattering

SHATTERED = 1e-3
"""A half distance below it is that of plain networks too deep to train, measured at 56 and 110 layers."""
START, END = "before the first step", "after the last step"


def shattering_figure(depth: DepthRecord | None) -> Figure:
    """Draw how similar the gradient at the input stays, on the way from one image to another.

    Reference:
        Balduzzi et al. 2017, arXiv:1702.08591 (the effect; the curve is ours).
    """
    key, title = "shattering", "Shattering"
    if depth is None or depth.shattering is None:
        return missing(key, title, "shattering", depth)
    record = depth.shattering
    rows = _distance_rows(record)
    layers = _cosine_layers(
        [row | {"label": "", "line": END, "who": "cosine"} for row in rows], ch.series({"": BLUE}), least=SHATTERED
    )
    if is_measured(record.half):
        half = {"distance": record.half, "similarity": 0.5}
        layers.append(ch.mark("point", [half], x="distance:Q", y="similarity:Q", **DIAMOND))
    notes = "Mean cosine between the gradient at one image and that at a fraction of the way to another."
    caption = f"The gradient's direction is lost at {record.half:.3g} of the way from one image to another"
    if not math.isfinite(record.half):
        far = max(record.distances, default=0.0)
        caption = f"The gradient keeps its direction: the cosine stays above a half as far as {far:.3g} of the way."
    elif record.half <= SHATTERED:
        caption += ": shattered, as in plain networks that are too deep to train."
    else:
        caption += f": further than in shattered networks ({SHATTERED:g})."
    return Figure(key, title, caption, ch.arrange([ch.panel(layers, height=HEIGHT)]), rows, notes)


def shattering_of_runs(runs: Sequence[RunFolder]) -> Figure:
    """Draw the same for the runs of a study, before training and after it, each family on a panel of its own."""
    key, title = "shattering", "Shattering: how far the gradient at the input keeps its direction"
    styles = [style for style in run_styles(runs) if style.run.read_depth()] if runs else []
    panels: dict[str, list[DataRow]] = {}
    for style in styles:
        for line, record in _moments(style).items():
            if record and record.shattering:
                who = {"run": style.run.name, "label": style.label, "line": line, "who": f"{style.run.name}, {line}"}
                name = style.network.family if style.network else style.run.name
                panels.setdefault(name, []).extend(who | row for row in _distance_rows(record.shattering))
    rows = [_shattering_row(style) for style in styles]
    if not panels:
        return Figure(key, title, "Shattering wasn't measured, so there is nothing to draw.", rows=rows)
    colours = {style.label: style.colour for style in styles}
    channels = ch.series(colours, (END, START))
    drawn = [
        ch.panel(_cosine_layers(found, channels), width=340, height=270, title=name) for name, found in panels.items()
    ]
    return Figure(key, title, _shattering_sentences(styles), ch.arrange(drawn, columns=2, names=colours), rows)


def _distance_rows(record: ShatteringRecord) -> list[DataRow]:
    pairs = zip(record.distances, record.similarities, strict=True)
    return [{"distance": distance, "similarity": similarity} for distance, similarity in pairs]


def _cosine_layers(rows: list[DataRow], channels: ch.Channels, *, least: float = 1.0) -> list[ch.Panel]:
    """Cosine against distance, and a line at a half."""
    known = [ch.rounded(row) for row in rows if row["distance"] > 0]
    far = [least, 1.0, *(row["distance"] for row in known)]
    x = ch.log_axis(alt.X, "distance:Q", "fraction of the way to another image", min(far), max(far))
    y = ch.value_axis(
        "similarity:Q", "cosine", min([0.0, *(row["similarity"] or 0.0 for row in known)]), 1.05, format=".1f"
    )
    at, half = {"x": x, "y": y}, {"similarity": 0.5}
    return [
        ch.mark("rule", [half], color=INK, strokeDash=[5, 3], y="similarity:Q"),
        ch.label("half", x=0, y="similarity:Q", row=half, baseline="bottom", dx=6, dy=-3),
        ch.mark("line", known, clip=True, detail=["run:N", "line:N"], **at, **channels),
        ch.mark("circle", known, **at, **ch.of_dots(channels, size=40)),
        ch.hover_table(rows, "similarity", x="distance", by="who"),
    ]


def _moments(style: RunStyle) -> dict[str, DepthRecord | None]:
    found = style.run.read_depth()
    return {START: found.get("start"), END: found.get("end")}


def _shattering_row(style: RunStyle) -> DataRow:
    """Half distances and effective depths; a plain network has one path."""
    row: DataRow = {"run": style.run.name}
    is_plain = style.network is not None and style.network.family == "plain"
    for moment, record in _moments(style).items():
        half, depth = "not measured", "one path" if is_plain else "not measured"
        if record and record.shattering:
            half = "never" if math.isinf(record.shattering.half) else f"{record.shattering.half:.2g}"
        if record and record.paths:
            depth = f"{record.paths.effective:.1f} of {len(record.paths.energies) - 1} branches"
        row |= {f"half distance, {moment}": half, f"effective depth, {moment}": depth}
    return row


def _shattering_sentences(styles: Sequence[RunStyle]) -> str:
    """How far the deepest network of each family keeps its direction, at both ends."""
    deepest: dict[str, tuple[int, RunStyle]] = {}
    for style in styles:
        network = style.network
        if network and network.depth > deepest.get(network.family, (0, style))[0]:
            deepest[network.family] = network.depth, style
    sentences = []
    for _, style in deepest.values():
        start, end = _moments(style).values()
        if start and end:
            before, after = (_far(record.shattering) for record in (start, end))
            sentences.append(
                f"{style.label}: the cosine falls below a half {before} before training and {after} after it."
            )
    return (
        " ".join(sentences) or "Where a line falls early, the gradient at one image says little about its neighbours."
    )


def _far(record: ShatteringRecord | None) -> str:
    if record is None:
        return "at an unknown distance"
    if math.isinf(record.half):
        return "nowhere on the way"
    where = "within" if record.half <= record.distances[0] else "after"
    return f"{where} {100 * record.half:.2g}\N{NO-BREAK SPACE}% of the way"
