"""Rules about the network: what goes in and comes out, the values, the gradient along the depth, the shortcuts.

Gradients are judged by profiles, never by limits for single numbers: one of 1e-9 may be healthy and one of 1 sick. What
counts is how it changes from block to block. Each rule's id and texts stand in the table of ``rules.py``.
"""

from __future__ import annotations

import math
import statistics

from reslab.probe.evidence import (
    MIN_PLACES,
    Evidence,
    Found,
    NotChecked,
    flow_profile,
    has_not_started,
    line_through,
)
from reslab.records.diagnosis import ActivationRecord, BlockFlowRecord, LayerFlowRecord, ParameterRecord

# ---- what goes in and what comes out

MAX_INPUT_SIZE, MIN_INPUT_SIZE = 5.0, 0.02
"""Root mean square of the input's values, beyond which it is hardly normalised."""
MAX_LOSS_OVER_GUESS = 3.0
MAX_FROZEN = 0.5


def is_not_finite(evidence: Evidence) -> Found | None:
    now = evidence.now
    bad = [p.name for p in now.parameters if p.grad_norm is not None and not math.isfinite(p.grad_norm)]
    counts = {
        "the input": sum(record.num_non_finite for record in now.inputs),
        "the output": sum(record.num_non_finite for record in now.outputs),
        "the loss": int(not math.isfinite(now.loss)),
        f"the gradient of {bad[0]}" if bad else "a gradient": len(bad),
    }
    where = next((where for where, count in counts.items() if count), None)
    if where is None:
        return None
    first = "look for missing values in the data" if where == "the input" else "look for log, sqrt and divisions near 0"
    return Found(
        where,
        counts[where],
        0,
        f"{where.capitalize()} is not finite ({counts[where]} NaNs or infinities): nothing can be learned from it.",
        actions=(first, "under fp16, lower the loss scale", "lower the learning rate"),
    )


def input_is_not_normalised(evidence: Evidence) -> Found | None:
    inputs = [record for record in evidence.now.inputs if math.isfinite(record.std)]
    if not inputs:
        raise NotChecked("no floating-point input")
    for record in inputs:
        size = math.hypot(record.mean, record.std)
        if not MIN_INPUT_SIZE <= size <= MAX_INPUT_SIZE:
            sentence = (
                f"The input's values lie between {record.low:.3g} and {record.high:.3g}, with mean {record.mean:.3g}"
                f" and standard deviation {record.std:.3g}: far from the 0 and 1 that initialisations are made for."
            )
            return Found("the input", size, MAX_INPUT_SIZE if size > MAX_INPUT_SIZE else MIN_INPUT_SIZE, sentence)
    return None


def softmax_comes_twice(evidence: Evidence) -> Found | None:
    if not evidence.now.softmax_twice:
        return None
    sentence = (
        "The network ends with a softmax or sigmoid, and the loss applies a softmax to that again: the loss can't fall"
        " below that of a cautious guess, and its gradient is small."
    )
    return Found("the output", 1, 0, sentence)


def loss_is_out_of_range(evidence: Evidence) -> Found | None:
    now = evidence.now
    if now.answers is None or not evidence.at_start:
        raise NotChecked("only a cross-entropy before training says what a guess would get")
    guess = math.log(now.answers.num_classes)
    if not math.isfinite(now.loss) or now.loss <= MAX_LOSS_OVER_GUESS * guess:
        return None
    sentence = (
        f"Before training the loss is {now.loss:.3g}, and a guess among {now.answers.num_classes} classes would get"
        f" {guess:.2f}: the network is confident of what it can't know, because its logits are large."
    )
    return Found("the loss", now.loss, MAX_LOSS_OVER_GUESS * guess, sentence)


