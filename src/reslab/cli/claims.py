"""``reslab study claims``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reslab.cli._output import console, parse, print_json

if TYPE_CHECKING:
    from reslab.studies.claims.ledger import Claim, Finding

ABOUT = "what is said about residual networks, what its source says, and what we measured"
COLOURS = {"holds": "green", "holds in part": "yellow", "does not hold": "red", "not tested here": "dim"}


@dataclass
class ClaimsFlags:
    """What is said about residual networks, what its source says, and what was measured."""

    runs: Path | None = None
    """Judge by your own studies below this folder instead of those that come with reslab."""
    json: bool = False
    """Print one JSON object on stdout."""


def run(arguments: list[str]) -> int:
    """Parse, judge, print. Return the exit code."""
    flags = parse(ClaimsFlags, arguments, command="study claims")

    from reslab.studies.claims.ledger import evidence_in, shipped_evidence
    from reslab.studies.claims.text import judge_all, plain_of

    judged = judge_all(evidence_in(flags.runs) if flags.runs else shipped_evidence())
    if flags.json:
        print_json({"claims": plain_of(judged)})
    else:
        show(judged)
    return 0


def show(judged: Sequence[tuple[Claim, Finding]]) -> None:
    """Each claim with its word, its source and the numbers."""
    from reslab.report.study_table import origin_of
    from reslab.studies.claims.text import counts_of

    screen = console()
    for claim, finding in judged:
        screen.print(f"[bold {COLOURS[finding.word]}]{finding.word.upper()}[/]  [bold]{claim.says}[/] ({claim.who})")
        screen.print(f"  source    {claim.source}", soft_wrap=True)
        screen.print(f"  measured  {finding.measured}", soft_wrap=True)
        if finding.study:
            screen.print(f"  by        {origin_of(finding.study)}", soft_wrap=True)
        screen.print()
    screen.print(f"{counts_of(judged)}.")
