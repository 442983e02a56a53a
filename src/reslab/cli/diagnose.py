"""``reslab diagnose``: what is wrong with a network, before training or after."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from reslab.cli.config_flags import OwnFlags, read_flags
from reslab.cli.output import console, parse
from reslab.errors import RequestError
from reslab.records import RunFolder

if TYPE_CHECKING:
    from reslab.run.diagnose import Diagnosed

ABOUT = (
    "Run one training batch forward and backward, look at gradient, values and weights, and say what is wrong."
    " Of a run: `reslab diagnose RUN`. Of a network of one's own: --model my_pkg.nets:build."
)
OWN: OwnFlags = []


@dataclass
class RunFlags:
    """What is wrong with a run's network."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run."""
    weights: str = ""
    """best, last, or a safetensors file; by default the run's selected ones."""
    data_dir: str = ""
    """Where named data sets lie now."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    json: bool = False
    """Print one JSON object on stdout."""


def run(arguments: list[str]) -> int:
    """Parses, diagnoses, prints. Returns the exit code."""
    arguments = ["--model" if word == "--import" else word for word in arguments]
    if arguments and not arguments[0].startswith("-"):
        flags = parse(RunFlags, arguments, command="diagnose RUN")

        from reslab.run.diagnose import diagnose_run  # from here on torch is needed

        folder = RunFolder(flags.run)
        if not folder.root.exists():
            raise RequestError(
                f"No folder {flags.run}. `reslab diagnose RUN` takes a run's folder; a network goes by --model."
            )
        found = diagnose_run(folder, weights=flags.weights, data_dir=flags.data_dir, device=flags.device)
        as_json = flags.json
    else:
        config, own = read_flags(arguments, OWN, command="diagnose", about=ABOUT)

        from reslab.cli.progress import make_display
        from reslab.run.diagnose import diagnose_config

        found, as_json = diagnose_config(config, display=make_display()), own.json
    if as_json:
        print(json.dumps({"name": found.name, **json.loads(found.diagnosis.to_json())}))
        return 0
    show(found)
    return 0


def show(found: Diagnosed) -> None:
    """The verdict, each finding with its number and what helps, and what wasn't checked."""
    diagnosis, screen = found.diagnosis, console()
    screen.print(f"{found.name}: [bold]{diagnosis.verdict}[/bold]")
    for finding in diagnosis.findings:
        screen.print(f"\n{finding.severity}  [bold]{finding.id}[/bold]  at {finding.where or 'the network'}")
        screen.print(f"  {finding.sentence}")
        screen.print(f"  What helps: {'; '.join(finding.actions)}.")
        screen.print(
            f"  {finding.number:.3g} against a threshold of {finding.threshold:.3g} ({finding.basis}); what would"
            f" change this: {finding.would_change}."
        )
    screen.print(f"\nclean: {words(diagnosis.judged.clean)}")
    for rule, why in diagnosis.not_checked.items():
        screen.print(f"not checked: {rule}, because {why}")


def words(names: Sequence[str]) -> str:
    """In a row, or a dash."""
    return ", ".join(names) or "-"
