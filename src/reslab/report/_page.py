"""The page builder: one HTML file of an answer, figures and tables, which opens without a network, light or dark."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from reslab.records.diagnosis import VerdictRecord
from reslab.records.files import encode
from reslab.report import _svg
from reslab.report._style import DARK
from reslab.report.figure import DataRow, Figure, vega_lite_version, write_file
from reslab.report.verdict import SIGNS, reasons_of, verdict_sentence


@dataclass(frozen=True)
class Table:
    """Cells, already in words; the last cell of a shorter row spans the rest.

    A dict is a cell with ``state``, ``sign`` and ``text``.
    """

    header: Sequence[str]  # may be empty
    rows: Sequence[Sequence[Any]]
    words: int = 1  # leading columns that are words, and not numbers
    groups: Sequence[tuple[str, int]] = ()  # names above the header, each with the number of its columns
    fold: str = ""  # what stands in place of the table until it is clicked


@dataclass(frozen=True)
class Notice:
    """What a reader must know before any number, with names and values that explain it."""

    level: str  # ``running``, ``interrupted`` or ``failed``
    text: str
    items: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Section:
    title: str
    kind: str  # macro of blocks.html.j2 that shows it
    content: Any  # what that macro takes
    hint: str = ""  # lesser words below

    @property
    def anchor(self) -> str:
        return "about-" + re.sub(r"\W+", "-", self.title.lower()).strip("-")


def figure_sections(figures: Sequence[Figure], *, hint: str = "") -> list[Section]:
    """One section for each figure that is drawn, and one that says why the others aren't."""
    drawn = [Section(figure.title, "figure", figure, hint) for figure in figures if figure.is_drawn]
    absent = [(figure.title, figure.caption) for figure in figures if not figure.is_drawn]
    return [*drawn, *([Section("Not drawn", "facts", absent)] if absent else [])]


def write_page(
    path: Path | str,
    *,
    title: str,
    sections: Sequence[Section],
    lead: str = "",
    notices: Sequence[Notice] = (),
    verdicts: Mapping[str, VerdictRecord] = MappingProxyType({}),
    tables: Mapping[str, Sequence[DataRow]] | None = None,
    records: Any = None,
) -> Path:
    """Write a page, whole or not at all, and return its path.

    ``verdicts`` go by network, ``tables`` are the rows of sections of the kind ``sortable`` by key, and ``records`` are
    plain types that ``read_records`` gets out again.
    """
    figures = [section.content for section in sections if section.kind == "figure"]
    charts = {figure.key: spec for figure in figures if (spec := figure.spec)}
    rows = {figure.key: figure.rows for figure in figures if figure.rows} | dict(tables or {})
    data = {"shown": packed({"charts": charts, "rows": rows, "dark": DARK})}
    if charts:
        data["vega"] = packed_vega(vega_lite_version(next(iter(charts.values()))))
    data |= {"records": packed(records)} if records is not None else {}
    environment = Environment(
        loader=PackageLoader("reslab.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"signs": SIGNS, "verdict_sentence": verdict_sentence, "reasons_of": reasons_of}
    environment.globals["drawing"] = lambda svg: Markup(re.sub(r"<style>.*?</style>", "", svg, flags=re.S))
    html = environment.get_template("page.html.j2").render(
        title=title,
        lead=lead,
        notices=notices,
        verdicts=verdicts,
        sections=sections,
        data=data,
        drawing_styles="\n".join((_svg.styles_css(".drawing ", 0), _svg.styles_css(":root[data-dark] .drawing ", 1))),
    )
    write_file(Path(path), html)
    return Path(path)


# ---- what is inside, compressed


def packed(value: Any) -> str:
    """JSON, gzip, base64, which nothing in a name can break out of; the page's script unpacks it."""
    return base64.b64encode(gzip.compress(encode(value).encode(), mtime=0)).decode()


@cache
def packed_vega(version: str) -> str:
    """Vega, Vega-Lite and vega-embed as one script, which sets ``vegaEmbed``; it comes with vl-convert."""
    import vl_convert

    code = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version)
    return base64.b64encode(gzip.compress(code.encode(), mtime=0)).decode()


def read_records(html: str) -> Any:
    """Return the records of a page as plain types; None if there are none.

    Version 0.1 kept lists of records column by column, and wrote columns of later readings that are as in the first one
    once.
    """
    if found := re.search(r'<script[^>]* id="records"[^>]*>([^<]*)</script>', html):
        return json.loads(gzip.decompress(base64.b64decode(found[1])))
    found = re.search(r'<script[^>]* id="diagnosis"[^>]*>([^<]*)</script>', html)
    if found is None:
        return None
    whole: dict[str, Any] = json.loads(found[1])
    for diagnosis in whole["diagnoses"]:
        readings = diagnosis.pop("readings")
        diagnosis |= _unpacked(diagnosis, None) | {"readings": [_unpacked(each, readings[0]) for each in readings]}
    return whole


def _unpacked(value: Any, first: Any) -> Any:
    """``first``: the same of the first reading, some of whose columns are not repeated."""
    if isinstance(value, list):
        return [_unpacked(item, None) for item in value]
    if not isinstance(value, dict):
        return value
    if "packed" not in value:
        return {
            key: _unpacked(item, first.get(key) if isinstance(first, dict) else None) for key, item in value.items()
        }
    columns = {}
    for key, column in value["packed"]["columns"].items():
        column = first["packed"]["columns"][key] if column == "as in the first" else column
        cells = column.get("cells", ())
        if "fields" in column:
            columns[key] = _unpacked({"packed": column["fields"]}, None)
        else:
            words = column["words"]
            columns[key] = [_unpacked(cell if words is None else words[cell], None) for cell in cells]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
