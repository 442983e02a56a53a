"""One figure: a chart or a drawing, what it says, and the numbers behind it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reslab.errors import RequestError
from reslab.records.files import write_atomic
from reslab.report import _svg
from reslab.report._style import in_dark

if TYPE_CHECKING:
    import altair as alt

DataRow = dict[str, Any]
"""What one mark of a chart is drawn from, and one line of its table."""


@dataclass(frozen=True)
class Figure:
    """A chart or a drawing with its conclusion and its numbers. Where there is nothing to draw, the caption says why.

    In a notebook it shows itself, without a network.

    Args:
        key: names it, such as ``flow``.
        title: its heading.
        caption: its conclusion in a sentence or two, computed from the records.
        chart: Vega-Lite by altair, to be changed as such; None for a drawing, or where there is nothing to draw.
        rows: its numbers, each row with the same keys.
        notes: how it is read.
        svg: a drawing in place of a chart.
        parts: title and drawing of each thing that is folded in a drawing; a page opens them on a click.
        on_canvas: a page draws it as one image instead of as SVG, because it has very many marks.

    Example:
        >>> Figure("flow", "Gradient flow", "Nothing was read.").is_drawn
        False
    """

    key: str
    title: str
    caption: str
    chart: alt.TopLevelMixin | None = None
    rows: Sequence[DataRow] = ()
    notes: str = ""
    svg: str | None = None
    parts: Sequence[tuple[str, str]] = ()
    on_canvas: bool = False

    @property
    def is_drawn(self) -> bool:
        """Whether there is a chart or a drawing."""
        return self.chart is not None or self.svg is not None

    @property
    def spec(self) -> dict[str, Any] | None:
        """The chart as Vega-Lite; its description, which a screen reader says, is the caption."""
        if self.chart is None:
            return None
        usermeta = {"renderer": "canvas" if self.on_canvas else "svg"}
        return {**self.chart.to_dict(), "description": self.caption, "usermeta": usermeta}

    def csv(self) -> str:
        """Write the numbers as comma-separated values with a header; empty if there are none."""
        if not self.rows:
            return ""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()

    def save(self, path: Path | str, *, dark: bool = False, scale: float = 2.0) -> None:
        """Write the picture or its numbers, whole or not at all.

        Args:
            path: ends in .png or .svg (a picture), .csv (the numbers) or, for a chart, .json (Vega-Lite).
            dark: for a dark page.
            scale: pixels of a PNG per pixel of the picture.

        Raises:
            RequestError: for another ending, where there is nothing to write, or a place that can't be written.
        """
        path = Path(path)
        check_path(path, [".png", ".svg", ".csv", *([] if self.svg else [".json"])])
        suffix = path.suffix.lower()
        if not (self.rows if suffix == ".csv" else self.is_drawn):
            raise RequestError(f"There is no picture {self.key!r}: {self.caption}")
        write_file(path, self.csv() if suffix == ".csv" else self._picture(suffix, dark=dark, scale=scale))

    def _picture(self, suffix: str, *, dark: bool = False, scale: float = 2.0) -> str | bytes:
        import vl_convert

        if self.svg is not None:
            svg = _svg.in_dark(self.svg) if dark else self.svg
            return svg if suffix == ".svg" else bytes(vl_convert.svg_to_png(svg, scale=scale))
        spec = in_dark(self.spec) if dark else self.spec
        assert spec is not None
        version = vega_lite_version(spec)
        if suffix == ".png":
            return bytes(vl_convert.vegalite_to_png(spec, vl_version=version, scale=scale))
        return json.dumps(spec) if suffix == ".json" else str(vl_convert.vegalite_to_svg(spec, vl_version=version))

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """What a notebook shows, of these the first that it can."""
        shown: dict[str, Any] = {"image/svg+xml": self._picture(".svg")} if self.is_drawn else {}
        if self.spec:
            shown = {f"application/vnd.vegalite.v{vega_lite_version(self.spec)[0]}+json": self.spec, **shown}
        return shown | {"text/plain": self.caption}


def vega_lite_version(spec: dict[str, Any]) -> str:
    """Return which Vega-Lite draws a chart: the one whose schema altair has written."""
    return str(spec["$schema"]).rpartition("/v")[2].rpartition(".")[0].rpartition(".")[0]


def check_path(path: Path, kinds: Sequence[str] = (".svg", ".png")) -> None:
    """Refuse a place where a figure can't be written, before any work is done.

    Raises:
        RequestError: unless the name has one of the endings, and lies in a folder that exists.
    """
    if path.suffix.lower() not in kinds:
        raise RequestError(f"Can't draw into {str(path)!r}: expected a name that ends in {' or '.join(kinds)}.")
    if path.is_dir():
        raise RequestError(f"{path} is a folder; name a file, such as {path / f'figure{kinds[0]}'}.")
    if not path.parent.is_dir():
        raise RequestError(f"There is no folder {path.parent} to write {path.name} into.")


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file, whole or not at all; one that can't be written is a RequestError."""
    try:
        write_atomic(path, content)
    except OSError as error:
        raise RequestError(f"Can't write {path}: {error.strerror or error}.") from None
