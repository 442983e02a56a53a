"""The loss around the weights: slices as lines, planes as maps, what they say, and their numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import TypeAlias

import altair as alt

from reslab.errors import RequestError
from reslab.records import PlaneRecord, SliceRecord
from reslab.report.portraits import OKABE_ITO, RAMPS, are_paired, twin_of
from reslab.report.theme import ALARM, CARD, FULL_WIDTH, INK, PANEL_HEIGHT, QUIET, Panel, Row, dress, log_ticks
from reslab.report.words import ratio

TIMES = "\N{MULTIPLICATION SIGN}"
AXIS_TITLE = "distance from the network (1: as far as its weights are from 0)"
NORMS = {"batch": "batch norm with the batch's statistics", "frozen": "batch norm with stored statistics"}
ASK_LOG = 20.0
"""Losses that differ by more than this factor stand on a logarithmic axis."""
READ_TO = 1e4
"""So many times the loss of the networks themselves, the axis of a slice and the colours of a map end."""
NEAR = 0.5
"""The distance at which captions tell how far the loss has risen."""
ROBUST = (0.01, 0.99)
"""Quantiles of all losses between which the colours of a map change."""
MAX_BANDS, NUM_EVEN = 12, 10
SERIES = ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,))
"""Where bands may begin in each power of ten; the finest that doesn't give too many is taken."""
SIDE = 330
"""Pixels of a map."""


Records: TypeAlias = Sequence[SliceRecord] | Sequence[PlaneRecord]

# ---- slices


def slice_chart(records: Sequence[SliceRecord], *, titles: Sequence[str] | None = None) -> alt.TopLevelMixin:
    """The loss of each network along its direction, over one another; the networks themselves are in the middle.

    Records of the same name, such as several directions, share a colour. Points that are not finite are crosses at the
    upper edge.

    Args:
        records: at least one.
        titles: names in the legend, in place of the records'.

    Raises:
        RequestError: if there is no record, or nothing finite.
    """
    names = names_of(records, titles)
    finite = [loss for record in records for loss in record.losses if math.isfinite(loss)]
    if not finite:
        raise RequestError(f"No loss of {', '.join(dict.fromkeys(names))} is finite: there is no slice to draw.")
    axis = loss_axis(records, finite)
    rows = [row | {"line": place} for place, row in drawn_rows(records, names)]
    span = max(max(record.positions) for record in records)
    x = alt.X(
        "position:Q", title=AXIS_TITLE, scale=alt.Scale(domain=[-span, span], nice=False), axis=alt.Axis(tickCount=9)
    )
    tooltip = [alt.Tooltip("network:N"), alt.Tooltip("position:Q", format=".3~g"), alt.Tooltip("loss:Q", format=".4~g")]
    base = alt.Chart(alt.InlineData(values=rows)).encode(x=x, color=colours_of(names), detail="line:N", tooltip=tooltip)
    lines = base.mark_line(strokeWidth=2.4, clip=True).encode(y=axis)
    crosses = base.transform_filter("!isValid(datum.loss)").mark_point(shape="cross", filled=True, size=60, opacity=1)
    layers = [middle(x), lines]
    if len(finite) < len(rows):
        layers += [crosses.encode(y=alt.value(8)), not_finite()]
    title = alt.TitleParams("Loss along a random direction", subtitle=circumstances(records), subtitleColor=QUIET)
    return dress(alt.vconcat(alt.layer(*layers).properties(width=FULL_WIDTH, height=PANEL_HEIGHT, title=title)))


def drawn_rows(records: Sequence[SliceRecord], names: Sequence[str]) -> list[tuple[int, Row]]:
    """What is drawn, each with the place of its record; five digits, and a gap where the axis has no place."""
    return [
        (place, {"network": name, "position": position, "loss": drawn(loss)})
        for place, (record, name) in enumerate(zip(records, names, strict=True))
        for position, loss in zip(record.positions, record.losses, strict=True)
    ]


def loss_axis(records: Sequence[SliceRecord], finite: Sequence[float]) -> alt.Y:
    """Logarithmic where the losses ask for it; what lies far above the networks' own is not shown, which it says."""
    low, high = min(finite), max(finite)
    centres = [loss for record in records if math.isfinite(loss := centre_of(record))]
    top = READ_TO * max(centres) if centres and max(centres) > 0 else high
    cut = f", above {ratio(top)} not shown" if high > top else ""
    high = min(high, top)
    title = f"loss{cut}"
    if low > 0 and high > ASK_LOG * low:
        scale = alt.Scale(type="log", domain=[low / 1.2, high * 1.2], nice=False)
        return alt.Y("loss:Q", title=title, scale=scale, axis=log_ticks(low / 1.2, high * 1.2))
    air = 0.06 * (high - low) or 0.5
    return alt.Y("loss:Q", title=title, scale=alt.Scale(domain=[low - air, high + air], zero=False, nice=False))


