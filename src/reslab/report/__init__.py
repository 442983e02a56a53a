"""Figures and pages, made from records only: nothing here imports torch, and nothing heavy is loaded before it is used.

Every function that draws gives back a ``Figure``. ``learning_curves``, ``gradient_flow``, ``step_curves`` and
``rate_range`` draw trainings, ``diagnosis_figure`` a diagnosis, ``study_means`` a study, and ``structure_figure`` a
network. ``write_run_page``, ``write_diagnosis_page``, ``write_comparison_page`` and ``write_study_page`` write HTML.
"""

from typing import TYPE_CHECKING

from reslab._lazy import lazy_names

if TYPE_CHECKING:
    from reslab.report.curves import learning_curves as learning_curves
    from reslab.report.curves import step_curves as step_curves
    from reslab.report.diagnosis_page import write_diagnosis_page as write_diagnosis_page
    from reslab.report.figure import Figure as Figure
    from reslab.report.flow import gradient_flow as gradient_flow
    from reslab.report.run_page import result_rows as result_rows
    from reslab.report.run_page import write_run_page as write_run_page
    from reslab.report.structure import structure_figure as structure_figure
    from reslab.report.study_page import study_means as study_means
    from reslab.report.study_page import write_study_page as write_study_page

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "curves": (
            "learning_curves",
            "step_curves",
        ),
        "diagnosis_page": ("write_diagnosis_page",),
        "figure": ("Figure",),
        "flow": ("gradient_flow",),
        "run_page": (
            "result_rows",
            "write_run_page",
        ),
        "structure": ("structure_figure",),
        "study_page": (
            "study_means",
            "write_study_page",
        ),
    },
)
