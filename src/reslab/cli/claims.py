"""``reslab study claims``: the ledger, judged by the studies that come with reslab or by your own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reslab.cli._output import console, parse, print_json
from reslab.report.study_table import origin_of
from reslab.studies.claims import Finding, count_words, find_studies, judge_claims, plain_claims, shipped_studies

SUMMARY = "what is said about residual networks, what its source says, and what we measured"
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

    findings = judge_claims(find_studies(flags.runs) if flags.runs else shipped_studies())
    if flags.json:
        print_json({"claims": plain_claims(findings)})
    else:
        show(findings)
    return 0


def show(findings: Sequence[Finding]) -> None:
    """Print each claim with its word, its source and the numbers."""
    screen = console()
    for found in findings:
        claim = found.claim
        screen.print(f"[bold {COLOURS[found.word]}]{found.word.upper()}[/]  [bold]{claim.says}[/] ({claim.who})")
        screen.print(f"  source    {claim.source}", soft_wrap=True)
        screen.print(f"  measured  {found.measured}", soft_wrap=True)
        if found.study:
            screen.print(f"  by        {origin_of(found.study)}", soft_wrap=True)
        screen.print()
    screen.print(f"{count_words(findings)}.")
