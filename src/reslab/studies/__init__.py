"""Studies: questions that many runs answer together, and the ledger of claims that they test."""

from reslab.studies.claims import Claim, Finding, find_studies, judge_claims, shipped_studies
from reslab.studies.execution import estimate, run_locally, run_on_ray
from reslab.studies.grid import STUDIES, StudySpec, create_study, read_grid
from reslab.studies.runs import StudyRun
from reslab.studies.study import Study, unfinished

__all__ = [
    "STUDIES",
    "Claim",
    "Finding",
    "Study",
    "StudyRun",
    "StudySpec",
    "create_study",
    "estimate",
    "find_studies",
    "judge_claims",
    "read_grid",
    "run_locally",
    "run_on_ray",
    "shipped_studies",
    "unfinished",
]
