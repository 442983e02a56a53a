"""Probes: they look into a network while it computes, and change nothing.

Names are imported when they are first used, so that ``import reslab.probe`` is free of torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reslab.probe._evidence import Evidence, NotChecked, flow_profile
    from reslab.probe._paths import path_spectrum
    from reslab.probe._shattering import shattering
    from reslab.probe.batch import BatchLoss, LossOf, first_samples, inputs_of
    from reslab.probe.depth import MAX_SAMPLES, measured
    from reslab.probe.diagnosis import Diagnosis, diagnose, diagnose_step
    from reslab.probe.rules import RULES, judge
    from reslab.probe.training import StepReadings, Watch, step_readings, watch

__all__ = [
    "MAX_SAMPLES", "RULES", "BatchLoss", "Diagnosis", "Evidence", "LossOf", "NotChecked", "StepReadings", "Watch",
    "diagnose", "diagnose_step", "first_samples", "flow_profile", "inputs_of", "judge", "measured", "path_spectrum",
    "shattering", "step_readings", "watch",
]  # fmt: skip
HOMES = {
    "_evidence": ("Evidence", "NotChecked", "flow_profile"),
    "_paths": ("path_spectrum",),
    "_shattering": ("shattering",),
    "batch": ("BatchLoss", "LossOf", "first_samples", "inputs_of"),
    "depth": ("MAX_SAMPLES", "measured"),
    "diagnosis": ("Diagnosis", "diagnose", "diagnose_step"),
    "training": ("StepReadings", "Watch", "step_readings", "watch"),
    "rules": ("RULES", "judge"),
}


def __getattr__(name: str) -> Any:
    """Import torch when a name is first used, so that ``reslab --help`` needn't."""
    for module, names in HOMES.items():
        if name in names:
            return getattr(import_module(f"reslab.probe.{module}"), name)
    raise AttributeError(f"module 'reslab.probe' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
