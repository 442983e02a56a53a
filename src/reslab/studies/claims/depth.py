"""Claims about depth: degradation, gradients, the identity."""

from __future__ import annotations

import math
from collections.abc import Sequence

from reslab.records import mean_of
from reslab.studies.claims.ledger import ARTICLES, Claim, Evidence, Finding, Word, command_of
from reslab.studies.words import is_worse, told

NEAR = 0.05
"""Errors that differ by no more than this, five points, are called the same number."""
VANISHED = 1e-3
"""A gradient at the first block of less than this share of that at the last one has vanished."""
EVEN = 100.0
"""Gradients at both ends within two powers of ten are called even."""


def paper_errors(evidence: Evidence) -> Finding:
    """On CIFAR-10: the order by a short recipe, the errors of residual networks by a longer one."""
    quick, long = (evidence.studies.get(name) for name in ("degradation-quick", "accuracy-cifar10"))
    if quick is None and long is None:
        return Finding("not tested here", f"The study has not been run: {command_of('degradation-quick')}.")
    found = Finding("does not hold", "No plain network was trained so far.") if quick is None else order_of(evidence)
    if long is None:
        return found
    best = ", ".join(f"{row.name} {told(row, 'test_error')}" for row in long.rows)
    measured = f"{found.measured} By the recipe fast-cifar: {best} (`{long.command}`)."
    return Finding(found.word, measured, found.study or long)


def both_errors(evidence: Evidence) -> Finding:
    """Training and test errors of 20 and 56 layers, against round numbers."""
    rows, study = evidence.rows("degradation-quick"), evidence.studies["degradation-quick"]
    said = {"plain20": (0.20, 0.25), "plain56": (0.40, 0.45), "resnet20": (0.18, 0.23), "resnet56": (0.15, 0.20)}
    if not set(said) <= set(rows):
        return Finding("not tested here", "The study lacks one of the four networks.", study)
    near = all(
        abs(rows[name].mean(key) - value) <= NEAR
        for name, values in said.items()
        for key, value in zip(("train_error", "test_error"), values, strict=True)
    )
    figures = "; ".join(f"{name} {told(rows[name], 'train_error')} / {told(rows[name], 'test_error')}" for name in said)
    word: Word = "holds" if near else order_of(evidence).word
    return Finding(word, f"Training / test error: {figures}. They depend on the recipe and its length.", study)


def order_of(evidence: Evidence) -> Finding:
    """Whether depth hurts the plain networks and not the residual ones; a short recipe has not the paper's numbers."""
    study, rows = evidence.studies["degradation-quick"], evidence.rows("degradation-quick")
    names = ("plain20", "plain56", "resnet20", "resnet56")
    if not set(names) <= set(rows):
        return Finding("not tested here", "The study lacks one of the four networks.", study)
    hurt = is_worse(rows["plain56"], rows["plain20"], "test_error")
    spared = not is_worse(rows["resnet56"], rows["resnet20"], "test_error")
    figures = ", ".join(f"{name} {told(rows[name], 'test_error')}" for name in names)
    words = {
        (True, True): "The order is the claim's, the numbers are those of a short recipe.",
        (True, False): "Depth hurts both here.",
    }
    said = words.get((hurt, spared), "The deeper plain network is not clearly worse here.")
    return Finding("holds in part" if hurt else "does not hold", f"{figures}. {said}", study)


def degradation(evidence: Evidence) -> Finding:
    """The claim itself: 20 layers against 110, or where these weren't trained 56."""
    deep = "110" if {"plain110", "resnet110"} <= names_in(evidence) else "56"
    return against_20(evidence, deep)


def names_in(evidence: Evidence) -> set[str]:
    """Networks of the study on digits that came to an end, or diverged."""
    return {row.name for row in evidence.studies["degradation-digits"].rows if row.num_ended or row.failed}


def against_20(evidence: Evidence, deep: str) -> Finding:
    """By clean training error; what diverged every time is worse than anything."""
    study = evidence.studies["degradation-digits"]
    if not {"plain20", f"plain{deep}", "resnet20", f"resnet{deep}"} <= names_in(evidence):
        return Finding("not tested here", "The study lacks one of the four networks.", study)
    hurt = is_worse(study.row(f"plain{deep}"), study.row("plain20"), "train_error")
    spared = not is_worse(study.row(f"resnet{deep}"), study.row("resnet20"), "train_error")
    words: dict[tuple[bool, bool], Word] = {(True, True): "holds", (True, False): "holds in part"}
    rows = [study.row(f"{family}{depth}") for family in ("plain", "resnet") for depth in ("20", deep)]
    figures = ", ".join(f"{row.name} {told(row, 'train_error') if row.num_ended else 'diverged'}" for row in rows)
    return Finding(words.get((hurt, spared), "does not hold"), f"Clean training error: {figures}.", study)


