"""The config of a run: the packages' options in one tree, from TOML, flags and ``--set``, and back to TOML.

Precedence: default < recipe < TOML < flags < ``--set``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal

import tomli_w

from reslab.data.options import DataOptions
from reslab.errors import RequestError, unknown
from reslab.layers.spec import NormKind, ShortcutKind
from reslab.models.architecture import Order
from reslab.options import Fraction, Option, build, options, options_of
from reslab.tasks.options import TASK_OPTIONS, ClassifyOptions, TaskOptions, task_options_class
from reslab.training.options import OptimOptions, ScheduleOptions, TrainOptions


@options
class RecipeOptions:
    """What a shipped recipe says about itself; empty in a config of one's own.

    Args:
        name: name of the recipe that the config began with.
        source: where the recipe comes from.
        deviates: where the recipe deviates from its source.
        sides: fewest and most pixels per side that the recipe is made for.
    """

    name: str = ""
    source: str = ""
    deviates: list[str] = field(default_factory=list)
    sides: tuple[int, int] = (1, 100_000)


@options
class ModelOptions:
    """The network.

    Args:
        name: network: a name of the catalog, any CIFAR depth 6n+2, or my_pkg.nets:builder.
        shortcut: kind of shortcut; auto is the network's own.
        connection: how shortcut and branch are joined: add, rezero, fixup, mhc, ...; auto is the network's own.
        order: order of norm and activation around the addition; auto is the network's own.
        norm: kind of norm; auto is the network's own.
        drop_path: fraction of samples that skip the last branch while training; earlier branches linearly less.
        zero_init_residual: start each branch at zero.
        dropout: fraction of features dropped before the head.
        checkpoint_blocks: keep only the blocks' inputs and recompute the rest: less memory, more time.
        weights: file of weights to start from, in any layout that `reslab convert` reads.
    """

    name: str = "resnet20"
    shortcut: Literal["auto", ShortcutKind] = "auto"
    connection: str = "auto"
    order: Literal["auto", Order] = "auto"
    norm: Literal["auto", NormKind] = "auto"
    drop_path: Fraction = 0.0
    zero_init_residual: bool = False
    dropout: Fraction = 0.0
    checkpoint_blocks: bool = False
    weights: str = ""


@options
class RunConfig:
    """Everything that makes a run what it is.

    Args:
        recipe: where it comes from.
        task: what the network is trained for.
        model: the network.
        data: the data.
        optim: the optimiser.
        schedule: the learning rate over the run.
        train: the training loop.
    """

    recipe: RecipeOptions = RecipeOptions()
    task: TaskOptions = ClassifyOptions()
    model: ModelOptions = ModelOptions()
    data: DataOptions = DataOptions()
    optim: OptimOptions = OptimOptions()
    schedule: ScheduleOptions = ScheduleOptions()
    train: TrainOptions = TrainOptions()

    def to_toml(self) -> str:
        """TOML that ``--config`` takes."""
        return tomli_w.dumps(asdict(self))


SECTIONS = [field.name for field in fields(RunConfig)]
KINDS: dict[str, list[type]] = {
    "recipe": [RecipeOptions],
    "task": list(TASK_OPTIONS.values()),
    "model": [ModelOptions],
    "data": [DataOptions],
    "optim": [OptimOptions],
    "schedule": [ScheduleOptions],
    "train": [TrainOptions],
}
"""The classes of options that a section can have."""
FLAGS: dict[str, str] = {
    # flag, or keyword of `reslab.train`: its path in the config; everything else is reached by --set
    "task": "task.name",
    "model": "model.name",
    "shortcut": "model.shortcut",
    "connection": "model.connection",
    "order": "model.order",
    "norm": "model.norm",
    "drop_path": "model.drop_path",
    "zero_init_residual": "model.zero_init_residual",
    "dropout": "model.dropout",
    "checkpoint_blocks": "model.checkpoint_blocks",
    "weights": "model.weights",
    "data": "data.name",
    "data_dir": "data.dir",
    "download": "data.download",
    "val_split": "data.val_split",
    "test": "data.test",
    "augment": "data.augment",
    "policy": "data.policy",
    "erasing": "data.erasing",
    "mixup": "data.mixup",
    "cutmix": "data.cutmix",
    "image_size": "data.image_size",
    "batch_size": "data.batch_size",
    "fit_batch": "data.fit_batch",
    "workers": "data.workers",
    "cache_mib": "data.cache_mib",
    "opt": "optim.kind",
    "lr": "optim.lr",
    "momentum": "optim.momentum",
    "nesterov": "optim.nesterov",
    "weight_decay": "optim.weight_decay",
    "clip_grad": "train.clip_grad_norm",
    "sched": "schedule.kind",
    "warmup_epochs": "schedule.warmup_epochs",
    "epochs": "train.epochs",
    "steps": "train.steps",
    "label_smoothing": "task.label_smoothing",
    "amp": "train.amp",
    "channels_last": "train.channels_last",
    "compile": "train.compile",
    "accumulate": "train.accumulate",
    "ema_decay": "train.ema_decay",
    "patience": "train.patience",
    "precise_norm": "train.precise_norm",
    "deterministic": "train.deterministic",
    "seed": "train.seed",
    "device": "train.device",
    "threads": "train.threads",
    "track": "train.track",
}
MOVED = {
    "recipe.task": "task.name",
    "train.label_smoothing": "task.label_smoothing",
    "train.loss": "task.loss",
    "optim.l1": "train.l1",
    "optim.clip_grad_norm": "train.clip_grad_norm",
}
"""Where older configs have what now lies elsewhere."""


@cache
def option_paths() -> dict[str, Option]:
    """Every option by its path, such as ``optim.lr``, whatever the task."""
    return {
        f"{section}.{name}": option
        for section, kinds in KINDS.items()
        for kind in reversed(kinds)  # the first one's help stands for what they share
        for name, option in options_of(kind).items()
    }


def value_at(config: RunConfig, path: str) -> Any:
    """Look up a path such as ``optim.lr``; None for an option that this config's task doesn't have."""
    section, name = path.split(".")
    return getattr(getattr(config, section), name, None)


# ---- into a config


def parse_config(
    tree: Mapping[str, Any], *, where: str, spell: Callable[[str], str] = str, base: RunConfig | None = None
) -> RunConfig:
    """Make a config out of sections of plain values.

    Args:
        tree: sections with their keys; those of older versions are understood.
        where: what errors call the tree, such as a file's name; empty for arguments.
        spell: how the user writes an option's path.
        base: what isn't given stays as it is there; by default as the defaults.

    Raises:
        RequestError: for an unknown key (with the closest match) or a wrong value (with what was expected).
    """
    known, place = option_paths(), f" in {where}" if where else ""
    values: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for section, entries in tree.items():
        if section not in SECTIONS:
            raise unknown(f"section{place}", section, SECTIONS)
        if not isinstance(entries, Mapping):
            raise RequestError(f"{where}: [{section}] is a section, got the value {entries!r}.")
        for key, value in entries.items():
            path = MOVED.get(f"{section}.{key}", f"{section}.{key}")
            if path not in known and path != "task.options":
                raise unknown(f"option{place}", path, known)
            values[path.partition(".")[0]][path.partition(".")[2]] = value
    if base is not None:
        same_task = values["task"].get("name", base.task.name) == base.task.name
        before = {section: asdict(getattr(base, section)) for section in SECTIONS if section != "task" or same_task}
        values = {section: before.get(section, {}) | given for section, given in values.items()}
    task: TaskOptions = build(
        task_options_class(values["task"].get("name", "classify")),
        values["task"],
        spell=lambda name: spell(f"task.{name}"),
        where=where,
    )
    return build(RunConfig, {**values, "task": task}, spell=spell, where=where)


def load_config(path: Path, *, recipe: str | None = None) -> RunConfig:
    """Read a TOML file, on top of a recipe if one is named.

    Raises:
        RequestError: if it is absent, not valid TOML, or has an unknown key or a wrong value.
    """
    return parse_config(_read_toml(path), where=str(path), base=load_recipe(recipe) if recipe else None)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RequestError(f"No such config file: {path}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} is not valid TOML: {error}.") from None


RECIPES = Path(__file__).parent.parent / "recipes"


def list_recipes() -> list[str]:
    """Names of the recipes that come with reslab."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def load_recipe(name: str) -> RunConfig:
    """Read a shipped recipe: an ordinary config that says where it comes from.

    Raises:
        RequestError: for an unknown name, with the closest ones.
    """
    if name not in list_recipes():
        raise unknown("recipe", name, list_recipes(), hint="A file of your own goes to --config.")
    return parse_config(_read_toml(RECIPES / f"{name}.toml"), where=f"the recipe {name}")


