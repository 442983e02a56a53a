"""Builders: from the tree to flat arguments. The rooms never see the config.

They import torch and the rooms only when they are called, so that ``--help`` answers at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from reslab.config.tree import DataConfig, ModelConfig, OptimConfig, RunConfig, ScheduleConfig, TrainConfig
from reslab.errors import RequestError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from reslab.data.augment.options import Augmentation, Geometry
    from reslab.data.prepare import Data
    from reslab.data.sources import Source
    from reslab.data.transforms import Preprocess
    from reslab.distributed import Ranks
    from reslab.tasks.classify import Classify
    from reslab.train.options import FitOptions
    from reslab.train.schedule import Schedule
    from reslab.train.trial import Way, Wishes


def model(config: ModelConfig, *, num_classes: int, in_channels: int) -> nn.Module:
    """The network."""
    from reslab.models.catalog import create_model

    if ":" in config.name:
        return call_builder(config.name, num_classes=num_classes, in_channels=in_channels)
    changes = changes_of(config)
    changes["in_channels"] = in_channels
    return create_model(config.name, num_classes, **changes)


def changes_of(config: ModelConfig) -> dict[str, object]:
    """The choices that were made: those other than the section's defaults."""
    defaults = ModelConfig()
    return {
        name: value
        for name in ModelConfig.model_fields
        if name not in ("name", "weights") and (value := getattr(config, name)) != getattr(defaults, name)
    }


def call_builder(spec: str, *, num_classes: int, in_channels: int) -> nn.Module:
    """The network of a builder: one's own, or timm's, which says in_chans, or torchvision's, for three channels."""
    from torch import nn

    builder = import_builder(spec)
    ways: list[dict[str, int]] = [{"in_channels": in_channels}, {"in_chans": in_channels}]
    ways += [{}] if in_channels == 3 else []
    said: list[TypeError] = []
    for channels in ways:
        try:
            model = builder(num_classes=num_classes, **channels)
        except TypeError as error:
            said.append(error)
            if not any(f"argument '{name}'" in str(error) for name in channels):
                break  # it isn't the name that it minds
        else:
            if not isinstance(model, nn.Module):
                raise RequestError(f"{spec} returned a {type(model).__name__}; expected a torch.nn.Module.")
            return model
    names = "num_classes and in_channels (or in_chans, or neither, of three channels)"
    raise RequestError(f"{spec} is called with {names} by name, and says: {said[0]}.") from said[0]


def import_builder(spec: str) -> Callable[..., nn.Module]:
    """``my_pkg.nets:build`` to the function; the working folder is searched too."""
    import importlib
    import sys

    module_name, _, attribute = spec.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        builder = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise RequestError(f"Can't import the builder {spec!r}: {error}. Expected package.module:function.") from None
    if not callable(builder):
        raise RequestError(f"{spec} is a {type(builder).__name__}, not a function that builds a network.")
    return builder  # type: ignore[no-any-return]


def source(config: DataConfig) -> Source:
    """Where the data comes from."""
    from reslab.data.sources import find_source

    return find_source(
        config.name,
        data_dir=Path(config.dir) if config.dir else None,
        channels=config.channels or None,
        download=config.download,
    )


def data(config: DataConfig, source: Source, *, seed: int, preprocess: Preprocess | None = None) -> Data:
    """The data, split and decoded; without its test split if that is to be left alone."""
    from reslab.data.prepare import prepare

    splits = {name: split for name, split in source.splits.items() if config.test or name != "test"}
    return prepare(
        replace(source, splits=splits),
        val_split=config.val_split,
        seed=seed,
        image_size=config.image_size or None,
        augment=partial(augmentation, config),
        eval_size=config.eval_size or None,
        preprocess=preprocess,
        cache_mib=config.cache_mib,
    )


def augmentation(config: DataConfig, suited: Geometry) -> Augmentation:
    """What was asked for, about the geometry that suits the data."""
    from reslab.data.augment.options import Augmentation

    return Augmentation(
        geometry=suited if config.augment == "auto" else config.augment,
        max_shift=config.max_shift,
        alternate_flip=config.alternate_flip,
        min_crop_area=config.min_crop_area,
        policy=config.policy,
        policy_ops=config.policy_ops,
        policy_magnitude=config.policy_magnitude,
        colour_jitter=config.colour_jitter,
        erasing=config.erasing,
        mixup=config.mixup,
        cutmix=config.cutmix,
    )