def vgg(evidence: Evidence) -> Finding:
    """The sentence about VGG, by plain networks of its depths."""
    found = against_20(evidence, "56")
    if found.word == "not tested here":
        return found
    word: Word = "holds in part" if found.word != "does not hold" else "does not hold"
    return Finding(word, f"Of plain networks in VGG's style, not of a VGG. {found.measured}", found.study)


# ---- gradients


def growths(evidence: Evidence, kind: str) -> dict[str, float]:
    """Gradient at the first block over that at the last, first step, by network: the geometric mean over seeds."""
    rows = evidence.rows("degradation-digits").items()
    found = {name: row.values.get("start_growth", ()) for name, row in rows if row.factors["kind"] == kind}
    return {
        name: math.exp(mean_of([math.log(number) for number in numbers]))
        for name, numbers in found.items()
        if numbers and all(math.isfinite(number) and number > 0 for number in numbers)
    }


def told_growth(growth: float) -> str:
    """What a ratio of the gradient at the first block to that at the last means.

    Example:
        >>> told_growth(1e6), told_growth(3.0), told_growth(1e-5), told_growth(5e-3)
        ('grows towards the input', 'is even', 'vanishes', 'shrinks')
    """
    if growth < VANISHED:
        return "vanishes"
    return "grows towards the input" if growth > EVEN else "shrinks" if growth < 1 / EVEN else "is even"


def vanishing(evidence: Evidence) -> Finding:
    """Of the deepest network of each kind, before the first step."""
    study = evidence.studies["degradation-digits"]
    plain, residual = growths(evidence, "plain"), growths(evidence, "residual")
    if not plain or not residual:
        return Finding("not tested here", "The study has no gradients of both kinds.", study)
    deep, twin = (told_growth(list(found.values())[-1]) for found in (plain, residual))
    words: dict[tuple[bool, bool], Word] = {(True, True): "holds", (False, False): "does not hold"}
    figures = ", ".join(f"{name} {growth:.3g}" for name, growth in (plain | residual).items())
    text = f"Gradient at the first block over that at the last, first step: {figures}."
    text += f" With batch norm, in the deepest plain network it {deep}, in the deepest residual one it {twin}."
    return Finding(words.get((deep == "vanishes", twin == "is even"), "holds in part"), text, study)


def the_one(evidence: Evidence) -> Finding:
    """What the identity in the derivative does to the gradient: with and without it, at the greatest depth."""
    study = evidence.studies["degradation-digits"]
    plain, residual = growths(evidence, "plain"), growths(evidence, "residual")
    if not plain or not residual:
        return Finding("not tested here", "The study has no gradients of both kinds.", study)
    (name, without), (twin, kept) = list(plain.items())[-1], list(residual.items())[-1]
    text = f"Gradient at the first block over that at the last, first step: {twin} {kept:.3g}, {name} {without:.3g}."
    if kept < VANISHED:
        return Finding("does not hold", f"{text} It vanishes with shortcuts too.", study)
    if without < VANISHED:
        return Finding("holds", text, study)
    text += " With shortcuts it is kept, but without them it does not vanish either."
    halves = [evidence.rows("degradation-digits")[one].values.get("start_half", ()) for one in (twin, name)]
    if all(halves):
        far, near = (told_half(numbers) for numbers in halves)
        text += f" What differs is how far it stays itself on the way to another image: {far} with, {near} without."
    return Finding("holds in part", text, study)


def told_half(halves: Sequence[float]) -> str:
    """The way to another image on which the gradient's cosine falls to a half."""
    mean = mean_of(halves)
    return "all the way" if math.isinf(mean) else f"{100 * mean:.2g} % of it"


def paths(evidence: Evidence) -> Finding:
    """How many branches the gradient goes through."""
    study = evidence.studies["degradation-digits"]
    row = evidence.rows("degradation-digits").get("resnet110")
    if row is None or "end_effective" not in row.values:
        return Finding("not tested here", "The study has no paths of resnet110.", study)
    start, end = row.mean("start_effective"), row.mean("end_effective")
    word: Word = "holds" if 5 <= end <= 17 else "holds in part" if end < 27 else "does not hold"
    text = (
        f"The gradient at the first block of resnet110 has gone through {start:.1f} of 54 branches on average before"
        f" training, through {end:.1f} after it."
    )
    return Finding(word, text, study)


