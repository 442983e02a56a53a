"""Rules about the values that go forward: the stream of the blocks, rectifiers, and activations with bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence

from reslab.probe.verdict.evidence import FEW, Evidence, NotChecked, line_through
from reslab.probe.verdict.rule import Found, Rule
from reslab.records import BlockFlowRecord, LayerFlowRecord

DOUBLING, STRAIGHT, DECADES = 0.10, 0.9, 2.0
"""Decades per block of the stream's variance, R squared of the line, decades in all; a doubling per block is 0.30."""
LEAST_VARIANCE = 1e-5
ALIKE, MANY_ALIKE = 0.85, 18
"""Cosine between two samples' values, and layers in a row that have it. VGG-19 without norms has 13 such layers, plain
networks of 44 and 56 layers without norms have 20 to 39."""
SHIFTED = 10.0
SILENT = 1e-6
DEAD_LAYER, DEAD_NETWORK, ENOUGH_POSITIONS = 0.5, 0.2, 512
DEAD_LAYER_OF_FEW, FEW_POSITIONS = 0.9, 32
"""Share of a layer's channels, of the network's; and what it takes where a channel is seen at few positions."""
SATURATED_LAYER = 0.5


def stream_explodes(evidence: Evidence) -> Found | None:
    """ACT_EXPLODE: the stream's variance is multiplied by the same factor from block to block."""
    blocks = [block for block in evidence.now.blocks if block.stream is not None]
    if len(blocks) < FEW:
        raise NotChecked(f"the stream is seen at {len(blocks)} additions only; it takes {FEW}")
    variances = [block.stream.variance for block in blocks if block.stream is not None]
    if not all(math.isfinite(variance) and variance > 0 for variance in variances):
        raise NotChecked("the stream's variance is 0 or not finite somewhere")
    line = line_through([math.log10(variance) for variance in variances])
    growth = math.log10(variances[-1] / variances[0])
    if line.slope < DOUBLING or line.fit < STRAIGHT or growth < DECADES:
        return None
    return Found(
        where=blocks[-1].name,
        number=line.slope,
        threshold=DOUBLING,
        sentence=(
            f"The variance of what flows past the branches grows {10**line.slope:.2f} times per block, from"
            f" {variances[0]:.2g} to {variances[-1]:.2g}: each branch adds as much as there is already."
        ),
        actions=(
            "normalise the branches",
            "start the branches at zero (zero-init, SkipInit, Fixup)",
            "scale each branch by 1 / sqrt(number of blocks)",
        ),
        would_change="a variance that grows by the same amount per block, as normalised branches make it",
    )


def stream_collapses(evidence: Evidence) -> Found | None:
    """ACT_COLLAPSE: hardly anything is left of the differences between samples."""
    blocks = [block for block in evidence.now.blocks if not (evidence.at_start and is_silent(block))]
    seen = [(block.name, block.stream.variance) for block in blocks if block.stream is not None]
    layers = [layer for layer in evidence.now.layers if math.isfinite(layer.likeness)]
    if not seen and len(layers) < MANY_ALIKE:
        raise NotChecked("too few layers and no residual addition were seen whose branch does something yet")
    name, least = min(seen, key=lambda found: found[1], default=("", math.inf))
    if least < LEAST_VARIANCE:
        return Found(
            where=name,
            number=least,
            threshold=LEAST_VARIANCE,
            sentence=f"At {name} a channel hardly varies (variance {least:.1g}): what follows sees a constant.",
            actions=(
                "look for a layer whose weights or inputs are near zero before it",
                "raise the gain of the initialisation",
            ),
            would_change="a norm right after it, which would restore the scale",
        )
    row = longest_row(layers)
    if len(row) < MANY_ALIKE:
        return None
    likest = max(row, key=lambda layer: layer.likeness)
    return Found(
        where=row[0].name,
        number=likest.likeness,
        threshold=ALIKE,
        sentence=(
            f"From {row[0].name} on, through {len(row)} layers in a row, two samples look the same (cosine up to"
            f" {likest.likeness:.3f}): the depth has washed out what tells them apart."
        ),
        actions=("add shortcuts", "add a norm after each layer", "take fewer layers"),
        would_change="samples that are as alike at the input",
    )


def longest_row(layers: Sequence[LayerFlowRecord]) -> list[LayerFlowRecord]:
    """The longest run of layers in which samples look the same."""
    best, row = list[LayerFlowRecord](), list[LayerFlowRecord]()
    for layer in layers:
        row = [*row, layer] if layer.likeness > ALIKE else []
        best = max(best, row, key=len)
    return best


