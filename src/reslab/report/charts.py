"""Pictures of runs, drawn from their records. One chart serves the interactive page and PNG files alike."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import altair as alt
import vl_convert

from reslab.errors import RequestError
from reslab.records import RunFolder, StepRecord, first_and_last, write_atomic

Row = dict[str, Any]
Panel = alt.LayerChart | alt.FacetChart
Family = Literal["plain", "residual"]

VEGALITE_VERSION = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
"""Which Vega-Lite draws, in PNG files and on the page: the one whose schema altair writes."""

# Okabe and Ito's colours, which colour-blind readers can tell apart; their yellow is left out, it vanishes on white.
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Plain networks are warm and residual ones cool on every chart; deeper is darker.
RAMPS: dict[Family, tuple[str, str, str]] = {
    "plain": ("#E69F00", "#D55E00", "#701C00"),
    "residual": ("#56B4E9", "#0072B2", "#00264D"),
}
FAMILY_TITLES: dict[Family, str] = {
    "plain": "Plain: no shortcuts",
    "residual": "Residual: with shortcuts",
}
VALIDATION, TRAINING = "validation", "training (as it ran)"
START, END = "first reading", "last reading"
SOLID, DASHED = [1, 0], [5, 3]
INK, QUIET, ALARM = "#222222", "#595959", "#B00020"
PANEL_HEIGHT = 270
RAIL = 30
"""Height in pixels of a rail: the strip for readings that a logarithmic axis has no place for."""
LEGEND_WIDTH = 860
MAX_POINTS = 1000
FEW = 28
"""Up to so many epochs or blocks, the dot of each reading is large; beyond, large ones would hide the dashes."""
FLOW_TITLE = "\u2190 input" + "\u00a0" * 4 + "block, in order of execution" + "\u00a0" * 4 + "loss \u2192"
POWERS = (
    "datum.value == 0 || (datum.value >= 0.001 && datum.value < 1e5)"
    " ? format(datum.value, ',~g') : format(datum.value, '.0e')"
)


@dataclass(frozen=True)
class Twin:
    """What a network's name says about it.

    Args:
        family: ``plain`` or ``residual``.
        depth: the number in the name.
        variant: what follows the number, such as ``_small``.
    """

    family: Family
    depth: int
    variant: str = ""


@dataclass(frozen=True)
class Portrait:
    """How one run looks on every chart.

    Args:
        run: whose records are drawn.
        twin: what the network's name says, or None where the runs are not compared by network.
        label: its entry in legends.
        colour: of its lines.
    """

    run: RunFolder
    twin: Twin | None
    label: str
    colour: str


def twin_of(model: str) -> Twin | None:
    """Reads a network's name; None if it is neither a plain nor a residual network of ours.

    Example:
        >>> twin_of("plain56")
        Twin(family='plain', depth=56, variant='')
    """
    match = re.fullmatch(r"(plain|resnet)(\d+)(\D.*)?", model)
    if match is None:
        return None
    return Twin("plain" if match[1] == "plain" else "residual", int(match[2]), match[3] or "")


def portraits(runs: Sequence[RunFolder]) -> list[Portrait]:
    """Gives every run a label and a colour: by network where the runs are twins of each other, else by run.

    Raises:
        RequestError: if there is no run.
    """
    if not runs:
        raise RequestError("There is no run to draw. Expected at least one run folder.")
    models = [str(run.read_run().model.get("name", run.name)) for run in runs]
    twins = [twin for model in models if (twin := twin_of(model))]
    repeated = max(Counter(models).values()) > 1  # the same network with several seeds
    if len(twins) == len(runs) and (are_paired(twins) or not repeated):
        colours = [_family_colour(twin, twins) for twin in twins]
        labels = models if repeated else [run.name for run in runs]
        return [Portrait(*parts) for parts in zip(runs, twins, labels, colours, strict=True)]
    return [Portrait(run, None, run.name, OKABE_ITO[place % len(OKABE_ITO)]) for place, run in enumerate(runs)]


def are_paired(twins: Iterable[Twin | None]) -> bool:
    """Whether plain and residual networks stand side by side."""
    return {twin.family for twin in twins if twin} == set(FAMILY_TITLES)


def _family_colour(twin: Twin, twins: list[Twin]) -> str:
    ranks = sorted({(other.depth, other.variant) for other in twins if other.family == twin.family})
    place = ranks.index((twin.depth, twin.variant)) / (len(ranks) - 1) if len(ranks) > 1 else 0.5
    return _blend(RAMPS[twin.family], place)


def _blend(ramp: tuple[str, str, str], place: float) -> str:
    """The colour at ``place`` (0 to 1) along a ramp."""
    left, right = (ramp[0], ramp[1]) if place < 0.5 else (ramp[1], ramp[2])
    share = 2 * place if place < 0.5 else 2 * place - 1
    channels = [(int(left[i : i + 2], 16), int(right[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(a + share * (b - a)):02X}" for a, b in channels)


# ---- learning curves


def learning_curves(runs: Sequence[RunFolder]) -> alt.TopLevelMixin:
    """Error in percent against epoch: validation solid, training as it ran dashed; plain left, residual right.

    The training error is of the epoch's own augmented batches, taken while the weights moved: the clean one stands in
    the table of results. Epochs are counted from 1, as people do.

    Raises:
        RequestError: if no run has finished an epoch.

    Reference:
        He et al. 2015, arXiv:1512.03385, Figure 6.
    """
    faces = portraits(runs)
    panels: dict[str, list[Row]] = {title: [] for title in FAMILY_TITLES.values()}
    for face in faces:
        panels.setdefault(FAMILY_TITLES[face.twin.family] if face.twin else "", []).extend(_error_rows(face))
    panels = {title: rows for title, rows in panels.items() if rows}
    if not panels:
        raise RequestError(f"No run has finished an epoch yet: {', '.join(run.name for run in runs)}.")
    end = _axis_end([row for rows in panels.values() for row in rows])
    ink = _ink(faces, (VALIDATION, TRAINING))
    titles = {title: title if len(panels) > 1 else "" for title in panels}
    charts = [_error_panel(rows, ink, title=titles[title], end=end) for title, rows in panels.items()]
    return _side_by_side(charts, ink, columns=2)


def _error_rows(face: Portrait) -> list[Row]:
    rows: list[Row] = []
    for record in face.run.read_epochs():
        for kind, error in ((VALIDATION, record.val_error), (TRAINING, record.train_error)):
            if error is not None and math.isfinite(error):
                row = {"run": face.run.name, "label": face.label, "line": kind, "epoch": record.epoch + 1}
                rows.append(row | {"error": round(100 * error, 4)})
    return rows


def _axis_end(rows: list[Row]) -> float:
    """Where the error axis ends: the first epochs may lie above it if they would flatten everything after them."""
    highest: float = max(row["error"] for row in rows)
    beginning = max(row["epoch"] for row in rows) / 5
    settled: float = max((row["error"] for row in rows if row["epoch"] > beginning), default=highest)
    end = 1.15 * settled if highest > 2 * settled else highest
    return min(100.0, 5.0 * math.ceil(max(end, 1) / 5))


def _error_panel(rows: list[Row], ink: Ink, *, title: str, end: float) -> Panel:
    cut = f", above {end:g} not shown" if max(row["error"] for row in rows) > end else ""
    epochs = [row["epoch"] for row in rows]
    base = alt.Chart().encode(
        x=alt.X("epoch:Q", title="epoch", scale=_whole_numbers(epochs), axis=_ticks(epochs)),
        y=alt.Y("error:Q", title=f"error (%{cut})", scale=alt.Scale(domain=[0, end])),
        color=ink.colour,
        opacity=ink.fade,
        detail="run:N",
        tooltip=["run:N", "line:N", "epoch:Q", alt.Tooltip("error:Q", title="error (%)", format=".2f")],
    )
    lines = base.mark_line(clip=True).encode(strokeDash=ink.dash, strokeWidth=ink.width)
    dots = base.mark_circle(clip=True, size=24).encode(opacity=ink.fade if len(set(epochs)) <= FEW else alt.value(0))
    return alt.layer(lines, dots, data=alt.InlineData(values=rows)).properties(
        title=title, width=420, height=PANEL_HEIGHT
    )


# ---- gradient flow


@dataclass(frozen=True)
class Frame:
    """The vertical axis that all flow panels share.

    Args:
        low: exponent of ten at the bottom of the axis.
        high: exponent of ten at its top.
        zeros: whether a rail for exact zeros lies below it.
        others: whether a rail for readings that are not finite lies above it.
    """

    low: int
    high: int
    zeros: bool
    others: bool


def gradient_flow(runs: Sequence[RunFolder]) -> alt.TopLevelMixin:
    """The flow strip: the gradient that arrives at each block, on a logarithmic axis; the input left, the loss right.

    The first reading is dashed, the last one solid. One panel for each pair of twins, or for each run where there are
    none. Nothing is clamped: readings of exactly 0 and readings that are not finite have rails of their own.

    Raises:
        RequestError: if no run was probed.
    """
    faces = portraits(runs)
    if paired := are_paired(face.twin for face in faces):
        faces = sorted((_as_twin(face) for face in faces), key=_by_depth)
    panels: dict[str, list[Row]] = {}
    for face in faces:
        title = f"{face.twin.depth} layers{face.twin.variant}" if paired and face.twin else face.run.name
        panels.setdefault(title, []).extend(_flow_rows(face))
    panels = {title: rows for title, rows in panels.items() if rows}
    if not panels:
        raise RequestError(f"No gradient was read in {', '.join(run.name for run in runs)}: train with probes.")
    frame = _frame([row["grad_norm"] for rows in panels.values() for row in rows])
    ink = _ink(faces, (END, START))
    charts = [_flow_panel(rows, ink, title=title, frame=frame) for title, rows in panels.items()]
    return _side_by_side(charts, ink, columns=3)


def _as_twin(face: Portrait) -> Portrait:
    """Inside a panel of one depth, the family is what tells lines apart."""
    assert face.twin is not None
    return replace(face, label=face.twin.family, colour=RAMPS[face.twin.family][1])


def _by_depth(face: Portrait) -> tuple[int, str]:
    assert face.twin is not None
    return face.twin.depth, face.twin.variant


def _flow_rows(face: Portrait) -> list[Row]:
    start, end = first_and_last(face.run.read_probes())
    end = [] if end == start else end  # a single reading is drawn once
    return [
        {
            "run": face.run.name,
            "label": face.label,
            "line": line,
            "step": record.step,
            "block": record.block,
            "index": record.index,
            "grad_norm": record.grad_norm,
        }
        for line, records in ((START, start), (END, end))
        for record in records
    ]


def _frame(norms: list[float]) -> Frame:
    exponents = [math.log10(norm) for norm in norms if math.isfinite(norm) and norm > 0] or [0.0]
    low = math.floor(min(exponents))
    high = max(math.ceil(max(exponents)), low + 1)
    return Frame(low, high, zeros=0 in norms, others=not all(map(math.isfinite, norms)))


def _flow_panel(rows: list[Row], ink: Ink, *, title: str, frame: Frame) -> Panel:
    measured = [_for_log_axis(row) for row in rows]
    places = [row["index"] for row in rows]
    base = alt.Chart(alt.InlineData(values=measured)).encode(
        x=alt.X(
            "index:Q",
            title=FLOW_TITLE,
            scale=_whole_numbers(places),
            axis=_ticks(places),
        ),
        y=_gradient_axis(frame),
        color=ink.colour,
        opacity=ink.fade,
        detail="run:N",
        tooltip=["run:N", "line:N", "step:Q", "block:N", "index:Q", alt.Tooltip("grad_norm:Q", format=".3~e")],
    )
    lines = base.mark_line().encode(strokeDash=ink.dash, strokeWidth=ink.width)
    dots = base.transform_filter("isValid(datum.grad_norm)").mark_circle(size=22 if len(set(places)) <= FEW else 6)
    rails = []
    if frame.zeros:
        zeros = [row for row in rows if row["grad_norm"] == 0]
        rails.append(_rail(zeros, ink, text="exactly 0", y=PANEL_HEIGHT - RAIL / 2, shape="triangle-down"))
    if frame.others:
        others = [row for row in rows if not math.isfinite(row["grad_norm"])]
        rails.append(_rail(others, ink, text="not finite", y=RAIL / 2, shape="cross"))
    layers = [*_stage_borders(rows), lines, dots, *rails]
    return alt.layer(*layers).properties(title=title, width=290, height=PANEL_HEIGHT)


def _for_log_axis(row: Row) -> Row:
    """Five digits, or a gap in the line where the axis has no place for the value: its rail shows it."""
    norm = row["grad_norm"]
    return row | {"grad_norm": float(f"{norm:.5g}") if math.isfinite(norm) and norm > 0 else None}


def _gradient_axis(frame: Frame) -> alt.Y:
    scale = alt.Scale(
        type="log",
        domain=[10.0**frame.low, 10.0**frame.high],
        rangeMin=PANEL_HEIGHT - (RAIL if frame.zeros else 0),
        rangeMax=RAIL if frame.others else 0,
        nice=False,
    )
    axis = alt.Axis(values=_log_ticks(10.0**frame.low, 10.0**frame.high), labelExpr=POWERS)
    return alt.Y("grad_norm:Q", title="gradient norm at the block", scale=scale, axis=axis)


def _rail(rows: list[Row], ink: Ink, *, text: str, y: float, shape: str) -> Panel:
    """A strip with its name where the axis has its labels, and one mark for each reading that belongs there."""
    line = alt.Chart(alt.InlineData(values=[{}])).mark_rule(color=QUIET, strokeDash=[1, 3]).encode(y=alt.value(y))
    name = alt.Chart(alt.InlineData(values=[{}])).mark_text(
        align="right", baseline="middle", color=ALARM, fontWeight="bold"
    )
    named = name.encode(x=alt.value(-8), y=alt.value(y), text=alt.value(text))
    described = [row | {"grad_norm": None, "reading": text} for row in rows]
    marks = alt.Chart(alt.InlineData(values=described)).mark_point(shape=shape, filled=True, size=60)
    placed = marks.encode(
        x="index:Q",
        y=alt.value(y),
        color=ink.colour,
        opacity=ink.fade,
        tooltip=["run:N", "line:N", "step:Q", "block:N", "index:Q", "reading:N"],
    )
    return alt.layer(line, named, *([placed] if rows else []))


def _stage_borders(rows: list[Row]) -> list[alt.Chart]:
    """Thin rules between stages, and the stages' names above the panel; nothing where names have no stage."""
    stages: dict[str, list[int]] = {}
    for row in rows:
        if match := re.search(r"(?:^|\.)layer(\d+)\.", row["block"]):
            stages.setdefault(match[1], []).append(row["index"])
    if not stages:
        return []
    names = [{"index": (min(at) + max(at)) / 2, "stage": f"stage {stage}"} for stage, at in stages.items()]
    borders = [{"index": max(at) + 0.5} for at in stages.values() if max(at) < max(row["index"] for row in rows)]
    rules = alt.Chart(alt.InlineData(values=borders)).mark_rule(color="#B0B0B0").encode(x="index:Q")
    labels = alt.Chart(alt.InlineData(values=names)).mark_text(baseline="bottom", color=QUIET, fontSize=11)
    return [rules, labels.encode(x="index:Q", y=alt.value(-4), text="stage:N")]


