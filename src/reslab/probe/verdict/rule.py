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
"""Whether a rule is asked once about everything, or about each reading; and of how many it takes then."""
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
    """

    id: str
    severity: Severity
    basis: Basis
    rank: int
    check: Callable[[Evidence], Found | None]
    scope: Scope = "most"

    def judge(self, evidence: Evidence) -> FindingRecord | None:
        """The finding, if there is one.

        Raises:
            NotChecked: if no reading lets the rule say.
        """
        found = self.check(evidence) if self.scope == "whole" else self._over_time(evidence)
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

    def _over_time(self, evidence: Evidence) -> Found | None:
        """What the last reading that shows it shows, if enough of them do."""
        readings = evidence.readings[-WINDOW:] if self.scope == "most" else evidence.readings
        said, why = list[Found | None](), NotChecked("there is no reading")
        for reading in readings:
            try:
                said.append(self.check(replace(evidence, readings=(reading,))))
            except NotChecked as reason:
                why = reason
        if not said:
            raise why
        found = [one for one in said if one is not None]
        enough = 1 if self.scope == "once" else MOST * len(said)
        return found[-1] if found and len(found) >= enough else None
