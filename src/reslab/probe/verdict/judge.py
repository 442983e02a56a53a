"""From evidence to a verdict: every rule says found, clean, or why it can't say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from reslab.probe.verdict import batch_rules, flow_rules, shortcut_rules, signal_rules, training_rules
from reslab.probe.verdict.evidence import Evidence, NotChecked
from reslab.probe.verdict.rule import Judged
from reslab.records import SEVERITIES, FindingRecord, Severity, VerdictRecord

RULES = (*batch_rules.RULES, *signal_rules.RULES, *flow_rules.RULES, *shortcut_rules.RULES, *training_rules.RULES)
WORDS: dict[Severity, Literal["healthy", "warning", "sick"]] = {
    "critical": "sick",
    "warning": "warning",
    "info": "healthy",
}


def judge(evidence: Evidence) -> VerdictRecord:
    """Applies all rules; the findings come worst first, and causes before consequences."""
    judged, clean, not_checked = list[Judged](), [], {}
    for rule in sorted(RULES, key=lambda rule: rule.rank):
        try:
            one = rule.judge(evidence)
        except NotChecked as why:
            not_checked[rule.id] = str(why)
        else:
            if one is None:
                clean.append(rule.id)
            else:
                judged.append(one)
    found = by_severity(judged)
    return VerdictRecord(
        verdict=WORDS[found[0].severity] if found else "healthy",
        findings=tuple(found),
        clean=tuple(clean),
        not_checked=not_checked,
    )


def by_severity(judged: Sequence[Judged]) -> list[FindingRecord]:
    """Worst first; a cause is as severe as the worst of what ranks behind it."""
    worst, found = len(SEVERITIES) - 1, list[FindingRecord]()
    for one in sorted(judged, key=lambda one: one.rank)[::-1]:
        place = SEVERITIES.index(one.finding.severity)
        if one.rule.is_cause and one.finding.severity != "info":
            place = min(place, worst)
        worst = min(worst, place)
        found.insert(0, replace(one.finding, severity=SEVERITIES[place]))
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))
