"""The colours of a diagnosis's pictures, each with its counterpart on a dark page.

Charts are made in the light ones; ``in_dark`` gives the same chart for a dark page by putting the counterparts in
their places, and the page's script does the same in the browser.
"""

from __future__ import annotations

from typing import Any

from reslab.report.portraits import OKABE_ITO
from reslab.report.theme import ALARM, CARD, INK, QUIET

LINE, TWIN, BAND = "#0072B2", "#C24E00", "#7A7F87"
"""The network, the same without shortcuts, and every other stage (a tenth of it)."""
SHORTCUT, BRANCH, OTHER = "#0B6FA8", "#E69F00", "#8A8A8A"
"""Parts of the gradient; of different brightness, so that a grey print tells them apart."""
EXPECTED, GRID = "#007A5A", "#E8E8E8"
DIVERGING = ("#542788", "#998EC3", "#F6F6F7", "#F1A340", "#B35806")
"""From far below to far above the usual, which is in the middle."""

DARK = {
    INK: "#ECECF0",
    QUIET: "#B8B8C2",
    ALARM: "#FF8A93",
    CARD: "#202024",
    LINE: "#56B4E9",
    TWIN: "#FFA057",
    BAND: "#A0A4AC",
    SHORTCUT: "#2F87CC",
    BRANCH: "#F0B340",
    OTHER: "#9292A0",
    EXPECTED: "#3CC9A0",
    GRID: "#3C3C44",
    **dict(zip(OKABE_ITO[1:4] + OKABE_ITO[5:], ("#FF8A3D", "#3CC9A1", "#E39BC4", "#8CCBF2", "#FFFFFF"), strict=True)),
    DIVERGING[0]: "#CFC2F5",
    DIVERGING[1]: "#7F6DB8",
    DIVERGING[2]: "#2C2C33",
    DIVERGING[3]: "#B06A14",
    DIVERGING[4]: "#FFC978",
}
"""Light colour to dark one."""


def in_dark(node: Any) -> Any:
    """The same Vega-Lite for a dark page; data stay what they are.

    Example:
        >>> in_dark({"mark": {"color": "#222222"}, "datasets": {"a": [{"name": "#222222"}]}})
        {'mark': {'color': '#ECECF0'}, 'datasets': {'a': [{'name': '#222222'}]}}
    """
    if isinstance(node, dict):
        return {key: item if key == "datasets" else in_dark(item) for key, item in node.items()}
    if isinstance(node, list):
        return [in_dark(item) for item in node]
    return DARK.get(node, node) if isinstance(node, str) else node
