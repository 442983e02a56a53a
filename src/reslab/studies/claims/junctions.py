"""Claims about ways of joining a shortcut to its branch."""

from __future__ import annotations

from reslab.studies.claims.ledger import Claim, Evidence, Finding, Word
from reslab.studies.words import is_worse, told

BARE = "shortcut zero_pad"
"""The network of He et al. 2015, whose shortcuts are identities."""
CHANGED = {
    "connection constant_half": "both halved",
    "connection constant_half_shortcut": "shortcut halved",
    "connection exclusive_gate": "exclusive gates",
    "connection shortcut_gate": "gates on the shortcut",
    "connection shortcut_dropout": "dropout on the shortcut",
    "shortcut projection_all": "1x1 convolutions",
}
"""Variants whose shortcuts are no identities, as He et al. 2016 call them."""


def clean_shortcuts(evidence: Evidence) -> Finding:
    """At the greatest depth, by clean training error; what diverged every time is worse than anything."""
    study = evidence.studies["variants-digits"]
    depth = max(int(row.factors["depth"]) for row in study.rows)
    rows = {str(row.factors["variant"]): row for row in study.rows if row.factors["depth"] == depth}
    found = {name: rows[name] for name in CHANGED if name in rows and (rows[name].num_ended or rows[name].failed)}
    if BARE not in rows or not rows[BARE].num_ended or not found:
        return Finding("not tested here", "The study lacks the identity or all that is compared with it.", study)
    worse = [name for name, row in found.items() if is_worse(row, rows[BARE], "train_error")]
    word: Word = "holds" if len(worse) == len(found) else "holds in part" if worse else "does not hold"
    figures = ", ".join(
        f"{CHANGED[name]} {told(row, 'train_error') if row.num_ended else 'diverged'}" for name, row in found.items()
    )
    text = f"Clean training error of {depth} layers: identity {told(rows[BARE], 'train_error')}, {figures}."
    return Finding(word, f"{text} Worse: {len(worse)} of {len(found)}.", study)


CLAIMS = (
    Claim(
        "clean-shortcuts",
        "Shortcuts that are scaled, gated, dropped out or convolved make deep networks harder to train.",
        "He et al. 2016",
        "arXiv:1603.05027, table 1, 110 layers on CIFAR-10: 6.61 % with the identity; both halved 12.35, exclusive"
        " gates 8.70, gates on the shortcut 6.91, 1x1 convolutions 12.22, shortcut halved or dropped out above 20 %.",
        "variants-digits",
        clean_shortcuts,
    ),
)