def some_get_no_gradient(evidence: Evidence) -> Found | None:
    parameters = evidence.now.parameters
    if not parameters:
        raise NotChecked("the network has no parameters")
    unreached = [p for p in parameters if p.is_trainable and p.grad_norm is None]
    frozen, between = [p for p in parameters if not p.is_trainable], frozen_between(parameters)
    total = sum(math.prod(p.shape) for p in parameters)
    fraction = sum(math.prod(p.shape) for p in unreached or frozen) / total
    if unreached:
        where = unreached[0].name
        sentence = (
            f"{len(unreached)} of {len(parameters)} parameters ({fraction:.0%} of all weights) get no gradient,"
            f" beginning with {where}: the loss doesn't depend on them."
        )
        return Found(where, fraction, 0, sentence)
    if fraction <= MAX_FROZEN and not between:
        return None
    is_most = fraction > MAX_FROZEN
    where, limit = (frozen if is_most else between)[0].name, MAX_FROZEN if is_most else 0
    place = "" if is_most else ", between layers that train"
    return Found(
        where,
        fraction,
        limit,
        f"{fraction:.0%} of all weights are frozen (requires_grad is False), beginning with {where}{place}.",
        actions=("call requires_grad_(True), unless they are trained already and are to stay as they are",),
        would_change="weights that were trained before: then it is by design",
    )


def frozen_between(parameters: tuple[ParameterRecord, ...]) -> list[ParameterRecord]:
    """Frozen weights of layers that have layers which train before and behind them."""
    layers = [p for p in parameters if len(p.shape) > 1 and p.name.endswith("weight")]
    training = [place for place, p in enumerate(layers) if p.is_trainable]
    return [p for p in layers[training[0] : training[-1]] if not p.is_trainable] if training else []


# ---- values

MIN_STREAM_GROWTH, MIN_STREAM_FIT, MIN_STREAM_DECADES = 0.10, 0.9, 2.0
"""Decades per block of the stream's variance, R squared of the line, decades in all; a doubling per block is 0.30."""
MIN_VARIANCE = 1e-5
MIN_LIKENESS, MIN_ALIKE_LAYERS = 0.85, 18
"""Cosine between two samples' values, and layers in a row that have it. VGG-19 without norms has 13 such layers, plain
networks of 44 and 56 layers without norms have 20 to 39."""
MAX_MEAN_OVER_VARIANCE = 10.0
MAX_DEAD_LAYER, MAX_DEAD_NETWORK, MIN_POSITIONS = 0.5, 0.2, 512
MAX_DEAD_FEW_SEEN, MIN_POSITIONS_AT_ALL = 0.9, 32
"""Fraction of a layer's channels, of the network's; and what it takes where a channel is seen at few positions."""
MAX_SATURATED = 0.5


def stream_explodes(evidence: Evidence) -> Found | None:
    streams = [(block.name, block.stream.variance) for block in evidence.now.blocks if block.stream is not None]
    if len(streams) < MIN_PLACES:
        raise NotChecked(f"the stream is seen at {len(streams)} additions only; it needs {MIN_PLACES}")
    variances = [variance for _, variance in streams]
    if not all(math.isfinite(variance) and variance > 0 for variance in variances):
        raise NotChecked("the stream's variance is 0 or not finite somewhere")
    line, growth = line_through([math.log10(v) for v in variances]), math.log10(variances[-1] / variances[0])
    if line.slope < MIN_STREAM_GROWTH or line.fit < MIN_STREAM_FIT or growth < MIN_STREAM_DECADES:
        return None
    sentence = (
        f"The variance of the residual stream grows {10**line.slope:.2f} times per block, from {variances[0]:.2g} to"
        f" {variances[-1]:.2g}: each branch adds as much as there is already."
    )
    return Found(streams[-1][0], line.slope, MIN_STREAM_GROWTH, sentence)


def stream_collapses(evidence: Evidence) -> Found | None:
    streams = started_streams(evidence)
    layers = [layer for layer in evidence.now.layers if math.isfinite(layer.likeness)]
    if not streams and len(layers) < MIN_ALIKE_LAYERS:
        raise NotChecked("too few layers were seen, and no residual addition whose branch has started")
    name, least = min(((name, variance) for name, _, variance in streams), key=lambda s: s[1], default=("", math.inf))
    if least < MIN_VARIANCE:
        return Found(
            name,
            least,
            MIN_VARIANCE,
            f"At {name} a channel hardly varies (variance {least:.1g}): what follows sees a constant.",
            actions=(
                "look for a layer whose weights or inputs are near zero before it",
                "raise the gain of the initialisation",
            ),
            would_change="a norm right after it, which would restore the scale",
        )
    row = longest_alike(layers)
    if len(row) < MIN_ALIKE_LAYERS:
        return None
    highest = max(layer.likeness for layer in row)
    sentence = (
        f"From {row[0].name} on, through {len(row)} layers in a row, two samples look the same (cosine up to"
        f" {highest:.3f}): the depth has washed out the differences between them."
    )
    return Found(row[0].name, highest, MIN_LIKENESS, sentence)


