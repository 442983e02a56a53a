"""Several diagnoses side by side: a network and its twin, or before and after."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt

from reslab.errors import RequestError
from reslab.records import VerdictRecord
from reslab.report.diagnosis.axes import WIDTH, decades_of, inline, number
from reslab.report.diagnosis.block_table import block_rows
from reslab.report.diagnosis.case import Case
from reslab.report.diagnosis.embedded import embedded_json
from reslab.report.diagnosis.flow_strip import flow_panel, flow_rows, line_rows, times
from reslab.report.diagnosis.page import data_of, page_looks, written
from reslab.report.diagnosis.picture import Picture
from reslab.report.diagnosis.places import Depth, depth_of, is_measured, slope_of
from reslab.report.diagnosis.verdict_words import LAMPS, at, head_of, short
from reslab.report.embedding import render
from reslab.report.loss_slice import slice_caption, slice_chart, slice_rows
from reslab.report.portraits import OKABE_ITO
from reslab.report.theme import DASHED, SOLID, Row, dress
from reslab.report.words import DASH, in_words, ratio

TEMPLATE = "diagnosis/comparison_page.html.j2"
HEIGHT = 170
"""Of each of the strips over one another."""
DASHES = (SOLID, DASHED, [2, 2], [8, 3, 2, 3], [12, 4], [1, 4], [10, 2, 2, 2, 2, 2])
MAX_CASES = len(OKABE_ITO)
SIGNS = {"critical": "\u2716", "warning": "\u25b2", "info": "\u25cf", "clean": "\u2714", "not checked": DASH}


@dataclass(frozen=True)
class Cell:
    """What one rule says of one network.

    Args:
        state: a severity, ``clean``, or ``not checked``.
        sign: for it.
        text: number and place, or the reason.
    """

    state: str
    sign: str
    text: str


def write_comparison(cases: Sequence[Case], path: Path | str, *, title: str = "") -> Path:
    """Writes the page of several diagnoses, whole or not at all, and returns its path.

    Args:
        cases: two to seven, with different names.
        path: of the file.
        title: its heading; by default the names.

    Raises:
        RequestError: for fewer or more, for names that are the same, or if the file can't be written.
    """
    _check(cases)
    pictures = [over_depth(cases), strips(cases), slices(cases)]
    html = render(
        TEMPLATE,
        {
            "title": title or f"Diagnoses of {', '.join(case.name for case in cases)}",
            "heads": [(case.name, head_of(case.judged)) for case in cases],
            "names": [case.name for case in cases],
            "facts": facts_of(cases),
            "rules": rules_of(cases),
            "pictures": [picture for picture in pictures if picture.is_drawn],
            "absent": [picture for picture in pictures if not picture.is_drawn],
            "looks": page_looks(),
            "short": short,
            **data_of(pictures, {f"places of {case.name}": block_rows(case) for case in cases}),
            "records": embedded_json(cases),
        },
    )
    return written(html, Path(path))


def slices(cases: Sequence[Case]) -> Picture:
    """The loss around the weights of each, over one another."""
    known = [(case.name, case.depth.slice) for case in cases if case.depth and case.depth.slice]
    key, title = "surface", "The loss around the weights"
    if len(known) < 2 or not any(math.isfinite(loss) for _, record in known for loss in record.losses):
        return Picture(key, title, "Fewer than two were measured; depth='full' does.", None)
    names, records = [name for name, _ in known], [record for _, record in known]
    rows = slice_rows(records, titles=names)
    return Picture(key, title, slice_caption(records, titles=names), slice_chart(records, titles=names), rows)


def _check(cases: Sequence[Case]) -> None:
    if not 2 <= len(cases) <= MAX_CASES:
        raise RequestError(f"A comparison takes 2 to {MAX_CASES} diagnoses, got {len(cases)}.")
    names = [case.name for case in cases]
    if len(set(names)) < len(names):
        raise RequestError(f"Diagnoses that are compared need different names, got {', '.join(names)}.")


# ---- the tables


def facts_of(cases: Sequence[Case]) -> list[tuple[str, list[str]]]:
    """What is told of each network, one line a fact."""
    told = [_facts(case) for case in cases]
    return [(name, [facts[name] for facts in told]) for name in told[0]]


def _facts(case: Case) -> dict[str, str]:
    reading, along = case.readings[-1], depth_of(case.readings[-1])
    slope = slope_of(along)
    ends = [along.norms[0], along.norms[-1]] if along.places else [math.nan]
    measured = all(map(is_measured, ends))
    shares = [block.branch_share for block in reading.blocks if math.isfinite(block.branch_share)]
    paths = case.depth.paths if case.depth else None
    shattering = case.depth.shattering if case.depth else None
    return {
        "verdict": f"{LAMPS[case.judged.verdict][0]} {LAMPS[case.judged.verdict][1]}",
        "loss": f"{reading.loss:.4g}",
        "step": in_words(reading.step),
        "residual additions": in_words(len(reading.blocks)),
        "gradient at the first place over the last": ratio(ends[0] / ends[-1]) if measured else DASH,
        "growth towards the input": f"{times(slope.factor)} per {slope.unit}, R\u00b2 {slope.fit:.2f}"
        if slope
        else DASH,
        "median share of the branch": f"{statistics.median(shares):.0%}".replace("%", "\u00a0%") if shares else DASH,
        "effective depth": f"{paths.effective:.1f} of {len(paths.energies) - 1}" if paths else DASH,
        "gradient keeps its direction": f"to {shattering.half:.3g} of the way" if shattering else DASH,
    }


def rules_of(cases: Sequence[Case]) -> list[tuple[str, list[Cell]]]:
    """Rules that found something somewhere, the worst first; then those that the networks differ in."""
    ids = dict.fromkeys(rule for case in cases for rule in _rule_ids(case.judged))
    rows = [(rule, [cell_of(case.judged, rule) for case in cases]) for rule in ids]
    order = list(SIGNS)
    rows.sort(key=lambda row: min(order.index(cell.state) for cell in row[1]))
    return [row for row in rows if len({cell.state for cell in row[1]}) > 1 or row[1][0].state in order[:3]]


def _rule_ids(judged: VerdictRecord) -> list[str]:
    return [*(finding.id for finding in judged.findings), *judged.clean, *judged.not_checked]


def cell_of(judged: VerdictRecord, rule: str) -> Cell:
    """What a rule says; a rule that this version of the verdict doesn't have was not checked."""
    for finding in judged.findings:
        if finding.id == rule:
            return Cell(finding.severity, SIGNS[finding.severity], f"{short(finding.number)}{at(finding)}")
    if rule in judged.clean:
        return Cell("clean", SIGNS["clean"], "clean")
    reason = judged.not_checked.get(rule, "no such rule then")
    return Cell("not checked", SIGNS["not checked"], f"not checked: {reason}")