def colours_of(names: Sequence[str]) -> alt.Color:
    """Plain networks warm and residual ones cool where both are there, else one after another."""
    shown = list(dict.fromkeys(names))
    twins = [twin_of(name) for name in shown]
    families = [twin.family for twin in twins if twin]
    if are_paired(twins) and sorted(families) == ["plain", "residual"] and len(shown) == 2:
        range_ = [RAMPS[family][1] for family in families]
    else:
        range_ = [OKABE_ITO[place % len(OKABE_ITO)] for place in range(len(shown))]
    legend = alt.Legend(orient="bottom", symbolType="stroke", symbolSize=500, symbolStrokeWidth=4, columns=6)
    return alt.Color("network:N", title=None, scale=alt.Scale(domain=shown, range=range_), legend=legend)


def middle(x: alt.X) -> Panel:
    """A line where the networks themselves are."""
    base = alt.Chart(alt.InlineData(values=[{"position": 0.0, "words": "the network itself"}])).encode(x=x)
    rule = base.mark_rule(color=QUIET, strokeDash=[4, 3])
    words = base.mark_text(align="left", baseline="top", dx=6, fontSize=12, color=QUIET)
    return alt.layer(rule, words.encode(y=alt.value(4), text="words:N"))


def not_finite() -> alt.Chart:
    """The name of the upper edge, where the axis has its labels."""
    base = alt.Chart(alt.InlineData(values=[{}]))
    name = base.mark_text(align="right", baseline="middle", color=ALARM, fontWeight="bold")
    named: alt.Chart = name.encode(x=alt.value(-8), y=alt.value(8), text=alt.value("not finite"))
    return named


def slice_caption(records: Sequence[SliceRecord], *, titles: Sequence[str] | None = None) -> str:
    """By how much the loss rises, and how wide the bowl around each network is."""
    return " ".join(slice_sentence(*pair) for pair in zip(records, names_of(records, titles), strict=True))


def slice_sentence(record: SliceRecord, name: str) -> str:
    """One network's."""
    centre, far = centre_of(record), min(NEAR, max(record.positions))
    if not math.isfinite(centre):
        return f"{name}: the loss of the network itself is not finite."
    risen = fmean((loss_at(record, -far), loss_at(record, far)))
    end = f"{risen:.3g} (mean of both sides)" if math.isfinite(risen) else "values that are not finite"
    times = f", {ratio(risen / centre)} {TIMES}" if math.isfinite(risen) and centre > 0 else ""
    text = f"{name}: at a distance of {far:.3g} the loss goes from {centre:.3g} to {end}{times}"
    return f"{text}{bowl_words(record, centre)}{lower_words(record, centre)}."


def bowl_words(record: SliceRecord, centre: float) -> str:
    """How far it is to twice the loss."""
    if centre <= 0:
        return ""
    left, right = bowl_of(record)
    if (left, right) == (record.positions[0], record.positions[-1]):
        return f"; it stays below twice its value up to {right:.3g}"
    return f"; it is below twice its value from {left:.2g} to {right:.2g}"


def lower_words(record: SliceRecord, centre: float) -> str:
    """Whether the network stands in the lowest place, or there is a clearly lower one."""
    finite = [pair for pair in zip(record.losses, record.positions, strict=True) if math.isfinite(pair[0])]
    loss, position = min(finite)
    return f"; it is lower elsewhere, {loss:.3g} at {position:.2g}" if loss < centre - 0.1 * abs(centre) else ""


def slice_rows(records: Sequence[SliceRecord], *, titles: Sequence[str] | None = None) -> list[Row]:
    """The numbers, one row a point: ``network``, ``norms``, ``seed``, ``position``, ``loss``."""
    return [
        {"network": name, "norms": record.norms, "seed": record.seed, "position": position, "loss": loss}
        for record, name in zip(records, names_of(records, titles), strict=True)
        for position, loss in zip(record.positions, record.losses, strict=True)
    ]


