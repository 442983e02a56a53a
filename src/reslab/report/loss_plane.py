"""The loss on a plane through the weights: maps, what they say, and their numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import altair as alt

from reslab.errors import RequestError
from reslab.records import PlaneRecord
from reslab.report.surface import (
    ASK_LOG,
    READ_TO,
    TIMES,
    centre_of,
    circumstances,
    drawn,
    names_of,
)
from reslab.report.theme import ALARM, CARD, INK, QUIET, Panel, Row, dress

ROBUST = (0.01, 0.99)
"""Quantiles of all losses between which the colours of a map change."""
MAX_BANDS, NUM_EVEN = 12, 10
SERIES = ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,))
"""Where bands may begin in each power of ten; the finest that doesn't give too many is taken."""
SIDE = 330
"""Pixels of a map."""


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
