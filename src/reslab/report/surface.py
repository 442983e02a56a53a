"""What slices and planes of the loss share: names, circumstances, and how far one reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

from reslab.errors import RequestError
from reslab.records import PlaneRecord, SliceRecord

TIMES = "\N{MULTIPLICATION SIGN}"
AXIS_TITLE = "distance from the network (1: as far as its weights are from 0)"
NORMS = {"batch": "batch norm with the batch's statistics", "frozen": "batch norm with stored statistics"}
ASK_LOG = 20.0
"""Losses that differ by more than this factor stand on a logarithmic axis."""
READ_TO = 1e4
"""So many times the loss of the networks themselves, the axis of a slice and the colours of a map end."""
NEAR = 0.5
"""The distance at which captions tell how far the loss has risen."""

Records: TypeAlias = Sequence[SliceRecord] | Sequence[PlaneRecord]


def names_of(records: Records, titles: Sequence[str] | None) -> list[str]:
    """What to call each: its title, its name, or its number.

    Raises:
        RequestError: if there is no record, or not one title for each.
    """
    if not records:
        raise RequestError("There is nothing to draw. Expected at least one slice or plane.")
    if titles is not None and len(titles) != len(records):
        raise RequestError(f"Expected one title for each of {len(records)} records, got {len(titles)}.")
    each: Sequence[SliceRecord | PlaneRecord] = records
    names = titles or [record.name or f"network {place + 1}" for place, record in enumerate(each)]
    differ = len({record.norms for record in each}) > 1
    return [f"{name}, {record.norms}" if differ else name for name, record in zip(names, each, strict=True)]


def centre_of(record: SliceRecord | PlaneRecord) -> float:
    """The loss of the network itself."""
    half = len(record.positions) // 2
    return record.losses[half] if isinstance(record, SliceRecord) else record.losses[half][half]


def circumstances(records: Records) -> str:
    """How it was measured."""
    each: Sequence[SliceRecord | PlaneRecord] = records
    norms = dict.fromkeys(NORMS.get(record.norms, record.norms) for record in each)
    seeds = dict.fromkeys(record.seed for record in each)
    drawn_from = f"seed {next(iter(seeds))}" if len(seeds) == 1 else f"{len(seeds)} seeds"
    return f"Filters scaled as in Li et al. 2018; {' or '.join(norms)}; {drawn_from}."


def drawn(loss: float) -> float | None:
    """Five digits, or nothing where no axis has a place for it."""
    return float(f"{loss:.5g}") if math.isfinite(loss) else None
