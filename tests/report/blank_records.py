"""Records for the tests of figures and pages: what isn't given is blank."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, TypeVar

from reslab.records import ReadingRecord
from reslab.records.depth import (
    CurvatureRecord,
    DepthRecord,
    JacobianRecord,
    LesionRecord,
    PathRecord,
    ShatteringRecord,
    SliceRecord,
    TwinRecord,
)
from reslab.records.diagnosis import (
    BlockFlowRecord,
    FindingRecord,
    LayerFlowRecord,
    MomentsRecord,
    ParameterRecord,
    TensorRecord,
    VerdictRecord,
)
from reslab.report.diagnosis_page import DiagnosisRecord

Record = TypeVar("Record")
BLANKS: dict[str, Any] = {"float": math.nan, "int": 0, "bool": False, "str": ""}


def filled(record: type[Record], **values: Any) -> Record:
    """What isn't given is blank: a field that records gain breaks no figure's test."""
    blank = {
        field.name: None if "None" in str(field.type) else BLANKS.get(str(field.type), ())
        for field in dataclasses.fields(record)  # type: ignore[arg-type]
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    return record(**(blank | values))


def block_record(index: int, name: str, **changes: Any) -> BlockFlowRecord:
    """Unless changed, 70 % of the gradient come through an identity shortcut and 30 % through the branch."""
    values: dict[str, Any] = {"index": index, "name": name, "kind": "identity", "shape": (4, 16, 8, 8)}
    values |= {"grad_norm": 1.0, "grad_norm_low": 0.8, "grad_norm_high": 1.3}
    values |= {"shortcut_norm": 0.8, "branch_norm": 0.4, "other_norm": 0.0}
    values |= {"shortcut_share": 0.7, "branch_share": 0.3, "other_share": 0.0}
    values |= {"cosine": 0.1, "pass_through": 1.0, "shortcut_gain": 1.0}
    moments = {"stream": MomentsRecord(0.5, 2.0), "shortcut": MomentsRecord(0.4, 1.3)}
    return filled(BlockFlowRecord, **(values | moments | {"branch": MomentsRecord(0.3, 0.7)} | changes))


def reading_record(
    blocks: Sequence[BlockFlowRecord] = (), layers: Sequence[LayerFlowRecord] = (), **changes: Any
) -> ReadingRecord:
    values: dict[str, Any] = {
        "loss": 2.3,
        "num_samples": 4,
        "is_training": True,
        "inputs": (TensorRecord((4, 3, 8, 8), "float32", -1.0, 1.0, 0.0, 0.5, 0),),
        "blocks": tuple(blocks),
        "layers": tuple(layers),
        "parameters": (ParameterRecord("fc.weight", (10, 64), 2.0, 0.1, True),),
        "duration_s": 0.25,
    }
    return filled(ReadingRecord, **(values | changes))


def stage_names(count: int) -> list[str]:
    """``layer1.0``, ... in three stages."""
    per_stage = max(1, math.ceil(count / 3))
    return [f"layer{place // per_stage + 1}.{place % per_stage}" for place in range(count)]


def read(norms: Sequence[float] = (), *, layer_norms: Sequence[float] = (), **changes: Any) -> ReadingRecord:
    """A reading by the gradient norms of its blocks, or of its layers, or by ``blocks`` themselves."""
    blocks = [
        block_record(index, name, grad_norm=norm, grad_norm_low=0.8 * norm, grad_norm_high=1.3 * norm)
        for index, (name, norm) in enumerate(zip(stage_names(len(norms)), norms, strict=True))
    ]
    names = (f"layer{index // 6 + 1}.{index // 2 % 3}.conv{index % 2 + 1}" for index in range(len(layer_norms)))
    layers = [
        filled(LayerFlowRecord, index=index, name=name, shape=(4, 16, 8, 8), grad_norm=norm)
        for index, (name, norm) in enumerate(zip(names, layer_norms, strict=True))
    ]
    return reading_record(**({"blocks": tuple(blocks), "layers": tuple(layers)} | changes))


def read_blocks(*changes: dict[str, Any], stage: str = "layer1", **of_all: Any) -> ReadingRecord:
    """A reading by what is special about each of its blocks."""
    blocks = [block_record(index, f"{stage}.{index}", **(of_all | each)) for index, each in enumerate(changes)]
    return reading_record(blocks)


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
SICK = VerdictRecord("sick", (FINDING,), ("NONFINITE", "SHORTCUT_BLOCKED"), {"DEAD_RELU": "no rectifier was seen"})
HEALTHY = VerdictRecord("healthy", (), ("NONFINITE", "GRAD_EXP_GROWTH"), {})


def depth_record(count: int) -> DepthRecord:
    """Everything measured, of a network of so many blocks."""
    energies = [math.comb(count, k) / 2**count for k in range(count + 1)]
    increases = [0.1 * (index % 3) - 0.1 for index in range(count)]
    names = enumerate(zip(stage_names(count), increases, strict=True))
    return DepthRecord(
        paths=PathRecord(tuple(energies), count / 2, count // 4, 3 * count // 4, count / 2, 1e-12, 4),
        shattering=ShatteringRecord((1e-4, 1e-3, 1e-2, 1e-1), (0.99, 0.9, 0.6, 0.1), 0.1, 8),
        jacobians=(JacobianRecord("layer1", 1.0, 2.0, (2.0, 1.0, 0.5), 4), JacobianRecord("all", 0.25, 3.0, (3.0,), 4)),
        lesions=tuple(LesionRecord(index, name, 2.3 + increase, increase) for index, (name, increase) in names),
        loss=2.3,
        curvature=CurvatureRecord(3.5, 12, 1e-4, 1e-3, True),
        slice=SliceRecord("net", (-1.0, -0.5, 0.0, 0.5, 1.0), (9.0, 3.0, 2.3, 3.1, math.inf), "batch", 0),
        twin=TwinRecord(2.4, tuple(2.0 ** (count - index) for index in range(count))),
    )


def diagnosis_record(name: str = "resnet20", count: int = 9, **changes: Any) -> DiagnosisRecord:
    """Sick, as its gradient grows by a fifth with each block."""
    readings = (read([1.2 ** (count - index) for index in range(count)]),)
    values = {"name": name, "judged": SICK, "readings": readings, "depth": None, "facts": {"torch": "2.11.0"}}
    return DiagnosisRecord(**(values | changes))
