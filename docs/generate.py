"""Writes catalog.json, a picture and the tables of docs/*.md from the code; ``--check`` says whether they are stale.

A table stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``; everything else on a page is written by hand.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import torch

from reslab.data.sources import SOURCES
from reslab.layers import CONNECTIONS, Connection
from reslab.models import Architecture
from reslab.models.architecture import change
from reslab.models.block import Block
from reslab.models.catalog import MODELS, create_model
from reslab.models.families import cifar
from reslab.models.structure import read_structure
from reslab.models.table import CATALOG_FILE, catalog_rows, describe_model, image_shape
from reslab.options import Option, options_of
from reslab.probe.rules import RULES
from reslab.records import EpochRecord, Evaluation, ReadingRecord, RunRecord, StepRecord, StudyRecord
from reslab.records.study import MeasureRecord, StudyRow
from reslab.records.training import FlightRecord, RangeRecord, RangeStep
from reslab.report import structure_figure
from reslab.report.study_table import markdown_of as study_markdown
from reslab.run.config import FLAGS, list_recipes, load_recipe, option_paths
from reslab.studies import STUDIES
from reslab.studies.claims import claims_markdown, count_words, judge_claims, shipped_studies

DOCS = Path(__file__).parent
SOURCE = DOCS.parent / "src" / "reslab"
LAYERS = [
    "cli",
    "studies",
    "run",
    "probe",
    "report",
    "training",
    "tasks",
    "data",
    "weights",
    "models",
    "layers",
    "records",
]
RECORDS = {
    "run.json": RunRecord,
    "scores": Evaluation,
    "steps.jsonl": StepRecord,
    "epochs.jsonl": EpochRecord,
    "readings.jsonl": ReadingRecord,
    "flight.jsonl": FlightRecord,
    "lr-range.json": RangeRecord,
    "its steps": RangeStep,
    "study.json": StudyRecord,
    "its measures": MeasureRecord,
    "its rows": StudyRow,
}
MARKED = re.compile(r"(<!-- generated: (?P<name>.+?) -->\n).*?(<!-- end -->)", re.S)


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> str:
    """A Markdown table.

    Args:
        header: names of the columns.
        rows: cells; a ``|`` in one is escaped.
        right: columns that are aligned to the right.
    """
    rule = ["---:" if name in right else "---" for name in header]
    escaped = ([cell.replace("|", r"\|") for cell in row] for row in rows)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, rule, *escaped))


def catalog() -> str:
    """Every named network."""
    rows = [
        (
            f"`{row['name']}`",
            f"{row['num_parameters']:,}",
            f"{row['macs'] / 1e6:,.1f}",
            f"{row['activations'] / 1e6:,.2f}",
            str(row["depth"] or ""),
            row["blocks"],
            f"`{row['shortcut']}`",
            f"`{row['order']}`",
            f"`{row['connection']}`",
            f"`{row['stem']}`",
            str(row["num_classes"]),
        )
        for row in catalog_rows()
    ]
    numbers = ("parameters", "MACs (M)", "activations (M)", "depth", "classes")
    words = ("blocks", "shortcut", "order", "connection", "stem")
    return table(("name", *numbers[:4], *words, "classes"), rows, right=numbers)


def connections() -> str:
    """Every named connection, in a block of 16 channels with an identity shortcut, one of 54."""
    rows = []
    for name, connection in CONNECTIONS.items():
        joined = second_block(connection, **connection.implies)
        extra = num_parameters(joined) - num_parameters(second_block("add", **connection.implies))
        gain: float = joined.junction.shortcut_gain  # type: ignore[assignment]
        rows.append(
            (
                f"`{name}`",
                f"`{written_out(connection)}`",
                first_line(connection),
                str(extra),
                connection.at_start,
                f"{gain:.4g}",
                f"{gain**54:.2g}",
                ", ".join(f"`{field}={value}`" for field, value in connection.implies.items()),
            )
        )
    numbers = ("extra parameters", "shortcut gain", "over 54 blocks")
    header = ("name", "object", "what it computes", numbers[0], "at the start", *numbers[1:], "implies")
    return table(header, rows, right=numbers)


def written_out(connection: Any) -> str:
    """How to write a connection: its numbers, but for defaults."""
    changed = [
        f"{field.name}={value:.4g}" if isinstance(value, float) else f"{field.name}={value!r}"
        for field in fields(connection)
        if (value := getattr(connection, field.name)) != field.default
    ]
    return f"{type(connection).__name__}({', '.join(changed)})"


def second_block(connection: str | Connection, **changes: object) -> Block:
    """The second block of the CIFAR network of depth 110, whose shortcut is the identity."""
    architecture = change(cifar(110), connection=connection, **changes)
    return Block(architecture, architecture.block_specs()[0][1])


def num_parameters(block: Block) -> int:
    return sum(parameter.numel() for parameter in block.parameters())


def choices() -> str:
    """Every field of an architecture."""
    rows = [
        (
            f"`{option.name}`",
            "" if option.default is None else f"`{option.default}`",
            ", ".join(f"`{choice}`" for choice in get_args(option.type)) if get_origin(option.type) is Literal else "",
            as_markdown(option.help),
        )
        for option in options_of(Architecture).values()
    ]
    return table(("choice", "default", "one of", "what it is"), rows)


def options() -> str:
    """Every key of the config's tree."""
    flags = {path: f"`--{flag.replace('_', '-')}`" for flag, path in FLAGS.items()}
    rows = [
        (f"`{path}`", flags.get(path, ""), f"`{json.dumps(option.default)}`", described(option))
        for path, option in option_paths().items()
    ]
    return table(("key", "flag", "default", "what it is"), rows)


