"""One picture: a chart, what it says, and the numbers behind it."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from reslab.errors import RequestError
from reslab.records import write_atomic
from reslab.report.diagnosis.palette import in_dark
from reslab.report.theme import VEGALITE_VERSION, Row

SUFFIXES = (".png", ".svg", ".json", ".csv")


@dataclass(frozen=True)
class Picture:
    """A chart, its conclusion in a sentence or two, and its numbers. Where there is none, the caption says why.

    In a notebook it shows itself.

    Args:
        key: names it, such as ``flow``.
        title: its heading.
        caption: its conclusion, computed from the records.
        chart: Vega-Lite by altair, or None.
        rows: its numbers, each row with the same keys; full precision.
        svg: a drawing in its place.
        parts: title and drawing of each thing that is folded in it; a page opens them on a click.
        notes: how it is read; lesser words.
        renderer: of the page: ``svg``, or ``canvas`` for very many marks.

    Example:
        >>> Picture("flow", "Gradient flow", "Nothing was read.", None).is_drawn
        False
    """

    key: str
    title: str
    caption: str
    chart: alt.TopLevelMixin | None
    rows: Sequence[Row] = ()
    svg: str | None = None
    parts: Sequence[tuple[str, str]] = ()
    notes: str = ""
    renderer: str = "svg"

    @property
    def is_drawn(self) -> bool:
        """Whether there is a chart or a drawing."""
        return self.chart is not None or self.svg is not None

    @property
    def spec(self) -> dict[str, Any] | None:
        """Vega-Lite; its description, which a screen reader says, is the caption."""
        if self.chart is None:
            return None
        return {**self.chart.to_dict(), "description": self.caption, "usermeta": {"renderer": self.renderer}}

    def csv(self) -> str:
        """The numbers as comma-separated values with a header; empty if there are none."""
        if not self.rows:
            return ""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()

    def save(self, path: Path | str, *, dark: bool = False) -> None:
        """Writes the picture or its numbers, whole or not at all.

        Args:
            path: ends in .png or .svg (a picture), .json (Vega-Lite) or .csv (the numbers).
            dark: for a dark page.

        Raises:
            RequestError: for another ending, or where there is nothing to write.
        """
        path = Path(path)
        if path.suffix not in SUFFIXES:
            raise RequestError(f"Can't write {path.name!r}: expected a name that ends in {', '.join(SUFFIXES)}.")
        if (path.suffix == ".csv" and not self.rows) or (path.suffix != ".csv" and not self.is_drawn):
            raise RequestError(f"There is no picture {self.key!r}: {self.caption}")
        try:
            write_atomic(path, self._written(path.suffix, dark=dark))
        except OSError as error:
            raise RequestError(f"Can't write {path}: {error.strerror or error}.") from None

    def _written(self, suffix: str, *, dark: bool) -> str | bytes:
        if suffix == ".csv":
            return self.csv()
        if self.svg is not None:
            svg = dark_svg(self.svg) if dark else self.svg
            return svg if suffix == ".svg" else bytes(vl_convert.svg_to_png(svg, scale=2))
        spec = in_dark(self.spec) if dark else self.spec
        assert spec is not None
        if suffix == ".png":
            return bytes(vl_convert.vegalite_to_png(spec, vl_version=VEGALITE_VERSION, scale=2))
        if suffix == ".svg":
            return str(vl_convert.vegalite_to_svg(spec, vl_version=VEGALITE_VERSION))
        return json.dumps(spec, allow_nan=False)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        """What a notebook shows, of these the first that it can; nothing is loaded from a network."""
        if self.svg is not None:
            return {"image/svg+xml": self.svg, "text/plain": self.caption}
        if self.chart is None:
            return {"text/plain": self.caption}
        kind = f"application/vnd.vegalite.v{alt.SCHEMA_VERSION.removeprefix('v').split('.')[0]}+json"
        return {kind: self.spec, "image/svg+xml": self._written(".svg", dark=False), "text/plain": self.caption}


def dark_svg(svg: str) -> str:
    """A drawing that is dark wherever it lies, from one that follows its surrounding.

    Example:
        >>> dark_svg("<style>.a{fill:#fff}@media (prefers-color-scheme:dark){.a{fill:#000}}</style>")
        '<style>.a{fill:#fff}.a{fill:#000}</style>'
    """
    return re.sub(r"@media \(prefers-color-scheme:dark\)\{(.*?)\}</style>", r"\1</style>", svg, flags=re.S)
