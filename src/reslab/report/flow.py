"""Gradient flow: the gradient at the input of each block, from the loss back to the input of the network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import altair as alt

from reslab.records import ReadingRecord, RunFolder
from reslab.records.depth import DepthRecord
from reslab.report import _chart as ch
from reslab.report._style import (
    BLUE,
    EXPECTED,
    INK,
    QUIET,
    RAMPS,
    VERMILION,
    RunStyle,
    are_paired,
    name_colours,
    run_styles,
)
from reslab.report.figure import DataRow, Figure
from reslab.report.profile import (
    FRACTIONS,
    MIN_POINTS,
    GradientProfile,
    block_profile,
    depth_profile,
    healthy_decades,
    is_measured,
    slope_of,
)
from reslab.report.text import five_digits, plural, ratio, times

TITLE = "Gradient flow, from the loss back to the input"
FIRST, LAST = "first reading", "last reading"
HERE, CUT = "this network", "the same, shortcuts cut"
MAX_NAMED = 4
"""Networks that a caption names."""
NOTES = (
    "Norm of one sample's gradient at the input, root mean square over the batch. The axis is logarithmic and nothing"
    " is clamped: exact zeros and values that are not finite have rails of their own."
)
RANGE_NOTES = " Shaded around the line: 10 to 90 % of the samples."
BAND_NOTES = " Green: 5 to 95 % of healthy residual networks, equal at the loss. Dotted: the slope."


@dataclass(frozen=True)
class FlowLine:
    profile: GradientProfile
    label: str  # of the network, in the legend
    colour: str
    reading: str = LAST
    run: str = ""  # empty for a network by itself


def gradient_flow(runs: Sequence[RunFolder]) -> Figure:
    """Draw the gradient that arrives at each block of runs, in their first reading (dashed) and in their last.

    Twins of one depth share a panel, other runs have one each; all have one axis. A panel of a single network also has
    the slope, and where healthy networks lie.

    Raises:
        RequestError: if there is no run.
    """
    styles = run_styles(runs)
    read = {style.run: _ends(style.run) for style in styles}
    panels: dict[str, list[FlowLine]] = {}
    for title, group in _groups(styles).items():
        for style in group:
            for reading, profile in read[style.run].items():
                line = FlowLine(profile, style.label, style.colour, reading, style.run.name)
                panels.setdefault(title, []).append(line)
    if not panels:
        return Figure("flow", TITLE, "No gradient was recorded block by block, so there is nothing to draw.")
    rows = [
        {"run": run.name, "reading": reading, "step": profile.step, "index": index, "block": name, "grad_norm": norm}
        for run, profiles in read.items()
        for reading, profile in profiles.items()
        for index, (name, norm) in enumerate(zip(profile.names, profile.norms, strict=True))
    ]
    size = {"width": ch.DEPTH_WIDTH} if len(panels) == 1 else {"columns": 3, "width": 290}
    alone = any(len({line.run for line in lines}) == 1 for lines in panels.values())
    chart = draw(panels, height=270, **size)
    return Figure("flow", TITLE, runs_caption(styles, read), chart, rows, NOTES + BAND_NOTES * alone)


def flow_figure(reading: ReadingRecord, depth: DepthRecord | None = None) -> Figure:
    """Draw one reading of one network, and the same with its shortcuts cut where that was measured."""
    profile = depth_profile(reading)
    if not profile.norms:
        return Figure("flow", TITLE, "No gradient along the depth was read: there is neither a block nor a layer.")
    has_range = any(map(math.isfinite, profile.low))
    columns = {"grad_norm": profile.norms} | ({"low": profile.low, "high": profile.high} if has_range else {})
    lines = [FlowLine(profile, HERE, BLUE if reading.blocks else VERMILION)]
    if depth and depth.twin and profile.unit == "block" and len(depth.twin.grad_norms) == len(profile.norms):
        columns["cut"] = depth.twin.grad_norms
        lines.append(FlowLine(replace(profile, norms=columns["cut"], low=(), high=()), CUT, VERMILION))
    rows = [
        {"index": index, "name": name} | {key: norms[index] for key, norms in columns.items()}
        for index, name in enumerate(profile.names)
    ]
    notes = NOTES + RANGE_NOTES * has_range + BAND_NOTES * bool(healthy_rows(profile))
    return Figure("flow", TITLE, network_caption(lines), draw({"": lines}), rows, notes)


def flow_comparison(readings: dict[str, ReadingRecord]) -> list[Figure]:
    """Draw readings of several networks on one axis, however deep they are, and below one another."""
    profiles = {name: profile for name, reading in readings.items() if (profile := depth_profile(reading)).norms}
    together, one_by_one = ("together", "Gradient flow, together"), ("strips", "Gradient flow, one by one")
    if not profiles:
        return [Figure(*each, "No gradient along the depth was read.") for each in (together, one_by_one)]
    colours = name_colours(list(profiles))
    lines = [FlowLine(profile, name, colours[name], run=name) for name, profile in profiles.items()]
    rows = [
        {"network": network, "index": index, "name": name, "grad_norm": norm}
        for network, profile in profiles.items()
        for index, (name, norm) in enumerate(zip(profile.names, profile.norms, strict=True))
    ]
    changes = "; it ".join(f"{change_words([profile.growth])} in {name}" for name, profile in profiles.items())
    caption = f"On its way from the loss to the input the gradient {changes}."
    same = "The same axis for all: a steeper line is a gradient that changes faster from block to block."
    strips = draw({line.label: [line] for line in lines}, height=170)
    return [
        Figure(*together, caption, draw({"": lines}), rows, NOTES),
        Figure(*one_by_one, same, strips, rows, NOTES + BAND_NOTES),
    ]


def _ends(run: RunFolder) -> dict[str, GradientProfile]:
    """The last and the first reading; a single one is drawn once."""
    readings = run.read_readings()
    ends = {LAST: readings[-1:], FIRST: readings[:1] if len(readings) > 1 else []}
    return {line: profile for line, found in ends.items() for each in found if (profile := block_profile(each)).norms}


def _groups(styles: Sequence[RunStyle]) -> dict[str, list[RunStyle]]:
    """Twins of one depth share a panel, where only the family distinguishes lines; any other run has one by itself."""
    if not are_paired(style.network for style in styles):
        return {style.run.name: [style] for style in styles}
    groups: dict[str, list[RunStyle]] = {}
    twins = [(style.network, style) for style in styles if style.network]
    for network, style in sorted(twins, key=lambda pair: (pair[0].depth, pair[0].variant)):
        same = replace(style, label=network.family, colour=RAMPS[network.family][3])
        groups.setdefault(f"{network.depth} layers{network.variant}", []).append(same)
    return groups


# ---- the chart


def draw(
    panels: dict[str, list[FlowLine]], *, columns: int = 1, width: int = ch.DEPTH_WIDTH, height: int = 290
) -> alt.TopLevelMixin:
    lines = [line for found in panels.values() for line in found]
    norms = [norm for line in lines for norm in line.profile.norms]
    around = [
        row for found in panels.values() for profile in _alone(found) for row in _range(profile) + healthy_rows(profile)
    ]
    axis = ch.LogAxis.over(norms, more=[row[end] for row in around for end in ("norm", "to")], height=height)
    colours = {line.label: line.colour for line in lines}
    channels = ch.series(colours, (LAST, FIRST) if any(line.reading == FIRST for line in lines) else ())
    drawn = []
    for title, found in panels.items():
        layers = _layers(found, axis, channels, width)
        drawn.append(ch.panel(layers, width=width, height=height, title=title))
    return ch.arrange(drawn, columns=columns, names=colours)


def _layers(lines: list[FlowLine], axis: ch.LogAxis, channels: ch.Channels, width: int) -> list[ch.Panel]:
    """Bands of stages and healthy networks, the lines, the slope, and the rails."""
    profile = lines[0].profile
    units = {line.profile.unit for line in lines}
    title = ["gradient norm", f"at the {profile.unit}'s input" if len(units) == 1 else "at the input"]
    y = axis.y("norm:Q", title if axis.height < 200 else " ".join(title))
    layers: list[ch.Panel] = []
    if len({len(line.profile.norms) for line in lines}) == 1:
        x, scales = ch.depth_axis(profile.names, profile.unit, field="x:Q"), [1.0] * len(lines)
        layers += ch.stage_bands(profile.names, width=width, field="x")
    else:  # of different depths: from 0 to 1
        ticks = alt.Axis(values=[0, 0.25, 0.5, 0.75, 1], format=".0%", grid=False)
        scale = alt.Scale(domain=[-0.02, 1.02], nice=False)
        x = alt.X("x:Q", title=ch.input_to_loss("depth"), axis=ticks, scale=scale)
        scales = [1 / max(len(line.profile.norms) - 1, 1) for line in lines]
    points = [
        row | {"x": round(row["x"] * scale, 5)}
        for line, scale in zip(lines, scales, strict=True)
        for row in _points(line)
    ]
    known = [row for row in points if is_measured(row["norm"])]
    large = len(profile.norms) <= ch.MAX_LARGE_DOTS
    at = {"x": x, "y": y}
    for each in _alone(lines):
        areas = {EXPECTED: healthy_rows(each), lines[0].colour: _range(each)}
        for colour, rows in ((colour, rows) for colour, rows in areas.items() if rows):
            layers.append(
                ch.mark("area", map(ch.rounded, rows), color=colour, opacity=0.16, clip=True, y2="to:Q", **at)
            )
        if areas[EXPECTED]:
            look: ch.Channels = {"color": EXPECTED, "baseline": "bottom", "dx": 4, "dy": -3, "clip": True}
            layers.append(ch.label("healthy networks", x="x:Q", y=y, row=areas[EXPECTED][0], **look))
    dots = known if large else [row for row in known if row["alone"]]
    layers += [
        ch.mark("line", axis.line(points, "norm"), detail=["run:N", "line:N"], **at, **channels),
        ch.mark("circle", dots, **at, **ch.of_dots(channels, size=30 if large else 12)),
        *(layer for each in _alone(lines) for layer in _slope(each, at)),
        ch.hover_table(points, "norm", "name", x="x", by="who"),
        *axis.rails(points, "norm", x="x:Q", color=channels["color"], tooltip=["name:N", "who:N"]),
    ]
    if width == ch.DEPTH_WIDTH:
        words = "\u25c4\u2500\u2500 gradient flows this way"
        layers.append(ch.label(words, y=-20, color=QUIET, baseline="bottom"))
    return layers


def _points(line: FlowLine) -> list[DataRow]:
    """Points of one line; ``alone``: between two gaps, where no line shows it."""
    known = [False, *map(is_measured, line.profile.norms), False]
    who = f"{line.run or line.label}, step {line.profile.step:,}"
    about = {"label": line.label, "line": line.reading, "run": line.run, "who": who}
    return [
        {"x": index, "name": name, "norm": norm, **about}
        | {"alone": known[index + 1] and not known[index] and not known[index + 2]}
        for index, (name, norm) in enumerate(zip(line.profile.names, line.profile.norms, strict=True))
    ]


def _alone(lines: Sequence[FlowLine]) -> list[GradientProfile]:
    """The last reading of a panel's only network; none where there are several."""
    return [lines[0].profile] if len({line.run for line in lines}) == 1 else []


