"""What the depth of a network is used for: paths, lesions, Jacobians."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import altair as alt

from reslab.records import DepthRecord, JacobianRecord, PathRecord
from reslab.report import _chart as ch
from reslab.report._style import ALARM, BLUE, INK, OTHER
from reslab.report.figure import DataRow, Figure
from reslab.report.profile import is_measured
from reslab.report.text import five_digits, percent

HEIGHT = 200
DIAMOND: dict[str, Any] = {"shape": "diamond", "size": 120, "color": INK}
SIGNS = {"worse without it": BLUE, "better without it": OTHER}


def missing(key: str, title: str, field: str, depth: DepthRecord | None) -> Figure:
    """Say why there is nothing to draw."""
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
