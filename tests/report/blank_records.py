"""Records for pictures' tests: what isn't given is blank."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, TypeVar

from reslab.records import (
    BlockFlowRecord,
    LayerFlowRecord,
    MomentsRecord,
    ParameterRecord,
    ReadingRecord,
    TensorRecord,
)

Record = TypeVar("Record")
BLANKS: dict[str, Any] = {"float": math.nan, "int": 0, "bool": False, "str": ""}


def filled(record: type[Record], **values: Any) -> Record:
    """What isn't given is blank: a field that records gain breaks no picture's test."""
    blank = {
        field.name: None if "None" in str(field.type) else BLANKS.get(str(field.type), ())
        for field in dataclasses.fields(record)  # type: ignore[arg-type]
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    return record(**(blank | values))


def block_record(index: int, name: str, **changes: Any) -> BlockFlowRecord:
    """Unless told otherwise, 70 % of the gradient come through an identity shortcut and 30 % through the branch."""
    values: dict[str, Any] = {
        "index": index,
        "name": name,
        "kind": "identity",
        "shape": (4, 16, 8, 8),
        "grad_norm": 1.0,
        "grad_norm_low": 0.8,
        "grad_norm_high": 1.3,
        "shortcut_norm": 0.8,
        "branch_norm": 0.4,
        "other_norm": 0.0,
        "shortcut_share": 0.7,
        "branch_share": 0.3,
        "other_share": 0.0,
        "cosine": 0.1,
        "pass_through": 1.0,
        "shortcut_gain": 1.0,
        "stream": MomentsRecord(0.5, 2.0),
        "shortcut": MomentsRecord(0.4, 1.3),
        "branch": MomentsRecord(0.3, 0.7),
    }
    return filled(BlockFlowRecord, **(values | changes))


def reading_record(
    blocks: Sequence[BlockFlowRecord] = (), layers: Sequence[LayerFlowRecord] = (), **changes: Any
) -> ReadingRecord:
    values: dict[str, Any] = {
        "step": 0,
        "loss": 2.3,
        "num_samples": 4,
        "is_training": True,
        "inputs": (TensorRecord((4, 3, 8, 8), "float32", -1.0, 1.0, 0.0, 0.5, 0),),
        "outputs": (TensorRecord((4, 10), "float32", -1.0, 1.0, 0.0, 0.5, 0),),
        "blocks": tuple(blocks),
        "layers": tuple(layers),
        "activations": (),
        "parameters": (ParameterRecord("fc.weight", (10, 64), 2.0, 0.1, True),),
        "responses": (),
        "duration_s": 0.25,
    }
    return filled(ReadingRecord, **(values | changes))
