"""One HTML file about one run or many: opens without a network, and says in words what its charts show."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined

from reslab.errors import RequestError
from reslab.records import RunFolder, write_atomic
from reslab.report.facts import deviations, notices, sections
from reslab.report.figures import curves_figure, flow_figure, steps_figure
from reslab.report.tables import results_table
from reslab.report.theme import VEGALITE_VERSION


def write_page(runs: Sequence[RunFolder], path: Path, *, title: str, lead: str = "") -> Path:
    """Writes the page, whole or not at all, and returns its path.

    Args:
        runs: what it is about, best with their twins.
        path: of the file.
        title: its heading.
        lead: the answer in a sentence or two, shown large.

    Raises:
        RequestError: if there is no run.
    """
    if not runs:
        raise RequestError("A page needs at least one run folder, and none was given.")
    records = [run.read_run() for run in runs]
    figures = [curves_figure(runs), flow_figure(runs)]
    if len(runs) == 1:
        figures.append(steps_figure(runs[0]))
    html = _template().render(
        title=title,
        lead=lead,
        notices=notices(runs, records),
        results=results_table(runs),
        figures=figures,
        names=[run.name for run in runs],
        sections=sections(records),
        deviations=deviations(runs, records),
        specs=_script_json({figure.key: _packed(figure.spec) for figure in figures if figure.spec}),
        vega=_vega(),
    )
    write_atomic(path, html)
    return path


def _template() -> Any:
    loader = PackageLoader("reslab.report", "")
    room = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return room.get_template("page.html.j2")


@cache
def _vega() -> str:
    """Vega, Vega-Lite and vega-embed as one script, which sets ``vegaEmbed``; it comes with vl-convert."""
    code: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGALITE_VERSION)
    return code.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _packed(spec: dict[str, Any]) -> dict[str, Any]:
    """The same spec at half the size or less: data column by column, every word once; the page's script unpacks it."""
    datasets = {}
    for name, rows in spec["datasets"].items():
        columns = {key: _packed_column([row[key] for row in rows]) for key in (rows[0] if rows else ())}
        datasets[name] = {"length": len(rows), "columns": columns}
    return {**spec, "datasets": datasets}


def _packed_column(cells: list[Any]) -> dict[str, Any]:
    """Words become places in a list of words; numbers stay what they are."""
    if not all(isinstance(cell, str) for cell in cells):
        return {"words": None, "cells": cells}
    places = {word: place for place, word in enumerate(dict.fromkeys(cells))}
    return {"words": list(places), "cells": [places[cell] for cell in cells]}


def _script_json(value: Any) -> str:
    """JSON from which no ``</script>`` inside a name can break out."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