def started_streams(evidence: Evidence) -> list[tuple[str, float, float]]:
    """Name, squared mean and variance of each sum whose branch does something, or that was trained."""
    blocks = [block for block in evidence.now.blocks if not (evidence.at_start and has_not_started(block))]
    return [(b.name, b.stream.mean_square, b.stream.variance) for b in blocks if b.stream is not None]


def longest_alike(layers: list[LayerFlowRecord]) -> list[LayerFlowRecord]:
    """The longest run of layers in which samples look the same."""
    best, row = list[LayerFlowRecord](), list[LayerFlowRecord]()
    for layer in layers:
        row = [*row, layer] if layer.likeness > MIN_LIKENESS else []
        best = max(best, row, key=len)
    return best


def means_shift(evidence: Evidence) -> Found | None:
    ratios = [(name, mean / variance) for name, mean, variance in started_streams(evidence) if variance > 0]
    if len(ratios) < MIN_PLACES:
        raise NotChecked(f"the stream is seen at {len(ratios)} additions only; it needs {MIN_PLACES}")
    (first_name, first), (name, last) = ratios[0], ratios[-1]
    if last <= MAX_MEAN_OVER_VARIANCE or last <= 2 * first:
        return None
    sentence = (
        f"The squared mean of a channel over its variance grows from {first:.2g} at {first_name} to {last:.3g} at"
        f" {name}: most of the stream there is the same for all samples."
    )
    return Found(name, last, MAX_MEAN_OVER_VARIANCE, sentence)


def units_are_dead(evidence: Evidence) -> Found | None:
    seen = [unit for unit in evidence.now.activations if unit.kind == "Relu"]
    layers = [unit for unit in seen if unit.num_positions >= MIN_POSITIONS_AT_ALL]
    if any(map(has_not_started, evidence.now.blocks)):  # channels that a shortcut pads are 0 until branches start
        layers = [unit for unit in layers if not unit.follows_addition]
    if not layers:
        raise NotChecked(f"no ReLU was seen at {MIN_POSITIONS_AT_ALL} positions: use a larger batch")
    dead = sum(layer.share * layer.num_channels for layer in layers)
    fraction = dead / sum(layer.num_channels for layer in layers)
    worst = most_affected(layers)
    limit = MAX_DEAD_LAYER if worst.num_positions >= MIN_POSITIONS else MAX_DEAD_FEW_SEEN
    is_layer, is_well_seen = worst.share > limit, all(layer.num_positions >= MIN_POSITIONS for layer in layers)
    if not is_layer and not (fraction > MAX_DEAD_NETWORK and is_well_seen):
        return None
    sentence = (
        f"{worst.share:.0%} of the {worst.num_channels} channels of {worst.name or 'a ReLU'} are never active in this"
        f" batch, {fraction:.0%} of all in the network: no gradient reaches them, so they don't recover."
    )
    number, threshold = (worst.share, limit) if is_layer else (fraction, MAX_DEAD_NETWORK)
    return Found(worst.name, number, threshold, sentence)


def units_are_saturated(evidence: Evidence) -> Found | None:
    layers = [unit for unit in evidence.now.activations if unit.kind != "Relu" and unit.on_spine]
    if not layers or (worst := most_affected(layers)).share <= MAX_SATURATED:
        return None  # gates are left out: they are there to be shut
    sentence = (
        f"{worst.share:.0%} of the values of {worst.name or 'an activation'} ({worst.kind.lower()}) lie where it is"
        " flat: less than 6 % of the gradient comes through there."
    )
    return Found(worst.name, worst.share, MAX_SATURATED, sentence)


def most_affected(layers: list[ActivationRecord]) -> ActivationRecord:
    return max(layers, key=lambda layer: layer.share)


# ---- the gradient along the depth