# ---- the identity


def identity(evidence: Evidence) -> Finding:
    """F = 0 against H = x, by blocks that shall give back their input; judged by every seed, at each depth."""
    study, words, wins = evidence.studies["identity"], [], []
    rows = [row for row in evidence.rows("identity").values() if row.factors["target"] == "x"]
    for blocks in sorted({int(row.factors["blocks"]) for row in rows}):
        here = {str(row.factors["kind"]): row for row in rows if row.factors["blocks"] == blocks}
        if len(here) < 3:
            continue
        plain, residual, zero = (here[kind] for kind in ("plain", "residual", "residual, zero init"))
        wins.append(max(residual.values["test_error"]) < min(plain.values["test_error"]))
        errors = ", ".join(f"{row.mean('test_error'):.2g}" for row in (plain, residual, zero))
        words.append(f"{blocks} block{'s' if blocks > 1 else ''}: {errors}")
    if not wins:
        return Finding("not tested here", "The study lacks one of its kinds.", study)
    word: Word = "holds" if all(wins) else "holds in part" if any(wins) else "does not hold"
    text = (
        "Test error at giving back the input, without shortcuts, with them, and with branches that start at zero, where"
        f" it is the beginning already: {'; '.join(words)}."
    )
    if wins[0] and not wins[-1]:
        text += " Many branches with ordinary initial values and no norms add up to too much at the start."
    return Finding(word, text, study)


CLAIMS = (
    Claim(
        "degradation",
        "Deeper plain networks have a higher training error; residual networks do not.",
        "He et al. 2015",
        "Sections 1 and 4.2, figures 1, 4 and 6: so on ImageNet and CIFAR-10.",
        "degradation-digits",
        degradation,
    ),
    Claim(
        "cifar-errors",
        "On CIFAR-10 plain networks of 20, 56 and 110 layers err 8.75, 28.19 and 40.62 %, residual ones 7.65, 7.00 and"
        " 6.61 %.",
        ARTICLES,
        "Contradicts its source: in table 6 of He et al. 2015 the residual networks err 8.75, 6.97 and 6.43 % (6.61"
        " \N{PLUS-MINUS SIGN} 0.16 over five runs), 8.75 % being the residual one of 20 layers. There is no table of"
        " plain ones; of plain-110 it says only that its error is above 60 %.",
        "",
        paper_errors,
    ),
    Claim(
        "two-errors",
        "Training / test errors of 20 and 56 layers: plain 0.20 / 0.25 and 0.40 / 0.45, residual 0.18 / 0.23 and 0.15 /"
        " 0.20.",
        ARTICLES,
        "Not in He et al. 2015: figure 6 shows curves, with all of these errors far lower at the end.",
        "degradation-quick",
        both_errors,
    ),
    Claim(
        "vgg",
        "A VGG of 56 layers is worse than one of 20.",
        ARTICLES,
        "He et al. 2015 compare plain networks inspired by VGG (section 3.3), not VGGs; figure 1 has 20 and 56 layers.",
        "degradation-digits",
        vgg,
    ),
    Claim(
        "vanishing",
        "Gradients vanish in deep plain networks and are even in residual ones.",
        ARTICLES,
        "Contradicts its source: He et al. 2015, section 4.1, find healthy norms of the gradients of plain networks"
        " with batch norm, and argue that vanishing is unlikely to be the cause.",
        "degradation-digits",
        vanishing,
    ),
    Claim(
        "the-one",
        "The 1 in the derivative of x + F(x) keeps the gradient from vanishing.",
        ARTICLES,
        "He et al. 2016, arXiv:1603.05027, equation 5, for pre-activation blocks and identity shortcuts throughout.",
        "degradation-digits",
        the_one,
    ),
    Claim(
        "paths",
        "The gradient of a network of 110 layers comes through short paths, of 10 to 34 layers.",
        "Veit et al. 2016",
        "arXiv:1605.06431, abstract: paths of 10 to 34 layers of 110; that is 5 to 17 branches of two layers.",
        "degradation-digits",
        paths,
    ),
    Claim(
        "identity",
        "Learning F(x) = 0 is easier than learning H(x) = x.",
        "He et al. 2015",
        "Section 3.1, as a hypothesis; section 4.2 shows that learned responses are small.",
        "identity",
        identity,
    ),
)
