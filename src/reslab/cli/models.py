"""``reslab models``: the catalog as a table, and one network as a tree or a picture."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from reslab.cli._output import console, parse, print_json, table
from reslab.errors import RequestError, unknown
from reslab.models.table import catalog_rows
from reslab.records.structure import StructureRecord
from reslab.records.training import as_short
from reslab.report.tree import ASCII_GUIDES, GUIDES, format_tree

Row = dict[str, Any]

MAX_TREE_WIDTH = 100


@dataclass
class ModelsFlags:
    """List the named models. Any other CIFAR depth 6n+2 works too: resnet38, plain26."""

    pattern: Annotated[str, tyro.conf.Positional] = "*"
    """Shell pattern, such as 'plain*'; quote it."""
    max_params: str = ""
    """Only networks with at most this number of parameters, such as 5M."""
    max_macs: str = ""
    """Only networks with at most this number of multiply-accumulates per image, such as 1G."""
    block: str = ""
    """Only networks with this block: BasicBlock, Bottleneck, SingleBlock, ... or basic, bottleneck, single."""
    shortcut: str = ""
    """Only networks with this shortcut: zero_pad, projection, none, ..."""
    sort: Literal["catalog", "name", "params", "macs"] = "catalog"
    """Order of the table."""
    tree: bool = False
    """Print the structure of one network, equal blocks folded."""
    graph: Path | None = None
    """Draw one network into this .svg or .png file."""
    json: bool = False
    """Print one JSON object on stdout."""


def run(arguments: list[str]) -> int:
    """Print the catalog, or one network of it. Returns the exit code."""
    flags = parse(ModelsFlags, arguments, command="models")
    rows = sort_rows(filter_rows(find_rows(flags.pattern), flags), flags.sort)
    if flags.tree or flags.graph:
        show_structure(only_name(rows, flags), flags)
    elif flags.json:
        print_json({"models": rows})
    else:
        print_table(rows, console())
    return 0


def find_rows(pattern: str) -> list[Row]:
    """Return the catalog's rows, or the one of a network such as resnet38, which is built and counted."""
    if rows := catalog_rows(pattern):
        return rows
    from reslab.models.table import describe_model  # needs torch, and only this does

    return [describe_model(pattern)]


# ---- the table


def as_text(row: Row, *, key: str) -> str:
    return str(row[key])


BLOCK_KINDS = {"BasicBlock": "basic", "Bottleneck": "bottleneck", "SingleBlock": "single"}
SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
COLUMNS: dict[str, Callable[[Row], str]] = {
    "name": partial(as_text, key="name"),
    "parameters": lambda row: f"{row['num_parameters']:,}",
    "MACs": lambda row: as_short(row["macs"]),
    "activations": lambda row: as_short(row["activations"]),
    "depth": lambda row: "-" if row["depth"] is None else str(row["depth"]),
    **{name: partial(as_text, key=name) for name in ("blocks", "shortcut", "order", "connection", "stem")},
    "classes": partial(as_text, key="num_classes"),
    "image": partial(as_text, key="image"),
}
NUMERIC = {"parameters", "MACs", "activations", "depth", "classes", "image"}
DROPPED_FIRST = "image", "classes", "stem", "order", "connection", "depth", "activations", "shortcut", "blocks", "MACs"
"""What a narrow terminal leaves out, in this order; ``--json`` has everything."""
GAP = 2  # letters between two columns


def print_table(rows: Sequence[Row], screen: Console) -> None:
    """Print as many columns as the terminal has room for."""
    headings = columns_that_fit(rows, screen.width)
    cells = [[COLUMNS[heading](row) for heading in headings] for row in rows]
    screen.print(table(headings, cells, numeric=[heading for heading in headings if heading in NUMERIC]))


def columns_that_fit(rows: Sequence[Row], width: int) -> list[str]:
    """Return the headings of the columns that ``width`` letters have room for."""
    widths = {name: max(len(name), *(len(cell(row)) for row in rows)) + GAP for name, cell in COLUMNS.items()}
    headings = list(COLUMNS)
    for heading in DROPPED_FIRST:
        if sum(widths[kept] for kept in headings) - GAP <= width:
            break
        headings.remove(heading)
    return headings


def filter_rows(rows: list[Row], flags: ModelsFlags) -> list[Row]:
    """Return the rows that the flags ask for; none left is an error."""
    known = [*catalog_rows(), *rows]
    if flags.block:
        wanted = as_kind(flags.block)
        rows = keep_equal(rows, known, "block", wanted, lambda row: as_kind(re.sub(r" [\d-]+$", "", row["blocks"])))
    if flags.shortcut:
        rows = keep_equal(rows, known, "shortcut", flags.shortcut, lambda row: str(row["shortcut"]))
    if flags.max_params:
        rows = keep_small(rows, "num_parameters", flags.max_params, flag="--max-params")
    if flags.max_macs:
        rows = keep_small(rows, "macs", flags.max_macs, flag="--max-macs")
    return rows


