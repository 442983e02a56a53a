"""``reslab diagnose``: what is wrong with a network, before training or after."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reslab.cli.config_flags import OwnFlags, read_flags
from reslab.cli.output import console, parse, print_json
from reslab.cli.run_flags import RunFlags
from reslab.errors import RequestError
from reslab.records import RunFolder

if TYPE_CHECKING:
    from reslab.run.diagnose import Diagnosed

ABOUT = (
    "Run one training batch forward and backward, look at gradient, values and weights, and say what is wrong."
    " Of a run: `reslab diagnose RUN`. Of a network of one's own: --model my_pkg.nets:build."
)
OWN: OwnFlags = []


@dataclass(kw_only=True)
class DiagnoseFlags(RunFlags):
    """What is wrong with a run's network."""

    data_dir: str = ""
    """Where named data sets lie now."""


def run(arguments: list[str]) -> int:
    """Parses, diagnoses, prints. Returns the exit code."""
    arguments = [re.sub(r"^--import(?==|$)", "--model", word) for word in arguments]
    found, as_json = of_run(arguments) if names_run(arguments) else of_network(arguments)
    if as_json:
        print_json({"name": found.name, **found.diagnosis.to_dict()})
    else:
        show(found)
    return 0


def names_run(arguments: Sequence[str]) -> bool:
    """Whether a run is meant: by the first word, or by a folder somewhere behind flags that aren't a network's."""
    words = [word for word in arguments if word != "--json"]
    if words and not words[0].startswith("-"):
        return True
    flags = {word.partition("=")[0] for word in words if word.startswith("-")}
    return not flags & {"--model", "--data", "--config", "--recipe"} and any(Path(word).is_dir() for word in words)


def of_run(arguments: list[str]) -> tuple[Diagnosed, bool]:
    """Of a run that was trained."""
    flags = parse(DiagnoseFlags, arguments, command="diagnose RUN")

    from reslab.run.diagnose import diagnose_run  # from here on torch is needed

    folder = RunFolder(flags.run)
    if not folder.root.exists():
        raise RequestError(
            f"No folder {flags.run}. `reslab diagnose RUN` takes a run's folder; a network goes by --model."
        )
    return diagnose_run(folder, weights=flags.weights, data_dir=flags.data_dir, device=flags.device), flags.json


def of_network(arguments: list[str]) -> tuple[Diagnosed, bool]:
    """Of what a config would train."""
    config, own = read_flags(arguments, OWN, command="diagnose", about=ABOUT)

    from reslab.cli.progress import make_display
    from reslab.run.diagnose import diagnose_config

    return diagnose_config(config, display=make_display()), own.json


def show(found: Diagnosed) -> None:
    """The verdict, each finding with its number and what helps, and what wasn't checked."""
    diagnosis, screen = found.diagnosis, console()

    def say(text: str, style: str | None = None) -> None:
        screen.print(text, style=style, markup=False)  # a module's name may look like markup

    say(f"{found.name}: {diagnosis.verdict}", "bold")
    for finding in diagnosis.findings:
        say(f"\n{finding.severity}  {finding.id}  at {finding.where or 'the network'}", "bold")
        say(f"  {finding.sentence}")
        say(f"  What helps: {'; '.join(finding.actions)}.")
        say(
            f"  {finding.number:.3g} against a threshold of {finding.threshold:.3g} ({finding.basis}); what would"
            f" change this: {finding.would_change}."
        )
    say(f"\nclean: {', '.join(diagnosis.judged.clean) or '-'}")
    for rule, why in diagnosis.not_checked.items():
        say(f"not checked: {rule}, because {why}")
