"""Who is who on every chart: what a network's name says, and the label and colour that its run keeps."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from reslab.errors import RequestError
from reslab.records import RunFolder

Family = Literal["plain", "residual"]

# Okabe and Ito's colours, which colour-blind readers can tell apart; their yellow is left out, it vanishes on white.
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Plain networks are warm and residual ones cool on every chart; deeper is darker.
RAMPS: dict[Family, tuple[str, str, str]] = {
    "plain": ("#E69F00", "#D55E00", "#701C00"),
    "residual": ("#56B4E9", "#0072B2", "#00264D"),
}


@dataclass(frozen=True)
class Twin:
    """What a network's name says about it.

    Args:
        family: ``plain`` or ``residual``.
        depth: the number in the name.
        variant: what follows the number, such as ``_small``.
    """

    family: Family
    depth: int
    variant: str = ""


@dataclass(frozen=True)
class Portrait:
    """How one run looks on every chart.

    Args:
        run: whose records are drawn.
        twin: what the network's name says, or None where the runs are not compared by network.
        label: its entry in legends.
        colour: of its lines.
    """

    run: RunFolder
    twin: Twin | None
    label: str
    colour: str


def twin_of(model: str) -> Twin | None:
    """Reads a network's name; None if it is neither a plain nor a residual network of ours.

    Example:
        >>> twin_of("plain56")
        Twin(family='plain', depth=56, variant='')
    """
    match = re.fullmatch(r"(plain|resnet)(\d+)(\D.*)?", model)
    if match is None:
        return None
    return Twin("plain" if match[1] == "plain" else "residual", int(match[2]), match[3] or "")


def are_paired(twins: Iterable[Twin | None]) -> bool:
    """Whether plain and residual networks stand side by side."""
    return {twin.family for twin in twins if twin} == set(RAMPS)


def portraits(runs: Sequence[RunFolder]) -> list[Portrait]:
    """Gives every run a label and a colour: by network where the runs are twins of each other, else by run.

    Raises:
        RequestError: if there is no run.
    """
    if not runs:
        raise RequestError("There is no run to draw. Expected at least one run folder.")
    models = [str(run.read_run().model.get("name", run.name)) for run in runs]
    twins = [twin for model in models if (twin := twin_of(model))]
    repeated = max(Counter(models).values()) > 1  # the same network with several seeds
    if len(twins) == len(runs) and (are_paired(twins) or not repeated):
        labels = models if repeated else [run.name for run in runs]
        return [
            Portrait(run, twin, label, _family_colour(twin, twins))
            for run, twin, label in zip(runs, twins, labels, strict=True)
        ]
    return [Portrait(run, None, run.name, OKABE_ITO[place % len(OKABE_ITO)]) for place, run in enumerate(runs)]


def _family_colour(twin: Twin, twins: list[Twin]) -> str:
    ranks = sorted({(other.depth, other.variant) for other in twins if other.family == twin.family})
    place = ranks.index((twin.depth, twin.variant)) / (len(ranks) - 1) if len(ranks) > 1 else 0.5
    return _blend(RAMPS[twin.family], place)


def _blend(ramp: tuple[str, str, str], place: float) -> str:
    """The colour at ``place`` (0 to 1) along a ramp."""
    left, right = (ramp[0], ramp[1]) if place < 0.5 else (ramp[1], ramp[2])
    share = 2 * place if place < 0.5 else 2 * place - 1
    channels = [(int(left[i : i + 2], 16), int(right[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(a + share * (b - a)):02X}" for a, b in channels)
