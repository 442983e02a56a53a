"""Typed records of runs and studies, the JSON files that hold them, and a run's folder. Reads without torch."""

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
    SEVERITIES,
    ActivationRecord,
    AnswersRecord,
    BlockFlowRecord,
    BlockNorm,
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
    first_and_last,
)
from reslab.records.files import (
    RecordWriter,
    decode,
    encode,
    from_plain,
    read_json,
    read_lines,
    sync_folder,
    to_plain,
    write_atomic,
)
from reslab.records.folder import RunFolder, find_runs
from reslab.records.structure import LAYERS, BlockRecord, LayerKind, LayerRecord, StageRecord, StructureRecord
from reslab.records.study import MeasureRecord, StudyRecord, StudyRow, deviation_of, mean_of, read_study
from reslab.records.training import (
    ERROR,
    EpochRecord,
    Evaluation,
    FlightRecord,
    RangeRecord,
    RangeStep,
    RunRecord,
    RunStatus,
    Score,
    StepRecord,
    as_percent,
    as_short,
)

__all__ = [
    "ERROR", "LAYERS", "SEVERITIES", "ActivationRecord", "AnswersRecord", "BlockFlowRecord", "BlockNorm",
    "BlockRecord", "CurvatureRecord", "DepthRecord", "EpochRecord", "Evaluation", "FindingRecord", "FlightRecord",
    "JacobianRecord", "LayerFlowRecord", "LayerKind", "LayerRecord", "LesionRecord", "LossRecord", "MeasureRecord",
    "MomentsRecord", "ParameterRecord", "PathRecord", "RangeRecord", "RangeStep", "ReadingRecord", "RecordWriter",
    "RunFolder", "RunRecord", "RunStatus", "Score", "Severity", "ShatteringRecord", "SliceRecord", "SplitRecord",
    "StageRecord", "StepRecord", "StructureRecord", "StudyRecord", "StudyRow", "TensorRecord", "TwinRecord",
    "UpdateRecord", "VerdictRecord", "as_percent", "as_short", "decode", "deviation_of", "encode", "find_runs",
    "first_and_last", "from_plain", "mean_of", "read_json", "read_lines", "read_study", "sync_folder", "to_plain",
    "write_atomic",
]  # fmt: skip
