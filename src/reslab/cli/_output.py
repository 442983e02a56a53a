"""How commands print: tables for people on stdout, one JSON object for programs."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stderr
from typing import Any, TypeVar

import tyro
from rich.console import Console
from rich.table import Table

from reslab.records.files import encode

Arguments = TypeVar("Arguments")


def parse(kind: type[Arguments], arguments: Sequence[str], *, command: str) -> Arguments:
    """Flags to an object of ``kind``; tyro prints help, and for a wrong flag the closest ones, and exits with 2."""
    said = io.StringIO()
    try:
        with redirect_stderr(said) if "--json" in arguments else nullcontext():
            return tyro.cli(kind, args=list(arguments), prog=f"reslab {command}", description=kind.__doc__)
    except SystemExit as stop:
        if stop.code and "--json" in arguments:
            print(said.getvalue(), file=sys.stderr)
            print_json({"error": unboxed(said.getvalue()), "exit_code": stop.code})
        raise


def unboxed(text: str) -> str:
    """The words of tyro's error without the frame around them."""
    lines = [line.strip("│╭╮╰╯─ ") for line in text.splitlines()]
    return " ".join(line for line in lines if line)


def print_json(value: Any) -> None:
    """The one object on stdout."""
    print(encode(value))


def console() -> Console:
    """For people; wide when piped, so that tables are not cut."""
    return Console(width=None if sys.stdout.isatty() else 160, highlight=False)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, numeric: Sequence[str] = ()) -> Table:
    """A table with numbers to the right."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        made.add_column(name, justify="right" if name in numeric else "left", no_wrap=True)
    for row in rows:
        made.add_row(*(str(cell) for cell in row))
    return made
