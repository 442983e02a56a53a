"""Studies: questions that many runs answer together, and the ledger of claims that they test."""

from typing import TYPE_CHECKING

from reslab._lazy import lazy_names

if TYPE_CHECKING:
    from reslab.studies.execution import run_locally as run_locally
    from reslab.studies.grid import STUDIES as STUDIES
    from reslab.studies.grid import StudySpec as StudySpec
    from reslab.studies.grid import create_study as create_study

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "execution": ("run_locally",),
        "grid": (
            "STUDIES",
            "StudySpec",
            "create_study",
        ),
    },
)
