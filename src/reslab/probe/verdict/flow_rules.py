"""Rules about the gradient along the depth: profiles, never limits for single numbers.

A gradient of 1e-9 may be healthy and one of 1 sick: what counts is how it changes from block to block.
"""

from __future__ import annotations

from reslab.probe.verdict.evidence import Evidence, flow_profile
from reslab.probe.verdict.rule import Found, Rule

GROWTH = {"layer": 0.10, "block": 0.12}
STRAIGHT, DECADES = 0.95, 2.5
"""Decades per block, R squared of the line, and decades in all, from which growth is exponential and matters.

A plain network with batch norm grows by 0.15 decades per two layers at any depth; a residual one by less the deeper it
is: 0.07 at 9 blocks, 0.025 at 27, 0.011 at 54. RegNet has 0.11 in 22 blocks, and trains.
"""
SHRINKING, LOST, HARDLY_STRAIGHT = -0.05, -3.0, 0.8
"""Decades per block, decades in all, R squared: one step down is a gate or a gain near 0, no illness of depth."""


def grows_exponentially(evidence: Evidence) -> Found | None:
    """GRAD_EXP_GROWTH: the gradient is multiplied by the same factor from block to block towards the input."""
    profile = flow_profile(evidence.now)
    line = profile.line
    growth = -line.slope
    if growth < GROWTH[profile.unit] or line.fit < STRAIGHT or profile.growth < DECADES:
        return None
    has_shortcuts = profile.unit == "block"
    return Found(
        where=profile.names[0],
        number=growth,
        threshold=GROWTH[profile.unit],
        sentence=(
            f"On its way from the loss to the input the gradient grows {10**growth:.2f} times per {profile.step}, and"
            f" {profile.growth:.1f} decades in all, on a straight line (R2 {line.fit:.2f}): exponential growth, as of a"
            + (" network whose branches are not normalised." if has_shortcuts else " network without shortcuts.")
        ),
        actions=(
            ("normalise the branches, or scale each by 1 / sqrt(number of blocks)", "start the branches at zero")
            if has_shortcuts
            else ("add shortcuts", "take fewer layers", "clip the gradient and warm up, if it has to stay as it is")
        ),
        would_change="the same profile in a network of this depth that is known to train",
    )


def vanishes(evidence: Evidence) -> Found | None:
    """GRAD_VANISH: the gradient is lost on its way to the input."""
    profile = flow_profile(evidence.now)
    line = profile.line
    if -line.slope > SHRINKING or profile.growth > LOST or line.fit < HARDLY_STRAIGHT:
        return None
    saturated = any(unit.kind != "Relu" for unit in evidence.now.activations)
    return Found(
        where=profile.names[0],
        number=-line.slope,
        threshold=SHRINKING,
        sentence=(
            f"On its way from the loss to the input the gradient shrinks to {10**-line.slope:.2g} of itself per"
            f" {profile.step}, {-profile.growth:.1f} decades in all: the first layers hardly learn."
        ),
        actions=(
            *(("replace sigmoid and tanh by ReLU",) if saturated else ()),
            "add a norm after each layer",
            "add shortcuts",
            "initialise for the activation (He for ReLU)",
        )[:3],
        would_change="a profile that has become flat after some hundred steps",
    )


RULES = (
    Rule("GRAD_EXP_GROWTH", "critical", "measured", 30, grows_exponentially, is_cause=True),
    Rule("GRAD_VANISH", "critical", "measured", 30, vanishes, is_cause=True),
)
