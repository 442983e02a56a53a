"""Claims about depth: degradation, gradients, the identity."""

from __future__ import annotations

from reslab.records import StudyRow
from reslab.studies.claims.ledger import Claim, Evidence, Finding, Word, command_of
from reslab.studies.words import standard_errors, told

ARTICLES = "articles and posts"
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
    found = Finding("not tested here", "") if quick is None else order_of(evidence, "test_error")
    if long is None:
        return found
    best = ", ".join(f"{row.name} {told(row, 'test_error')}" for row in long.rows)
    text = f"{found.measured} By a recipe of up to 50 epochs: {best} (`{long.command}`).".strip()
    return Finding("does not hold" if quick is None else found.word, text, found.study or long)


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
    found = order_of(evidence, "train_error")
    figures = "; ".join(f"{name} {told(rows[name], 'train_error')} / {told(rows[name], 'test_error')}" for name in said)
    word: Word = "holds" if near else found.word
    return Finding(word, f"Training / test error: {figures}. They depend on the recipe and its length.", study)


def order_of(evidence: Evidence, key: str) -> Finding:
    """Whether depth hurts the plain networks and not the residual ones; a short recipe has not the paper's numbers."""
    study, rows = evidence.studies["degradation-quick"], evidence.rows("degradation-quick")
    if not {"plain20", "plain56", "resnet20", "resnet56"} <= set(rows):
        return Finding("not tested here", "The study lacks one of the four networks.", study)
    hurt = rows["plain56"].mean(key) > rows["plain20"].mean(key)
    spared = rows["resnet56"].mean(key) <= rows["resnet20"].mean(key)
    figures = ", ".join(f"{name} {told(rows[name], key)}" for name in ("plain20", "plain56", "resnet20", "resnet56"))
    words = {
        (True, True): "The order is the claim's, the numbers are not: four epochs.",
        (True, False): "Depth hurts both here.",
    }
    said = words.get((hurt, spared), "The plain network does not get worse here.")
    return Finding("holds in part" if hurt else "does not hold", f"{figures}. {said}", study)


def degradation(evidence: Evidence) -> Finding:
    """The claim itself, by clean training error."""
    study, rows = evidence.studies["degradation-digits"], evidence.rows("degradation-digits")
    if not {"plain20", "plain56", "resnet20", "resnet56"} <= set(rows):
        return Finding("not tested here", "The study lacks one of the four networks.", study)
    key, deep = "train_error", "110" if {"plain110", "resnet110"} <= set(rows) else "56"
    hurt = clearly_worse(rows[f"plain{deep}"], rows["plain20"], key)
    spared = not clearly_worse(rows[f"resnet{deep}"], rows["resnet20"], key)
    words: dict[tuple[bool, bool], Word] = {(True, True): "holds", (True, False): "holds in part"}
    figures = ", ".join(
        f"{family}{depth} {told(rows[f'{family}{depth}'], key)}"
        for family in ("plain", "resnet")
        for depth in ("20", deep)
    )
    return Finding(words.get((hurt, spared), "does not hold"), f"Clean training error: {figures}.", study)


def clearly_worse(worse: StudyRow, better: StudyRow, key: str) -> bool:
    """By more than two standard errors and a point; of one seed, by five points."""
    difference = worse.mean(key) - better.mean(key)
    distance = standard_errors(worse, better, key)
    return difference > NEAR if distance != distance else difference > 0.01 and distance > 2


def vgg(evidence: Evidence) -> Finding:
    """The sentence about VGG, by plain networks."""
    found = degradation(evidence)
    if found.word == "not tested here":
        return found
    word: Word = "holds in part" if found.word != "does not hold" else "does not hold"
    return Finding(word, f"Of plain networks in VGG's style, not of a VGG. {found.measured}", found.study)


