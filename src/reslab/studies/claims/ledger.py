"""One row a claim: who says it, what the paper says, what we measured, and a word for how far it holds.

The word is computed from records of studies each time, never written by hand. Those of our own runs come with reslab,
in ``evidence/``; a reader's own take their place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from reslab.errors import RequestError
from reslab.records import StudyRecord, StudyRow, read_study

Word = Literal["holds", "holds in part", "does not hold", "not tested here"]
ARTICLES = "articles and posts"
SHIPPED = Path(__file__).parent / "evidence"
"""Records of our own runs, one file a study."""


@dataclass(frozen=True)
class Finding:
    """What came out.

    Args:
        word: how far the claim holds.
        measured: the numbers, in sentences; or why there are none.
        study: that they are from; none where they are counted, or looked up.
    """

    word: Word
    measured: str
    study: StudyRecord | None = None


@dataclass(frozen=True)
class Evidence:
    """Records of studies, by name, such as ``degradation-digits``."""

    studies: dict[str, StudyRecord] = field(default_factory=dict)

    def rows(self, name: str) -> dict[str, StudyRow]:
        """Rows of a study in which something ended, by name; empty if it hasn't been run."""
        study = self.studies.get(name)
        return {row.name: row for row in study.rows if row.num_ended} if study else {}


@dataclass(frozen=True)
class Claim:
    """A sentence in circulation.

    Args:
        key: a short name.
        says: the sentence.
        who: says it.
        source: what the paper says, with the place; and where the claim contradicts it, that.
        needs: study that would test it; empty where nothing has to be run.
        test: evidence to what came out; asked only if the study is there.
    """

    key: str
    says: str
    who: str
    source: str
    needs: str
    test: Callable[[Evidence], Finding]

    def judge(self, evidence: Evidence) -> Finding:
        """How far it holds, by the evidence."""
        if self.needs and not evidence.rows(self.needs):
            return Finding("not tested here", f"The study has not been run: {command_of(self.needs)}.")
        return self.test(evidence)


def command_of(study: str) -> str:
    """That runs a study of this name.

    Example:
        >>> command_of("degradation-digits"), command_of("identity")
        ('`reslab study degradation --preset digits`', '`reslab study identity`')
    """
    name, _, preset = study.partition("-")
    return f"`reslab study {name} --preset {preset}`" if preset else f"`reslab study {name}`"


def shipped_evidence() -> Evidence:
    """That of our own runs."""
    return read_evidence(sorted(SHIPPED.glob("*.json")))


def evidence_in(folder: Path) -> Evidence:
    """That of studies somewhere below a folder.

    Raises:
        RequestError: if there is none, or one is damaged.
    """
    paths = sorted(folder.rglob("study.json")) if folder.is_dir() else []
    if not paths:
        raise RequestError(f"{folder} holds no study: no study.json below it. `reslab study NAME` leaves one.")
    return read_evidence(paths)


def read_evidence(paths: list[Path]) -> Evidence:
    """Of files; of two studies with the same name the one with more runs counts."""
    studies: dict[str, StudyRecord] = {}
    for path in paths:
        study = read_study(path)
        if study.name not in studies or num_runs(study) > num_runs(studies[study.name]):
            studies[study.name] = study
    return Evidence(studies)


def num_runs(study: StudyRecord) -> int:
    """That came to their end."""
    return sum(row.num_ended for row in study.rows)
