"""The config: one typed tree, from TOML and back, and the builders that turn it into flat arguments.

Precedence is default < TOML < flags < ``--set``. The rooms never see the config; they get plain arguments from the
builders below, which import torch and the rooms only when they are called, so that ``--help`` answers at once.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reslab.errors import RequestError, unknown

if TYPE_CHECKING:
    import torch
    from torch import nn

    from reslab.data.prepare import Data
    from reslab.data.transforms import Preprocess
    from reslab.models.architecture import Changes
    from reslab.train.fit import FitOptions
    from reslab.train.schedule import Schedule


class Section(BaseModel):
    """A frozen part of the tree; an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, protected_namespaces=(), allow_inf_nan=False
    )


Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class ModelConfig(Section):
    """[model]."""

    name: str = Field("resnet20", description="Network: a catalog name, any CIFAR depth 6n+2, or my_pkg.nets:builder.")
    shortcut: Literal[
        "auto", "identity", "zero_pad", "zero_pad_both", "projection", "projection_pool", "projection_all", "none"
    ] = Field("auto", description="Kind of shortcut; auto is the network's own.")
    connection: str = Field(
        "auto",
        description="How shortcut and branch are joined: add, rezero, fixup, mhc, ...; auto is the network's own.",
    )
    order: Literal["auto", "post", "bn_after", "relu_before", "relu_only", "pre"] = Field(
        "auto", description="Order of norm and activation about the junction; auto is the network's own."
    )
    norm: Literal["auto", "batch", "group", "layer", "frozen_batch", "none"] = Field(
        "auto", description="Kind of norms; auto is the network's own."
    )
    drop_path: Share = Field(
        0.0, description="Share of samples whose last branch is dropped; earlier ones linearly less."
    )
    zero_init_residual: bool = Field(False, description="Start each branch at zero.")
    dropout: Share = Field(0.0, description="Share of features dropped before the head.")
    checkpoint_blocks: bool = Field(
        False, description="Keep the blocks' inputs only and compute the rest again: less memory, more time."
    )


class DataConfig(Section):
    """[data]."""

    name: str = Field(
        "digits", description="Data: digits, mnist, fashion-mnist, cifar10, cifar100, a folder, hf:owner/name."
    )
    dir: str = Field("", description="Folder of named data sets; by default $RESLAB_DATA, or else ./data.")
    download: bool = Field(False, description="Fetch a named data set that is absent.")
    val_split: NotNegative = Field(
        0.1, description="Share or number of training images for validation, where there is no validation split."
    )
    augment: Literal["auto", "none", "crop", "crop_flip", "resized_crop_flip"] = Field(
        "auto", description="Training augmentation; auto is what suits the data."
    )
    image_size: Annotated[int, Field(ge=0)] = Field(
        0, description="Side of the network's input; 0 keeps small images as they are and takes 224 for photographs."
    )
    channels: Literal[0, 1, 3] = Field(0, description="1 for grey, 3 for RGB, 0 for what the data has.")
    batch_size: Count = Field(128, description="Images a step.")
    workers: Annotated[int, Field(ge=0)] = Field(2, description="Processes that decode photographs.")


class OptimConfig(Section):
    """[optim]."""

    kind: Literal["sgd", "adamw"] = Field("sgd", description="Optimiser.")
    lr: Positive = Field(0.1, description="Learning rate; the peak one of a schedule.")
    momentum: Share = Field(0.9, description="Momentum of SGD.")
    nesterov: bool = Field(False, description="Nesterov's momentum for SGD.")
    weight_decay: NotNegative = Field(1e-4, description="L2 for SGD, decoupled decay for AdamW.")
    decay_norms: bool = Field(True, description="Decay norms and biases too, as the paper did.")
    l1: NotNegative = Field(0.0, description="Factor of the L1 penalty on weights.")
    clip_grad_norm: NotNegative = Field(0.0, description="Scale larger gradients down to this norm; 0 for never.")


class ScheduleConfig(Section):
    """[schedule]."""

    kind: Literal["constant", "multistep", "cosine", "one_cycle"] = Field("cosine", description="Schedule of the rate.")
    milestones: list[Share] = Field([0.5, 0.75], description="Where multistep drops, as shares of the run.")
    gamma: Positive = Field(0.1, description="Factor of each drop of multistep.")
    warmup_epochs: NotNegative = Field(0.0, description="Epochs of linear warm-up over the schedule's beginning.")
    warmup_start: Annotated[float, Field(gt=0, le=1)] = Field(
        0.1, description="Share of the rate that warm-up starts at."
    )


