"""Rules about the residual additions: whether the shortcut carries, and whether the branch does something."""

from __future__ import annotations

import math
import statistics

from reslab.probe.verdict.evidence import Evidence, NotChecked
from reslab.probe.verdict.rule import Found, Rule
from reslab.records import BlockFlowRecord

BLOCKED = 0.1
DOMINATING, MOST = 3.0, 0.5
SILENT = 1e-6
DEAD, ALIVE, LATE = 1e-3, 1e-2, 100
"""Branch over shortcut; the same of the median block; the step from which a branch that starts at zero has grown."""
USED, UNUSED = 0.1, 1e-3
NOISY = 100.0


def blocks_of(evidence: Evidence) -> tuple[BlockFlowRecord, ...]:
    """Residual additions that a gradient has reached."""
    blocks = tuple(block for block in evidence.now.blocks if block.grad_norm > 0 and math.isfinite(block.grad_norm))
    if not evidence.now.blocks:
        hidden = evidence.now.unsplit
        raise NotChecked(f"no residual addition was seen{f', and {hidden[0]} can not be split' if hidden else ''}")
    if not blocks:
        raise NotChecked("no gradient has reached a residual addition")
    return blocks


def shortcut_is_blocked(evidence: Evidence) -> Found | None:
    """SHORTCUT_BLOCKED: hardly any gradient comes back through the shortcuts, or through what follows the additions."""
    blocks = blocks_of(evidence)
    gains = [(min(block.shortcut_gain, math.sqrt(block.pass_through)), block) for block in blocks]
    gains = [(gain, block) for gain, block in gains if math.isfinite(gain) and block.kind != "gated"]
    if not gains:
        raise NotChecked("the shortcuts' gain is unknown")
    worst, block = min(gains, key=lambda found: found[0])
    typical = statistics.median(gain for gain, _ in gains)
    if typical >= BLOCKED and worst >= BLOCKED**2:
        return None
    return Found(
        where=block.name,
        number=min(typical, worst),
        threshold=BLOCKED,
        sentence=(
            f"The shortcut at {block.name} ({block.kind}) hands back {worst:.1%} of the gradient, half of all at most"
            f" {typical:.1%}: the way past the branches is no way."
        ),
        actions=(
            "shortcuts that do nothing (identity) wherever the shape stays",
            "no activation or norm on the shortcut",
        ),
        would_change="a gate that opens while it trains",
    )


def branch_dominates(evidence: Evidence) -> Found | None:
    """BRANCH_DOMINATES: most of the gradient comes through the branches, as in a plain network."""
    blocks = blocks_of(evidence)
    ratios = [block.branch_norm / block.shortcut_norm if block.shortcut_norm else math.inf for block in blocks]
    share = sum(ratio > DOMINATING for ratio in ratios) / len(ratios)
    if share <= MOST:
        return None
    worst = max(range(len(ratios)), key=lambda index: ratios[index])
    return Found(
        where=blocks[worst].name,
        number=share,
        threshold=MOST,
        sentence=(
            f"In {share:.0%} of the blocks the branch hands back more than {DOMINATING:g} times the gradient of the"
            " shortcut: the network behaves like a plain one."
        ),
        actions=("scale the branches down", "normalise the branches", "start the branches at zero"),
        would_change="a ratio near 1 after some hundred steps",
    )


def starts_at_zero(evidence: Evidence) -> Found | None:
    """ZERO_INIT: the branches begin silent, by design."""
    blocks = blocks_of(evidence)
    silent = [block for block in blocks if abs(block.branch_norm) <= SILENT * block.grad_norm]
    if len(silent) <= MOST * len(blocks) or not evidence.at_start:
        return None
    return Found(
        where=silent[0].name,
        number=len(silent) / len(blocks),
        threshold=MOST,
        sentence=(
            f"{len(silent)} of {len(blocks)} branches have no part in the gradient yet: their last gain starts at zero"
            " or near it. By design: the network begins as its shortcuts."
        ),
        actions=("read it again after some hundred steps",),
        would_change="branches that are still silent then",
    )


