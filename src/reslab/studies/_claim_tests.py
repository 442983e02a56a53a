"""From the records of studies to a word and what was measured: the tests that ``claims.toml`` names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from reslab.records import StudyRecord
from reslab.records.study import mean_of
from reslab.studies.conclusions import by_depth, compare, comparison_text, ended_by, error_text, is_worse

Word = Literal["holds", "holds in part", "does not hold", "not tested here"]
Answer = tuple[Word, str]


def word_of(*parts: bool) -> Word:
    """Choose the word for a claim of several parts, each of which came out true or not."""
    return "holds" if all(parts) else "holds in part" if any(parts) else "does not hold"


def lacks(what: str) -> Answer:
    return "not tested here", f"The study lacks {what}."


# ---- depth


def four_networks(study: StudyRecord, deep: int, key: str) -> tuple[bool, bool, str] | None:
    """Say whether an error is clearly worse with depth in plain networks, whether in residual ones, and the figures."""
    known = {row.name: row for row in study.rows if row.num_ended or row.failed}
    names = ("plain20", f"plain{deep}", "resnet20", f"resnet{deep}")
    if not set(names) <= set(known):
        return None
    rows = [known[name] for name in names]
    figures = ", ".join(f"{row.name} {error_text(row, key)}" for row in rows)
    return is_worse(rows[1], rows[0], key), is_worse(rows[3], rows[2], key), figures


def depth_hurts_plain_networks_only(
    study: StudyRecord, *, depths: Sequence[int] = (110, 56), at_most: Word = "holds", preface: str = ""
) -> Answer:
    """Compare clean training errors at 20 layers and at the first of ``depths`` that was trained."""
    for deep in depths:
        if found := four_networks(study, deep, "train_error"):
            plain, residual, figures = found
            word = word_of(plain, not residual) if plain else "does not hold"
            return at_most if word == "holds" else word, f"{preface}Clean training error: {figures}."
    return lacks("one of the four networks")


def cifar_errors(quick: StudyRecord | None, long: StudyRecord | None) -> Answer:
    """Compare the order by a short recipe; show the errors of residual networks by a longer one."""
    word, measured = order_on_cifar(quick) if quick else ("does not hold", "No plain network was trained so far.")
    if long:
        best = ", ".join(f"{row.name} {error_text(row, 'test_error')}" for row in long.rows)
        measured = f"{measured} By the recipe fast-cifar: {best} (`{long.command}`)."
    return word, measured


def order_on_cifar(study: StudyRecord) -> Answer:
    """Say whether depth hurts plain networks and not residual ones; a short recipe can't have the paper's numbers."""
    found = four_networks(study, 56, "test_error")
    if not found:
        return lacks("one of the four networks")
    plain, residual, figures = found
    if not plain:
        return "does not hold", f"{figures}. The deeper plain network is not clearly worse here."
    if residual:
        return "holds in part", f"{figures}. Depth hurts both here."
    return "holds in part", f"{figures}. The order is the claim's, the numbers are those of a short recipe."


def rounded_errors(study: StudyRecord, *, said: Mapping[str, Sequence[float]], tolerance: float = 0.05) -> Answer:
    """Compare training and test errors with the claim's; those within the tolerance are the same number."""
    word, text = order_on_cifar(study)
    if word == "not tested here":
        return word, text
    keys, figures, is_near = ("train_error", "test_error"), [], True
    for name, errors in said.items():
        row = study.row(name)
        figures.append(f"{name} {' / '.join(error_text(row, key) for key in keys)}")
        is_near &= all(abs(row.mean(key) - error) <= tolerance for key, error in zip(keys, errors, strict=True))
    text = f"Training / test error: {'; '.join(figures)}. They depend on the recipe and its length."
    return "holds" if is_near else word, text


# ---- gradients

VANISHED = 1e-3
"""A gradient at the first block smaller than this fraction of that at the last one has vanished."""
EVEN = 100.0
"""Gradients at both ends within two powers of ten are called even."""
GROWTH = "Gradient at the first block over that at the last, first step"


def first_step_growths(study: StudyRecord, kind: str) -> dict[str, float]:
    """Gradient at the first block over that at the last, by network: the geometric mean over seeds."""
    rows = [row for row in study.rows if row.num_ended and row.factors["kind"] == kind]
    found = {row.name: row.values.get("start_growth", ()) for row in rows}
    return {
        name: math.exp(mean_of([math.log(number) for number in numbers]))
        for name, numbers in found.items()
        if numbers and all(math.isfinite(number) and number > 0 for number in numbers)
    }


def growth_in_words(growth: float) -> str:
    """Say what a ratio of the gradient at the first block to that at the last means."""
    if growth < VANISHED:
        return "vanishes"
    return "grows towards the input" if growth > EVEN else "shrinks" if growth < 1 / EVEN else "is even"