def described(option: Option) -> str:
    """A key's description, and its choices where the type lists them and the text doesn't."""
    choices = [str(choice) for choice in get_args(option.type)] if get_origin(option.type) is Literal else []
    missing = any(choice not in option.help for choice in choices)
    return as_markdown(option.help) + (f" One of {', '.join(f'`{choice}`' for choice in choices)}." if missing else "")


def packages() -> str:
    """The packages from the top down: what each imports of the others, and its public names."""
    rows = []
    for name in LAYERS:
        code = "".join(path.read_text("utf-8") for path in (SOURCE / name).glob("*.py"))
        imported = set(re.findall(r"from reslab\.(\w+)[. ]", code)) - {name}
        below = ", ".join(f"`{package}`" for package in LAYERS if package in imported)
        exported = getattr(import_module(f"reslab.{name}"), "__all__", [])
        rows.append((f"`{name}`", below, ", ".join(f"`{public}`" for public in exported)))
    return table(("package", "imports", "public names"), rows)


def sources() -> str:
    """Every named data set."""
    return table(("name", "what it is"), [(f"`{name}`", first_line(source)) for name, source in SOURCES.items()])


def recipes() -> str:
    """Every shipped recipe."""
    found = [load_recipe(name) for name in list_recipes()]
    rows = [
        (
            f"`{config.recipe.name}`",
            config.recipe.source,
            "; ".join(config.recipe.deviates),
            f"{config.recipe.sides[0]} to {config.recipe.sides[1]}",
        )
        for config in found
    ]
    return table(("recipe", "from", "leaves out, or does otherwise", "pixels"), rows)


def first_line(thing: object) -> str:
    """Of its docstring, as Markdown."""
    return as_markdown((inspect.getdoc(thing) or "").split("\n\n")[0])


def as_markdown(text: str) -> str:
    """On one line, double backquotes single."""
    return " ".join(text.split()).replace("``", "`")