def _range(profile: GradientProfile) -> list[DataRow]:
    pairs = enumerate(zip(profile.low, profile.high, strict=True))
    return [{"x": x, "norm": low, "to": high} for x, (low, high) in pairs if is_measured(low) and is_measured(high)]


def healthy_rows(profile: GradientProfile) -> list[DataRow]:
    """Return where healthy networks lie along this depth; none where it is short, or the last norm isn't measured.

    Among layers the last one is the head, which is like none before it: there the fitted line's end is taken.
    """
    slope = slope_of(profile) if profile.unit == "layer" else None
    last = slope.at(slope.last) if slope else (profile.norms or (0.0,))[-1]
    if len(profile.norms) < MIN_POINTS or not is_measured(last):
        return []
    rows = [
        {"x": share * (len(profile.norms) - 1), "norm": last * 10.0**low, "to": last * 10.0**high}
        for share, low, high in zip(FRACTIONS, *healthy_decades(), strict=True)
    ]
    return [row for row in rows if is_measured(row["norm"]) and is_measured(row["to"])]


def _slope(profile: GradientProfile, at: ch.Channels) -> list[ch.Panel]:
    slope = slope_of(profile)
    if slope is None:
        return []
    ends = [{"x": index, "norm": five_digits(slope.at(index))} for index in (slope.first, slope.last)]
    look = {"color": INK, "strokeDash": [2, 3], "strokeWidth": 2, "clip": True}
    words = f"{times(slope.factor)} per {slope.unit}  (R\u00b2 {slope.fit:.2f})"
    return [ch.mark("line", [end for end in ends if end["norm"]], **look, **at), ch.label(words)]