def bowl_of(record: SliceRecord) -> tuple[float, float]:
    """Between which positions around the middle the loss is below twice that of the network.

    Between two points it is taken for linear; the ends of the slice are the farthest. A point that is not finite is a
    wall.

    Example:
        >>> bowl_of(SliceRecord("", (-2.0, -1.0, 0.0, 1.0, 2.0), (9.0, 1.5, 1.0, 3.0, 9.0), "batch", 0))
        (-1.0666666666666667, 0.5)
    """
    half, limit = len(record.positions) // 2, 2 * centre_of(record)
    right = _edge(record.positions[half:], record.losses[half:], limit)
    left = _edge(record.positions[half::-1], record.losses[half::-1], limit)
    return left, right


def _edge(positions: Sequence[float], losses: Sequence[float], limit: float) -> float:
    for place in range(1, len(positions)):
        before, after = losses[place - 1], losses[place]
        if not math.isfinite(after):
            return positions[place - 1]
        if after >= limit:
            share = (limit - before) / (after - before)
            return positions[place - 1] + share * (positions[place] - positions[place - 1])
    return positions[-1]


def loss_at(record: SliceRecord, position: float) -> float:
    """There, linear between two points."""
    pairs = list(zip(record.positions, record.losses, strict=True))
    for (start, before), (end, after) in pairwise(pairs):
        if start <= position <= end:
            share = (position - start) / (end - start)
            return before if share == 0 else after if share == 1 else before + share * (after - before)
    raise AssertionError(f"{position} is not on the slice")


# ---- planes


@dataclass(frozen=True)
class Cell:
    """A square of a map's grid, for its contour.

    Args:
        corners: places, going round.
        values: of the loss there.
    """

    corners: tuple[tuple[float, float], ...]
    values: tuple[float, ...]


def plane_chart(records: Sequence[PlaneRecord], *, titles: Sequence[str] | None = None) -> alt.TopLevelMixin:
    """A map of the loss for each network, side by side, with the same colours for the same losses.

    The bands of colour lie between the 1 % and the 99 % quantile of all losses; what is below or above has the first or
    the last colour. The white line is where the loss is twice that of the network, which the cross marks.

    Args:
        records: at least one.
        titles: above the maps, in place of the records' names.

    Raises:
        RequestError: if there is no record, or nothing finite.
    """
    names = names_of(records, titles)
    finite = [loss for record in records for row in record.losses for loss in row if math.isfinite(loss)]
    if not finite:
        raise RequestError(f"No loss of {', '.join(dict.fromkeys(names))} is finite: there is no plane to draw.")
    highest = max((loss for record in records if math.isfinite(loss := centre_of(record))), default=0.0)
    top = READ_TO * highest if highest > 0 else math.inf
    bands = bands_of([min(loss, top) for loss in finite])
    maps = [plane_map(record, name, bands) for record, name in zip(records, names, strict=True)]
    odd = " Crossed out: not finite." if len(finite) < sum(len(r.positions) ** 2 for r in records) else ""
    words = [circumstances(records), f"White line: twice the loss of the network, which the cross marks.{odd}"]
    title = alt.TitleParams("Loss on the plane of two random directions", subtitle=words, subtitleColor=QUIET)
    row = alt.concat(*maps, columns=min(2, len(maps)), spacing=24).resolve_scale(color="shared")
    return dress(alt.vconcat(row).properties(title=title))


def plane_map(record: PlaneRecord, name: str, bands: Sequence[float]) -> Panel:
    """One network's."""
    half = (record.positions[1] - record.positions[0]) / 2
    edge = record.positions[-1] + half
    scale = alt.Scale(domain=[-edge, edge], nice=False, zero=False)
    rows = [
        {"x": round(x, 6), "y": round(y, 6), "loss": drawn(loss)}
        for y, losses in zip(record.positions, record.losses, strict=True)
        for x, loss in zip(record.positions, losses, strict=True)
    ]
    base = alt.Chart(alt.InlineData(values=rows)).transform_calculate(
        left=f"datum.x - {half}", right=f"datum.x + {half}", low=f"datum.y - {half}", high=f"datum.y + {half}"
    )
    place = {
        "x": alt.X("left:Q", scale=scale, title="first direction", axis=alt.Axis(grid=False, tickCount=5)),
        "x2": "right:Q",
        "y": alt.Y("low:Q", scale=scale, title="second direction", axis=alt.Axis(grid=False, tickCount=5)),
        "y2": "high:Q",
    }
    scheme = alt.SchemeParams(name="viridis", count=len(bands) + 1)
    bins = alt.Scale(type="threshold", domain=list(bands), scheme=scheme)
    legend = alt.Legend(type="symbol", symbolType="square", symbolSize=260, symbolOpacity=1, format="~g")
    colour = alt.Color("loss:Q", title="loss", scale=bins, legend=legend)
    seam = alt.Stroke("loss:Q", scale=bins, legend=None)  # else the ground shines through between squares
    tooltip = [alt.Tooltip(f"{field}:Q", format=".4~g") for field in ("x", "y", "loss")]
    squares = base.transform_filter("isValid(datum.loss)").mark_rect(strokeWidth=0.7)
    squares = squares.encode(**place, color=colour, stroke=seam, tooltip=tooltip)
    layers = [squares, *struck_out(rows), *contour(record), *cross()]
    centre = centre_of(record)
    found = f"its loss {centre:.3g}" + (f", below twice that on {share_below(record)}" if centre > 0 else "")
    title = alt.TitleParams(name, subtitle=found, subtitleColor=QUIET)
    return alt.layer(*layers).properties(title=title, width=SIDE, height=SIDE)


