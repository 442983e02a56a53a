"""A run of seconds, for tests that need a whole one."""

from typing import Any

from reslab.data import DataOptions
from reslab.run.config import ModelOptions, RunConfig
from reslab.training.options import OptimOptions, ScheduleOptions, TrainOptions


def small_run(**changes: Any) -> RunConfig:
    """Two epochs of resnet8 on the digits, with sections of the config replaced."""
    base = {
        "model": ModelOptions(name="resnet8"),
        "data": DataOptions(name="digits", batch_size=128, workers=0),
        "optim": OptimOptions(lr=0.05),
        "schedule": ScheduleOptions(kind="cosine"),
        "train": TrainOptions(epochs=2, device="cpu", threads=1),
    }
    return RunConfig(**(base | changes))
