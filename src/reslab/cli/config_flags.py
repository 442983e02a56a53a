"""Flags that stand for keys of the config, for every command that begins with one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from reslab.cli.output import parse
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
from reslab.records import RunFolder

OwnFlags = list[tuple[str, Any, Any]]
"""Name, type with help, default: flags of one command besides those of the config."""


def read_flags(arguments: Sequence[str], own: OwnFlags, *, command: str, about: str) -> tuple[RunConfig, Any]:
    """The config that the words of a command line mean, and the values of all flags.

    Precedence: default < --recipe < --config < flags < --set.
    """
    arguments = spell_out(arguments)
    base = base_config(arguments)
    flags = parse(flags_type(base, own, about=about), list(arguments), command=command)
    config = override(base, {path: getattr(flags, flag) for flag, path in FLAGS.items()}, where="the flags")
    return override(config, parse_settings(flags.set), where="--set"), flags


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


def flags_type(config: RunConfig, own: OwnFlags, *, about: str) -> type[Any]:
    """A dataclass with a field for each flag: type and help from the config's tree, default from ``config``."""
    places = {path: section.model_fields[key] for path, section, key in leaves()}
    fields: OwnFlags = []
    for flag, path in FLAGS.items():
        info, (section, key) = places[path], path.split(".")
        default = field(default=getattr(getattr(config, section), key))
        fields.append((flag, help_for(info.annotation, info.description or ""), default))
    fields += [
        ("recipe", help_for(str, f"A shipped recipe to begin with: {', '.join(list_recipes())}."), field(default="")),
        ("config", help_for(Path | None, "TOML file that the flags override."), field(default=None)),
        (
            "set",
            tyro.conf.UseAppendAction[help_for(list[str], "Any other option: --set section.key=value.")],  # type: ignore[misc]
            field(default_factory=list),
        ),
        ("json", help_for(bool, "Print one JSON object on stdout."), field(default=False)),
    ]
    made = make_dataclass("Flags", [*fields, *own])
    made.__doc__ = f"{about} Precedence: default < --recipe < --config < flags < --set."
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