# ---- in words


def change_words(factors: Sequence[float]) -> str:
    """Say by how much gradients change from the loss to the input; of several seeds, from the least to the greatest.

    Example:
        >>> change_words([1240.0]), change_words([0.01, 0.02])
        ('grows 1,240-fold', 'shrinks 50- to 100-fold')
    """
    known = sorted(factor for factor in factors if is_measured(factor))
    if not known:
        return "can't be followed (a norm at one of its ends is 0 or not finite)"
    low, high = known[0], known[-1]
    if max(abs(math.log10(factor)) for factor in known) < 0.3:
        return f"keeps its size ({' to '.join(dict.fromkeys(map(times, (low, high))))})"
    verb, sizes = ("grows", (low, high)) if low * high > 1 else ("shrinks", (1 / high, 1 / low))
    return f"{verb} {'- to '.join(dict.fromkeys(map(ratio, sizes)))}-fold"


def network_caption(lines: Sequence[FlowLine]) -> str:
    """Say what becomes of the gradient on its way to the input, and what without shortcuts."""
    profile = lines[0].profile
    decades = f" ({abs(math.log10(profile.growth)):.1f} decades)" if is_measured(profile.growth) else ""
    through = f" through {plural(len(profile.norms), profile.unit)}" if decades else ""
    sentences = [f"From the loss to the input the gradient {change_words([profile.growth])}{through}{decades}."]
    if len(profile.norms) == 1:
        where = f"its norm at {profile.names[0]} is {profile.norms[0]:.3g}"
        sentences = [f"There is a single {profile.unit} to follow the gradient through: {where}."]
    sentences += [_straightness(profile), _odd([profile])]
    for line in lines[1:]:
        growth = line.profile.growth
        sentences.append(
            f"With its shortcuts cut, the first block gets {ratio(growth)} times the last one's gradient."
            if is_measured(growth)
            else "With its shortcuts cut, no gradient that can be measured arrives at the input."
        )
    return " ".join(filter(None, sentences))


