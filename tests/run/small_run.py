"""A run of seconds, for tests that need a whole one."""

from typing import Any

from reslab.config import DataConfig, ModelConfig, OptimConfig, RunConfig, ScheduleConfig, TrainConfig


def small_run(**changes: Any) -> RunConfig:
    """Two epochs of resnet8 on the digits, with sections of the config replaced."""
    base = {
        "model": ModelConfig(name="resnet8"),
        "data": DataConfig(name="digits", batch_size=128, workers=0),
        "optim": OptimConfig(lr=0.05),
        "schedule": ScheduleConfig(kind="cosine"),
        "train": TrainConfig(epochs=2, device="cpu", threads=1),
    }
    return RunConfig(**(base | changes))
