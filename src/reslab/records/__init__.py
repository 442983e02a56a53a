"""What a run leaves behind: typed records, JSON lines, and the folder that holds them. No library but Python's own."""

from reslab.records.diagnosis import (
    SEVERITIES,
    ActivationRecord,
    BlockFlowRecord,
    FindingRecord,
    LayerFlowRecord,
    MomentsRecord,
    ParameterRecord,
    ReadingRecord,
    Severity,
    TensorRecord,
    VerdictRecord,
)
from reslab.records.files import RecordWriter, read_records, sync_folder, write_atomic
from reslab.records.folder import RunFolder, find_runs
from reslab.records.lr_range import RangeRecord, RangeStep
from reslab.records.strict_json import NON_FINITE, decode, encode
from reslab.records.structure import LAYERS, BlockRecord, LayerKind, LayerRecord, StageRecord, StructureRecord
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
    "NON_FINITE",
    "SCHEMA_VERSION",
    "SEVERITIES",
    "ActivationRecord",
    "BlockFlowRecord",
    "BlockGradientRecord",
    "BlockRecord",
    "EpochRecord",
    "Errors",
    "FindingRecord",
    "LayerFlowRecord",
    "LayerKind",
    "LayerRecord",
    "MomentsRecord",
    "ParameterRecord",
    "RangeRecord",
    "RangeStep",
    "ReadingRecord",
    "RecordWriter",
    "RunFolder",
    "RunRecord",
    "RunStatus",
    "Severity",
    "StageRecord",
    "StepRecord",
    "StructureRecord",
    "TensorRecord",
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
