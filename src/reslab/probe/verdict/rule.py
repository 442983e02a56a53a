"""A rule: what is looked at, what counts as found, and why anybody should believe it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from reslab.probe.verdict.evidence import Evidence
from reslab.records import FindingRecord, Severity

Basis = Literal["literature", "tool", "measured", "heuristic"]


@dataclass(frozen=True)
class Found:
    """What a rule has found.

    Args:
        where: block, layer or parameter; empty for the whole network.
        number: that was measured.
        threshold: that it was compared with.
        sentence: what it means, for a person.
        actions: what helps, the best first; three at most.
        would_change: what else would show whether the rule is wrong.
        severity: another one than the rule's.
    """

    where: str
    number: float
    threshold: float
    sentence: str
    actions: tuple[str, ...]
    would_change: str
    severity: Severity | None = None


@dataclass(frozen=True)
class Rule:
    """One illness.

    Args:
        id: such as ``GRAD_VANISH``.
        severity: ``info`` is no illness.
        basis: where the threshold comes from.
        rank: among findings of one severity, the lower is named first: causes before consequences.
        check: the evidence to what was found, or None; raises ``NotChecked`` where it can't say.
    """

    id: str
    severity: Severity
    basis: Basis
    rank: int
    check: Callable[[Evidence], Found | None]

    def judge(self, evidence: Evidence) -> FindingRecord | None:
        """The finding, if there is one."""
        found = self.check(evidence)
        if found is None:
            return None
        return FindingRecord(
            id=self.id,
            severity=found.severity or self.severity,
            where=found.where,
            number=found.number,
            threshold=found.threshold,
            basis=self.basis,
            sentence=found.sentence,
            actions=found.actions,
            would_change=found.would_change,
        )