class TrainConfig(Section):
    """[train]."""

    epochs: Count = Field(30, description="Passes over the training data.")
    steps: Annotated[int, Field(ge=0)] = Field(0, description="Length in optimiser steps instead of epochs.")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(0, description="Everything random follows from it.")
    label_smoothing: Share = Field(0.0, description="Share of the target spread over all classes.")
    amp: Literal["none", "bf16", "fp16"] = Field("none", description="Mixed precision.")
    channels_last: bool = Field(True, description="Memory format N, H, W, C: faster convolutions, the same results.")
    compile: bool = Field(False, description="torch.compile the network.")
    accumulate: Count = Field(1, description="Parts that each batch is split into to save memory.")
    ema_decay: Share = Field(0.0, description="Keep a moving average of the weights with this decay; 0 for none.")
    patience: Annotated[int, Field(ge=0)] = Field(
        0, description="Stop after so many epochs without a lower validation error; 0 for never."
    )
    deterministic: bool = Field(False, description="Refuse operations that aren't deterministic (GPU: slower).")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:N or mps.")
    threads: Annotated[int, Field(ge=0)] = Field(0, description="CPU threads; 0 for torch's choice.")
    probe: bool = Field(True, description="Record the gradient at each block about 20 times in the run.")


class RunConfig(Section):
    """The whole tree."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    train: TrainConfig = TrainConfig()

    def to_toml(self) -> str:
        """TOML that ``--config`` takes."""
        return tomli_w.dumps(self.model_dump(mode="json"))


FLAGS: dict[str, str] = {
    # flag: its place in the tree; everything else is reached by --set
    "model": "model.name",
    "shortcut": "model.shortcut",
    "connection": "model.connection",
    "order": "model.order",
    "norm": "model.norm",
    "drop_path": "model.drop_path",
    "zero_init_residual": "model.zero_init_residual",
    "dropout": "model.dropout",
    "checkpoint_blocks": "model.checkpoint_blocks",
    "data": "data.name",
    "data_dir": "data.dir",
    "download": "data.download",
    "val_split": "data.val_split",
    "augment": "data.augment",
    "image_size": "data.image_size",
    "batch_size": "data.batch_size",
    "workers": "data.workers",
    "opt": "optim.kind",
    "lr": "optim.lr",
    "momentum": "optim.momentum",
    "nesterov": "optim.nesterov",
    "weight_decay": "optim.weight_decay",
    "clip_grad": "optim.clip_grad_norm",
    "sched": "schedule.kind",
    "warmup_epochs": "schedule.warmup_epochs",
    "epochs": "train.epochs",
    "steps": "train.steps",
    "label_smoothing": "train.label_smoothing",
    "amp": "train.amp",
    "channels_last": "train.channels_last",
    "compile": "train.compile",
    "accumulate": "train.accumulate",
    "ema_decay": "train.ema_decay",
    "patience": "train.patience",
    "deterministic": "train.deterministic",
    "seed": "train.seed",
    "device": "train.device",
    "threads": "train.threads",
}


def leaves() -> Iterator[tuple[str, type[Section], str]]:
    """Every key of the tree: dotted path, section, field."""
    for section_name, section in RunConfig.model_fields.items():
        kind = section.annotation
        assert isinstance(kind, type)
        assert issubclass(kind, Section)
        for field_name in kind.model_fields:
            yield f"{section_name}.{field_name}", kind, field_name


def parse_config(tree: dict[str, Any], *, where: str) -> RunConfig:
    """A tree of plain values to a config.

    Raises:
        RequestError: for an unknown key (with the closest match) or a wrong value (with what was expected).
    """
    paths = [path for path, _, _ in leaves()]
    for section, values in tree.items():
        if section not in RunConfig.model_fields:
            raise unknown(f"section in {where}", section, list(RunConfig.model_fields))
        if not isinstance(values, dict):
            raise RequestError(f"{where}: [{section}] is a section, got the value {values!r}.")
        for key in values:
            if f"{section}.{key}" not in paths:
                raise unknown(f"option in {where}", f"{section}.{key}", paths)
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        raise RequestError(f"{where}: {path} = {first['input']!r} is wrong. {first['msg']}.") from None


def load_config(path: Path) -> RunConfig:
    """Reads a TOML file.

    Raises:
        RequestError: if it is absent, no TOML, or has an unknown key or a wrong value.
    """
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"Can't read the config {path}: {error.strerror or error}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} is no valid TOML: {error}.") from None
    return parse_config(tree, where=str(path))


def override(config: RunConfig, values: dict[str, Any], *, where: str) -> RunConfig:
    """The config with dotted paths set to values."""
    tree = config.model_dump()
    paths = [path for path, _, _ in leaves()]
    for path, value in values.items():
        if path not in paths:
            raise unknown(f"option in {where}", path, paths)
        section, key = path.split(".")
        tree[section][key] = value
    return parse_config(tree, where=where)


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """``["optim.lr=0.05"]`` to ``{"optim.lr": 0.05}``; values are TOML, or else text.

    Example:
        >>> parse_settings(["optim.lr=0.05", "model.name=plain20", "schedule.milestones=[0.5]"])
        {'optim.lr': 0.05, 'model.name': 'plain20', 'schedule.milestones': [0.5]}
    """
    values: dict[str, Any] = {}
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise RequestError(f"--set takes section.key=value, got {setting!r}.")
        try:
            values[path.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            values[path.strip()] = text
    return values


# ---- builders: from the tree to flat arguments


def build_model(config: ModelConfig, *, num_classes: int, in_channels: int) -> nn.Module:
    """The network."""
    from reslab.models.catalog import create_model

    if ":" in config.name:
        return call_builder(config.name, num_classes=num_classes, in_channels=in_channels)
    changes = changes_of(config)
    changes["in_channels"] = in_channels
    return create_model(config.name, num_classes, **changes)


def changes_of(config: ModelConfig) -> Changes:
    """The choices that were made: those other than the section's defaults."""
    defaults = ModelConfig()
    given = {
        name: value
        for name in ModelConfig.model_fields
        if name != "name" and (value := getattr(config, name)) != getattr(defaults, name)
    }
    return cast("Changes", given)


