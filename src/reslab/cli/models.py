"""``reslab models``: the catalog as a table, and one network as a tree or a picture."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from reslab.cli.output import console, parse, print_json, table
from reslab.errors import RequestError, unknown
from reslab.models.table import catalog_rows
from reslab.records import StructureRecord, as_short
from reslab.report.tree import ASCII_GUIDES, GUIDES, format_tree

Row = dict[str, Any]

MAX_TREE_WIDTH = 100


@dataclass
class ModelsFlags:
    """The networks that go by name. Any other CIFAR depth 6n+2 works by number too: resnet38, plain26."""

    pattern: Annotated[str, tyro.conf.Positional] = "*"
    """Shell pattern, such as 'plain*'; quote it."""
    max_params: str = ""
    """Only networks with at most so many parameters, such as 5M."""
    max_macs: str = ""
    """Only networks with at most so many multiply-accumulates an image, such as 1G."""
    block: str = ""
    """Only networks of this block: BasicBlock, Bottleneck, SingleBlock, ... or basic, bottleneck, single."""
    shortcut: str = ""
    """Only networks of this shortcut: zero_pad, projection, none, ..."""
    sort: Literal["catalog", "name", "params", "macs"] = "catalog"
    """Order of the table."""
    tree: bool = False
    """Print what one network is made of, equal blocks folded."""
    graph: Path | None = None
    """Draw one network into this .svg or .png file."""
    json: bool = False
    """Print one JSON object on stdout."""


def run(arguments: list[str]) -> int:
    """Parses, lists, prints. Returns the exit code."""
    flags = parse(ModelsFlags, arguments, command="models")
    rows = sort_rows(filter_rows(catalog_rows(flags.pattern) or by_number(flags.pattern), flags), flags.sort)
    if flags.tree or flags.graph:
        show_structure(only_name(rows, flags), flags)
    elif flags.json:
        print_json({"models": rows})
    else:
        print_table(rows, console())
    return 0


def by_number(name: str) -> list[Row]:
    """A network that goes by number only, such as resnet38, built and counted; the error for any other name."""
    from reslab.models.table import describe_model  # torch is needed for these alone

    return [describe_model(name)]


# ---- the table


BLOCK_KINDS = {"BasicBlock": "basic", "Bottleneck": "bottleneck", "SingleBlock": "single"}
SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}

COLUMNS: dict[str, Callable[[Row], str]] = {
    "name": lambda row: str(row["name"]),
    "parameters": lambda row: f"{row['num_parameters']:,}",
    "MACs": lambda row: as_short(row["macs"]),
    "activations": lambda row: as_short(row["activations"]),
    "depth": lambda row: "-" if row["depth"] is None else str(row["depth"]),
    "blocks": lambda row: str(row["blocks"]),
    "shortcut": lambda row: str(row["shortcut"]),
    "order": lambda row: str(row["order"]),
    "connection": lambda row: str(row["connection"]),
    "stem": lambda row: str(row["stem"]),
    "classes": lambda row: str(row["num_classes"]),
    "image": lambda row: str(row["image"]),
}
GUTTER = 2
"""Letters between two columns."""
NUMERIC = ("parameters", "MACs", "activations", "depth", "classes", "image")
DROPPED_FIRST = (
    "image",
    "classes",
    "stem",
    "order",
    "connection",
    "depth",
    "activations",
    "shortcut",
    "blocks",
    "MACs",
)
"""What a narrow terminal leaves out, in this order; ``--json`` has everything."""


def print_table(rows: Sequence[Row], screen: Console) -> None:
    """As many columns as the terminal has room for."""
    headings = columns_that_fit(rows, screen.width)
    cells = [[COLUMNS[heading](row) for heading in headings] for row in rows]
    screen.print(table(headings, cells, numeric=[heading for heading in headings if heading in NUMERIC]))


def columns_that_fit(rows: Sequence[Row], width: int) -> list[str]:
    """Headings of the columns that ``width`` letters have room for."""
    needs = {name: max(len(name), *(len(cell(row)) for row in rows)) + GUTTER for name, cell in COLUMNS.items()}
    headings = list(COLUMNS)
    for heading in DROPPED_FIRST:
        if sum(needs[kept] for kept in headings) - GUTTER <= width:
            break
        headings.remove(heading)
    return headings


def block_of(row: Row) -> str:
    """The block's kind: "basic" for "BasicBlock 3-3-3"."""
    return kind_of(re.sub(r" [\d-]+$", "", row["blocks"]))


def kind_of(block: str) -> str:
    """A block in reslab's word, whether it came so or as the table calls it."""
    return BLOCK_KINDS.get(block, block.replace(" ", "_"))