def struck_out(rows: Sequence[Row]) -> list[alt.Chart]:
    """Points that are not finite, which no colour stands for."""
    odd = [{"x": row["x"], "y": row["y"], "loss": "not finite"} for row in rows if row["loss"] is None]
    marks = alt.Chart(alt.InlineData(values=odd)).mark_text(text=TIMES, color=ALARM, fontSize=12)
    return [marks.encode(x="x:Q", y="y:Q", tooltip=["x:Q", "y:Q", "loss:N"])] if odd else []


def contour(record: PlaneRecord) -> list[alt.Chart]:
    """The line of twice the loss of the network, with a dark edge; none where there is no such loss."""
    segments = line_at(record, 2 * centre_of(record)) if centre_of(record) > 0 else []
    base = alt.Chart(alt.InlineData(values=[dict(zip(("x", "y", "x2", "y2"), s, strict=True)) for s in segments]))
    looks = ((INK, 4.0), (CARD, 2.0)) if segments else ()
    place = {"x": "x:Q", "y": "y:Q", "x2": "x2:Q", "y2": "y2:Q"}
    return [base.mark_rule(color=ink, strokeWidth=width, strokeCap="round").encode(**place) for ink, width in looks]


def cross() -> list[alt.Chart]:
    """Where the network itself is: light with a dark edge, to be seen on every colour."""
    base = alt.Chart(alt.InlineData(values=[{"x": 0.0, "y": 0.0}]))
    mark = base.mark_point(shape="cross", size=130, filled=True, fill=CARD, stroke=INK, strokeWidth=1.2, opacity=1)
    return [mark.encode(x="x:Q", y="y:Q")]


def line_at(record: PlaneRecord, level: float) -> list[tuple[float, float, float, float]]:
    """Pieces of the line on which the loss has a value, linear along the edges of each square of the grid.

    Squares with a corner that is not finite have no piece.
    """
    return [piece for cell in cells_of(record) for piece in pieces(cell, level)]


def cells_of(record: PlaneRecord) -> list[Cell]:
    """All squares between four points of the grid."""
    at, cells = record.positions, []
    for row in range(len(at) - 1):
        for column in range(len(at) - 1):
            around = ((row, column), (row, column + 1), (row + 1, column + 1), (row + 1, column))
            corners = tuple((at[c], at[r]) for r, c in around)
            cells.append(Cell(corners, tuple(record.losses[r][c] for r, c in around)))
    return cells


def pieces(cell: Cell, level: float) -> list[tuple[float, float, float, float]]:
    """Where the line enters and leaves; in a saddle it does so twice."""
    if not all(map(math.isfinite, cell.values)):
        return []
    crossings = []
    for place in range(4):
        ends = cell.values[place], cell.values[(place + 1) % 4]
        if (ends[0] < level) != (ends[1] < level):
            share = (level - ends[0]) / (ends[1] - ends[0])
            (x, y), (x2, y2) = cell.corners[place], cell.corners[(place + 1) % 4]
            crossings.append((round(x + share * (x2 - x), 5), round(y + share * (y2 - y), 5)))
    return [(*crossings[place], *crossings[place + 1]) for place in range(0, len(crossings), 2)]