def runs_caption(styles: Sequence[RunStyle], read: dict[RunFolder, dict[str, GradientProfile]]) -> str:
    """Say what becomes of the gradient in the first reading and in the last; of twins, the deepest pair is named."""
    if are_paired(style.network for style in styles):
        depth = max(style.network.depth for style in styles if style.network)
        styles = [style for style in styles if style.network and style.network.depth == depth]
    groups: dict[str, list[dict[str, GradientProfile]]] = {}  # seeds of one network are named together
    for style in styles:
        if read[style.run]:
            groups.setdefault(style.label, []).append(read[style.run])
    sentences = []
    for name, found in list(groups.items())[:MAX_NAMED]:
        changes = "; it ".join(
            f"{change_words([profiles[line].growth for profiles in found])} at step {found[0][line].step:,}"
            for line in (FIRST, LAST)
            if line in found[0]
        )
        seeds = f" ({plural(len(found), 'run')})" if len(found) > 1 else ""
        sentences.append(f"{name}{seeds}: from the loss to the input the gradient {changes}.")
        sentences += [_straightness(found[0][LAST])] if len(read) == 1 else []
    sentences += [_odd(list(profiles.values()), f"{run.name}: ") for run, profiles in read.items()]
    return " ".join(filter(None, sentences))


def _straightness(profile: GradientProfile) -> str:
    slope = slope_of(profile)
    if slope is None:
        return ""
    where = "In the half nearer to the loss" if slope.unit == "block" else "Along the whole depth"
    shape = "a straight line, so the change is exponential" if slope.fit >= 0.95 else "not a straight line"
    shape = "hardly a slope" if abs(math.log10(slope.factor)) < 0.02 else shape
    return f"{where} it changes by {times(slope.factor)} per {slope.unit}: {shape} (R\u00b2 {slope.fit:.2f})."


def _odd(profiles: Sequence[GradientProfile], who: str = "") -> str:
    """How many norms the axis has no place for."""
    pairs = [pair for profile in profiles for pair in zip(profile.names, profile.norms, strict=True)]
    kinds = {
        "exactly 0": [name for name, norm in pairs if norm == 0],
        "not finite": [name for name, norm in pairs if not math.isfinite(norm)],
    }
    said = (
        f"{who}{len(names)} of {len(pairs)} norms are {kind} ({names[0]} first)."
        for kind, names in kinds.items()
        if names
    )
    return " ".join(said)
