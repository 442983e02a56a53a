"""``reslab train``: flags and files to a config, the config to ``reslab.run.train.train``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import field, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from reslab.cli.output import console, parse, print_json, table
from reslab.config import (
    FLAGS,
    RunConfig,
    leaves,
    list_recipes,
    load_config,
    load_recipe,
    override,
    parse_settings,
)
from reslab.errors import RequestError
from reslab.records import Errors, RunFolder, RunRecord, as_percent


def run(arguments: list[str]) -> int:
    """Parses, trains, prints. Returns the exit code."""
    arguments = spell_out(arguments)
    flags = parse(flags_type(base_config(arguments)), arguments, command="train")
    config = override(
        base_config(arguments), {path: getattr(flags, flag) for flag, path in FLAGS.items()}, where="the flags"
    )
    config = override(config, parse_settings(flags.set), where="--set")
    out = flags.out or default_out(config)

    from reslab.cli.progress import make_display  # from here on torch is needed
    from reslab.run.train import train
    from reslab.train.distributed import launched_ranks

    speaks = launched_ranks().is_first
    if speaks and not flags.json:
        print(summary(config), file=sys.stderr)
    outcome = train(config, out, resume=flags.resume == "auto", overwrite=flags.overwrite, display=make_display())
    if not speaks:
        return 130 if outcome.interrupted else 0
    if outcome.interrupted:
        print(f"interrupted; go on with: reslab train --out {out} --resume", file=sys.stderr)
    if flags.json:
        print_json({"run": str(out), **result_of(outcome.record)})
    elif not outcome.interrupted:
        print_result(out, outcome.record)
    return 130 if outcome.interrupted else 0


MEANT = {"--resume": "auto", "--channels-last": "on", "--compile": "on"}
"""What a flag says that stands alone."""


def spell_out(arguments: Sequence[str]) -> list[str]:
    """``--resume`` alone means ``--resume auto``, ``--compile`` alone ``--compile on``, ``--no-compile`` ``off``."""
    spelled: list[str] = []
    for index, word in enumerate(arguments):
        positive = word.replace("--no-", "--", 1)
        if word != positive and MEANT.get(positive) == "on":
            spelled += [positive, "off"]
            continue
        spelled.append(word)
        follower = arguments[index + 1] if index + 1 < len(arguments) else "-"
        if word in MEANT and follower.startswith("-"):
            spelled.append(MEANT[word])
    return spelled


def base_config(arguments: Sequence[str]) -> RunConfig:
    """What the flags override: ``--config``, or the config of the run that is resumed, or the defaults.

    A ``--recipe`` lies below the config's file, which overrides it key by key.
    """
    recipe = value_of("--recipe", arguments)
    if config_path := value_of("--config", arguments):
        return load_config(Path(config_path), recipe=recipe)
    if recipe:
        return load_recipe(recipe)
    if value_of("--resume", arguments) == "auto" and (out := value_of("--out", arguments)):
        saved = RunFolder(Path(out)).config
        if saved.exists():
            return load_config(saved)
    return RunConfig()


def value_of(flag: str, arguments: Sequence[str]) -> str | None:
    """The last value that a flag was given, before the real parsing."""
    value = None
    for index, word in enumerate(arguments):
        if word == flag and index + 1 < len(arguments):
            value = arguments[index + 1]
        elif word.startswith(f"{flag}="):
            value = word.partition("=")[2]
    return value


def flags_type(config: RunConfig) -> type[Any]:
    """A dataclass with a field for each flag: type and help from the config's tree, default from ``config``."""
    places = {path: section.model_fields[key] for path, section, key in leaves()}
    fields: list[tuple[str, Any, Any]] = []
    for flag, path in FLAGS.items():
        info, (section, key) = places[path], path.split(".")
        default = field(default=getattr(getattr(config, section), key))
        fields.append((flag, help_for(info.annotation, info.description or ""), default))
    own: list[tuple[str, Any, Any]] = [
        ("recipe", help_for(str, f"A shipped recipe to begin with: {', '.join(list_recipes())}."), field(default="")),
        ("config", help_for(Path | None, "TOML file that the flags override."), field(default=None)),
        ("out", help_for(Path | None, "Folder of the run; by default runs/MODEL-DATA."), field(default=None)),
        (
            "set",
            tyro.conf.UseAppendAction[help_for(list[str], "Any other option: --set section.key=value.")],  # type: ignore[misc]
            field(default_factory=list),
        ),
        (
            "resume",
            help_for(Literal["no", "auto"], "Go on with the run in --out if there is one; bare --resume is auto."),
            field(default="no"),
        ),
        ("overwrite", help_for(bool, "Replace the run in --out."), field(default=False)),
        ("json", help_for(bool, "Print one JSON object on stdout."), field(default=False)),
    ]
    made = make_dataclass("TrainFlags", [*fields, *own])
    made.__doc__ = "Train a network on your data. Precedence: default < --recipe < --config < flags < --set."
    return made


def help_for(kind: Any, text: str) -> Any:
    """A type with its help."""
    return Annotated[kind, tyro.conf.arg(help=text)]


def default_out(config: RunConfig) -> Path:
    """runs/MODEL-DATA."""
    model, data = config.model.name.replace(":", "."), Path(config.data.name).name
    if not data:
        raise RequestError(f"Can't name a run after the data {config.data.name!r}; give --out.")
    return Path("runs") / f"{model}-{data}"


def summary(config: RunConfig) -> str:
    """The resolved config, a line a section."""
    lines = []
    for section, values in config.model_dump().items():
        lines.append(f"{section:>8}: " + "  ".join(f"{key}={value}" for key, value in values.items() if value != ""))
    return "\n".join(lines)


def result_of(record: RunRecord) -> dict[str, Any]:
    """For ``--json``."""
    return {
        "status": record.status,
        "model": record.model["name"],
        "num_parameters": record.model["num_parameters"],
        "data": record.data["name"],
        "duration_s": record.duration_s,
        "last": None if record.last is None else vars(record.last),
        "best": None if record.best is None else vars(record.best),
    }


def print_result(out: Path, record: RunRecord) -> None:
    """Errors of last and best, and where everything is."""
    columns = ["weights", "epoch", "clean training error", "validation error", "test error"]
    chosen: list[tuple[str, Errors | None]] = [("last", record.last), ("best", record.best)]
    rows = [
        [name, errors.epoch + 1, *map(as_percent, (errors.train_error, errors.val_error, errors.test_error))]
        for name, errors in chosen
        if errors is not None
    ]
    screen = console()
    screen.print(table(columns, rows, numeric=columns[1:]))
    screen.print(f"{record.model['name']} on {record.data['name']}, {record.duration_s:.0f} s; page: {out}/report.html")