def bands_of(finite: Sequence[float]) -> list[float]:
    """Where one colour ends and the next begins: round numbers, evenly on a logarithmic scale where there is room.

    Losses of 0 and below have no such scale; there each band has as many points.

    Example:
        >>> bands_of([10.0**exponent for exponent in range(-2, 5)])
        [0.01, 0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0]
        >>> bands_of([2.0, 2.25, 2.5])[:3]
        [2.05, 2.1, 2.15]
    """
    ordered = sorted(finite)
    low, high = (ordered[round(share * (len(ordered) - 1))] for share in ROBUST)
    if low > 0:
        exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for series in SERIES:
            steps = [float(f"{step}e{exponent}") for exponent in exponents for step in series]
            inside = [step for step in steps if low <= step <= high]
            if MAX_BANDS // 2 <= len(inside) <= MAX_BANDS:
                return inside
    shares = [place / NUM_EVEN for place in range(1, NUM_EVEN)]
    if low <= 0:  # no logarithm: as many points in each band
        return sorted({float(f"{ordered[int(share * len(ordered))]:.3g}") for share in shares})
    if high > ASK_LOG * low:
        return [float(f"{low * (high / low) ** share:.3g}") for share in shares]
    digits = 2 - math.floor(math.log10(high - low)) if high > low else 2
    return sorted({round(low + (high - low) * share, digits) for share in shares})


def plane_caption(records: Sequence[PlaneRecord], *, titles: Sequence[str] | None = None) -> str:
    """How much of each plane is a bowl around the network."""
    return " ".join(plane_sentence(*pair) for pair in zip(records, names_of(records, titles), strict=True))


def plane_sentence(record: PlaneRecord, name: str) -> str:
    """One network's."""
    centre, losses = centre_of(record), [loss for row in record.losses for loss in row]
    odd = sum(not math.isfinite(loss) for loss in losses)
    if not math.isfinite(centre):
        return f"{name}: the loss of the network itself is not finite."
    worst = max(loss for loss in losses if math.isfinite(loss))
    text = f"{name}: the loss of the network is {centre:.3g}, the highest on the plane {worst:.3g}"
    if centre > 0:
        text = (
            f"{name}: the loss is below twice that of the network ({centre:.3g}) on {share_below(record)} of the plane"
        )
    return f"{text}; {odd} of {len(losses)} points are not finite." if odd else f"{text}."


def share_below(record: PlaneRecord) -> str:
    """Of all points, those where the loss is below twice that of the network."""
    losses = [loss for row in record.losses for loss in row]
    return f"{100 * fmean(loss < 2 * centre_of(record) for loss in losses):.3g} %"


def plane_rows(records: Sequence[PlaneRecord], *, titles: Sequence[str] | None = None) -> list[Row]:
    """The numbers, one row a point: ``network``, ``norms``, ``seed``, ``first``, ``second``, ``loss``."""
    return [
        {"network": name, "norms": record.norms, "seed": record.seed, "first": first, "second": second, "loss": loss}
        for record, name in zip(records, names_of(records, titles), strict=True)
        for second, losses in zip(record.positions, record.losses, strict=True)
        for first, loss in zip(record.positions, losses, strict=True)
    ]


# ---- both


def names_of(records: Records, titles: Sequence[str] | None) -> list[str]:
    """What to call each: its title, its name, or its number.

    Raises:
        RequestError: if there is no record, or not one title for each.
    """
    if not records:
        raise RequestError("There is nothing to draw. Expected at least one slice or plane.")
    if titles is not None and len(titles) != len(records):
        raise RequestError(f"Expected one title for each of {len(records)} records, got {len(titles)}.")
    each: Sequence[SliceRecord | PlaneRecord] = records
    names = titles or [record.name or f"network {place + 1}" for place, record in enumerate(each)]
    differ = len({record.norms for record in each}) > 1
    return [f"{name}, {record.norms}" if differ else name for name, record in zip(names, each, strict=True)]


def centre_of(record: SliceRecord | PlaneRecord) -> float:
    """The loss of the network itself."""
    half = len(record.positions) // 2
    return record.losses[half] if isinstance(record, SliceRecord) else record.losses[half][half]


def circumstances(records: Records) -> str:
    """How it was measured."""
    each: Sequence[SliceRecord | PlaneRecord] = records
    norms = dict.fromkeys(NORMS.get(record.norms, record.norms) for record in each)
    seeds = dict.fromkeys(record.seed for record in each)
    drawn_from = f"seed {next(iter(seeds))}" if len(seeds) == 1 else f"{len(seeds)} seeds"
    return f"Filters scaled as in Li et al. 2018; {' or '.join(norms)}; {drawn_from}."


def drawn(loss: float) -> float | None:
    """Five digits, or nothing where no axis has a place for it."""
    return float(f"{loss:.5g}") if math.isfinite(loss) else None