def branch_is_dead(evidence: Evidence) -> Found | None:
    """BRANCH_DEAD: a block whose branch does nothing, while others do; or all of them, long after the start."""
    blocks = blocks_of(evidence)
    ratios = [block.branch_norm / block.shortcut_norm if block.shortcut_norm else math.inf for block in blocks]
    limit = SILENT if evidence.at_start else DEAD  # before training, small gains are by design
    dead = [(ratio, block) for ratio, block in zip(ratios, blocks, strict=True) if ratio < limit]
    if not dead or (statistics.median(ratios) < ALIVE and evidence.now.step < LATE):
        return None  # by design: see ZERO_INIT
    ratio, block = min(dead, key=lambda found: found[0])
    names = ", ".join(block.name for _, block in dead[:3]) + (f" and {len(dead) - 3} more" if len(dead) > 3 else "")
    return Found(
        where=block.name,
        number=ratio,
        threshold=limit,
        sentence=(
            f"The branch of {names} hands back {ratio:.1g} of the gradient that the shortcut does, and"
            f" {statistics.median(ratios):.2g} is usual here: it takes no part."
        ),
        actions=(
            "look for weights, a gain or a rectifier at zero in it",
            "a higher rate for the branch's last gain",
            "take the block away",
        ),
        would_change="a lesion that raises the loss (depth='full')",
    )


def depth_is_unused(evidence: Evidence) -> Found | None:
    """SHALLOW: most of the depth of a trained network is not used."""
    if evidence.depth is None or evidence.depth.paths is None or not evidence.depth.lesions:
        raise NotChecked("paths and lesions were not measured; depth='full' does")
    if evidence.at_start:
        raise NotChecked("nothing has been trained yet")
    paths, lesions = evidence.depth.paths, evidence.depth.lesions
    count, loss = len(paths.energies) - 1, evidence.depth.loss or math.nan
    tail = lesions[-max(1, len(lesions) // 4) :]
    is_idle = all(lesion.increase < UNUSED * loss for lesion in tail)
    if paths.effective >= USED * count or not is_idle:
        return None
    return Found(
        where=tail[0].name,
        number=paths.effective / count,
        threshold=USED,
        sentence=(
            f"The gradient goes through {paths.effective:.1f} of {count} branches on average, and without any one of"
            f" the last {len(tail)} blocks the loss rises by less than {UNUSED:.1%}: the depth is hardly used."
        ),
        actions=("prune the blocks whose lesion costs nothing", "take fewer blocks"),
        would_change="a harder task",
    )


def gradient_is_noise(evidence: Evidence) -> Found | None:
    """NOISE: the gradient of one batch is mostly chance."""
    scale = None if evidence.depth is None else evidence.depth.noise_scale
    if scale is None:
        raise NotChecked("the noise was not measured; depth='full' does")
    if evidence.at_start:
        raise NotChecked("nothing has been trained yet")
    ratio = scale / evidence.now.num_samples
    if ratio <= NOISY:
        return None
    return Found(
        where="the batch",
        number=ratio,
        threshold=NOISY,
        sentence=(
            f"It would take {ratio:.3g} times this batch of {evidence.now.num_samples} for the gradient to be as large"
            " as its noise: single steps go where chance leads."
        ),
        actions=("larger batches, or gradients accumulated over several", "average the weights (ema_decay)"),
        would_change="the end of a training, where only noise is left",
    )


RULES = (
    Rule("SHORTCUT_BLOCKED", "warning", "literature", 35, shortcut_is_blocked),
    Rule("BRANCH_DEAD", "warning", "heuristic", 38, branch_is_dead),
    Rule("BRANCH_DOMINATES", "warning", "heuristic", 50, branch_dominates),
    Rule("SHALLOW", "info", "heuristic", 85, depth_is_unused, "whole"),
    Rule("NOISE", "info", "heuristic", 86, gradient_is_noise, "whole"),
    Rule("ZERO_INIT", "info", "measured", 90, starts_at_zero),
)