def call_builder(spec: str, *, num_classes: int, in_channels: int) -> nn.Module:
    """The network of a user's own builder."""
    from torch import nn

    builder = import_builder(spec)
    try:
        model = builder(num_classes=num_classes, in_channels=in_channels)
    except TypeError as error:
        raise RequestError(f"{spec} is called with num_classes and in_channels by name, and says: {error}.") from error
    if not isinstance(model, nn.Module):
        raise RequestError(f"{spec} returned a {type(model).__name__}; expected a torch.nn.Module.")
    return model


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


def build_data(
    config: DataConfig, *, seed: int, preprocess: Preprocess | None = None, classes: list[str] | None = None
) -> Data:
    """The data, split and decoded; with ``classes``, refused before that if it has others."""
    from reslab.data.prepare import check_classes, prepare
    from reslab.data.sources import find_source

    source = find_source(
        config.name,
        data_dir=Path(config.dir) if config.dir else None,
        channels=config.channels or None,
        download=config.download,
    )
    if classes is not None:
        check_classes(classes, source.classes, where=source.name)
    return prepare(
        source,
        val_split=config.val_split,
        seed=seed,
        image_size=config.image_size or None,
        augment=None if config.augment == "auto" else config.augment,
        preprocess=preprocess,
    )


def build_optimizer(config: OptimConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser over the model's parameters."""
    from reslab.train.optim import adamw, sgd

    if config.kind == "adamw":
        return adamw(model, lr=config.lr, weight_decay=config.weight_decay, decay_norms=config.decay_norms)
    return sgd(
        model,
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        decay_norms=config.decay_norms,
    )


def build_schedule(config: ScheduleConfig, *, lr: float, total_steps: int, steps_per_epoch: int) -> Schedule:
    """The schedule over the whole run."""
    from reslab.train import schedule

    match config.kind:
        case "constant":
            rate = schedule.constant(lr)
        case "multistep":
            milestones = [round(share * total_steps) for share in config.milestones]
            rate = schedule.multistep(lr, milestones=milestones, gamma=config.gamma)
        case "cosine":
            rate = schedule.cosine(lr, total_steps=total_steps)
        case "one_cycle":
            rate = schedule.one_cycle(lr, total_steps=total_steps)
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    if warmup_steps >= total_steps:
        raise RequestError(
            f"A warm-up of {warmup_steps} steps would fill the whole run of {total_steps}. Lower --warmup-epochs."
        )
    return schedule.warm_up(rate, steps=warmup_steps, start=config.warmup_start) if warmup_steps else rate


def build_options(config: RunConfig, *, total_steps: int, device: torch.device) -> FitOptions:
    """What ``fit`` needs besides model, data, optimiser and schedule."""
    from reslab.train.fit import FitOptions

    train = config.train
    return FitOptions(
        steps=total_steps,
        device=device,
        amp=train.amp,
        channels_last=train.channels_last,
        compile=train.compile,
        accumulate=train.accumulate,
        clip_grad_norm=config.optim.clip_grad_norm or None,
        l1=config.optim.l1,
        ema_decay=train.ema_decay or None,
        patience=train.patience or None,
    )


def build_device(name: str) -> torch.device:
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