def means_shift(evidence: Evidence) -> Found | None:
    """MEAN_SHIFT: channels of the stream keep an offset that grows along the depth, all samples alike."""
    blocks = [block for block in evidence.now.blocks if not (evidence.at_start and is_silent(block))]
    streams = [(block.name, block.stream) for block in blocks if block.stream is not None]
    ratios = [(name, stream.mean_square / stream.variance) for name, stream in streams if stream.variance > 0]
    if len(ratios) < FEW:
        raise NotChecked(f"the stream is seen at {len(ratios)} additions only; it takes {FEW}")
    (first_name, first), (name, last) = ratios[0], ratios[-1]
    if last <= SHIFTED or last <= 2 * first:
        return None
    return Found(
        where=name,
        number=last,
        threshold=SHIFTED,
        sentence=(
            f"The squared mean of a channel over its variance grows from {first:.2g} at {first_name} to {last:.3g} at"
            f" {name}: most of what flows there is the same for all samples."
        ),
        actions=("standardise the weights", "a norm in each branch", "an activation with mean 0"),
        would_change="a norm before the head, which takes the mean away",
    )


def units_are_dead(evidence: Evidence) -> Found | None:
    """DEAD_RELU: rectifiers that no input makes active; they get no gradient, so that they stay as they are."""
    layers = [unit for unit in evidence.now.activations if unit.kind == "Relu" and unit.num_positions >= FEW_POSITIONS]
    if any(map(is_silent, evidence.now.blocks)):  # the channels that a shortcut pads are 0 until the branches speak
        layers = [unit for unit in layers if not unit.follows_addition]
    if not layers:
        raise NotChecked(f"no rectifier was seen at {FEW_POSITIONS} positions: take a larger batch")
    dead = sum(layer.share * layer.num_channels for layer in layers)
    share = dead / sum(layer.num_channels for layer in layers)
    worst = max(layers, key=lambda layer: layer.share)
    is_well_seen = all(layer.num_positions >= ENOUGH_POSITIONS for layer in layers)
    limit = DEAD_LAYER if worst.num_positions >= ENOUGH_POSITIONS else DEAD_LAYER_OF_FEW
    is_layer = worst.share > limit
    if not is_layer and not (share > DEAD_NETWORK and is_well_seen):
        return None
    return Found(
        where=worst.name,
        number=worst.share if is_layer else share,
        threshold=limit if is_layer else DEAD_NETWORK,
        sentence=(
            f"{worst.share:.0%} of the {worst.num_channels} channels of {worst.name or 'a rectifier'} are never active"
            f" in this batch, {share:.0%} of all in the network: no gradient reaches them, so that they don't recover."
        ),
        actions=("lower the learning rate", "start with biases of 0", "leaky rectifiers, or a norm before them"),
        would_change="another batch in which they are active",
    )


def is_silent(block: BlockFlowRecord) -> bool:
    """Whether a branch adds next to nothing to what there is."""
    if block.branch is None or block.shortcut is None:
        return False
    there = block.shortcut.variance + block.shortcut.mean_square
    return there > 0 and block.branch.variance + block.branch.mean_square <= SILENT * there


def units_are_saturated(evidence: Evidence) -> Found | None:
    """SATURATED: sigmoid or tanh so far from the middle that hardly any gradient comes through."""
    layers = [unit for unit in evidence.now.activations if unit.kind != "Relu" and unit.on_spine]
    worst = max(layers, key=lambda layer: layer.share, default=None)  # gates are left out: they are there to be shut
    if worst is None or worst.share <= SATURATED_LAYER:
        return None
    return Found(
        where=worst.name,
        number=worst.share,
        threshold=SATURATED_LAYER,
        sentence=(
            f"{worst.share:.0%} of the values of {worst.name or 'an activation'} ({worst.kind.lower()}) lie where it is"
            " flat: less than 6 % of the gradient comes through there."
        ),
        actions=("lower the gain of the weights before it", "a norm before it", "replace it by ReLU"),
        would_change="a gate that is meant to be open or shut",
    )


RULES = (
    Rule("ACT_EXPLODE", "critical", "literature", 20, stream_explodes, is_cause=True),
    Rule("ACT_COLLAPSE", "warning", "tool", 40, stream_collapses),
    Rule("MEAN_SHIFT", "warning", "literature", 65, means_shift),
    Rule("DEAD_RELU", "warning", "tool", 32, units_are_dead, is_cause=True),
    Rule("SATURATED", "warning", "tool", 25, units_are_saturated, is_cause=True),
)
