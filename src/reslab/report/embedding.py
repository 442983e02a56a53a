"""What a page of one file carries besides its words: charts, data at half their size, and the script that draws."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined

from reslab.report.theme import VEGALITE_VERSION


def render(template: str, values: dict[str, Any]) -> str:
    """A template of this room, filled in; a value that is missing is an error."""
    loader = PackageLoader("reslab.report", "")
    room = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return room.get_template(template).render(values)


@cache
def vega_script() -> str:
    """Vega, Vega-Lite and vega-embed as one script, which sets ``vegaEmbed``; it comes with vl-convert."""
    code: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGALITE_VERSION)
    return code.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def packed_spec(spec: dict[str, Any]) -> dict[str, Any]:
    """The same Vega-Lite at half the size or less: its data packed; the page's script unpacks them."""
    return {**spec, "datasets": {name: packed_rows(rows) for name, rows in spec["datasets"].items()}}


def packed_rows(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Column by column, what comes often written once; all rows have the keys of the first.

    Example:
        >>> packed_rows([{"name": "a", "x": 1}, {"name": "a", "x": 2}])["columns"]["name"]
        {'words': ['a'], 'cells': [0, 0]}
    """
    columns = {key: _packed_column([row[key] for row in rows]) for key in (rows[0] if rows else ())}
    return {"length": len(rows), "columns": columns}


def _packed_column(cells: list[Any]) -> dict[str, Any]:
    """A table of its own where the cells are records; places in a list of values where few values come often."""
    if cells and all(isinstance(cell, dict) for cell in cells) and len({tuple(cell) for cell in cells}) == 1:
        return {"fields": packed_rows(cells)}
    written = [json.dumps(cell) for cell in cells]
    places = {word: place for place, word in enumerate(dict.fromkeys(written))}
    if len(places) > len(cells) / 2 and not all(isinstance(cell, str) for cell in cells):
        return {"words": None, "cells": cells}
    return {"words": [json.loads(word) for word in places], "cells": [places[word] for word in written]}


def script_json(value: Any) -> str:
    """JSON from which no ``</script>`` inside a name can break out."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