def gradients_vanish_without_shortcuts(study: StudyRecord) -> Answer:
    """Judge the deepest network of each kind before the first step."""
    plain, residual = (first_step_growths(study, kind) for kind in ("plain", "residual"))
    if not plain or not residual:
        return lacks("gradients of both kinds")
    deep, twin = (growth_in_words(list(found.values())[-1]) for found in (plain, residual))
    figures = ", ".join(f"{name} {growth:.3g}" for name, growth in (plain | residual).items())
    text = f"With batch norm, in the deepest plain network it {deep}, in the deepest residual one it {twin}."
    return word_of(deep == "vanishes", twin == "is even"), f"{GROWTH}: {figures}. {text}"


def the_one_keeps_the_gradient(study: StudyRecord) -> Answer:
    """Compare the gradient with and without the identity in the derivative, at the greatest depth."""
    plain, residual = (first_step_growths(study, kind) for kind in ("plain", "residual"))
    if not plain or not residual:
        return lacks("gradients of both kinds")
    (name, without), (twin, kept) = list(plain.items())[-1], list(residual.items())[-1]
    text = f"{GROWTH}: {twin} {kept:.3g}, {name} {without:.3g}."
    if kept < VANISHED:
        return "does not hold", f"{text} It vanishes with shortcuts too."
    if without < VANISHED:
        return "holds", text
    text += " With shortcuts it is kept, but without them it does not vanish either."
    if all(halves := [study.row(one).values.get("start_half", ()) for one in (twin, name)]):
        means = [mean_of(numbers) for numbers in halves]
        far, near = ("all the way" if math.isinf(mean) else f"{100 * mean:.2g} % of it" for mean in means)
        text += f" What differs is how far it stays itself on the way to another image: {far} with, {near} without."
    return "holds in part", text


def paths_are_short(study: StudyRecord) -> Answer:
    """Count the branches that the gradient goes through."""
    rows = [row for row in study.rows if row.name == "resnet110" and "end_effective" in row.values]
    if not rows:
        return lacks("the paths of resnet110")
    start, end = rows[0].mean("start_effective"), rows[0].mean("end_effective")
    text = (
        f"The gradient at the first block of resnet110 has gone through {start:.1f} of 54 branches on average before"
        f" training, through {end:.1f} after it."
    )
    return "holds" if 5 <= end <= 17 else "holds in part" if end < 27 else "does not hold", text


# ---- shortcuts


def the_identity_is_easier_with_shortcuts(study: StudyRecord) -> Answer:
    """Compare F = 0 with H = x by blocks that learn to give back their input, by every seed, at each depth."""
    texts, wins = [], []
    for blocks, rows in by_depth([row for row in study.rows if row.factors["target"] == "x"], "blocks").items():
        kinds = ended_by(rows, "kind")
        if len(kinds) == 3:
            plain, residual, zero = (kinds[kind] for kind in ("plain", "residual", "residual, zero init"))
            wins.append(max(residual.values["test_error"]) < min(plain.values["test_error"]))
            errors = ", ".join(f"{row.mean('test_error'):.2g}" for row in (plain, residual, zero))
            texts.append(f"{blocks} block{'s' if blocks > 1 else ''}: {errors}")
    if not wins:
        return lacks("one of its kinds")
    text = (
        "Test error at giving back the input, without shortcuts, with them, and with branches that start at zero, where"
        f" the network is the identity from the beginning: {'; '.join(texts)}."
    )
    if wins[0] and not wins[-1]:
        text += " Many branches with ordinary initial values and no norms add up to too much at the start."
    return word_of(*wins), text


def changed_shortcuts_are_worse(study: StudyRecord, *, changed: Mapping[str, str]) -> Answer:
    """Compare shortcuts that are no identities at the greatest depth, by clean training error."""
    depth, deepest = list(by_depth(study.rows).items())[-1]
    rows = {str(row.factors["variant"]): row for row in deepest if row.num_ended or row.failed}
    bare, found = rows.get("shortcut zero_pad"), {name: rows[name] for name in changed if name in rows}
    if bare is None or not bare.num_ended or not found:
        return lacks("the identity or all that is compared with it")
    worse = [is_worse(row, bare, "train_error") for row in found.values()]
    figures = ", ".join(f"{changed[name]} {error_text(row, 'train_error')}" for name, row in found.items())
    text = f"Clean training error of {depth} layers: identity {error_text(bare, 'train_error')}, {figures}."
    return word_of(*worse), f"{text} Worse: {sum(worse)} of {len(found)}."


# ---- recipes


def mnist_accuracies(study: StudyRecord, *, tolerance: float = 0.003) -> Answer:
    """Judge two parts: the accuracies after ten epochs, and which is higher."""
    kinds = ended_by(study.rows, "kind")
    if not {"plain", "residual"} <= set(kinds):
        return lacks("one of its kinds")
    plain, residual = kinds["plain"], kinds["residual"]
    accuracies = [row.mean("test_accuracy") for row in (plain, residual)]
    near = all(abs(found - said) <= tolerance for found, said in zip(accuracies, (0.978, 0.985), strict=True))
    found = compare(residual, plain, "test_error")
    text = comparison_text(residual, plain, "test_error", names=("residual", "plain"))
    text = f"Accuracy {100 * accuracies[0]:.2f} % plain, {100 * accuracies[1]:.2f} % residual. Test error: {text}."
    return "not tested here" if found == "one seed" else word_of(near, found == "better"), text