def as_kind(block: str) -> str:
    """Return the config's word for a block, given as such or as in the table: "basic" for "BasicBlock"."""
    return BLOCK_KINDS.get(block, block.replace(" ", "_"))


def keep_equal(rows: list[Row], known: list[Row], kind: str, wanted: str, of: Callable[[Row], str]) -> list[Row]:
    if wanted not in (choices := {of(row) for row in known}):
        raise unknown(kind, wanted, sorted(choices))
    return keep(rows, lambda row: of(row) == wanted, f"--{kind} {wanted}")


def keep_small(rows: list[Row], key: str, limit: str, *, flag: str) -> list[Row]:
    most, smallest = parse_count(limit, flag=flag), min(row[key] for row in rows)
    hint = f" {'It' if len(rows) == 1 else 'The smallest'} has {as_short(smallest)}."
    return keep(rows, lambda row: row[key] <= most, f"{flag} {limit}", hint=hint)


def keep(rows: list[Row], fits: Callable[[Row], bool], request: str, *, hint: str = "") -> list[Row]:
    """Return the rows that fit; none is an error that says which request left nothing."""
    kept = [row for row in rows if fits(row)]
    if not kept:
        who = f"{rows[0]['name']} doesn't fit" if len(rows) == 1 else f"None of the {len(rows)} networks fits"
        raise RequestError(f"{who} {request}.{hint}")
    return kept


def parse_count(text: str, *, flag: str) -> float:
    """Read a count with a unit.

    Example:
        >>> parse_count("5M", flag="--max-params"), parse_count("1_500", flag="--max-params")
        (5000000.0, 1500.0)
    """
    match = re.fullmatch(r"\s*(\d[\d_]*(?:\.\d+)?(?:e\d+)?)\s*([kmg]?)\s*", text, re.IGNORECASE)
    if not match:
        raise RequestError(f"{flag} takes a count such as 800k, 5M or 1.5G, got {text!r}.")
    return float(match[1]) * SIZES[match[2].lower()]


def sort_rows(rows: list[Row], by: str) -> list[Row]:
    """Sort by name, resnet20 before resnet110, or by a number, smallest first."""
    if by == "name":
        return sorted(rows, key=lambda row: in_counting_order(row["name"]))
    if key := {"params": "num_parameters", "macs": "macs"}.get(by):
        return sorted(rows, key=lambda row: row[key])
    return rows


def in_counting_order(name: str) -> list[tuple[str, int]]:
    """Return a key that puts resnet20 before resnet110.

    Example:
        >>> in_counting_order("resnet20_small")
        [('resnet', 20), ('_small', 0)]
    """
    return [(words, int(digits or 0)) for words, digits in re.findall(r"(\D+)(\d*)", name)]


# ---- one network


def only_name(rows: Sequence[Row], flags: ModelsFlags) -> str:
    if len(rows) == 1:
        return str(rows[0]["name"])
    asked = "--tree" if flags.tree else "--graph"
    some = ", ".join(row["name"] for row in rows[:3])
    raise RequestError(
        f"{asked} shows one network, and {flags.pattern!r} matches {len(rows)}: {some}, ... Name one of them, such as:"
        f" reslab models {rows[0]['name']} {asked}"
    )


def show_structure(name: str, flags: ModelsFlags) -> None:
    """Show one network as a tree, a picture or both."""
    from reslab.report import structure_figure
    from reslab.report.figure import check_path

    if flags.graph:
        check_path(flags.graph)  # before any work
    record = structure_of(name)
    if flags.graph:
        structure_figure(record).save(flags.graph)
    if flags.json:
        print_json(asdict(record) | ({"graph": str(flags.graph)} if flags.graph else {}))
        return
    if flags.tree:
        print_tree(record, console())
    if flags.graph:
        print(f"{flags.graph}: {name}, {record.depth} layers")


def structure_of(name: str) -> StructureRecord:
    """Build a network of the catalog without values, and read it."""
    import torch

    from reslab.models.catalog import create_model
    from reslab.models.structure import read_structure
    from reslab.models.table import image_shape

    with torch.device("meta"):
        return read_structure(create_model(name), image_shape(name), name=name)


def print_tree(record: StructureRecord, screen: Console) -> None:
    guides = ASCII_GUIDES if screen.options.ascii_only else GUIDES
    lines = format_tree(record, width=min(screen.width, MAX_TREE_WIDTH), guides=guides)
    screen.print("\n".join(lines), soft_wrap=True, markup=False)
