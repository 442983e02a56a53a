"""The ledger: what is said about residual networks, what its source says, what we measured, and how far it holds.

Claims are data, in ``claims.toml``. The word is computed from records of studies each time, never written by hand where
something can be run. The records of our own runs come with reslab, in ``evidence/``; a reader's own take their place.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from reslab.errors import RequestError
from reslab.records import StudyRecord
from reslab.records.files import from_plain
from reslab.records.study import read_study
from reslab.report.study_table import most_runs, origin_of
from reslab.studies import _claim_tests
from reslab.studies._claim_tests import Word

PLURALS: dict[Word, str] = {
    "holds": "hold",
    "holds in part": "hold in part",
    "does not hold": "do not hold",
    "not tested here": "not tested here",
}
SHIPPED = Path(__file__).parent / "evidence"
"""Records of our own runs, one file per study."""


@dataclass(frozen=True)
class Claim:
    """A sentence in circulation.

    Args:
        key: a short name.
        says: the sentence.
        who: says it.
        source: what the paper says, with the place; and whether the claim contradicts it.
        studies: that test it, by name, such as ``degradation-digits``; empty where nothing has to be run.
        test: name of the function of ``_claim_tests.py`` that turns their records into a word and what was measured.
        arguments: of that function.
        word: how far it holds, where nothing can be or needs to be computed.
        measured: the same; numbers, or why there are none.
    """

    key: str
    says: str
    who: str
    source: str
    studies: tuple[str, ...] = ()
    test: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    word: Word = "not tested here"
    measured: str = ""


@dataclass(frozen=True)
class Finding:
    """What became of a claim.

    Args:
        claim: the claim.
        word: how far it holds.
        measured: the numbers, in sentences; or why there are none.
        study: that they are from; none where they are counted, or looked up.
    """

    claim: Claim
    word: Word
    measured: str
    study: StudyRecord | None = None


@cache
def load_claims() -> tuple[Claim, ...]:
    """Read the claims that come with reslab."""
    path = Path(__file__).with_name("claims.toml")
    return from_plain(tuple[Claim, ...], tomllib.loads(path.read_text(encoding="utf-8"))["claims"])


def judge_claims(studies: Mapping[str, StudyRecord]) -> list[Finding]:
    """Say of every claim how far it holds by these studies.

    Args:
        studies: by name, such as ``degradation-digits``.

    Example:
        >>> {finding.claim.key: finding.word for finding in judge_claims(shipped_studies())}["degradation"]
        'holds'
    """
    return [judge(claim, studies) for claim in load_claims()]


def judge(claim: Claim, studies: Mapping[str, StudyRecord]) -> Finding:
    """Say how far one claim holds; without its studies, which command would test it."""
    if not claim.test:
        return Finding(claim, claim.word, claim.measured)
    records = [study if (study := studies.get(name)) and most_runs(study) else None for name in claim.studies]
    if records and not any(records):
        return Finding(claim, "not tested here", f"The study has not been run: {command_of(claim.studies[0])}.")
    word, measured = getattr(_claim_tests, claim.test)(*records, **claim.arguments)
    return Finding(claim, word, measured, next(filter(None, records), None))


def command_of(study: str) -> str:
    """Write the command that runs a study of this name, such as ``degradation-digits`` or ``identity``."""
    name, _, preset = study.partition("-")
    return f"`reslab study {name} --preset {preset}`" if preset else f"`reslab study {name}`"


# ---- the records


def shipped_studies() -> dict[str, StudyRecord]:
    """Read the records of our own runs, by the studies' names."""
    return read_studies(sorted(SHIPPED.glob("*.json")))


def find_studies(folder: Path) -> dict[str, StudyRecord]:
    """Read the records of all studies somewhere below a folder.

    Raises:
        RequestError: if there is none, or one is damaged.
    """
    paths = sorted(folder.rglob("study.json")) if folder.is_dir() else []
    if not paths:
        raise RequestError(f"{folder} contains no study: no study.json below it. `reslab study NAME` leaves one.")
    return read_studies(paths)


def read_studies(paths: Sequence[Path]) -> dict[str, StudyRecord]:
    """Read records, by name; of two studies with the same name the one with more runs counts."""
    studies = sorted(map(read_study, paths), key=lambda study: -sum(row.num_ended for row in study.rows))
    return {study.name: study for study in reversed(studies)}


# ---- the ledger


def claims_markdown(findings: Sequence[Finding]) -> str:
    """Write the ledger as a table, one row per claim."""
    rows = [("claim", "who says it", "what the paper says", "what we measured", "word"), ("---",) * 5]
    for found in findings:
        origin = f" {origin_of(found.study)}." if found.study else ""
        claim = found.claim
        rows.append((claim.says, claim.who, claim.source, found.measured + origin, f"**{found.word}**"))
    return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |\n" for cells in rows)


def count_words(findings: Sequence[Finding]) -> str:
    """Write how many claims hold, and how many don't: ``3 claims: 1 holds, 2 do not hold``."""
    counts = Counter(found.word for found in findings)
    words = [f"{counts[word]} {word if counts[word] == 1 else many}" for word, many in PLURALS.items() if counts[word]]
    return f"{len(findings)} claim{'s' if len(findings) != 1 else ''}: {', '.join(words)}"


def plain_claims(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Turn the ledger into plain values, for programs."""
    return [
        {
            "key": found.claim.key,
            "claim": found.claim.says,
            "who": found.claim.who,
            "source": found.claim.source,
            "word": found.word,
            "measured": found.measured,
            "command": found.study.command if found.study else "",
            "n": most_runs(found.study) if found.study else 0,
            "machine": found.study.machine if found.study else {},
        }
        for found in findings
    ]
