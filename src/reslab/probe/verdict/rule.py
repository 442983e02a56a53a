"""A rule: what is looked at, what counts as found, and why anybody should believe it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from reslab.probe.verdict.evidence import Evidence, NotChecked
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


Scope = Literal["whole", "most", "once"]
"""Whether a rule is asked once about everything, or about each reading, and of how many it takes then: most, or one.

A cause is also found where only the first readings show it, since what it has brought about may hide it later.
"""
WINDOW, MOST = 8, 5 / 8
"""Of the last readings, so many are looked at, and so large a share must show it."""


@dataclass(frozen=True)
class Rule:
    """One illness.

    Args:
        id: such as ``GRAD_VANISH``.
        severity: ``info`` is no illness.
        basis: where the threshold comes from.
        rank: among findings of one severity, the lower is named first: causes before consequences.
        check: the evidence to what was found, or None; raises ``NotChecked`` where it can't say.
        scope: see ``Scope``.
        is_cause: it may have brought about what ranks behind it, and is as severe as that.
    """

    id: str
    severity: Severity
    basis: Basis
    rank: int
    check: Callable[[Evidence], Found | None]
    scope: Scope = "most"
    is_cause: bool = False

    def judge(self, evidence: Evidence) -> Judged | None:
        """The finding, if there is one.

        Raises:
            NotChecked: if no reading lets the rule say.
        """
        if self.scope == "whole":
            found = self.check(evidence)
            return None if found is None else Judged(self, self.record(found))
        said, why = list[Found | None](), NotChecked("there is no reading")
        for reading in evidence.readings:
            try:
                said.append(self.check(replace(evidence, readings=(reading,))))
            except NotChecked as reason:
                why = reason
        if not said:
            raise why
        last = [one for one in said[-WINDOW:] if one is not None]
        found = next((one for one in said[::-1] if one is not None), None)
        is_enough = self.scope == "once" or len(last) >= MOST * len(said[-WINDOW:])
        is_there_at_once = said[0] is not None
        if found is None or not (is_enough or (is_there_at_once and self.is_cause)):
            return None
        return Judged(self, self.record(found), came_later=not is_there_at_once)

    def record(self, found: Found) -> FindingRecord:
        """With what is known of the rule itself."""
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


@dataclass(frozen=True)
class Judged:
    """A finding and its place among others.

    Args:
        rule: that found it.
        finding: what it says.
        came_later: the first reading didn't show it yet: it may be the work of the training.
    """

    rule: Rule
    finding: FindingRecord
    came_later: bool = False

    @property
    def rank(self) -> tuple[bool, int]:
        """What was there from the beginning comes before what came later, causes before consequences."""
        return (self.came_later, self.rule.rank)