def filter_rows(rows: list[Row], flags: ModelsFlags) -> list[Row]:
    """The rows that the flags ask for; none left is an error."""
    known = [*catalog_rows(), *rows]
    if flags.block:
        kind = kind_of(flags.block)
        check_choice("block", kind, {block_of(row) for row in known})
        rows = keep(rows, lambda row: block_of(row) == kind, f"--block {flags.block}")
    if flags.shortcut:
        check_choice("shortcut", flags.shortcut, {row["shortcut"] for row in known})
        rows = keep(rows, lambda row: row["shortcut"] == flags.shortcut, f"--shortcut {flags.shortcut}")
    if flags.max_params:
        rows = keep_small(rows, "num_parameters", flags.max_params, flag="--max-params")
    if flags.max_macs:
        rows = keep_small(rows, "macs", flags.max_macs, flag="--max-macs")
    return rows


def check_choice(kind: str, wanted: str, choices: set[str]) -> None:
    """Refuses a word that no network of the catalog has."""
    if wanted not in choices:
        raise unknown(kind, wanted, sorted(choices))


def keep_small(rows: list[Row], key: str, limit: str, *, flag: str) -> list[Row]:
    """The rows whose number is no larger than the limit."""
    most = parse_count(limit, flag=flag)
    whose = "It" if len(rows) == 1 else "The smallest"
    hint = f" {whose} has {as_short(min(row[key] for row in rows))}."
    return keep(rows, lambda row: row[key] <= most, f"{flag} {limit}", hint=hint)


def keep(rows: list[Row], fits: Callable[[Row], bool], request: str, *, hint: str = "") -> list[Row]:
    """The rows that fit; none is an error that says which request left nothing."""
    kept = [row for row in rows if fits(row)]
    if not kept:
        who = f"{rows[0]['name']} doesn't fit" if len(rows) == 1 else f"None of the {len(rows)} networks fits"
        raise RequestError(f"{who} {request}.{hint}")
    return kept


def parse_count(text: str, *, flag: str) -> float:
    """A count with a unit.

    Example:
        >>> parse_count("5M", flag="--max-params"), parse_count("1_500", flag="--max-params")
        (5000000.0, 1500.0)
    """
    match = re.fullmatch(r"\s*(\d[\d_]*(?:\.\d+)?(?:e\d+)?)\s*([kmg]?)\s*", text, re.IGNORECASE)
    if not match:
        raise RequestError(f"{flag} takes a count such as 800k, 5M or 1.5G, got {text!r}.")
    return float(match[1]) * SIZES[match[2].lower()]


def sort_rows(rows: list[Row], by: str) -> list[Row]:
    """By name as people count, or by a number, smallest first."""
    if by == "name":
        return sorted(rows, key=lambda row: in_counting_order(row["name"]))
    if key := {"params": "num_parameters", "macs": "macs"}.get(by):
        return sorted(rows, key=lambda row: row[key])
    return rows


def in_counting_order(name: str) -> list[tuple[str, int]]:
    """A key that puts resnet20 before resnet110.

    Example:
        >>> in_counting_order("resnet20_small")
        [('resnet', 20), ('_small', 0)]
    """
    return [(words, int(digits or 0)) for words, digits in re.findall(r"(\D+)(\d*)", name)]


# ---- one network


def only_name(rows: Sequence[Row], flags: ModelsFlags) -> str:
    """The name of the one network that is left."""
    if len(rows) == 1:
        return str(rows[0]["name"])
    asked = "--tree" if flags.tree else "--graph"
    some = ", ".join(row["name"] for row in rows[:3])
    raise RequestError(
        f"{asked} shows one network, and {flags.pattern!r} matches {len(rows)}: {some}, ... Name one of them, such as:"
        f" reslab models {rows[0]['name']} {asked}"
    )


def show_structure(name: str, flags: ModelsFlags) -> None:
    """Tree, picture or both."""
    record = draw(name, flags.graph) if flags.graph else structure_of(name)
    if flags.json:
        print_json(asdict(record) | ({"graph": str(flags.graph)} if flags.graph else {}))
        return
    if flags.tree:
        print_tree(record, console())
    if flags.graph:
        print(f"{flags.graph}: {name}, {record.depth} layers")


def draw(name: str, path: Path) -> StructureRecord:
    """Draws a network; a place where no picture can be is refused before any work."""
    from reslab.report.structure import check_path, save_structure

    check_path(path)
    record = structure_of(name)
    save_structure(record, path)
    return record


def structure_of(name: str) -> StructureRecord:
    """A network of the catalog, built without values and read."""
    import torch  # here and not above: the table does without

    from reslab.models.catalog import create_model
    from reslab.models.structure import read_structure
    from reslab.models.table import image_shape

    with torch.device("meta"):
        return read_structure(create_model(name), image_shape(name), name=name)


def print_tree(record: StructureRecord, screen: Console) -> None:
    """The tree, in ASCII where the terminal knows no more."""
    guides = ASCII_GUIDES if screen.options.ascii_only else GUIDES
    lines = format_tree(record, width=min(screen.width, MAX_TREE_WIDTH), guides=guides)
    screen.print("\n".join(lines), soft_wrap=True, markup=False)
