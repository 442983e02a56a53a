"""What a run leaves behind: typed records, JSON lines, and the folder that holds them. No library but Python's own."""

from reslab.records.depth import (
    DepthRecord,
    JacobianRecord,
    LesionRecord,
    PathRecord,
    ShatteringRecord,
    TwinRecord,
)
from reslab.records.diagnosis import (
    SEVERITIES,
    ActivationRecord,
    AnswersRecord,
    BlockFlowRecord,
    FindingRecord,
    LayerFlowRecord,
    LossRecord,
    MomentsRecord,
    ParameterRecord,
    ReadingRecord,
    Severity,
    SplitRecord,
    TensorRecord,
    UpdateRecord,
    VerdictRecord,
)
from reslab.records.files import RecordWriter, read_records, sync_folder, write_atomic
from reslab.records.flight import FlightRecord
from reslab.records.folder import RunFolder, find_runs
from reslab.records.lr_range import RangeRecord, RangeStep
from reslab.records.strict_json import decode, encode
from reslab.records.structure import LAYERS, BlockRecord, LayerKind, LayerRecord, StageRecord, StructureRecord
from reslab.records.surface import CurvatureRecord, PlaneRecord, SliceRecord
from reslab.records.training import (
    SCHEMA_VERSION,
    BlockGradientRecord,
    EpochRecord,
    Errors,
    RunRecord,
    RunStatus,
    StepRecord,
    first_and_last,
)
from reslab.records.words import as_percent, as_short

__all__ = [
    "LAYERS",
    "SCHEMA_VERSION",
    "SEVERITIES",
    "ActivationRecord",
    "AnswersRecord",
    "BlockFlowRecord",
    "BlockGradientRecord",
    "BlockRecord",
    "CurvatureRecord",
    "DepthRecord",
    "EpochRecord",
    "Errors",
    "FindingRecord",
    "FlightRecord",
    "JacobianRecord",
    "LayerFlowRecord",
    "LayerKind",
    "LayerRecord",
    "LesionRecord",
    "LossRecord",
    "MomentsRecord",
    "ParameterRecord",
    "PathRecord",
    "PlaneRecord",
    "RangeRecord",
    "RangeStep",
    "ReadingRecord",
    "RecordWriter",
    "RunFolder",
    "RunRecord",
    "RunStatus",
    "Severity",
    "ShatteringRecord",
    "SliceRecord",
    "SplitRecord",
    "StageRecord",
    "StepRecord",
    "StructureRecord",
    "TensorRecord",
    "TwinRecord",
    "UpdateRecord",
    "VerdictRecord",
    "as_percent",
    "as_short",
    "decode",
    "encode",
    "find_runs",
    "first_and_last",
    "read_records",
    "sync_folder",
    "write_atomic",
]
