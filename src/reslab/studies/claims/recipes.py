"""Claims about data and recipes."""

from __future__ import annotations

from reslab.records import StudyRow
from reslab.studies.claims.ledger import ARTICLES, Claim, Evidence, Finding, Word
from reslab.studies.words import compared, difference_of, told

WORDS: dict[str, Word] = {
    "better": "holds in part",
    "worse": "does not hold",
    "equal": "not tested here",
    "one seed": "not tested here",
}
"""Of what is better, but not all that was said; a difference that the seeds can't show is neither yes nor no."""
POINTS = 0.003
"""Accuracies that differ by no more than this are called the same number."""


def mnist(evidence: Evidence) -> Finding:
    """Accuracies after ten epochs, and which is higher: two parts."""
    study, rows = evidence.studies["mnist-quick"], list(evidence.rows("mnist-quick").values())
    plain, residual = (
        next((row for row in rows if row.factors["kind"] == kind), None) for kind in ("plain", "residual")
    )
    if plain is None or residual is None:
        return Finding("not tested here", "The study lacks one of its kinds.", study)
    near = all(abs(row.mean("test_accuracy") - said) <= POINTS for row, said in ((plain, 0.978), (residual, 0.985)))
    found = difference_of(residual, plain, "test_error")
    parts: tuple[Word, ...] = ("does not hold", "holds in part", "holds")
    word = WORDS[found] if found == "one seed" else parts[near + (found == "better")]
    accuracies = (
        f"Accuracy {100 * plain.mean('test_accuracy'):.2f} % plain, {100 * residual.mean('test_accuracy'):.2f} %"
    )
    text = f"{accuracies} residual. Test error: {compared(residual, plain, 'test_error', names=('residual', 'plain'))}."
    return Finding(word, text, study)


def part_of(evidence: Evidence, part: str) -> tuple[StudyRow, StudyRow] | None:
    """A recipe with one part more, and the bare one."""
    rows = {str(row.factors["recipe"]): row for row in evidence.rows("recipe-digits").values()}
    return (rows[part], rows["none"]) if part in rows and "none" in rows else None


def brings(evidence: Evidence, part: str, *, note: str = "") -> Finding:
    """Whether a part of the recipe lowers the test error."""
    study, pair = evidence.studies["recipe-digits"], part_of(evidence, part)
    if pair is None:
        return Finding("not tested here", f"The study has no recipe with {part}.", study)
    found = difference_of(*pair, "test_error")
    word: Word = "holds" if found == "better" else WORDS[found]
    return Finding(word, f"Test error: {compared(*pair, 'test_error', names=(part, 'without'))}.{note}", study)


def smoothing(evidence: Evidence) -> Finding:
    """By test error: the training error is zero either way."""
    return brings(
        evidence,
        "label smoothing",
        note=" Smoothing by 0.1 leaves the true class 0.9 + 0.1 / K, not 0.9.",
    )


def warm_up(evidence: Evidence) -> Finding:
    """By test error."""
    return brings(evidence, "warm-up")


def mixed(evidence: Evidence) -> Finding:
    """By speed and memory, which are what is claimed."""
    study, pair = evidence.studies["recipe-digits"], part_of(evidence, "mixed precision")
    if pair is None:
        return Finding("not tested here", "The study has no recipe with mixed precision.", study)
    time, memory = (pair[0].mean(key) / pair[1].mean(key) for key in ("step_ratio", "kept_mib"))
    wins = [time < 0.98, memory < 0.98]
    word: Word = "holds" if all(wins) else "holds in part" if any(wins) else "does not hold"
    text = f"A step takes {time:.2f} times as long in bf16, and keeps {memory:.2f} of the memory for its backward pass."
    return Finding(word, f"{text} Time is the processor's matter: without units for bf16 it converts.", study)


def regularisers(evidence: Evidence) -> Finding:
    """Whether each lowers the test error of one bare network."""
    study, rows = evidence.studies["regularisation-digits"], evidence.rows("regularisation-digits")
    if "none" not in rows or len(rows) < 2:
        return Finding("not tested here", "The study lacks the bare network or all others.", study)
    found = {
        name: difference_of(row, rows["none"], "test_error")
        for name, row in rows.items()
        if name not in ("none", "all-but-early-stopping")
    }
    verdicts = set(found.values())
    word: Word = "holds" if verdicts == {"better"} else WORDS[next(verdict for verdict in WORDS if verdict in verdicts)]
    parts = []
    for verdict, what in (("better", "Clearly better"), ("equal", "No difference to see"), ("worse", "Clearly worse")):
        named = [
            f"{rows[name].factors['regulariser']} {told(rows[name], 'test_error')}"
            for name in found
            if found[name] == verdict
        ]
        parts += [f"{what}: {', '.join(named)}"] if named else []
    bare = rows["none"]
    text = f"Test error without any {told(bare, 'test_error')}, training error {told(bare, 'train_error')}. "
    together = rows.get("all-but-early-stopping")
    more = f" All but early stopping together: {told(together, 'test_error')}." if together else ""
    return Finding(word, f"{text}{'. '.join(parts)}.{more}", study)


CLAIMS = (
    Claim(
        "mnist",
        "On MNIST a plain CNN reaches 97.8 % in ten epochs, a residual network 98.5 %.",
        ARTICLES,
        "In no paper. He et al. 2015 didn't train on MNIST.",
        "mnist-quick",
        mnist,
    ),
    Claim(
        "regularisers",
        "Dropout, batch norm, augmentation, early stopping, L1 and L2 each keep a network from overfitting.",
        ARTICLES,
        "Many papers, each with networks and data of its own; He et al. 2015 use batch norm, augmentation and L2, and"
        " no dropout.",
        "regularisation-digits",
        regularisers,
    ),
    Claim(
        "label-smoothing",
        "Label smoothing, 0.9 for the true class and 0.1 for the rest, prevents overfitting.",
        ARTICLES,
        "Szegedy et al. 2015, arXiv:1512.00567, section 7: 0.1 spread over all classes, about 0.2 points on ImageNet.",
        "recipe-digits",
        smoothing,
    ),
    Claim(
        "warm-up",
        "Warm-up from a tenth of the rate makes training better.",
        ARTICLES,
        "He et al. 2015, section 4.2, needed it for 110 layers only: rate 0.01 until the training error is below 80 %.",
        "recipe-digits",
        warm_up,
    ),
    Claim(
        "mixed-precision",
        "Mixed precision is faster and smaller.",
        ARTICLES,
        "Micikevicius et al. 2017, arXiv:1710.03740, on GPUs with units for it.",
        "recipe-digits",
        mixed,
    ),
)