def vanishing(evidence: Evidence) -> Finding:
    """The gradient at the first block over that at the last, before the first step."""
    study = evidence.studies["degradation-digits"]
    rows = {name: row for name, row in evidence.rows("degradation-digits").items() if "start_growth" in row.values}
    plain = {name: row for name, row in rows.items() if row.factors["kind"] == "plain"}
    residual = {name: row for name, row in rows.items() if row.factors["kind"] == "residual"}
    if not plain or not residual:
        return Finding("not tested here", "The study has no gradients of both kinds.", study)
    vanishes = any(row.mean("start_growth") < VANISHED for row in plain.values())
    even = all(1 / EVEN < row.mean("start_growth") < EVEN for row in residual.values())
    words: dict[tuple[bool, bool], Word] = {
        (True, True): "holds",
        (True, False): "holds in part",
        (False, True): "holds in part",
    }
    figures = ", ".join(f"{name} {row.mean('start_growth'):.3g}" for name, row in (plain | residual).items())
    said = "in plain networks it vanishes"
    if not vanishes:
        said = "in plain networks with batch norm it does not vanish, it grows towards the input"
    more = (
        "in residual ones both ends are within two powers of ten" if even else "in residual ones it is not even either"
    )
    text = f"Gradient at the first block over that at the last, first step: {figures}. So {said}; {more}."
    return Finding(words.get((vanishes, even), "does not hold"), text, study)


def the_one(evidence: Evidence) -> Finding:
    """What the identity in the derivative does to the gradient: with and without it, at the greatest depth."""
    study = evidence.studies["degradation-digits"]
    rows = {name: row for name, row in evidence.rows("degradation-digits").items() if "start_growth" in row.values}
    deepest = max(int(row.factors["depth"]) for row in rows.values()) if rows else 0
    plain, residual = rows.get(f"plain{deepest}"), rows.get(f"resnet{deepest}")
    if plain is None or residual is None:
        return Finding("not tested here", "The study has no gradients of both kinds at one depth.", study)
    kept, needed = residual.mean("start_growth") > VANISHED, plain.mean("start_growth") < VANISHED
    words: dict[tuple[bool, bool], Word] = {(True, True): "holds", (True, False): "holds in part"}
    text = (
        f"At {deepest} layers the gradient at the first block is {residual.mean('start_growth'):.3g} times that at the"
        f" last with shortcuts, {plain.mean('start_growth'):.3g} times without."
    )
    if not needed:
        half = ""
        if "start_half" in plain.values and "start_half" in residual.values:
            half = (
                f" What differs is how long it stays itself on the way to another image: its cosine halves after"
                f" {residual.mean('start_half'):.1e} of the way with shortcuts, {plain.mean('start_half'):.1e} or less"
                " without."
            )
        text += f" It is kept, but nothing vanishes without the 1 either.{half}"
    return Finding(words.get((kept, needed), "does not hold"), text, study)


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


def identity(evidence: Evidence) -> Finding:
    """F = 0 against H = x, by blocks that shall give back their input."""
    study, rows = evidence.studies["identity"], evidence.rows("identity")
    words = []
    wins: list[bool] = []
    for blocks in sorted({int(row.factors["blocks"]) for row in rows.values()}):
        here = {
            str(row.factors["kind"]): row
            for row in rows.values()
            if row.factors["blocks"] == blocks and row.factors["target"] == "x + 0.1 g(x)"
        }
        if len(here) < 3:
            continue
        plain, residual, zero = (here[kind].mean("test_error") for kind in ("plain", "residual", "residual, zero init"))
        wins += [residual < plain, zero < plain]
        words.append(f"{blocks} blocks: {plain:.2g} without, {residual:.2g} with, {zero:.2g} with zero branches")
    if not wins:
        return Finding("not tested here", "The study lacks one of its kinds.", study)
    word: Word = "holds" if all(wins) else "holds in part" if any(wins) else "does not hold"
    text = f"Test error at x plus a tenth of another function, without and with shortcuts: {'; '.join(words)}."
    if word == "holds in part":
        text += " With ordinary initial values and no norms, many blocks add up to too much at the start."
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