def record(kind: type[Any]) -> str:
    """Every field of a record, with what its docstring says; without an Args section, the docstring and the names."""
    described_fields = arguments(inspect.getdoc(kind) or "")
    head = f"`{kind.__name__}`: {first_line(kind)}\n\n"
    if not described_fields:
        return head + f"Fields: {', '.join(f'`{field.name}`' for field in fields(kind))}.\n"
    rows = [(f"`{f.name}`", f"`{f.type}`", described_fields.get(f.name, "")) for f in fields(kind)]
    return head + table(("field", "type", "what it is"), rows)


def arguments(docstring: str) -> dict[str, str]:
    r"""The Args section of a Google docstring.

    Example:
        >>> arguments("One line.\n\nArgs:\n    step: counts\n        from 0.\n    lr: rate.\n\nMore.")
        {'step': 'counts from 0.', 'lr': 'rate.'}
    """
    found: dict[str, str] = {}
    name, inside = "", False
    for line in docstring.splitlines():
        if line == "Args:" or not line.startswith(" "):
            inside = line == "Args:"
        elif inside and (entry := re.match(r" {4}(\w+): (.*)", line)):
            name, found[entry[1]] = entry[1], entry[2]
        elif inside:
            found[name] += f" {line}"
    return {key: as_markdown(text) for key, text in found.items()}


def rules() -> str:
    """What the verdict looks for, causes before consequences."""
    rows = [
        (f"`{rule.id}`", rule.finds, rule.severity, rule.basis) for rule in sorted(RULES, key=lambda rule: rule.rank)
    ]
    return table(("rule", "what it finds", "severity", "threshold from"), rows)


def claims() -> str:
    """The ledger, by the studies that come with reslab."""
    findings = judge_claims(shipped_studies())
    return f"{count_words(findings)}.\n\n{claims_markdown(findings)}"


def results() -> str:
    """What the studies that come with reslab have found."""
    found = shipped_studies()
    records = [found[name] for study in STUDIES for name in sorted(found) if name.partition("-")[0] == study]
    titled = (replace(one, title=f"{one.title} `{one.command.removeprefix('reslab ')}`") for one in records)
    return "\n".join(f"#{study_markdown(one)}" for one in titled)


TABLES: dict[str, Callable[[], str]] = {
    "rules": rules,
    "catalog": catalog,
    "choices": choices,
    "claims": claims,
    "connections": connections,
    "config": options,
    "recipes": recipes,
    "packages": packages,
    "results": results,
    "sources": sources,
    **{f"record {name}": lambda kind=kind: record(kind) for name, kind in RECORDS.items()},
}


def counted() -> str:
    """catalog.json, from which ``reslab models`` answers: every network built and counted, a line each."""
    return "[\n" + ",\n".join(json.dumps(describe_model(name)) for name in MODELS) + "\n]\n"


def picture(name: str) -> str:
    """A network drawn, as ``reslab models NAME --graph``."""
    with torch.device("meta"):
        model = create_model(name)
    return structure_figure(read_structure(model, image_shape(name), name=name)).svg or ""


def fill(text: str) -> str:
    """A page with its tables made anew."""
    return MARKED.sub(lambda found: f"{found[1]}{TABLES[found['name']]()}{found[3]}", text)


def main() -> int:
    """Writes the pages, or with ``--check`` names the stale ones. Returns the exit code."""
    stale = []
    makers: dict[Path, Callable[[str], str]] = {
        CATALOG_FILE: lambda text: counted(),
        DOCS / "resnet50.svg": lambda text: picture("resnet50"),
        **dict.fromkeys(sorted(DOCS.glob("*.md")), fill),
    }
    for path, make in makers.items():
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        if (new := make(text)) != text:
            stale.append(path.name)
            if "--check" not in sys.argv:
                path.write_text(new, encoding="utf-8")
    if "--check" not in sys.argv:
        print(f"written: {', '.join(stale) or 'nothing, all tables are up to date'}")
        return 0
    for name in stale:
        print(f"{name} is not up to date: run `make docs`.")
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
