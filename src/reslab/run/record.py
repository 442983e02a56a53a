"""What run.json says about a run: its model, data, protocol, deviations from the paper, and machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import reslab
from reslab.data import Data
from reslab.models.families import CIFAR_DEPTHS
from reslab.records import RunRecord
from reslab.run.assemble import TrainingInputs
from reslab.run.config import IRRELEVANT, RunConfig, load_recipe, option_paths, value_at


def start_record(inputs: TrainingInputs) -> RunRecord:
    """Make run.json as it stands before the first step."""
    config, data, model = inputs.config, inputs.data, inputs.model
    return RunRecord(
        model={
            **asdict(config.model),
            "num_classes": inputs.task.num_outputs,
            "in_channels": data.preprocess.channels,
            "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        },
        data=data.describe(),
        protocol=protocol_of(inputs) | inputs.notes,
        deviations=[*config.recipe.deviates, *deviations(config)],
        versions=versions(),
        machine=machine_of(inputs.mode.device),
        seed=config.train.seed,
        status="running",
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        task=inputs.task.name,
        score=inputs.task.score,
    )


def versions() -> dict[str, str]:
    """Versions of what the numbers come from."""
    return {
        "reslab": reslab.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": importlib.metadata.version("torchvision"),  # importing it would take a second
    }


def protocol_of(inputs: TrainingInputs) -> dict[str, Any]:
    """Say in words how the numbers of the run come about."""
    config, data, score = inputs.config, inputs.data, inputs.task.score
    has_test = "none: no test split" if data.test is None else "read once, after training, for last and best weights"
    return {
        "reproduces": "He et al. 2015, sec. 4.2" if is_of_the_paper(config) else "no experiment of the paper",
        "validation": validation_of(config, data),
        "best": "none: no validation split" if data.val is None else f"best validation {score.name}, ties by loss",
        "test": has_test if config.data.test else "not read, as asked (data.test)",
        "training_error": "clean: eval mode, no augmentation, over all training images",
        "precision": config.train.amp if config.train.amp != "none" else "fp32",
        "weights": "moving average" if config.train.ema_decay else "as trained",
        "fingerprint": "labels, and names and sizes of files" if data.is_streamed else "pixels and labels",
    }


def validation_of(config: RunConfig, data: Data) -> str:
    """Say where the validation images come from."""
    if data.val is None:
        return "none"
    if "val" in data.source.splits:
        return f"the data's own validation split, {len(data.val)} images"
    total = len(data.val) + len(data.train)
    return f"{len(data.val)} of {total} training images, stratified, seed {config.train.seed}"


# ---- the paper: He et al. 2015, arXiv:1512.03385, sec. 3.4 and 4.2

PAPER = "he2015-cifar"
"""The recipe that a run of a network and data of the paper is compared with."""
BESIDE_THE_PAPER = (
    *IRRELEVANT, "model.name", "model.weights", "data.val_split", "data.test", "data.cache_mib", "data.channels",
    "train.epochs", "train.seed", "train.device", "train.threads", "train.channels_last", "train.compile",
    "train.probe", "train.deterministic", "train.sync_norms",
    "schedule.hold_error", "schedule.hold_share", "schedule.hold_depth",
)  # fmt: skip
"""Options that the paper leaves open, or that are told elsewhere in run.json."""


def is_of_the_paper(config: RunConfig) -> bool:
    """Whether this network was trained on this data in the paper: the CIFAR networks and their twins on CIFAR-10."""
    names = {f"{kind}{depth}" for depth in CIFAR_DEPTHS for kind in ("resnet", "plain")}
    return config.model.name in names and config.data.name == "cifar10"


def deviations(config: RunConfig) -> list[str]:
    """Where a run of a network and data of the paper leaves it; empty for all others, which reproduce nothing."""
    if not is_of_the_paper(config):
        return []
    paper, found = load_recipe(PAPER), []
    for path in option_paths():
        ours, theirs = value_at(config, path), value_at(paper, path)
        if ours == theirs or ours == "auto" or path in BESIDE_THE_PAPER or path.startswith("recipe."):
            continue
        if path == "train.steps" and not ours:
            found.append(f"length is {config.train.epochs} epochs, paper {theirs} steps")
        else:
            found.append(f"{path} is {ours}, paper {theirs}")
    found.append("images are normalised by channel mean and deviation; the paper subtracts the mean of each pixel")
    return found


# ---- the machine


def machine_of(device: torch.device) -> dict[str, Any]:
    """Describe processor, cores, threads, memory and device."""
    machine: dict[str, Any] = {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": str(device),
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        machine["memory_gib"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    if device.type == "cuda":
        machine["gpu"] = torch.cuda.get_device_name(device)
    return machine


def processor_name() -> str:
    """The processor's own name, where the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
