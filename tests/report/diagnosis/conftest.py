from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tests.report.blank_records import block_record, filled, reading_record

from reslab.records import (
    BlockFlowRecord,
    CurvatureRecord,
    DepthRecord,
    FindingRecord,
    JacobianRecord,
    LayerFlowRecord,
    LesionRecord,
    PathRecord,
    ReadingRecord,
    ShatteringRecord,
    SliceRecord,
    TwinRecord,
    VerdictRecord,
)
from reslab.report.diagnosis.case import Case

MakeBlock = Callable[..., BlockFlowRecord]
MakeReading = Callable[..., ReadingRecord]
MakeCase = Callable[..., Case]


def stage_names(count: int) -> list[str]:
    """``layer1.0``, ... in three stages."""
    per_stage = max(1, math.ceil(count / 3))
    return [f"layer{place // per_stage + 1}.{place % per_stage}" for place in range(count)]


@pytest.fixture
def make_block() -> MakeBlock:
    return block_record


@pytest.fixture
def make_reading() -> MakeReading:
    """By the gradient norms of its blocks, or of its layers, or by the records themselves."""

    def make(
        norms: Sequence[float] | None = None, *, layer_norms: Sequence[float] = (), **changes: Any
    ) -> ReadingRecord:
        blocks = [
            block_record(index, name, grad_norm=norm, grad_norm_low=0.8 * norm, grad_norm_high=1.3 * norm)
            for index, (name, norm) in enumerate(zip(stage_names(len(norms or ())), norms or (), strict=True))
        ]
        layers = [
            filled(
                LayerFlowRecord,
                index=index,
                name=f"layer{index // 6 + 1}.{index // 2 % 3}.conv{index % 2 + 1}",
                shape=(4, 16, 8, 8),
                grad_norm=norm,
            )
            for index, norm in enumerate(layer_norms)
        ]
        return reading_record(**({"blocks": tuple(blocks), "layers": tuple(layers)} | changes))

    return make


FINDING = FindingRecord(
    id="GRAD_EXP_GROWTH",
    severity="critical",
    where="layer1.1",
    number=0.14613,
    threshold=0.1,
    basis="measured",
    sentence="The gradient grows 1.40 times per block.",
    actions=("add shortcuts", "take fewer layers"),
    would_change="the same profile in a network that trains",
)


@pytest.fixture
def finding() -> FindingRecord:
    return FINDING


@pytest.fixture
def sick() -> VerdictRecord:
    return VerdictRecord("sick", (FINDING,), ("NONFINITE", "SHORTCUT_BLOCKED"), {"DEAD_RELU": "no rectifier was seen"})


@pytest.fixture
def healthy() -> VerdictRecord:
    return VerdictRecord("healthy", (), ("NONFINITE", "GRAD_EXP_GROWTH"), {})


def depth_record(count: int) -> DepthRecord:
    """Everything measured, of a network of so many blocks."""
    energies = [math.comb(count, k) / 2**count for k in range(count + 1)]
    names = stage_names(count)
    return DepthRecord(
        paths=PathRecord(tuple(energies), count / 2, count // 4, 3 * count // 4, count / 2, 1e-12, 4),
        shattering=ShatteringRecord((1e-4, 1e-3, 1e-2, 1e-1), (0.99, 0.9, 0.6, 0.1), 0.1, 8),
        jacobians=(JacobianRecord("layer1", 1.0, 2.0, (2.0, 1.0, 0.5), 4), JacobianRecord("all", 0.25, 3.0, (3.0,), 4)),
        lesions=tuple(
            LesionRecord(index, name, 2.3 + 0.1 * (index % 3) - 0.1, 0.1 * (index % 3) - 0.1)
            for index, name in enumerate(names)
        ),
        loss=2.3,
        curvature=CurvatureRecord(3.5, 12, 1e-4, 1e-3, True),
        slice=SliceRecord("net", (-1.0, -0.5, 0.0, 0.5, 1.0), (9.0, 3.0, 2.3, 3.1, math.inf), "batch", 0),
        twin=TwinRecord(2.4, tuple(2.0 ** (count - index) for index in range(count))),
    )


@pytest.fixture
def make_depth() -> Callable[[int], DepthRecord]:
    return depth_record


@pytest.fixture
def make_case(make_reading: MakeReading, sick: VerdictRecord) -> MakeCase:
    def make(name: str = "resnet20", count: int = 9, **changes: Any) -> Case:
        norms = [1.2 ** (count - index) for index in range(count)]
        values: dict[str, Any] = {
            "name": name,
            "judged": sick,
            "readings": (make_reading(norms),),
            "depth": None,
            "facts": {"torch": "2.11.0"},
        }
        return Case(**(values | changes))

    return make