# ---- one run, step by step


def loss_and_lr(run: RunFolder) -> alt.TopLevelMixin:
    """Loss, gradient norm and learning rate of every step of one run, above each other.

    Long runs are thinned out so that the lowest and the highest value of every bin stay: no spike is lost. Steps whose
    value was not finite have a red mark at the top.

    Raises:
        RequestError: if the run has taken no step.
    """
    steps = run.read_steps()
    if not steps:
        raise RequestError(f"{run.name} has taken no step yet.")
    names = {"loss": "loss", "grad_norm": "gradient norm", "lr": "learning rate"}
    panels = [_step_panel(steps, key, title=title) for key, title in names.items()]
    return _dress(alt.vconcat(*panels, spacing=14))


def _step_panel(steps: list[StepRecord], key: str, *, title: str) -> Panel:
    values = [(record.step, float(getattr(record, key))) for record in steps]
    numbers = [record.step for record in steps]
    finite = [(step, value) for step, value in values if math.isfinite(value)]
    logarithmic = key != "lr" and bool(finite) and all(value > 0 for _, value in finite)
    rows = [{"step": step, "value": float(f"{value:.6g}")} for step, value in thin_out(finite)]
    if logarithmic:
        low, high = 0.9 * min(value for _, value in finite), 1.1 * max(value for _, value in finite)
        scale = alt.Scale(type="log", domain=[low, high], nice=False)
        axis = alt.Axis(values=_log_ticks(low, high), labelExpr=POWERS)
    else:
        scale, axis = alt.Scale(type="linear", zero=True), alt.Axis(tickCount=4, labelExpr=POWERS)
    line = alt.Chart(alt.InlineData(values=rows)).mark_line(strokeWidth=1.2, color=OKABE_ITO[0])
    drawn = line.encode(
        x=alt.X("step:Q", title="step" if key == "lr" else None, scale=_whole_numbers(numbers), axis=_ticks(numbers)),
        y=alt.Y("value:Q", title=title, scale=scale, axis=axis),
        tooltip=["step:Q", alt.Tooltip("value:Q", title=title, format=".4~g")],
    )
    bad = [{"step": step, "reading": str(value)} for step, value in values if not math.isfinite(value)][:MAX_POINTS]
    marks = alt.Chart(alt.InlineData(values=bad)).mark_point(shape="cross", filled=True, color=ALARM, size=50)
    placed = marks.encode(x="step:Q", y=alt.value(4), tooltip=["step:Q", alt.Tooltip("reading:N", title=title)])
    return alt.layer(drawn, *([placed] if bad else [])).properties(width=860, height=110 if key == "lr" else 150)


