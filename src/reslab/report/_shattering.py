"""Shattering: how far the gradient at the input keeps its direction on the way from one image to another."""

from __future__ import annotations

import math
from collections.abc import Sequence

import altair as alt

from reslab.records import DepthRecord, RunFolder, ShatteringRecord
from reslab.report import _chart as ch
from reslab.report._depth import DIAMOND, HEIGHT, missing
from reslab.report._style import BLUE, INK, RunStyle, run_styles
from reslab.report.figure import DataRow, Figure
from reslab.report.profile import is_measured

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
    rows = _rows(record)
    layers = _layers(
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
                panels.setdefault(name, []).extend(who | row for row in _rows(record.shattering))
    rows = [_table_row(style) for style in styles]
    if not panels:
        return Figure(key, title, "Shattering wasn't measured, so there is nothing to draw.", rows=rows)
    colours = {style.label: style.colour for style in styles}
    channels = ch.series(colours, (END, START))
    drawn = [ch.panel(_layers(found, channels), width=340, height=270, title=name) for name, found in panels.items()]
    return Figure(key, title, _caption(styles), ch.arrange(drawn, columns=2, names=colours), rows)


def _rows(record: ShatteringRecord) -> list[DataRow]:
    pairs = zip(record.distances, record.similarities, strict=True)
    return [{"distance": distance, "similarity": similarity} for distance, similarity in pairs]


def _layers(rows: list[DataRow], channels: ch.Channels, *, least: float = 1.0) -> list[ch.Panel]:
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


def _table_row(style: RunStyle) -> DataRow:
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


def _caption(styles: Sequence[RunStyle]) -> str:
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
