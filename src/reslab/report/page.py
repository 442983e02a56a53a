"""One HTML file about one run or many: opens without a network, and says in words what its charts show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reslab.errors import RequestError
from reslab.records import RunFolder, write_atomic
from reslab.report.embedding import packed_spec, render, script_json, vega_script
from reslab.report.facts import deviations, notices, sections
from reslab.report.figures import curves_figure, flow_figure, steps_figure
from reslab.report.tables import results_table


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
    html = render(
        "page.html.j2",
        {
            "title": title,
            "lead": lead,
            "notices": notices(runs, records),
            "results": results_table(runs),
            "figures": figures,
            "names": [run.name for run in runs],
            "sections": sections(records),
            "deviations": deviations(runs, records),
            "specs": script_json({figure.key: packed_spec(figure.spec) for figure in figures if figure.spec}),
            "vega": vega_script(),
        },
    )
    write_atomic(path, html)
    return path