def thin_out(points: list[tuple[int, float]], *, limit: int = MAX_POINTS) -> list[tuple[int, float]]:
    """At most ``limit`` points, among them the lowest and the highest of every bin, in their order.

    Example:
        >>> thin_out([(0, 1.0), (1, 9.0), (2, 1.0), (3, 1.0)], limit=2)
        [(0, 1.0), (1, 9.0)]
    """
    if len(points) <= limit:
        return points
    width = math.ceil(len(points) / (limit // 2))
    kept = []
    for left in range(0, len(points), width):
        in_bin = points[left : left + width]
        kept += sorted({min(in_bin, key=lambda point: point[1]), max(in_bin, key=lambda point: point[1])})
    return kept


# ---- what all charts share


def _whole_numbers(values: Sequence[int]) -> alt.Scale:
    """From the lowest to the highest with a little air; never empty, so that a single reading has an axis too."""
    low, high = min(values), max(values)
    air = 0.02 * (high - low) or 0.5
    return alt.Scale(domain=[low - air, high + air], nice=False, zero=False)


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, some left out if there are many; on a short axis also their doubles and fives."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    short = math.log10(high / low) < 2
    steps = (1, 2, 5) if short else (1,)
    stride = 1 if short else math.ceil(len(exponents) / 9)
    ticks = [float(f"{step}e{exponent}") for exponent in exponents[::stride] for step in steps]
    return [tick for tick in ticks if low <= tick <= high]


def _ticks(values: Sequence[int]) -> alt.Axis:
    """At whole numbers only."""
    low, high = min(values), max(values)
    if high - low < 6:
        return alt.Axis(values=list(range(low, high + 1)), format="d", grid=False)
    return alt.Axis(tickMinStep=1, tickCount=6, format=",d", grid=False)


@dataclass(frozen=True)
class Ink:
    """How lines are told apart, the same on all panels of a figure.

    Args:
        colour: which run or family.
        dash: which of its two lines.
        width: the dashed one is thinner.
        fade: all but the run that was picked in the legend.
        picked: the click on the legend.
        columns: how many names the legend has in a row.
    """

    colour: alt.Color
    dash: alt.StrokeDash
    width: Any
    fade: Any
    picked: alt.Parameter
    columns: int


def _ink(faces: Sequence[Portrait], dashes: tuple[str, str]) -> Ink:
    """``dashes`` names the solid line, then the dashed one."""
    legend = {face.label: face.colour for face in faces}
    picked = alt.selection_point(name="picked", fields=["label"], bind="legend")
    colour = alt.Color(
        "label:N",
        title=None,
        scale=alt.Scale(domain=list(legend), range=list(legend.values())),
        legend=alt.Legend(orient="bottom", symbolType="stroke", symbolSize=500, symbolStrokeWidth=4),
    )
    dash = alt.StrokeDash(
        "line:N",
        title=None,
        scale=alt.Scale(domain=list(dashes), range=[SOLID, DASHED]),
        legend=alt.Legend(orient="top", symbolType="stroke", symbolSize=500),
    )
    width = alt.when(alt.datum.line == dashes[0]).then(alt.value(2.4)).otherwise(alt.value(1.4))
    fade = alt.when(picked).then(alt.value(1)).otherwise(alt.value(0.1))
    columns = max(1, LEGEND_WIDTH // (8 * max(map(len, legend)) + 45))  # 8 pixels a letter, 45 for the symbol
    return Ink(colour, dash, width, fade, picked, columns)


def _side_by_side(panels: list[Panel], ink: Ink, *, columns: int) -> alt.TopLevelMixin:
    """Panels in rows under one legend."""
    first, *others = panels
    row = alt.concat(first.add_params(ink.picked), *others, columns=min(columns, len(panels)), spacing=24)
    return _dress(row.resolve_scale(color="shared", strokeDash="shared"), legend_columns=ink.columns)


def _dress(chart: alt.ConcatChart | alt.VConcatChart, *, legend_columns: int = 1) -> alt.TopLevelMixin:
    """Fonts and inks; dark on white, also on a dark page, where charts lie on a light card."""
    dressed: alt.TopLevelMixin = chart.configure(
        background="#FFFFFF",
        font="system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif",
        axis=alt.AxisConfig(
            labelColor=INK,
            titleColor=INK,
            gridColor="#E8E8E8",
            domainColor=QUIET,
            tickColor=QUIET,
            labelFontSize=12,
            titleFontSize=12,
            titleFontWeight="normal",
            labelOverlap=True,
        ),
        legend=alt.LegendConfig(
            labelColor=INK,
            titleColor=QUIET,
            labelFontSize=12,
            titleFontSize=12,
            titleFontWeight="normal",
            labelLimit=300,
            columns=legend_columns,
        ),
        title=alt.TitleConfig(color=INK, fontSize=14, anchor="start", offset=16),
        view=alt.ViewConfig(stroke=None),
    )
    return dressed


def save_png(chart: alt.TopLevelMixin, path: Path, *, scale: float = 2.0) -> None:
    """Writes a chart as a picture, offline and whole or not at all.

    Args:
        chart: from this module.
        path: of the file.
        scale: pixels of the file per pixel of the chart.
    """
    write_atomic(path, vl_convert.vegalite_to_png(chart.to_dict(), vl_version=VEGALITE_VERSION, scale=scale))