def optimizer(config: OptimConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser over the model's parameters."""
    from reslab.train import optim

    decay = Decay(weight_decay=config.weight_decay, decay_norms=config.decay_norms, norm_lr=config.norm_lr)
    match config.kind:
        case "sgd":
            return optim.sgd(model, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, **decay)
        case "adamw":
            return optim.adamw(model, lr=config.lr, **decay)
        case "lamb":
            return optim.lamb(model, lr=config.lr, **decay)
        case "muon":
            return optim.muon(
                model,
                lr=config.lr,
                momentum=config.momentum,
                fixed_norm=config.fixed_norm,
                side_lr=config.side_lr,
                side_momentum=config.side_momentum,
                **decay,
            )


class Decay(TypedDict):
    """What every optimiser takes."""

    weight_decay: float
    decay_norms: bool
    norm_lr: float


def schedule(config: ScheduleConfig, *, lr: float, total_steps: int, steps_per_epoch: int) -> Schedule:
    """The schedule over the whole run."""
    from reslab.train import schedule

    match config.kind:
        case "constant":
            rate = schedule.constant(lr)
        case "multistep":
            milestones = [round(share * total_steps) for share in config.milestones]
            rate = schedule.multistep(lr, milestones=milestones, gamma=config.gamma)
        case "cosine":
            rate = schedule.cosine(lr, total_steps=total_steps, final_lr=config.final_lr)
        case "one_cycle":
            rate = schedule.one_cycle(lr, total_steps=total_steps, rise_share=config.rise_share)
        case "triangle":
            rate = schedule.triangle(
                lr, total_steps=total_steps, rise_share=config.rise_share, final_lr=config.final_lr
            )
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    if warmup_steps >= total_steps:
        raise RequestError(
            f"A warm-up of {warmup_steps} steps would fill the whole run of {total_steps}. Lower --warmup-epochs."
        )
    return schedule.warm_up(rate, steps=warmup_steps, start=config.warmup_start) if warmup_steps else rate


def task(config: TrainConfig, *, num_classes: int) -> Classify:
    """What the network is trained for."""
    from reslab.tasks.classify import Classify

    return Classify(num_classes, label_smoothing=config.label_smoothing, loss=config.loss)


def wishes(config: TrainConfig) -> Wishes:
    """What is fixed before the trial of speed."""
    from reslab.train.trial import Wishes

    return Wishes(config.amp, config.channels_last, config.compile, config.threads)


def with_way(config: RunConfig, way: Way) -> RunConfig:
    """The config with every ``auto`` of speed replaced by what was chosen."""
    chosen = {
        "amp": way.amp,
        "channels_last": "on" if way.channels_last else "off",
        "compile": "on" if way.compile else "off",
        "threads": way.threads,
    }
    return config.model_copy(update={"train": config.train.model_copy(update=chosen)})


def options(config: RunConfig, *, total_steps: int, device: torch.device, ranks: Ranks, depth: int) -> FitOptions:
    """What ``fit`` needs besides model, data, optimiser and schedule; of a config with its speed chosen."""
    from reslab.train.options import FitOptions
    from reslab.train.rates import Hold

    train, schedule = config.train, config.schedule
    assert train.amp != "auto"
    holds = schedule.hold_error > 0 and depth >= schedule.hold_depth
    return FitOptions(
        steps=total_steps,
        device=device,
        amp=train.amp,
        channels_last=train.channels_last == "on",
        compile=train.compile == "on",
        accumulate=train.accumulate,
        clip_grad_norm=config.optim.clip_grad_norm or None,
        l1=config.optim.l1,
        ema_decay=train.ema_decay or None,
        patience=train.patience or None,
        hold=Hold(share=schedule.hold_share, until_error=schedule.hold_error) if holds else None,
        ranks=ranks,
    )


def device(name: str) -> torch.device:
    """``auto`` is the first GPU there is, or else the CPU.

    Raises:
        RequestError: if the device is unknown or not there.
    """
    import torch

    if name == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return found or torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise RequestError(f"Unknown device {name!r}. Expected auto, cpu, cuda, cuda:N or mps.") from None
    available = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }.get(device.type, 0)
    if (device.index or 0) >= available:
        raise RequestError(f"No device {name!r} on this machine: it has {available} of that kind. Try --device cpu.")
    return device


def total_steps(config: TrainConfig, *, steps_per_epoch: int) -> int:
    """Length of the run in optimiser steps."""
    return config.steps or config.epochs * steps_per_epoch
