"""Flags of the commands: those that stand for options of a config, and those that every finished run takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import tyro

from reslab.cli._output import parse
from reslab.records import RunFolder
from reslab.run.config import (
    FLAGS,
    RunConfig,
    as_flag,
    list_recipes,
    load_config,
    load_recipe,
    option_paths,
    override,
    parse_settings,
    value_at,
)

OwnFlags = list[tuple[str, Any, Any]]
"""Name, type with help, default: flags of one command besides those of the config."""


@dataclass(kw_only=True)
class RunFlags:
    """What commands on a trained network take."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run or bundle."""
    weights: str = ""
    """best, last, or a safetensors file; by default the selected ones."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    json: bool = False
    """Print one JSON object on stdout."""


def read_flags(
    arguments: Sequence[str], own: OwnFlags, *, command: str, about: str, only: Sequence[str] = tuple(FLAGS)
) -> tuple[RunConfig, Any]:
    """The config that the words of a command line mean, and the values of all flags.

    Precedence: default < --recipe < --config < flags < --set.

    Args:
        arguments: without the command's name.
        own: flags of the command itself.
        command: its name.
        about: begins its help.
        only: the flags of ``FLAGS`` that it has; the rest is reached by --set.
    """
    arguments = expand_bare_flags(arguments)
    base = base_config(arguments)
    flags = parse(_flags_type(base, own, only, about=about), list(arguments), command=command)
    chosen = {FLAGS[flag]: getattr(flags, flag) for flag in only}
    changed = {path: value for path, value in chosen.items() if value != value_at(base, path)}
    config = override(base, changed, where="", spell=as_flag)
    return override(config, parse_settings(flags.set), where="--set"), flags


BARE_FLAGS = {"--resume": "auto", "--channels-last": "on", "--compile": "on"}
"""What a flag means without a value."""


def expand_bare_flags(arguments: Sequence[str]) -> list[str]:
    """``--resume`` alone means ``--resume auto``, ``--compile`` alone ``--compile on``, ``--no-compile`` ``off``."""
    expanded: list[str] = []
    for index, word in enumerate(arguments):
        positive = word.replace("--no-", "--", 1)
        if word != positive and BARE_FLAGS.get(positive) == "on":
            expanded += [positive, "off"]
            continue
        expanded.append(word)
        follower = arguments[index + 1] if index + 1 < len(arguments) else "-"
        if word in BARE_FLAGS and follower.startswith("-"):
            expanded.append(BARE_FLAGS[word])
    return expanded


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


def _flags_type(config: RunConfig, own: OwnFlags, only: Sequence[str], *, about: str) -> type[Any]:
    """A dataclass with a field for each flag: type and help from the options, default from ``config``."""
    known, made = option_paths(), list[tuple[str, Any, Any]]()
    for flag in only:
        option = known[FLAGS[flag]]
        kind = get_args(option.type)[0] if get_origin(option.type) is Annotated else option.type  # bounds come later
        default = value_at(config, FLAGS[flag])
        kind = str if flag == "task" else kind
        made.append((flag, flag_of(kind, option.help), field(default=option.default if default is None else default)))
    made += [
        ("recipe", flag_of(str, f"A shipped recipe to start from: {', '.join(list_recipes())}."), field(default="")),
        ("config", flag_of(Path | None, "TOML file that the flags override."), field(default=None)),
        (
            "set",
            tyro.conf.UseAppendAction[flag_of(list[str], "Any other option: --set section.key=value.")],  # type: ignore[misc]
            field(default_factory=list),
        ),
        ("json", flag_of(bool, "Print one JSON object on stdout."), field(default=False)),
    ]
    flags = make_dataclass("Flags", [*made, *own])
    flags.__doc__ = f"{about} Precedence: default < --recipe < --config < flags < --set."
    return flags


def flag_of(kind: Any, text: str) -> Any:
    """A flag's type with its help."""
    return Annotated[kind, tyro.conf.arg(help=text)]


def summary(config: RunConfig) -> str:
    """The options that differ from the defaults, a line per section.

    Example:
        >>> from reslab.run.config import ModelOptions
        >>> print(summary(RunConfig(model=ModelOptions(name="plain20"))))
           model: name=plain20
            data: name=digits
    """
    default, lines = RunConfig(), dict[str, list[str]]()
    for path, option in option_paths().items():
        section = path.partition(".")[0]
        value = value_at(config, path)
        always = path in ("model.name", "data.name")
        if value is not None and section != "recipe" and (always or value != value_at(default, path)):
            lines.setdefault(section, []).append(f"{option.name}={value}")
        if path == "recipe.name" and value:
            lines["recipe"] = [str(value)]
    return "\n".join(f"{section:>8}: {'  '.join(words)}" for section, words in lines.items())
