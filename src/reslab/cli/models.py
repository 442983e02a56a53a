"""``reslab models``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from reslab.cli.output import console, parse, print_json, table
from reslab.models.table import catalog_rows


@dataclass
class ModelsFlags:
    """The networks that go by name. Any other CIFAR depth 6n+2 works by number too: resnet38, plain26."""

    pattern: Annotated[str, tyro.conf.Positional] = "*"
    """Shell pattern, such as 'plain*'; quote it."""
    json: bool = False
    """Print one JSON object on stdout."""


def run(arguments: list[str]) -> int:
    """Parses, lists, prints. Returns the exit code."""
    flags = parse(ModelsFlags, arguments, command="models")

    rows = catalog_rows(flags.pattern) or by_number(flags.pattern)
    if flags.json:
        print_json({"models": rows})
        return 0
    columns = ["name", "parameters", "depth", "blocks", "shortcut", "stem", "classes"]
    keys = ["name", "num_parameters", "depth", "blocks", "shortcut", "stem", "num_classes"]
    cells = [[f"{row[key]:,}" if key == "num_parameters" else row[key] for key in keys] for row in rows]
    console().print(table(columns, cells, numeric=["parameters", "depth", "classes"]))
    return 0


def by_number(name: str) -> list[dict[str, Any]]:
    """A network that goes by number only, such as resnet38, built and counted; the error for any other name."""
    from reslab.models.summary import describe_model  # torch is needed for these alone

    return [describe_model(name)]
