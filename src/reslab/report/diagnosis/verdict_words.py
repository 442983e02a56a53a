"""The verdict in words: the worst findings, what was clean, what was not checked; for the page and for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reslab.records import FindingRecord, ReadingRecord, VerdictRecord
from reslab.report.diagnosis.case import Case
from reslab.report.words import duration, in_words

LAMPS = {"healthy": ("\u2714", "Healthy"), "warning": ("\u25b2", "Warning"), "sick": ("\u2716", "Sick")}
"""A sign and a word for each verdict; the colour is the third."""
MOST = 3
"""Findings that are told at the top."""


@dataclass(frozen=True)
class Head:
    """What a reader sees first.

    Args:
        level: ``healthy``, ``warning`` or ``sick``.
        sign: for those who don't see the colour.
        word: the verdict.
        lead: it in a sentence.
        worst: findings at the top.
        more: the other findings.
        clean: rules that looked and found nothing.
        not_checked: reason to the rules that it holds for.
    """

    level: str
    sign: str
    word: str
    lead: str
    worst: Sequence[FindingRecord]
    more: Sequence[FindingRecord]
    clean: Sequence[str]
    not_checked: dict[str, list[str]]


def head_of(judged: VerdictRecord) -> Head:
    """From the verdict; findings are worst first already."""
    sign, word = LAMPS[judged.verdict]
    return Head(
        judged.verdict,
        sign,
        word,
        lead_of(judged),
        judged.findings[:MOST],
        judged.findings[MOST:],
        judged.clean,
        reasons_of(judged),
    )


def reasons_of(judged: VerdictRecord) -> dict[str, list[str]]:
    """Why rules couldn't look, to those rules."""
    reasons: dict[str, list[str]] = {}
    for rule, reason in judged.not_checked.items():
        reasons.setdefault(reason, []).append(rule)
    return reasons


def lines_of(name: str, judged: VerdictRecord) -> list[tuple[str, bool]]:
    """All of the verdict, for a terminal: lines, and whether each is a heading."""
    lines = [(f"{name}: {judged.verdict}", True)]
    for finding in judged.findings:
        lines += [
            ("", False),
            (f"{finding.severity}  {finding.id}{at(finding) or ' at the network'}", True),
            (f"  {finding.sentence}", False),
            (f"  What helps: {'; '.join(finding.actions)}.", False),
            (
                f"  {short(finding.number)} against a threshold of {short(finding.threshold)} ({finding.basis}); what"
                f" would change this: {finding.would_change}.",
                False,
            ),
        ]
    told = [f"not checked: {', '.join(rules)}, because {why}" for why, rules in reasons_of(judged).items()]
    return [*lines, ("", False), *((line, False) for line in (f"clean: {', '.join(judged.clean) or '-'}", *told))]


def lead_of(judged: VerdictRecord) -> str:
    """The verdict in a sentence: how many rules found what."""
    ill = [finding for finding in judged.findings if finding.severity != "info"]
    checked = len(judged.clean) + len(judged.findings)
    total = checked + len(judged.not_checked)
    counted = f"{checked} of {total} rules could look"
    if not ill:
        return f"No illness found; {counted}."
    others = f", and {len(ill) - 1} more" if len(ill) > 1 else ""
    return f"{ill[0].id}{at(ill[0])}{others}; {counted}."


def at(finding: FindingRecord) -> str:
    """Where, with the preposition; empty for the whole network."""
    return f" at {finding.where}" if finding.where else ""


def short(number: float) -> str:
    """Three digits, as all numbers of findings.

    Example:
        >>> short(0.14613), short(12345.0), short(float("inf"))
        ('0.146', '1.23e+04', 'inf')
    """
    return f"{number:.3g}"


# ---- the card of the run


def card_of(case: Case) -> list[tuple[str, str]]:
    """What was read, as read, and what the caller adds."""
    reading = case.readings[-1]
    facts = {"network": case.name, **_seen(case.readings), **{key: case.facts[key] for key in case.facts}}
    facts.setdefault("the last reading took", duration(reading.duration_s))
    return [(key.replace("_", " "), in_words(value)) for key, value in facts.items()]


def _seen(readings: Sequence[ReadingRecord]) -> dict[str, str]:
    reading = readings[-1]
    steps = f"step {reading.step:,}"
    if len(readings) > 1:
        steps = f"{len(readings)} readings, steps {readings[0].step:,} to {reading.step:,}"
    shapes = ", ".join(f"{' x '.join(map(str, each.shape))} ({each.dtype})" for each in reading.inputs)
    trained = [each for each in reading.parameters if each.is_trainable]
    return {
        "read": steps,
        "loss": f"{reading.loss:.4g}",
        "mode": "train" if reading.is_training else "eval",
        "batch": in_words(reading.num_samples),
        "input": shapes,
        "residual additions": in_words(len(reading.blocks)),
        "layers that everything goes through": in_words(len(reading.layers)),
        "parameters": f"{sum(map(_size, trained)):,} trained in {len(trained):,} tensors",
    }


def _size(parameter: object) -> int:
    size = 1
    for extent in getattr(parameter, "shape", ()):
        size *= extent
    return size
