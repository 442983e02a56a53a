"""``reslab diagnose``: what is wrong with a network, before training or after."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from reslab.cli._flags import OwnFlags, RunFlags, flag_of, read_flags
from reslab.cli._output import console, parse, print_json
from reslab.errors import RequestError
from reslab.records import RunFolder

if TYPE_CHECKING:
    from reslab.probe import Diagnosis

ABOUT = (
    "Run one training batch forward and backward, look at gradient, values and weights, and say what is wrong."
    " For a run: `reslab diagnose RUN`. For a network of your own: --model my_pkg.nets:build."
)
FULL = "Also measure paths, shattering, Jacobians, lesions, noise and the loss around; takes some hundred passes."
TWIN = "Also run the same weights with all shortcuts cut, for the pictures."
OUT = "Write everything as one HTML page to this file."
OWN: OwnFlags = [
    ("full", flag_of(bool, FULL), field(default=False)),
    ("twin", flag_of(bool, TWIN), field(default=False)),
    ("out", Annotated[Path | None, tyro.conf.arg(help=OUT, aliases=["-o"])], field(default=None)),
]
CONFIG_FLAGS = (
    "task", "model", "shortcut", "connection", "order", "norm", "drop_path", "zero_init_residual", "dropout", "weights",
    "data", "data_dir", "download", "image_size", "batch_size", "label_smoothing", "seed", "device", "threads",
)  # fmt: skip
"""Those that change the network or its first batch."""


@dataclass(kw_only=True)
class DiagnoseFlags(RunFlags):
    """Say what is wrong with a run's network."""

    data_dir: str = ""
    """Where named data sets lie now."""
    full: Annotated[bool, tyro.conf.arg(help=FULL)] = False
    twin: Annotated[bool, tyro.conf.arg(help=TWIN)] = False
    out: Annotated[Path | None, tyro.conf.arg(help=OUT, aliases=["-o"])] = None


def run(arguments: list[str]) -> int:
    """Parse, diagnose, print. Return the exit code."""
    arguments = [re.sub(r"^--import(?==|$)", "--model", word) for word in arguments]
    found, flags = diagnosis_of_run(arguments) if names_run(arguments) else diagnosis_of_network(arguments)
    if flags.out is not None:
        found.save(flags.out)
    if flags.json:
        print_json({**found.to_dict(), "page": None if flags.out is None else str(flags.out)})
    else:
        show(found)
        if flags.out is not None:
            print(f"page: {flags.out}")
    return 0


def names_run(arguments: Sequence[str]) -> bool:
    """Whether a run is meant: by the first word, or by a folder somewhere behind flags that aren't a network's."""
    words = [word for word in arguments if word != "--json"]
    if words and not words[0].startswith("-"):
        return True
    flags = {word.partition("=")[0] for word in words if word.startswith("-")}
    return not flags & {"--model", "--data", "--config", "--recipe"} and any(Path(word).is_dir() for word in words)


def diagnosis_of_run(arguments: list[str]) -> tuple[Diagnosis, Any]:
    """Diagnose a trained run; returns the flags too."""
    flags = parse(DiagnoseFlags, arguments, command="diagnose RUN")
    check_out(flags.out)

    from reslab.run.diagnose import diagnose_run  # from here on torch is needed

    folder = RunFolder(flags.run)
    if not folder.root.exists():
        raise RequestError(
            f"No folder {flags.run}. `reslab diagnose RUN` takes a run's folder; name a network with --model."
        )
    found = diagnose_run(
        folder,
        weights=flags.weights,
        data_dir=flags.data_dir,
        device=flags.device,
        depth="full" if flags.full else "quick",
        twin=flags.twin,
    )
    return found, flags


def diagnosis_of_network(arguments: list[str]) -> tuple[Diagnosis, Any]:
    """Diagnose what a config would train; returns the flags too."""
    config, flags = read_flags(arguments, OWN, command="diagnose", about=ABOUT, only=CONFIG_FLAGS)
    check_out(flags.out)

    from reslab.run.diagnose import diagnose_config
    from reslab.run.display import make_display

    depth: Literal["quick", "full"] = "full" if flags.full else "quick"
    return diagnose_config(config, depth=depth, twin=flags.twin, display=make_display()), flags


def check_out(path: Path | None) -> None:
    """Refuse what can't become a page, before the work."""
    if path is not None and path.is_dir():
        raise RequestError(f"-o {path} is a folder; name a file, such as {path / 'diagnosis.html'}.")
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)


def show(diagnosis: Diagnosis) -> None:
    """Print the verdict, each finding with its number and suggested fix, and what wasn't checked."""
    from reslab.report.verdict import verdict_lines

    screen = console()
    for line, is_heading in verdict_lines(diagnosis.name, diagnosis.judged):
        screen.print(line, style="bold" if is_heading else None, markup=False)  # a module's name may look like markup