MIN_GROWTH = {"layer": 0.10, "block": 0.12}
MIN_FIT, MIN_DECADES = 0.95, 2.5
"""Decades per block, R squared of the line, and decades in all, from which growth is exponential and matters.

A plain network with batch norm grows by 0.15 decades per two layers at any depth; a residual one by less the deeper it
is: 0.07 at 9 blocks, 0.025 at 27, 0.011 at 54 (tests/probe/test_diagnose.py).
"""
STEEP, MIN_FIT_IF_STEEP = 1.25, 0.8
"""This factor of the growth is enough on a line that is less straight."""
MAX_SHRINKING, MAX_LOST = -0.05, -3.0
"""Decades per block, and in all: one step down is a gate or a gain near 0, not a problem of depth."""
MIN_PLACES_TO_VANISH = 5
MIN_HALF_WAY = 1e-3
"""Fraction of the way between two images; residual networks of 110 layers keep their gradient 15 times as far."""


def grows_exponentially(evidence: Evidence) -> Found | None:
    profile = flow_profile(evidence.now)
    line, limit = profile.line, MIN_GROWTH[profile.unit]
    growth = -line.slope
    is_exponential = growth >= limit and (
        line.fit >= MIN_FIT or (growth >= STEEP * limit and line.fit >= MIN_FIT_IF_STEEP)
    )
    if not is_exponential or profile.growth < MIN_DECADES:
        return None
    has_shortcuts = profile.unit == "block"
    sentence = (
        f"From the loss back to the input the gradient grows {10**growth:.2f} times per {profile.step}, and"
        f" {profile.growth:.1f} decades in all, on a straight line (R2 {line.fit:.2f}): exponential growth, as in a"
        + (" network whose branches are not normalised." if has_shortcuts else " network without shortcuts.")
    )
    actions = ("normalise the branches, or scale each by 1 / sqrt(number of blocks)", "start the branches at zero")
    return Found(profile.names[0], growth, limit, sentence, actions=actions if has_shortcuts else None)


def vanishes(evidence: Evidence) -> Found | None:
    profile = flow_profile(evidence.now, min_places=MIN_PLACES_TO_VANISH)
    line = profile.line
    if -line.slope > MAX_SHRINKING or profile.growth > MAX_LOST or line.fit < MIN_FIT_IF_STEEP:
        return None
    is_bounded = any(unit.kind != "Relu" for unit in evidence.now.activations)
    sentence = (
        f"From the loss back to the input the gradient shrinks to {10**-line.slope:.2g} of itself per {profile.step},"
        f" {-profile.growth:.1f} decades in all: the first layers hardly learn."
    )
    actions = ("replace sigmoid and tanh by ReLU", "add a norm after each layer", "add shortcuts")
    return Found(profile.names[0], -line.slope, MAX_SHRINKING, sentence, actions=actions if is_bounded else None)


def is_shattered(evidence: Evidence) -> Found | None:
    found = None if evidence.depth is None else evidence.depth.shattering
    if found is None:
        raise NotChecked("shattering was not measured; depth='full' does")
    if found.half >= MIN_HALF_WAY:
        return None
    sentence = (
        f"{found.half:.1g} of the way from one image to another, the gradient at the input has already lost half of its"
        " similarity to what it was: it is close to noise, however large it is."
    )
    return Found("the input", found.half, MIN_HALF_WAY, sentence)


# ---- shortcuts and branches

MIN_SHORTCUT_GAIN = 0.1
MAX_BRANCH_OVER_SHORTCUT, MOST = 3.0, 0.5
MIN_BRANCH_GRADIENT = 1e-6
DEAD, ALIVE, STARTED_BY = 1e-3, 1e-2, 100
"""Branch over shortcut; the same of the median block; the step from which a branch that starts at zero has grown."""
MIN_DEPTH_USED, MIN_LESION = 0.1, 1e-3
MAX_NOISE = 100.0


def shortcut_is_blocked(evidence: Evidence) -> Found | None:
    gains = [(min(b.shortcut_gain, math.sqrt(b.pass_through)), b) for b in evidence.blocks() if b.kind != "gated"]
    gains = [(gain, block) for gain, block in gains if math.isfinite(gain)]
    if not gains:
        raise NotChecked("the shortcuts' gain is unknown")
    worst, block = min(gains, key=lambda found: found[0])
    typical = statistics.median(gain for gain, _ in gains)
    if typical >= MIN_SHORTCUT_GAIN and worst >= MIN_SHORTCUT_GAIN**2:
        return None
    sentence = (
        f"The shortcut at {block.name} ({block.kind}) passes back {worst:.1%} of the gradient, half of all at most"
        f" {typical:.1%}: the shortcut blocks the gradient."
    )
    return Found(block.name, min(typical, worst), MIN_SHORTCUT_GAIN, sentence)


