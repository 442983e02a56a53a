"""One HTML file about one diagnosis, or several side by side: opens without a network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reslab.errors import RequestError
from reslab.records import write_atomic
from reslab.report.diagnosis.block_table import block_rows
from reslab.report.diagnosis.case import Case
from reslab.report.diagnosis.charts import CHARTS, draw
from reslab.report.diagnosis.embedded import MAX_CELLS, embedded_json, kept_readings, packed
from reslab.report.diagnosis.glossary import GLOSSARY
from reslab.report.diagnosis.palette import DARK
from reslab.report.diagnosis.picture import Picture
from reslab.report.diagnosis.spine import SPINE_LOOKS
from reslab.report.diagnosis.verdict_words import card_of, head_of, short
from reslab.report.embedding import packed_spec, render, script_json, vega_script

TEMPLATE = "diagnosis/diagnosis_page.html.j2"


def write_diagnosis(case: Case, path: Path | str, *, title: str = "", more: Sequence[Picture] = ()) -> Path:
    """Writes the page of one diagnosis, whole or not at all, and returns its path.

    The verdict comes first, then the run, the pictures each with its conclusion and its numbers, all blocks, a
    glossary. All records are inside as JSON; ``read_page`` gets them out again.

    Args:
        case: what was seen, and what it means.
        path: of the file.
        title: its heading; by default the name of the network.
        more: pictures after those of ``CHARTS``, such as of the loss surface; with keys of their own.

    Raises:
        RequestError: if the file can't be written.
    """
    pictures = [draw(name, case.readings, case.depth, findings=case.judged.findings) for name in CHARTS]
    pictures += more
    rows = block_rows(case)
    html = render(
        TEMPLATE,
        {
            "title": title or f"Diagnosis of {case.name}",
            "head": head_of(case.judged),
            "card": card_of(case),
            "pictures": [picture for picture in pictures if picture.is_drawn],
            "absent": [picture for picture in pictures if not picture.is_drawn],
            "parts": {picture.key: [(title, page_svg(part)) for title, part in picture.parts] for picture in pictures},
            "drawings": {picture.key: page_svg(picture.svg) for picture in pictures if picture.svg},
            "looks": page_looks(),
            "unit": "block" if case.readings[-1].blocks else "layer",
            "num_rows": len(rows),
            "glossary": GLOSSARY,
            "left_out": len(case.readings) - len(kept_readings(case, MAX_CELLS)),
            "short": short,
            **data_of(pictures, {"blocks": rows}),
            "records": embedded_json([case]),
        },
    )
    return written(html, Path(path))


def data_of(pictures: Sequence[Picture], tables: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """What the page's script needs: charts, colours for a dark page, numbers behind each picture, and tables."""
    specs = {picture.key: packed_spec(spec) for picture in pictures if (spec := picture.spec)}
    numbers = {picture.key: packed(picture.rows) for picture in pictures if picture.is_drawn}
    return {
        "specs": script_json(specs),
        "numbers": script_json(numbers),
        "tables": script_json({name: packed(rows) for name, rows in tables.items()}),
        "dark_inks": script_json(DARK),
        "vega": vega_script(),
    }


def page_svg(svg: str) -> str:
    """A drawing without its own styles, which know nothing of the page's switch."""
    return re.sub(r"<style>.*?</style>", "", svg, flags=re.S)


def page_looks() -> str:
    """The styles of drawings, light and dark, as the page switches them."""
    light = "".join(f".drawing .{name}{{{style[0]}}}\n" for name, style in SPINE_LOOKS.items())
    dark = "".join(f":root[data-dark] .drawing .{name}{{{style[1]}}}\n" for name, style in SPINE_LOOKS.items())
    return light + dark


def written(html: str, path: Path) -> Path:
    """The file, whole or not at all."""
    try:
        write_atomic(path, html)
    except OSError as error:
        raise RequestError(f"Can't write {path}: {error.strerror or error}.") from None
    return path
