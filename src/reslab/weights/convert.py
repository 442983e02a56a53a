"""A weights file of one layout made one of another: read, recognised, loaded, written with its card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reslab.errors import RequestError, unknown
from reslab.weights.files import read_weights
from reslab.weights.identify import identify, identify_as
from reslab.weights.load import open_as
from reslab.weights.names import Recognition
from reslab.weights.report import LoadReport
from reslab.weights.write import TARGETS, Target, check_place, make_card, to_layout, write_weights


@dataclass(frozen=True)
class Converted:
    """What ``convert`` did.

    Args:
        found: the network that the weights are of.
        report: what became of every key.
        content: of the card that was, or would be, written beside the weights.
        out: the new file; None if nothing was written.
        card: the file of its card.
    """

    found: Recognition
    report: LoadReport
    content: dict[str, Any]
    out: Path | None = None
    card: Path | None = None


def convert(
    path: Path,
    *,
    model: str | None = None,
    to: Target = "reslab",
    out: Path | None = None,
    num_classes: int | None = None,
    adapt_head: bool = False,
    ema: bool = False,
    force: bool = False,
) -> Converted:
    """Reads somebody's weights, checks them against the network that they belong to, and writes them for somebody else.

    Args:
        path: of the file.
        model: a name of the catalog; by default the network that keys and shapes show.
        to: whose names the new file has.
        out: the new file, a ``.safetensors``; None writes nothing.
        num_classes: K; by default the file's.
        adapt_head: give the network a fresh head, by seed 0, where the file has none, or one for other classes.
        ema: take the moving average of the weights.
        force: overwrite.

    Raises:
        RequestError: if the file can't be read or doesn't fit, if ``to`` has no network that computes the same, or if
            something would be overwritten.
    """
    if to not in TARGETS:
        raise unknown("layout", to, TARGETS)
    if num_classes is not None and num_classes < 1:
        raise RequestError(f"num_classes counts from 1, got {num_classes}.")
    file = read_weights(path, ema=ema)
    if out is not None:
        check_place(out, file.path, force=force)
    found = identify(file) if model is None else identify_as(file, model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, report = open_as(file, found, num_classes=num_classes, adapt_head=adapt_head)
    tensors, notes = to_layout(network.state_dict(), to, found.architecture or found.name)
    report.notes += notes
    card = make_card(found, report, layout=to, num_classes=num_classes or found.num_classes)
    if out is None:
        return Converted(found, report, card)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_weights(out, tensors, card)
    return Converted(found, report, card, out, out.with_suffix(".json"))
