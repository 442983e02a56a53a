"""From TOML, flags and ``--set`` to a checked config. Precedence is default < recipe < TOML < flags < ``--set``."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from reslab.config.tree import RunConfig, leaves
from reslab.errors import RequestError, unknown


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


def load_config(path: Path, *, recipe: str | None = None) -> RunConfig:
    """Reads a TOML file, over a recipe if one is named.

    Raises:
        RequestError: if it is absent, no TOML, or has an unknown key or a wrong value.
    """
    tree = read_toml(path)
    parsed = parse_config(tree, where=str(path))
    if not recipe:
        return parsed
    given = {f"{section}.{key}": value for section, values in tree.items() for key, value in values.items()}
    return override(load_recipe(recipe), given, where=str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """The file's tree of plain values."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"Can't read the config {path}: {error.strerror or error}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} is no valid TOML: {error}.") from None


RECIPES = Path(__file__).parent.parent / "recipes"


def list_recipes() -> list[str]:
    """Names of the recipes that come with reslab."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def load_recipe(name: str) -> RunConfig:
    """A shipped recipe: an ordinary config that says where it comes from.

    Raises:
        RequestError: for an unknown name, with the closest ones.
    """
    if name not in list_recipes():
        raise unknown("recipe", name, list_recipes(), hint="A file of one's own goes to --config.")
    return parse_config(read_toml(RECIPES / f"{name}.toml"), where=f"the recipe {name}")


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