def override(
    config: RunConfig, values: Mapping[str, Any], *, where: str, spell: Callable[[str], str] = str
) -> RunConfig:
    """The config with some options changed.

    Args:
        config: is left as it is.
        values: by path, such as ``{"optim.lr": 0.05}``.
        where: what errors call the values.
        spell: how the user writes an option's path.
    """
    tree: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        section, _, name = path.partition(".")
        if not name:
            raise unknown(f"option in {where}", path, option_paths())
        tree.setdefault(section, {})[name] = value
    return parse_config(tree, where=where, spell=spell, base=config)


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """Read ``--set section.key=value``; values are TOML, or else text.

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


def as_flag(path: str) -> str:
    """How a user of the command line writes an option.

    Example:
        >>> as_flag("data.batch_size"), as_flag("optim.side_lr")
        ('--batch-size', '--set optim.side_lr')
    """
    flags = {path: flag for flag, path in FLAGS.items()}
    return f"--{flags[path].replace('_', '-')}" if path in flags else f"--set {path}"


# ---- two configs


IRRELEVANT = ("data.dir", "data.workers", "data.download", "data.fit_batch", "train.track")
"""Where the data lies, how it is read, and who looks on: a run comes out the same."""
LEFT_OPEN = {
    "train.amp": "auto", "train.channels_last": "auto", "train.compile": "auto",
    "train.threads": 0, "data.workers": -1,
}  # fmt: skip
"""What a trial settles when a run starts, and the value that leaves it to that."""


def differences(before: RunConfig, after: RunConfig) -> list[str]:
    """Options whose values differ, as phrases; empty where the run would be the same.

    Example:
        >>> differences(RunConfig(train=TrainOptions(threads=2)), RunConfig(train=TrainOptions(epochs=3)))
        ['train.epochs was 30, now 3']
    """
    after = as_before(after, before)
    pairs = {path: (value_at(before, path), value_at(after, path)) for path in option_paths()}
    return [
        f"{path} was {old!r}, now {new!r}"
        for path, (old, new) in pairs.items()
        if old != new and path not in IRRELEVANT
    ]


def as_before(config: RunConfig, before: RunConfig) -> RunConfig:
    """The config with what it leaves to a trial set as an earlier run's trial had it."""
    settled = {path: value_at(before, path) for path, is_open in LEFT_OPEN.items() if value_at(config, path) == is_open}
    return override(config, settled, where="the earlier run")
