"""What run.json says: the run's model, data, protocol, deviations from the paper, and machine."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

import reslab
from reslab.config import RunConfig
from reslab.data.prepare import Data
from reslab.data.splits import ArraySplit
from reslab.models.families import CIFAR_DEPTHS
from reslab.records import RunRecord


def start_record(
    config: RunConfig, data: Data, model: nn.Module, device: torch.device, *, notes: dict[str, str] | None = None
) -> RunRecord:
    """run.json as it stands before the first step; ``notes`` go to its protocol."""
    return RunRecord(
        model={
            **config.model.model_dump(mode="json"),
            "num_classes": len(data.source.classes),
            "in_channels": data.preprocess.channels,
            "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        },
        data=data.describe(),
        protocol=protocol_of(config, data) | (notes or {}),
        deviations=[*config.recipe.deviates, *deviations(config)],
        versions=versions(),
        machine=machine_of(device),
        seed=config.train.seed,
        status="running",
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def versions() -> dict[str, str]:
    """Of what the numbers come from."""
    return {
        "reslab": reslab.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }


def protocol_of(config: RunConfig, data: Data) -> dict[str, Any]:
    """How the numbers of the run come about, in words."""
    return {
        "reproduces": "He et al. 2015, sec. 4.2" if is_of_the_paper(config) else "no experiment of the paper",
        "validation": validation_of(config, data),
        "best": "none: no validation split" if data.val is None else "lowest validation error, ties by loss",
        "test": test_of(config, data),
        "training_error": "clean: eval mode, no augmentation, over all training images",
        "precision": config.train.amp if config.train.amp != "none" else "fp32",
        "weights": "moving average" if config.train.ema_decay else "as trained",
        "fingerprint": "pixels and labels"
        if isinstance(data.train, ArraySplit)
        else "labels, and names and sizes of files",
    }


def test_of(config: RunConfig, data: Data) -> str:
    """What the test images were read for."""
    if not config.data.test:
        return "not read, as asked (data.test)"
    return "none: no test split" if data.test is None else "read once, after training, for last and best weights"


def validation_of(config: RunConfig, data: Data) -> str:
    """Where the validation images come from."""
    if data.val is None:
        return "none"
    if "val" in data.source.splits:
        return f"the data's own validation split, {len(data.val)} images"
    total = len(data.val) + len(data.train)
    return f"{len(data.val)} of {total} training images, stratified, seed {config.train.seed}"


PAPER = {
    # He et al. 2015, arXiv:1512.03385, sec. 3.4 and 4.2
    "model.shortcut": "auto",
    "model.connection": "auto",
    "model.order": "auto",
    "model.norm": "auto",
    "model.drop_path": 0.0,
    "model.zero_init_residual": False,
    "model.dropout": 0.0,
    "data.augment": "auto",
    "data.max_shift": 0,
    "data.alternate_flip": False,
    "data.policy": "none",
    "data.colour_jitter": 0.0,
    "data.erasing": 0.0,
    "data.mixup": 0.0,
    "data.cutmix": 0.0,
    "data.batch_size": 128,
    "optim.kind": "sgd",
    "optim.lr": 0.1,
    "optim.momentum": 0.9,
    "optim.nesterov": False,
    "optim.weight_decay": 1e-4,
    "optim.decay_norms": True,
    "optim.norm_lr": 1.0,
    "optim.l1": 0.0,
    "optim.clip_grad_norm": 0.0,
    "schedule.kind": "multistep",
    "train.steps": 64_000,
    "train.loss": "cross_entropy",
    "train.label_smoothing": 0.0,
    "train.amp": "none",
    "train.ema_decay": 0.0,
    "train.patience": 0,
}


def is_of_the_paper(config: RunConfig) -> bool:
    """Whether this network was trained on this data in the paper: the CIFAR networks and their twins on CIFAR-10."""
    names = {f"{kind}{depth}" for depth in CIFAR_DEPTHS for kind in ("resnet", "plain")}
    return config.model.name in names and config.data.name == "cifar10"


def deviations(config: RunConfig) -> list[str]:
    """Where a run of a network and data of the paper leaves it; empty for all others, which reproduce nothing."""
    if not is_of_the_paper(config):
        return []
    found = []
    for path, paper in PAPER.items():
        section, key = path.split(".")
        ours = getattr(getattr(config, section), key)
        if path == "train.steps" and not ours:
            found.append(f"length is {config.train.epochs} epochs, paper 64000 steps")
        elif ours != paper:
            found.append(f"{path} is {ours}, paper {paper}")
    found.append("images are normalised by channel mean and deviation; the paper subtracts the mean of each pixel")
    return found


def machine_of(device: torch.device) -> dict[str, Any]:
    """Processor, cores, threads, memory and device."""
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
    """The processor's own name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