def each_regulariser_helps(study: StudyRecord) -> Answer:
    """Compare each regulariser with the bare network, by test error."""
    rows = ended_by(study.rows, "regulariser")
    bare, together = rows.pop("none", None), rows.pop("all but early stopping", None)
    if bare is None or not (rows or together):
        return lacks("the bare network or all others")
    found: dict[str, list[str]] = {"better": [], "equal": [], "worse": [], "one seed": []}
    for name, row in rows.items():
        found[compare(row, bare, "test_error")].append(f"{name} {error_text(row, 'test_error')}")
    word: Word = "does not hold" if found["worse"] else "not tested here"
    word = word_of(True, len(found["better"]) == len(rows)) if found["better"] else word
    text = f"Test error without any {error_text(bare, 'test_error')}, training error {error_text(bare, 'train_error')}."
    for result, words in (("better", "Clearly better"), ("equal", "No difference to see"), ("worse", "Clearly worse")):
        text += f" {words}: {', '.join(found[result])}." if found[result] else ""
    text += f" All but early stopping together: {error_text(together, 'test_error')}." if together else ""
    return word, text


def part_lowers_test_error(study: StudyRecord, *, part: str, note: str = "") -> Answer:
    """Compare a recipe with one part more; a difference that seeds can't show is neither yes nor no."""
    rows = ended_by(study.rows, "recipe")
    if not {part, "none"} <= set(rows):
        return lacks(f"the recipe with {part} or the one without")
    words: dict[str, Word] = {"better": "holds", "worse": "does not hold"}
    text = comparison_text(rows[part], rows["none"], "test_error", names=(part, "without"))
    return words.get(compare(rows[part], rows["none"], "test_error"), "not tested here"), f"Test error: {text}.{note}"


def mixed_precision_saves_time_and_memory(study: StudyRecord) -> Answer:
    """Judge two parts: the time of a step, and the memory that its forward pass keeps."""
    rows = ended_by(study.rows, "recipe")
    if not {"mixed precision", "none"} <= set(rows):
        return lacks("the recipe with mixed precision or the one without")
    time, memory = (rows["mixed precision"].mean(key) / rows["none"].mean(key) for key in ("step_ratio", "kept_mib"))
    text = f"A step takes {time:.2f} times as long in bf16, and keeps {memory:.2f} of the memory for its backward pass."
    text += " Time depends on the processor: one without units for bf16 converts."
    return word_of(time < 0.98, memory < 0.98), text


# ---- counted


def resnet50_beats_inception() -> Answer:
    """Count parameters; accuracies are those that torchvision records with its weights."""
    import torch
    from torchvision.models import Inception_V3_Weights, ResNet50_Weights, inception_v3

    from reslab.models.catalog import create_model

    with torch.device("meta"):
        models = [create_model("resnet50")]
        models += [inception_v3(weights=None, init_weights=False, aux_logits=aux) for aux in (True, False)]
    resnet, whole, bare = (sum(parameter.numel() for parameter in model.parameters()) for model in models)
    weights = (ResNet50_Weights.IMAGENET1K_V1, ResNet50_Weights.IMAGENET1K_V2, Inception_V3_Weights.IMAGENET1K_V1)
    first, second, other = (one.meta["_metrics"]["ImageNet-1K"]["acc@1"] for one in weights)
    return word_of(True, resnet < bare and first > other), (
        f"Parameters: ResNet-50 {resnet:,}; Inception-v3 {whole:,} with the auxiliary head that it has in training"
        f" only, {bare:,} without. Top-1 by torchvision's records: ResNet-50 {first:.2f} % by its first"
        f" recipe and {second:.2f} % by its second, Inception-v3 {other:.2f} %. So it wins by recipe, not by blocks."
    )


def macs_per_position(block: Literal["basic", "bottleneck"], channels: int) -> int:
    """Count the multiply-adds of a block's convolutions at one position, from and to ``channels``."""
    narrow = channels // 4
    return 2 * 9 * channels**2 if block == "basic" else 2 * channels * narrow + 9 * narrow**2


def bottleneck_costs_grow_linearly() -> Answer:
    """Count what twice the channels cost: four times as much, with either block."""
    basic, narrow = (
        [macs_per_position(block, channels) for channels in (256, 512)] for block in ("basic", "bottleneck")
    )
    return "holds" if narrow[1] <= 2 * narrow[0] else "does not hold", (
        f"Multiply-adds per position at 256 and 512 channels: two 3x3 {basic[0]:,} and {basic[1]:,}; bottleneck"
        f" {narrow[0]:,} and {narrow[1]:,}. It is {basic[0] / narrow[0]:.1f} times cheaper, but twice the channels cost"
        f" {basic[1] / basic[0]:.0f} and {narrow[1] / narrow[0]:.0f} times as much: both grow with the square."
    )
