"""A verdict in words, for a page and for a terminal: findings, what was clean, what was not checked."""

from __future__ import annotations

from reslab.records.diagnosis import FindingRecord, VerdictRecord
from reslab.report.text import plural

SIGNS = {"healthy": ("\u2714", "Healthy"), "warning": ("\u25b2", "Warning"), "sick": ("\u2716", "Sick")}
"""A sign and a word for each verdict; the colour is the third."""


def verdict_sentence(judged: VerdictRecord) -> str:
    """Say what was found, and how many checks ran.

    Example:
        >>> verdict_sentence(VerdictRecord("healthy", (), ("NONFINITE",), {"NOISE": "it takes several batches"}))
        'No problem found; 1 of 2 checks ran.'
    """
    problems = [f"{finding.id}{where_of(finding)}" for finding in judged.findings if finding.severity != "info"]
    ran = len(judged.clean) + len(judged.findings)
    more = f" and {len(problems) - 2} more" if len(problems) > 2 else ""
    found = f"{plural(len(problems), 'problem')}: {', '.join(problems[:2])}{more}" if problems else "No problem found"
    return f"{found}; {ran} of {plural(ran + len(judged.not_checked), 'check')} ran."


def verdict_lines(name: str, judged: VerdictRecord) -> list[tuple[str, bool]]:
    """Write all of a verdict for a terminal: lines, and whether each is a heading."""
    lines = [(f"{name}: {judged.verdict}", True)]
    for finding in judged.findings:
        measured = f"{finding.number:.3g}, threshold {finding.threshold:.3g} ({finding.basis})"
        lines += [
            ("", False),
            (f"{finding.severity}  {finding.id}{where_of(finding)}", True),
            (f"  {finding.sentence}", False),
            (f"  Suggested fix: {'; '.join(finding.actions)}.", False),
            (f"  Measured: {measured}. What would change this: {finding.would_change}.", False),
        ]
    not_checked = (f"not checked: {', '.join(checks)}, because {why}" for why, checks in reasons_of(judged).items())
    return [*lines, *((line, False) for line in ("", f"clean: {', '.join(judged.clean) or '-'}", *not_checked))]


def reasons_of(judged: VerdictRecord) -> dict[str, list[str]]:
    """Each reason why checks could not run, with those checks."""
    reasons: dict[str, list[str]] = {}
    for check, reason in judged.not_checked.items():
        reasons.setdefault(reason, []).append(check)
    return reasons


def where_of(finding: FindingRecord) -> str:
    """Say where, with the preposition; empty for the whole network."""
    return f" at {finding.where}" if finding.where else ""
