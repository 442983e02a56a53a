"""How things look on every chart, drawing and page: colours, each with one meaning, and which run has which.

Marks have a contrast of at least 3 with the card that they lie on, words of at least 4.5 (WCAG 2.1). Charts are made in
the light colours; ``in_dark`` puts their dark counterparts in place, and so does a page's script.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from reslab.errors import RequestError
from reslab.records import RunFolder, RunRecord

Family = Literal["plain", "residual"]

FONT = "system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
INK, QUIET, ALARM, CARD = "#222222", "#595959", "#B00020", "#FFFFFF"
"""Words, lesser words, what went wrong, and what they stand on."""
BLUE, VERMILION = "#005F96", "#C24E00"
"""With shortcuts: a network, a residual one, the shortcut's part of a gradient. And without: plain, or cut."""
BRANCH, OTHER, EXPECTED = "#CC6FA3", "#8A8A8A", "#007A5A"
"""The branch's part; what is neither; what theory or healthy networks lead one to expect."""
GRID, BAND, UNKNOWN = "#E8E8E8", "#7A7F87", "#BDBDBD"
"""Lines of a grid, every other stage (a tenth of it), and cells that were not read."""
DIVERGING = ("#5A2A83", "#A98BC6", "#F6F6F7", "#7DB88A", "#1B6B35")
"""From far below to far above the usual, which is in the middle."""


def _ramp(light: str, middle: str, deep: str) -> tuple[str, ...]:
    """Seven shades through three colours."""

    def blend(one: str, other: str, share: float) -> str:
        channels = [(int(one[i : i + 2], 16), int(other[i : i + 2], 16)) for i in (1, 3, 5)]
        return "#" + "".join(f"{round(a + share * (b - a)):02X}" for a, b in channels)

    return (*(blend(light, middle, k / 3) for k in range(3)), *(blend(middle, deep, k / 3) for k in range(4)))


RAMPS: dict[Family, tuple[str, ...]] = {
    "plain": _ramp("#DB7600", VERMILION, "#5E1700"),
    "residual": _ramp("#4C96D0", BLUE, "#00203F"),
}
"""Of networks that are compared by depth, from the shallowest to the deepest."""
RUN_COLOURS = (BLUE, "#B3478F", "#00805E", "#9A6B00", "#5B5BD6", "#2F87CC", INK)
"""Of runs that differ in something else."""
DARK = {
    **{INK: "#ECECF0", QUIET: "#B8B8C2", ALARM: "#FF8A93", CARD: "#202024", GRID: "#3C3C44", BAND: "#A0A4AC"},
    **{BRANCH: "#EFA9D0", OTHER: "#9292A0", EXPECTED: "#3CC9A0", UNKNOWN: "#70707A"},
    **dict(zip(RAMPS["plain"], _ramp("#C96A24", "#FF9A50", "#FFE0C4"), strict=True)),
    **dict(zip(RAMPS["residual"], _ramp("#3F7CA8", "#2F87CC", "#D5EEFF"), strict=True)),
    **dict(zip(RUN_COLOURS[1:6], ("#E08CC6", "#46C79E", "#D3A44C", "#A3A3F5", "#8CCBF2"), strict=True)),
    **dict(zip(DIVERGING, ("#CFC2F5", "#7F6DB8", "#2C2C33", "#3F8C57", "#A6E3B5"), strict=True)),
}
"""Light colour to dark one."""


def in_dark(node: Any) -> Any:
    """Put the dark colours into Vega-Lite; its data stay what they are."""
    if isinstance(node, dict):
        return {key: item if key == "datasets" else in_dark(item) for key, item in node.items()}
    if isinstance(node, list):
        return [in_dark(item) for item in node]
    return DARK.get(node, node) if isinstance(node, str) else node


# ---- networks and runs


@dataclass(frozen=True)
class NetworkName:
    family: Family
    depth: int
    variant: str = ""  # what follows the number, such as ``_small``


@dataclass(frozen=True)
class RunStyle:
    run: RunFolder
    record: RunRecord
    network: NetworkName | None  # None where the runs are not compared by network
    label: str  # in legends
    colour: str


def parse_name(model: str) -> NetworkName | None:
    """Read a network's name; None if it is neither a plain nor a residual network of ours."""
    match = re.fullmatch(r"(plain|resnet)(\d+)(\D.*)?", model)
    if match is None:
        return None
    return NetworkName("plain" if match[1] == "plain" else "residual", int(match[2]), match[3] or "")


def are_paired(networks: Iterable[NetworkName | None]) -> bool:
    """Whether plain and residual networks are side by side."""
    return {network.family for network in networks if network} == set(RAMPS)


def run_styles(runs: Sequence[RunFolder]) -> list[RunStyle]:
    """Give every run a label and a colour: by network where the runs are twins of each other, else by run."""
    if not runs:
        raise RequestError("There is no run to draw. Expected at least one run folder.")
    records, names = [run.read_run() for run in runs], [run.name for run in runs]
    models = [str(record.model.get("name", name)) for record, name in zip(records, names, strict=True)]
    networks = [parse_name(model) for model in models]
    repeated = max(Counter(models).values()) > 1  # the same network with several seeds
    colours = None if repeated and not are_paired(networks) else _family_colours(networks)
    if colours is None:
        networks, colours = [None] * len(runs), _colours_in_order(len(runs))
    labels = models if repeated and networks[0] else names
    return [RunStyle(*style) for style in zip(runs, records, networks, labels, colours, strict=True)]


def name_colours(names: Sequence[str]) -> dict[str, str]:
    """Give networks of which only names are known a colour: by family where they are twins, else one after another."""
    networks = [parse_name(name.partition(" ")[0]) for name in names]
    colours = _family_colours(networks) if are_paired(networks) and len(set(networks)) == len(names) else None
    return dict(zip(names, colours or _colours_in_order(len(names)), strict=True))


def _colours_in_order(count: int) -> list[str]:
    return [RUN_COLOURS[place % len(RUN_COLOURS)] for place in range(count)]


def _family_colours(networks: Sequence[NetworkName | None]) -> list[str] | None:
    """Deeper is stronger; None if one of them is of another family."""
    known, colours = [network for network in networks if network], []
    for network in known:
        ranks = sorted({(other.depth, other.variant) for other in known if other.family == network.family})
        place = ranks.index((network.depth, network.variant)) / (len(ranks) - 1) if len(ranks) > 1 else 0.5
        colours.append(RAMPS[network.family][round(6 * place)])
    return colours if len(known) == len(networks) else None