# ---- the pictures


def over_depth(cases: Sequence[Case]) -> Picture:
    """All networks on one axis, from the input to the loss, however deep they are."""
    key, title = "together", "Gradient flow, together"
    alongs = {case.name: along for case in cases if (along := depth_of(case.readings[-1])).places}
    if not alongs:
        return Picture(key, title, "No gradient along the depth was read.", None)
    frame = decades_of([norm for along in alongs.values() for norm in along.norms], height=280)
    lines = list(itertools.chain.from_iterable(_relative(name, along) for name, along in alongs.items()))
    inks = dict(zip(alongs, OKABE_ITO, strict=False))
    legend = alt.Legend(orient="top", symbolType="stroke", symbolSize=500, symbolStrokeWidth=3)
    colour = alt.Scale(domain=list(inks), range=list(inks.values()))
    dash = alt.Scale(domain=list(inks), range=[DASHES[place] for place in range(len(inks))])
    axis = alt.Axis(values=[0, 0.25, 0.5, 0.75, 1], format=".0%", grid=False)
    x = alt.X("share:Q", title="\u2190 input\u2003\u2003depth\u2003\u2003loss \u2192", axis=axis)
    chart = alt.Chart(inline(lines)).mark_line(strokeWidth=2.2, tooltip=True)
    placed = chart.encode(
        x=x,
        y=frame.axis("norm", "gradient norm"),
        color=alt.Color("line:N", title=None, scale=colour, legend=legend),
        strokeDash=alt.StrokeDash("line:N", title=None, scale=dash, legend=legend),
        tooltip=["line:N", "name:N", number("norm", "gradient norm")],
    )
    panel = alt.layer(placed).properties(width=WIDTH, height=frame.height)
    rows: list[Row] = [
        {"network": name, "index": place, "name": each.name, "grad_norm": each.grad_norm}
        for name, along in alongs.items()
        for place, each in enumerate(along.places)
    ]
    notes = "Zeros and values that are not finite are gaps here; the strips below have rails for them."
    return Picture(key, title, _growths(alongs), dress(alt.vconcat(panel), legend_columns=4), rows, notes=notes)


def _relative(name: str, along: Depth) -> list[Row]:
    last = max(len(along.places) - 1, 1)
    rows = line_rows(name, along.norms)
    return [
        {"line": name, "name": place.name, "share": round(row["index"] / last, 5), "norm": row["norm"]}
        for row, place in zip(rows, along.places, strict=True)
    ]


def _growths(alongs: dict[str, Depth]) -> str:
    told = [
        f"{ratio(along.norms[0] / along.norms[-1])}-fold in {name}"
        for name, along in alongs.items()
        if is_measured(along.norms[0]) and is_measured(along.norms[-1])
    ]
    if not told:
        return "In none of them can the gradient be followed from the loss to the input."
    return f"On its way from the loss to the input the gradient changes {', '.join(told)}."


def strips(cases: Sequence[Case]) -> Picture:
    """The flow strips over one another, with one vertical axis."""
    key, title = "strips", "Gradient flow, one by one"
    alongs = [(case, along) for case in cases if (along := depth_of(case.readings[-1])).places]
    if not alongs:
        return Picture(key, title, "No gradient along the depth was read.", None)
    tables = {case.name: flow_rows(along, None) for case, along in alongs}
    norms = [norm for _, along in alongs for norm in along.norms]
    ends = [
        row[end] for rows in tables.values() for row in rows for end in ("low", "high") if is_measured(row.get(end, 0))
    ]
    frame = decades_of([*norms, *ends], height=HEIGHT)
    panels: list[Any] = [flow_panel(along, tables[case.name], title=case.name, frame=frame) for case, along in alongs]
    rows = [{"network": name, **row} for name, rows in tables.items() for row in rows]
    keys = dict.fromkeys(key for row in rows for key in row)
    same = [{key: row.get(key, math.nan) for key in keys} for row in rows]
    caption = "The same axis for all: a steeper line is a gradient that changes faster from place to place."
    return Picture(key, title, caption, dress(alt.vconcat(*panels, spacing=18)), same)
