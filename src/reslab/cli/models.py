"""``reslab models``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from reslab.cli.output import console, parse, print_json, table
from reslab.errors import unknown


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

    from reslab.models.catalog import MODELS, list_models
    from reslab.models.summary import describe_model

    names = list_models(flags.pattern)
    if not names:
        raise unknown("model", flags.pattern, MODELS, hint="A pattern such as 'plain*' works too; quote it.")
    rows = [describe_model(name) for name in names]
    if flags.json:
        print_json({"models": rows})
        return 0
    columns = ["name", "parameters", "depth", "blocks", "shortcut", "stem", "classes"]
    cells = [
        [
            row["name"],
            f"{row['num_parameters']:,}",
            row["depth"],
            row["blocks"],
            row["shortcut"],
            row["stem"],
            row["num_classes"],
        ]
        for row in rows
    ]
    console().print(table(columns, cells, numeric=["parameters", "depth", "classes"]))
    return 0