def branch_over_shortcut(block: BlockFlowRecord) -> float:
    return block.branch_norm / block.shortcut_norm if block.shortcut_norm else math.inf


def branch_dominates(evidence: Evidence) -> Found | None:
    blocks = evidence.blocks()
    fraction = sum(branch_over_shortcut(block) > MAX_BRANCH_OVER_SHORTCUT for block in blocks) / len(blocks)
    if fraction <= MOST:
        return None
    sentence = (
        f"In {fraction:.0%} of the blocks the branch passes back more than {MAX_BRANCH_OVER_SHORTCUT:g} times the"
        " gradient of the shortcut: the network behaves like a plain one."
    )
    return Found(max(blocks, key=branch_over_shortcut).name, fraction, MOST, sentence)


def starts_at_zero(evidence: Evidence) -> Found | None:
    blocks = evidence.blocks()
    at_zero = [block for block in blocks if abs(block.branch_norm) <= MIN_BRANCH_GRADIENT * block.grad_norm]
    if len(at_zero) <= MOST * len(blocks) or not evidence.at_start:
        return None
    sentence = (
        f"{len(at_zero)} of {len(blocks)} branches contribute nothing to the gradient yet: their last gain starts at"
        " zero or near it. By design: the network begins as its shortcuts."
    )
    return Found(at_zero[0].name, len(at_zero) / len(blocks), MOST, sentence)


def branch_is_dead(evidence: Evidence) -> Found | None:
    blocks = evidence.blocks()
    typical = statistics.median(map(branch_over_shortcut, blocks))
    limit = MIN_BRANCH_GRADIENT if evidence.at_start else DEAD  # before training, small gains are by design
    dead = [block for block in blocks if branch_over_shortcut(block) < limit]
    if not dead or (typical < ALIVE and evidence.now.step < STARTED_BY):
        return None  # by design: see ZERO_INIT
    worst = min(dead, key=branch_over_shortcut)
    ratio = branch_over_shortcut(worst)
    names = ", ".join(block.name for block in dead[:3]) + (f" and {len(dead) - 3} more" if len(dead) > 3 else "")
    sentence = (
        f"The branch of {names} passes back {ratio:.1g} of the gradient that the shortcut does, and {typical:.2g} is"
        " usual here: it contributes nothing."
    )
    return Found(worst.name, ratio, limit, sentence)


def depth_is_unused(evidence: Evidence) -> Found | None:
    if evidence.depth is None or evidence.depth.paths is None or not evidence.depth.lesions:
        raise NotChecked("paths and lesions were not measured; depth='full' does")
    if evidence.at_start:
        raise NotChecked("nothing has been trained yet")
    paths, lesions = evidence.depth.paths, evidence.depth.lesions
    count, loss = len(paths.energies) - 1, evidence.depth.loss or math.nan
    tail = lesions[-max(1, len(lesions) // 4) :]
    is_idle = all(lesion.increase < MIN_LESION * loss for lesion in tail)
    if paths.effective >= MIN_DEPTH_USED * count or not is_idle:
        return None
    sentence = (
        f"The gradient goes through {paths.effective:.1f} of {count} branches on average, and without any one of the"
        f" last {len(tail)} blocks the loss rises by less than {MIN_LESION:.1%}: the depth is hardly used."
    )
    return Found(tail[0].name, paths.effective / count, MIN_DEPTH_USED, sentence)


def gradient_is_noise(evidence: Evidence) -> Found | None:
    scale = None if evidence.depth is None else evidence.depth.noise_scale
    if scale is None:
        raise NotChecked("the noise was not measured; depth='full' does")
    if evidence.at_start:
        raise NotChecked("nothing has been trained yet")
    ratio = scale / evidence.now.num_samples
    if ratio <= MAX_NOISE:
        return None
    sentence = (
        f"It would take {ratio:.3g} times this batch of {evidence.now.num_samples} for the gradient to be as large as"
        " its noise: single steps go in random directions."
    )
    return Found("the batch", ratio, MAX_NOISE, sentence)
