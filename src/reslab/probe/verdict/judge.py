"""From evidence to a verdict: every rule says found, clean, or why it can't say."""

from __future__ import annotations

from typing import Literal

from reslab.probe.verdict import batch_rules, flow_rules, shortcut_rules, signal_rules, training_rules
from reslab.probe.verdict.evidence import Evidence, NotChecked
from reslab.records import SEVERITIES, Severity, VerdictRecord

RULES = (*batch_rules.RULES, *signal_rules.RULES, *flow_rules.RULES, *shortcut_rules.RULES, *training_rules.RULES)
WORDS: dict[Severity, Literal["healthy", "warning", "sick"]] = {
    "critical": "sick",
    "warning": "warning",
    "info": "healthy",
}


def judge(evidence: Evidence) -> VerdictRecord:
    """Applies all rules; the findings come worst first, and causes before consequences."""
    found, clean, not_checked = [], [], {}
    for rule in sorted(RULES, key=lambda rule: rule.rank):
        try:
            finding = rule.judge(evidence)
        except NotChecked as why:
            not_checked[rule.id] = str(why)
        else:
            if finding is None:
                clean.append(rule.id)
            else:
                found.append(finding)
    found.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return VerdictRecord(
        verdict=WORDS[found[0].severity] if found else "healthy",
        findings=tuple(found),
        clean=tuple(clean),
        not_checked=not_checked,
    )
