"""Typed records of runs and studies, the JSON files that hold them, and a run's folder. Reads without torch."""

from typing import TYPE_CHECKING

from reslab._lazy import lazy_names

if TYPE_CHECKING:
    from reslab.records.diagnosis import ReadingRecord as ReadingRecord
    from reslab.records.folder import RunFolder as RunFolder
    from reslab.records.study import StudyRecord as StudyRecord
    from reslab.records.training import EpochRecord as EpochRecord
    from reslab.records.training import Evaluation as Evaluation
    from reslab.records.training import RunRecord as RunRecord
    from reslab.records.training import Score as Score
    from reslab.records.training import StepRecord as StepRecord

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "diagnosis": ("ReadingRecord",),
        "folder": ("RunFolder",),
        "study": ("StudyRecord",),
        "training": (
            "EpochRecord",
            "Evaluation",
            "RunRecord",
            "Score",
            "StepRecord",
        ),
    },
)
