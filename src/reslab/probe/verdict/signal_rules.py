"""Rules about the values that go forward: the stream of the blocks, rectifiers, and activations with bounds."""

from __future__ import annotations

import math

from reslab.probe.verdict.evidence import FEW, Evidence, NotChecked, line_through
from reslab.probe.verdict.rule import Found, Rule
from reslab.records import BlockFlowRecord

DOUBLING, STRAIGHT = 0.10, 0.9
"""Decades per block of the stream's variance, and R squared of the line; a doubling per block is 0.30."""
LEAST_VARIANCE = 1e-5
SILENT = 1e-6
DEAD_LAYER, DEAD_NETWORK, ENOUGH_POSITIONS = 0.5, 0.2, 512
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
    if line.slope < DOUBLING or line.fit < STRAIGHT:
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
    if not seen:
        raise NotChecked("no residual addition was seen whose branch does something yet")
    name, least = min(seen, key=lambda found: found[1])
    if least >= LEAST_VARIANCE:
        return None
    return Found(
        where=name,
        number=least,
        threshold=LEAST_VARIANCE,
        sentence=f"At {name} a channel's values hardly differ (variance {least:.1g}): what follows sees a constant.",
        actions=(
            "look for a layer whose weights or inputs are near zero before it",
            "raise the gain of the initialisation",
        ),
        would_change="a norm right after it, which would restore the scale",
    )


def units_are_dead(evidence: Evidence) -> Found | None:
    """DEAD_RELU: rectifiers that no input makes active; they get no gradient, so that they stay as they are."""
    layers = [
        unit for unit in evidence.now.activations if unit.kind == "Relu" and unit.num_positions >= ENOUGH_POSITIONS
    ]
    if has_silent_branches(evidence):  # the channels that a shortcut pads are 0 until the branches speak
        layers = [unit for unit in layers if not unit.follows_addition]
    if not layers:
        raise NotChecked(f"no rectifier was seen at {ENOUGH_POSITIONS} positions: take a larger batch")
    dead = sum(layer.share * layer.num_channels for layer in layers)
    share = dead / sum(layer.num_channels for layer in layers)
    worst = max(layers, key=lambda layer: layer.share)
    if worst.share <= DEAD_LAYER and share <= DEAD_NETWORK:
        return None
    is_layer = worst.share > DEAD_LAYER
    return Found(
        where=worst.name,
        number=worst.share if is_layer else share,
        threshold=DEAD_LAYER if is_layer else DEAD_NETWORK,
        sentence=(
            f"{worst.share:.0%} of the {worst.num_channels} channels of {worst.name or 'a rectifier'} are never active"
            f" in this batch, {share:.0%} of all in the network: no gradient reaches them, so that they don't recover."
        ),
        actions=("lower the learning rate", "start with biases of 0", "leaky rectifiers, or a norm before them"),
        would_change="another batch in which they are active",
    )


def has_silent_branches(evidence: Evidence) -> bool:
    """Whether some branches start at zero, and nothing was trained yet."""
    return evidence.at_start and any(map(is_silent, evidence.now.blocks))


def is_silent(block: BlockFlowRecord) -> bool:
    """Whether a branch adds next to nothing to what there is."""
    if block.branch is None or block.shortcut is None or block.shortcut.variance == 0:
        return False
    return block.branch.variance <= SILENT * block.shortcut.variance


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
    Rule("DEAD_RELU", "warning", "tool", 25, units_are_dead, is_cause=True),
    Rule("SATURATED", "warning", "tool", 25, units_are_saturated, is_cause=True),
)
