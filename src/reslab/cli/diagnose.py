"""``reslab diagnose``: what is wrong with a network, before training or after."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from reslab.cli.config_flags import OwnFlags, help_for, read_flags
from reslab.cli.output import console, parse, print_json
from reslab.cli.run_flags import RunFlags
from reslab.errors import RequestError
from reslab.records import RunFolder

if TYPE_CHECKING:
    from reslab.probe import Diagnosis

ABOUT = (
    "Run one training batch forward and backward, look at gradient, values and weights, and say what is wrong."
    " Of a run: `reslab diagnose RUN`. Of a network of one's own: --model my_pkg.nets:build."
)
FULL = "Also measure paths, shattering, Jacobians, lesions, noise and the loss around; takes some hundred passes."
TWIN = "Also run the same weights with all shortcuts cut, for the pictures."
OUT = "Write everything as one HTML page to this file."
OWN: OwnFlags = [
    ("full", help_for(bool, FULL), field(default=False)),
    ("twin", help_for(bool, TWIN), field(default=False)),
    ("out", Annotated[Path | None, tyro.conf.arg(help=OUT, aliases=["-o"])], field(default=None)),
]


@dataclass(kw_only=True)
class DiagnoseFlags(RunFlags):
    """What is wrong with a run's network."""

    data_dir: str = ""
    """Where named data sets lie now."""
    full: Annotated[bool, tyro.conf.arg(help=FULL)] = False
    twin: Annotated[bool, tyro.conf.arg(help=TWIN)] = False
    out: Annotated[Path | None, tyro.conf.arg(help=OUT, aliases=["-o"])] = None


def run(arguments: list[str]) -> int:
    """Parses, diagnoses, prints. Returns the exit code."""
    arguments = [re.sub(r"^--import(?==|$)", "--model", word) for word in arguments]
    found, flags = of_run(arguments) if names_run(arguments) else of_network(arguments)
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


def of_run(arguments: list[str]) -> tuple[Diagnosis, Any]:
    """Of a run that was trained, and the flags."""
    flags = parse(DiagnoseFlags, arguments, command="diagnose RUN")
    check_out(flags.out)

    from reslab.run.diagnose import diagnose_run  # from here on torch is needed

    folder = RunFolder(flags.run)
    if not folder.root.exists():
        raise RequestError(
            f"No folder {flags.run}. `reslab diagnose RUN` takes a run's folder; a network goes by --model."
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


def of_network(arguments: list[str]) -> tuple[Diagnosis, Any]:
    """Of what a config would train, and the flags."""
    config, flags = read_flags(arguments, OWN, command="diagnose", about=ABOUT)
    check_out(flags.out)

    from reslab.cli.progress import make_display
    from reslab.run.diagnose import diagnose_config

    depth: Literal["quick", "full"] = "full" if flags.full else "quick"
    return diagnose_config(config, depth=depth, twin=flags.twin, display=make_display()), flags


def check_out(path: Path | None) -> None:
    """Refuses what can't become a page, before the work."""
    if path is not None and path.is_dir():
        raise RequestError(f"-o {path} is a folder; name a file, such as {path / 'diagnosis.html'}.")
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)


def show(diagnosis: Diagnosis) -> None:
    """The verdict, each finding with its number and what helps, and what wasn't checked."""
    from reslab.report.diagnosis.verdict_words import lines_of

    screen = console()
    for line, is_heading in lines_of(diagnosis.name, diagnosis.judged):
        screen.print(line, style="bold" if is_heading else None, markup=False)  # a module's name may look like markup
