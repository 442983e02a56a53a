"""Everything that a page was made from, inside the page: written small, and read back."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from reslab.errors import RequestError
from reslab.records import DepthRecord, ReadingRecord, VerdictRecord
from reslab.records.files import NON_FINITE, from_plain
from reslab.report.diagnosis.case import Case
from reslab.report.embedding import packed_rows, script_json

PAGE_SCHEMA = 1
"""Of the JSON inside the page; a reader refuses a newer one."""
MAX_CELLS = 120_000
"""Numbers that the readings inside a page may have in all; beyond, some of the readings between are left out."""
DIGITS = 5
SAME = "as in the first"
"""In place of a column of a later reading."""


def embedded_json(cases: Sequence[Case]) -> str:
    """All records; lists of records column by column, numbers with five digits, NaN and the infinities as words."""
    whole = {"schema_version": PAGE_SCHEMA, "diagnoses": [_case(case, MAX_CELLS // len(cases)) for case in cases]}
    return script_json(whole)


def read_page(path: Path | str) -> dict[str, Any]:
    """What ``embedded_json`` has put into a page, with lists of records unpacked again.

    Returns:
        ``schema_version``, and under ``diagnoses`` for each network ``name``, ``facts``, ``verdict``, ``findings``,
        ``clean``, ``not_checked``, ``readings`` and ``depth``, as in the records.

    Raises:
        RequestError: for another file, or one that a newer version has written.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"Can't read {path}: {error}.") from None
    finder = _Finder()
    finder.feed(text)
    if not finder.found:
        raise RequestError(f"{path} is no page of a diagnosis: there are no records in it.")
    whole: dict[str, Any] = json.loads(finder.found)
    if whole["schema_version"] > PAGE_SCHEMA:
        raise RequestError(f"{path} has schema {whole['schema_version']}, this reslab knows {PAGE_SCHEMA}: upgrade it.")
    return {**whole, "diagnoses": [_unpacked(_completed(diagnosis)) for diagnosis in whole["diagnoses"]]}


def read_cases(path: Path | str) -> list[Case]:
    """The diagnoses inside a page, as records again.

    Raises:
        RequestError: for another file, or one that a newer version has written, or that is damaged.
    """
    try:
        return [_case_of(diagnosis) for diagnosis in read_page(path)["diagnoses"]]
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(f"The records in {path} are damaged ({error}). Make the page anew.") from None


def _case_of(diagnosis: dict[str, Any]) -> Case:
    depth = diagnosis["depth"]
    return Case(
        name=diagnosis["name"],
        judged=from_plain(VerdictRecord, diagnosis),
        readings=from_plain(tuple[ReadingRecord, ...], diagnosis["readings"]),
        depth=None if depth is None else from_plain(DepthRecord, depth),
        facts=diagnosis["facts"],
    )


def plain(value: Any) -> Any:
    """A value as JSON has it: numbers with five digits, or a word for what is not finite.

    Example:
        >>> plain({"loss": [2.30258509, float("nan")]})
        {'loss': [2.3026, 'NaN']}
    """
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if not isinstance(value, float):
        return value
    if math.isfinite(value):
        short = float(f"{value:.{DIGITS}g}")
        return int(short) if short.is_integer() and abs(short) < 1e6 else short
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def packed(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rows column by column, as JSON has them.

    Example:
        >>> packed([{"loss": float("inf")}, {"loss": float("inf")}])
        {'length': 2, 'columns': {'loss': {'words': ['Infinity'], 'cells': [0, 0]}}}
    """
    return packed_rows([plain(row) for row in rows])


# ---- writing


def _case(case: Case, max_cells: int) -> dict[str, Any]:
    kept = kept_readings(case, max_cells)
    judged = dataclasses.asdict(case.judged)
    readings = [_small(dataclasses.asdict(case.readings[place])) for place in kept]
    return {
        "name": case.name,
        "facts": {key: _small(value) for key, value in case.facts.items()},
        **{key: _small(value) for key, value in judged.items()},
        "num_readings": len(case.readings),
        "readings": [readings[0], *(_less(reading, readings[0]) for reading in readings[1:])],
        "depth": _small(dataclasses.asdict(case.depth)) if case.depth else None,
    }


def kept_readings(case: Case, max_cells: int) -> list[int]:
    """Which readings are written: all, or the first, the last and some between, evenly spaced."""
    last = case.readings[-1]
    size = 24 * len(last.blocks) + 4 * len(last.layers) + 8 * len(last.activations) + 6 * len(last.parameters) + 50
    count = len(case.readings)
    most = max(2, max_cells // size)
    if count <= most:
        return list(range(count))
    return sorted({round(place * (count - 1) / (most - 1)) for place in range(most)})


def _small(value: Any) -> Any:
    """JSON in which lists of records with one set of keys are packed."""
    if isinstance(value, dict):
        return {key: _small(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        if len(value) > 1 and all(isinstance(item, dict) for item in value) and len({tuple(row) for row in value}) == 1:
            return {"packed": packed(value)}
        return [_small(item) for item in value]
    return plain(value)


def _less(reading: dict[str, Any], first: dict[str, Any]) -> dict[str, Any]:
    """The reading without the columns that are those of the first one: names, shapes, kinds."""
    for key, value in reading.items():
        if isinstance(value, dict) and "packed" in value and "packed" in (first[key] or ()):
            columns, known = value["packed"]["columns"], first[key]["packed"]["columns"]
            value["packed"]["columns"] = {
                name: SAME if known.get(name) == column else column for name, column in columns.items()
            }
    return reading


# ---- reading


class _Finder(HTMLParser):
    """Finds the records among the page's scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.found = ""
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag == "script" and dict(attrs).get("id") == "diagnosis"

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.found += data

    def handle_endtag(self, tag: str) -> None:
        self._inside = False


def _unpacked(value: Any) -> Any:
    if isinstance(value, list):
        return [_unpacked(item) for item in value]
    if isinstance(value, str):
        return NON_FINITE.get(value, value)
    if not isinstance(value, dict):
        return value
    if value.keys() == {"packed"}:
        return _rows_of(value["packed"])
    return {key: _unpacked(item) for key, item in value.items()}


def _rows_of(table: dict[str, Any]) -> list[dict[str, Any]]:
    columns = {key: _cells_of(column) for key, column in table["columns"].items()}
    return [{key: cells[row] for key, cells in columns.items()} for row in range(table["length"])]


def _cells_of(column: dict[str, Any]) -> list[Any]:
    if "fields" in column:
        return list(_rows_of(column["fields"]))
    cells = column["cells"]
    return [_unpacked(column["words"][cell] if column["words"] is not None else cell) for cell in cells]


def _completed(diagnosis: dict[str, Any]) -> dict[str, Any]:
    """With the columns that later readings share with the first."""
    first = diagnosis["readings"][0]
    for reading in diagnosis["readings"][1:]:
        for key, value in reading.items():
            if isinstance(value, dict) and "packed" in value:
                for name, column in value["packed"]["columns"].items():
                    if column == SAME:
                        value["packed"]["columns"][name] = first[key]["packed"]["columns"][name]
    return diagnosis
