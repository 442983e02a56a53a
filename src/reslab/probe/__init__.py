"""Probes: they look into a network while it computes, and change nothing.

Names are imported when they are first used, so that ``import reslab.probe`` is free of torch.
"""

from typing import TYPE_CHECKING

from reslab._lazy import lazy_names

if TYPE_CHECKING:
    from reslab.probe.diagnosis import Diagnosis as Diagnosis
    from reslab.probe.diagnosis import diagnose_step as diagnose_step
    from reslab.probe.training import StepReadings as StepReadings
    from reslab.probe.training import step_readings as step_readings

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "diagnosis": (
            "Diagnosis",
            "diagnose_step",
        ),
        "training": (
            "StepReadings",
            "step_readings",
        ),
    },
)
