"""The ledger as Markdown, for a terminal and for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from reslab.report.study_table import most_runs, origin_of
from reslab.studies.claims import counted, depth, junctions, recipes, to_come
from reslab.studies.claims.ledger import Claim, Evidence, Finding, Word

OF_SEVERAL: dict[Word, str] = {
    "holds": "hold",
    "holds in part": "hold in part",
    "does not hold": "do not hold",
    "not tested here": "not tested here",
}
CLAIMS: tuple[Claim, ...] = (*depth.CLAIMS, *junctions.CLAIMS, *recipes.CLAIMS, *counted.CLAIMS, *to_come.CLAIMS)


def judge_all(evidence: Evidence) -> list[tuple[Claim, Finding]]:
    """Every claim with what came out."""
    return [(claim, claim.judge(evidence)) for claim in CLAIMS]


def markdown_of(judged: Sequence[tuple[Claim, Finding]]) -> str:
    """One row a claim."""
    lines = [
        "| claim | who says it | what the paper says | what we measured | word |",
        "| --- | --- | --- | --- | --- |",
    ]
    for claim, finding in judged:
        origin = origin_of(finding.study) if finding.study else ""
        measured = finding.measured + (f" {origin}." if origin else "")
        cells = (claim.says, claim.who, claim.source, measured, f"**{finding.word}**")
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def counts_of(judged: Sequence[tuple[Claim, Finding]]) -> str:
    """How many of each word.

    Example:
        >>> counts_of([(CLAIMS[-1], Finding("not tested here", ""))])
        '1 claim: 1 not tested here'
        >>> counts_of([(CLAIMS[0], Finding(word, "")) for word in ("holds", "does not hold", "does not hold")])
        '3 claims: 1 holds, 2 do not hold'
    """
    counts = Counter(finding.word for _, finding in judged)
    words = ", ".join(
        f"{counts[word]} {word if counts[word] == 1 else many}" for word, many in OF_SEVERAL.items() if word in counts
    )
    return f"{len(judged)} claim{'s' if len(judged) != 1 else ''}: {words}"


def plain_of(judged: Sequence[tuple[Claim, Finding]]) -> list[dict[str, Any]]:
    """For programs."""
    return [
        {
            "key": claim.key,
            "claim": claim.says,
            "who": claim.who,
            "source": claim.source,
            "word": finding.word,
            "measured": finding.measured,
            "command": finding.study.command if finding.study else "",
            "n": most_runs(finding.study) if finding.study else 0,
            "machine": finding.study.machine if finding.study else {},
        }
        for claim, finding in judged
    ]
