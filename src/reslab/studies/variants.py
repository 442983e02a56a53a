"""Which way of joining shortcut and branch trains at which depth? Every kind of the catalog, by one recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reslab.layers.connections import CONNECTIONS
from reslab.records import StudyRow, as_percent
from reslab.run.config import override
from reslab.studies.presets import CIFAR10, DIGITS, OFFLINE, ONLINE, Choices, Preset
from reslab.studies.study import Entry, Study
from reslab.studies.training import ERRORS, Training

SHORTCUTS = ("zero_pad", "zero_pad_both", "projection", "projection_pool", "projection_all", "none")
ORDERS = ("bn_after", "relu_before", "relu_only", "pre")
KINDS: dict[str, dict[str, Any]] = {
    **{f"shortcut {name}": {"model.shortcut": name} for name in SHORTCUTS},
    **{f"connection {name}": {"model.connection": name} for name in CONNECTIONS if name != "add"},
    **{f"order {name}": {"model.order": name} for name in ORDERS},
}
"""What is changed of the paper's network: its shortcut is ``zero_pad``, its connection ``add``, its order ``post``."""
TRAINS = 0.1
"""Clean training error that counts as trained."""
SHOWN = 12
"""So many that don't train are named; the table has them all."""


def presets() -> dict[str, Preset]:
    """By name, the shortest first."""
    depths, kinds = (20, 56, 110), tuple(KINDS)
    return {
        "digits": Preset(DIGITS, OFFLINE, depths, kinds, seeds=1),
        "quick": Preset(CIFAR10, ONLINE, depths, kinds, seeds=1),
    }


def variants(choices: Choices) -> Study:
    """The study.

    Raises:
        RequestError: for an unknown preset, depth or kind.
    """
    chosen = choices.settle("variants", presets(), KINDS)
    return Study(
        chosen=chosen,
        title="Which junction trains at which depth?",
        question="Which kinds of shortcut, connection and order fit the training images as depth grows?",
        protocol=(
            chosen.setting(),
            "The network of He et al. 2015 with one thing changed, and one recipe for all, tuned for none of them.",
            "Clean training error: eval mode, no augmentation, over all training images, after the last step.",
        ),
        entries=tuple(
            Entry(
                f"resnet{depth}-{kind.replace(' ', '-')}",
                {"variant": kind, "depth": depth},
                Training(override(chosen.config, {"model.name": f"resnet{depth}", **KINDS[kind]}, where="the study")),
                cost=depth,
            )
            for kind in chosen.kinds
            for depth in chosen.depths
        ),
        conclude=conclude,
        measures=ERRORS,
    )


def conclude(rows: Sequence[StudyRow]) -> str:
    """At each depth, which kinds fit the training images and which don't."""
    found = []
    for depth in sorted({int(row.factors["depth"]) for row in rows}):
        here = [row for row in rows if row.factors["depth"] == depth and (row.num_ended or row.failed)]
        lost = [
            f"{row.factors['variant']} ({as_percent(row.mean('train_error')) if row.num_ended else 'diverged'})"
            for row in here
            if row.failed or not row.mean("train_error") <= TRAINS
        ]
        if here:
            more = f" and {len(lost) - SHOWN} more" if len(lost) > SHOWN else ""
            rest = f"; not {', '.join(lost[:SHOWN])}{more}" if lost else ""
            found.append(f"{depth} layers: {len(here) - len(lost)} of {len(here)} kinds fit them{rest}.")
    told = f"With a clean training error of {as_percent(TRAINS)} or less: "
    return told + " ".join(found) if found else "No run has ended yet."
