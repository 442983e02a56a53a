"""One HTML file about one run or many: opens without a network, says in words what the charts show."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import altair as alt
import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from reslab.errors import RequestError
from reslab.records import (
    BlockGradientRecord,
    EpochRecord,
    RunFolder,
    RunRecord,
    StepRecord,
    as_percent,
    first_and_last,
    write_atomic,
)
from reslab.report.charts import (
    VEGALITE_VERSION,
    Twin,
    are_paired,
    gradient_flow,
    learning_curves,
    loss_and_lr,
    portraits,
    twin_of,
)

DASH = "\N{EN DASH}"
TABLE_ROWS = 120
"""So many rows of a long table stand on the page; the run folder has them all."""


@dataclass(frozen=True)
class Table:
    """Numbers behind a chart, already in words.

    Args:
        title: what it is about; may be empty.
        header: names of the columns.
        rows: of cells, as long as the header.
    """

    title: str
    header: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Figure:
    """A chart, what it says, and the numbers behind it. Without a chart, the caption says why there is none.

    Args:
        key: names it inside the page.
        title: heading.
        caption: its conclusion, computed from the records.
        spec: Vega-Lite, or None.
        tables: its numbers.
    """

    key: str
    title: str
    caption: str
    spec: dict[str, Any] | None
    tables: list[Table]


@dataclass(frozen=True)
class Fact:
    """One row about all runs.

    Args:
        name: what it is.
        values: one a run, or only one where all runs agree.
    """

    name: str
    values: list[str]


def write_page(runs: Sequence[RunFolder], path: Path, *, title: str, lead: str = "") -> Path:
    """Writes the page, whole or not at all, and returns its path.

    Args:
        runs: what it is about; best with their twins.
        path: of the file.
        title: its heading.
        lead: the answer in a sentence or two, shown large.

    Raises:
        RequestError: if there is no run.
    """
    if not runs:
        raise RequestError("A page needs at least one run folder, and none was given.")
    records = [run.read_run() for run in runs]
    figures = [_curves_figure(runs), _flow_figure(runs)]
    if len(runs) == 1:
        figures.append(_steps_figure(runs[0]))
    template = Environment(
        loader=PackageLoader("reslab.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    ).get_template("page.html.j2")
    html = template.render(
        title=title,
        lead=lead,
        notices=[notice for run, record in zip(runs, records, strict=True) for notice in _notices(run, record)],
        results=[_in_words(row) for row in result_rows(runs)],
        figures=figures,
        names=[run.name for run in runs],
        facts=_facts(records),
        deviations=_deviations(runs, records),
        specs=_script_json({figure.key: figure.spec for figure in figures if figure.spec}),
        vega=_vega(),
    )
    write_atomic(path, html)
    return path


@cache
def _vega() -> Markup:
    """Vega, Vega-Lite and vega-embed as one script, which sets ``vegaEmbed``; it comes with vl-convert."""
    return _safe_in_script(vl_convert.javascript_bundle(vl_version=VEGALITE_VERSION))


def _script_json(value: Any) -> Markup:
    """JSON that no ``</script>`` inside a name can break out of."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def _safe_in_script(code: str) -> Markup:
    return Markup(code.replace("</script", "<\\/script").replace("<!--", "<\\!--"))


# ---- results


def result_rows(runs: Iterable[RunFolder]) -> list[dict[str, Any]]:
    """One row a run: errors of the last and of the best weights, as shares; None where there is no such number.

    ``train_error`` is clean: eval mode, no augmentation. ``best`` are the weights with the lowest validation error.
    """
    rows = []
    for run in runs:
        record = run.read_run()
        row = {"run": run.name, "model": record.model.get("name"), "num_parameters": record.model.get("num_parameters")}
        for which, errors in (("last", record.last), ("best", record.best)):
            for split in ("train_error", "val_error", "test_error"):
                row[f"{which}_{split}"] = getattr(errors, split) if errors else None
        best_epoch = record.best.epoch + 1 if record.best else None
        rows.append(row | {"best_epoch": best_epoch, "duration_s": record.duration_s, "status": record.status})
    return rows
