"""All pictures of a diagnosis, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from reslab.errors import RequestError, unknown
from reslab.records import DepthRecord, FindingRecord, ReadingRecord
from reslab.report.diagnosis.depth import (
    jacobian_spectra,
    lesion_bars,
    path_spectrum,
    shattering_curve,
    surface_slice,
)
from reslab.report.diagnosis.flow_strip import flow_strip
from reslab.report.diagnosis.heatmap import heatmap
from reslab.report.diagnosis.picture import Picture
from reslab.report.diagnosis.signal import signal_panels
from reslab.report.diagnosis.spine import spine
from reslab.report.diagnosis.split_bars import split_bars
from reslab.report.diagnosis.units import unit_strip
from reslab.report.diagnosis.updates import update_strip

Builder = Callable[[Sequence[ReadingRecord], DepthRecord | None], Picture]

CHARTS: dict[str, Builder] = {
    "flow": flow_strip,
    "split": split_bars,
    "signal": signal_panels,
    "units": unit_strip,
    "updates": update_strip,
    "paths": path_spectrum,
    "shattering": shattering_curve,
    "lesions": lesion_bars,
    "jacobian": jacobian_spectra,
    "surface": surface_slice,
    "heatmap": heatmap,
    "spine": spine,
}
"""In the order of the page."""


def draw(
    name: str,
    readings: Sequence[ReadingRecord],
    depth: DepthRecord | None = None,
    *,
    findings: Sequence[FindingRecord] = (),
) -> Picture:
    """One picture.

    Args:
        name: of ``CHARTS``.
        readings: of one network in order of step; one from ``diagnose``, several from ``watch``.
        depth: what the depth is used for, if it was measured.
        findings: the heatmap marks the blocks that they name.

    Returns:
        The picture; where the records don't have what it takes, one without a chart, whose caption says why.

    Raises:
        RequestError: for another name, or without a reading.
    """
    if name not in CHARTS:
        raise unknown("chart", name, CHARTS, hint=f"There are {', '.join(CHARTS)}.")
    if not readings:
        raise RequestError(f"There is no reading to draw {name!r} from. Expected at least one.")
    if name == "heatmap":
        return heatmap(readings, depth, findings=findings)
    return CHARTS[name](readings, depth)
