"""Probes: they look into a network while it computes, and change nothing.

Names are imported when they are first used, so that ``import reslab.probe`` is free of torch.
"""

from typing import TYPE_CHECKING

from reslab._lazy import lazy_names

if TYPE_CHECKING:
    from reslab.probe._evidence import Evidence as Evidence
    from reslab.probe._evidence import NotChecked as NotChecked
    from reslab.probe._evidence import flow_profile as flow_profile
    from reslab.probe._paths import path_spectrum as path_spectrum
    from reslab.probe._shattering import shattering as shattering
    from reslab.probe.batch import BatchLoss as BatchLoss
    from reslab.probe.batch import LossOf as LossOf
    from reslab.probe.batch import first_samples as first_samples
    from reslab.probe.batch import inputs_of as inputs_of
    from reslab.probe.depth import MAX_SAMPLES as MAX_SAMPLES
    from reslab.probe.depth import measured as measured
    from reslab.probe.diagnosis import Diagnosis as Diagnosis
    from reslab.probe.diagnosis import diagnose as diagnose
    from reslab.probe.diagnosis import diagnose_step as diagnose_step
    from reslab.probe.rules import RULES as RULES
    from reslab.probe.rules import judge as judge
    from reslab.probe.training import StepReadings as StepReadings
    from reslab.probe.training import Watch as Watch
    from reslab.probe.training import step_readings as step_readings
    from reslab.probe.training import watch as watch

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "_evidence": ("Evidence", "NotChecked", "flow_profile"),
        "_paths": ("path_spectrum",),
        "_shattering": ("shattering",),
        "batch": ("BatchLoss", "LossOf", "first_samples", "inputs_of"),
        "depth": ("MAX_SAMPLES", "measured"),
        "diagnosis": ("Diagnosis", "diagnose", "diagnose_step"),
        "rules": ("RULES", "judge"),
        "training": ("StepReadings", "Watch", "step_readings", "watch"),
    },
)
