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


def blocks_of(evidence: Evidence) -> tuple[BlockFlowRecord, ...]:
    """Residual additions that a gradient has reached."""
    blocks = tuple(block for block in evidence.now.blocks if block.grad_norm > 0 and math.isfinite(block.grad_norm))
    if not evidence.now.blocks:
        raise NotChecked("no residual addition was seen")
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


RULES = (
    Rule("SHORTCUT_BLOCKED", "warning", "literature", 35, shortcut_is_blocked),
    Rule("BRANCH_DOMINATES", "warning", "heuristic", 50, branch_dominates),
    Rule("ZERO_INIT", "info", "measured", 90, starts_at_zero),
)
