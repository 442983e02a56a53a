"""The table of all blocks, or layers, which the page sorts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from reslab.records import BlockFlowRecord, FindingRecord, MomentsRecord
from reslab.report.diagnosis.case import Case
from reslab.report.diagnosis.heatmap import named
from reslab.report.diagnosis.places import depth_of
from reslab.report.theme import Row


def block_rows(case: Case) -> list[Row]:
    """One row a residual addition, or a layer where there is none; the same keys in each.

    Keys: ``place``, ``name``, then of blocks ``kind``, ``shape``, ``gradient``, ``shortcut``, ``branch``, ``other``,
    ``cosine``, ``pass-through``, ``gain``, ``variance``, ``branch variance`` and, where measured, ``lesion``;
    ``finding``: ids of those that name the place.
    """
    reading = case.readings[-1]
    if not reading.blocks:
        return [
            {"place": place, "name": layer.name, "shape": _shape(layer.shape), "gradient": layer.grad_norm}
            | {"finding": found_at(layer.name, case.judged.findings)}
            for place, layer in enumerate(depth_of(reading).places)
        ]
    lesions = {lesion.index: lesion.increase for lesion in case.depth.lesions} if case.depth else {}
    return [_block_row(place, block, case, lesions) for place, block in enumerate(reading.blocks)]


def _block_row(place: int, block: BlockFlowRecord, case: Case, lesions: dict[int, float]) -> Row:
    row: Row = {
        "place": place,
        "name": block.name,
        "kind": block.kind.replace("_", " "),
        "shape": _shape(block.shape),
        "gradient": block.grad_norm,
        "shortcut": block.shortcut_share,
        "branch": block.branch_share,
        "other": block.other_share,
        "cosine": block.cosine,
        "pass-through": block.pass_through,
        "gain": block.shortcut_gain,
        "variance": _variance(block.stream),
        "branch variance": _variance(block.branch),
    }
    if lesions:
        row["lesion"] = lesions.get(block.index, math.nan)
    return row | {"finding": found_at(block.name, case.judged.findings)}


def found_at(name: str, findings: Sequence[FindingRecord]) -> str:
    """Ids of the findings that name this place; empty if none does."""
    return ", ".join(finding.id for finding in findings if finding.where and named(finding.where, name))


def _shape(shape: Sequence[Any]) -> str:
    return " \N{MULTIPLICATION SIGN} ".join(map(str, shape[1:]))


def _variance(moments: MomentsRecord | None) -> float:
    return moments.variance if moments else math.nan
