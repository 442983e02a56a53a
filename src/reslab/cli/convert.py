"""``reslab convert``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from reslab.cli._output import console, parse, print_json, table

if TYPE_CHECKING:
    from reslab.weights.report import LoadReport


@dataclass
class ConvertFlags:
    """Convert third-party weights to ours, or ours to torchvision's or timm's, with a report of every key."""

    file: Annotated[Path, tyro.conf.Positional]
    """safetensors, a torch file, Keras HDF5, or the folder of a bundle or run."""
    model: str = ""
    """The network that the weights are of; by default the one that keys and shapes show. `reslab models` lists all."""
    to: Literal["reslab", "torchvision", "timm"] = "reslab"
    """Whose names the new file has."""
    out: Annotated[str, tyro.conf.arg(aliases=["-o"])] = ""
    """The new file, which ends in .safetensors; a card, .json, goes beside it. By default NAME-TO.safetensors here."""
    num_classes: int = 0
    """Classes of the network; 0: the file's."""
    adapt_head: bool = False
    """Where the file has no head, or one for other classes, give the network a fresh one (seed 0)."""
    ema: bool = False
    """Take the moving average of the weights, where a checkpoint has both."""
    keys: bool = False
    """Print every key, not only groups of them."""
    dry_run: bool = False
    """Write nothing."""
    force: bool = False
    """Overwrite."""
    json: bool = False
    """Print one JSON object on stdout."""


def run(arguments: list[str]) -> int:
    """Convert a file and print what became of its keys. Returns the exit code."""
    flags = parse(ConvertFlags, arguments, command="convert")

    from reslab.weights.convert import convert

    done = convert(
        flags.file,
        model=flags.model or None,
        to=flags.to,
        num_classes=flags.num_classes or None,
        adapt_head=flags.adapt_head,
        ema=flags.ema,
    )
    out = Path(flags.out or default_out(flags.file, flags.to))
    written = [] if flags.dry_run else [str(path) for path in done.save(out, force=flags.force)]
    if flags.json:
        card, report = asdict(done.card), done.report.to_dict()
        print_json({"call": done.found.call, "written": written, "card": card, "report": report})
        return 0
    print_report(done.report, build=f"reslab.{done.found.call}", every_key=flags.keys)
    console().print(f"written: {', '.join(written)}" if written else "nothing written", markup=False, soft_wrap=True)
    return 0


def default_out(file: Path, to: str) -> str:
    """Name the new file, in the folder where the command is run.

    Example:
        >>> default_out(Path("theirs/model_best.pth.tar"), "reslab")
        'model_best-reslab.safetensors'
    """
    name = file.resolve().name if file.is_dir() else file.name
    for suffix in (".tar", ".h5", ".weights", ".pth", ".pt", ".th", ".ckpt", ".bin", ".keras", ".safetensors"):
        name = name.removesuffix(suffix)
    return f"{name}-{to}.safetensors"


def print_report(report: LoadReport, *, build: str, every_key: bool) -> None:
    """Print what was recognised, what became of the keys, and what was assumed."""
    screen = console()
    for line in (report.headline, f"build it: {build}"):
        screen.print(line, markup=False, soft_wrap=True)
    groups = [(row, 1) for row in report.rows] if every_key else report.groups()
    rows = [[row.key or "-", row.name or "-", count, row.action, row.note] for row, count in groups]
    screen.print(table(["in the file", "in the network", "keys", "what", "how"], rows, numeric=["keys"]))
    for line in report.remarks:
        screen.print(line, markup=False, soft_wrap=True)
