"""Rules about the gradient along the depth: profiles, never limits for single numbers.

A gradient of 1e-9 may be healthy and one of 1 sick: what counts is how it changes from block to block.
"""

from __future__ import annotations

from reslab.probe.verdict.evidence import Evidence, NotChecked, flow_profile
from reslab.probe.verdict.rule import Found, Rule

GROWTH = {"layer": 0.10, "block": 0.12}
STRAIGHT, DECADES = 0.95, 2.5
"""Decades per block, R squared of the line, and decades in all, from which growth is exponential and matters.

A plain network with batch norm grows by 0.15 decades per two layers at any depth; a residual one by less the deeper it
is: 0.07 at 9 blocks, 0.025 at 27, 0.011 at 54 (tests/probe/test_diagnose.py).
"""
STEEP, HARDLY_STRAIGHT = 1.25, 0.8
"""So many times the growth is enough on a line that is less straight."""
SHRINKING, LOST = -0.05, -3.0
"""Decades per block, and in all: one step down is a gate or a gain near 0, no illness of depth."""
FEW_LOST = 5
"""Places from which it can be lost."""
SHATTERED = 1e-3
"""Share of the way between two images; residual networks of 110 layers keep their gradient 15 times as far."""


def grows_exponentially(evidence: Evidence) -> Found | None:
    """GRAD_EXP_GROWTH: the gradient is multiplied by the same factor from block to block towards the input."""
    profile = flow_profile(evidence.now)
    line = profile.line
    growth = -line.slope
    is_steep = growth >= STEEP * GROWTH[profile.unit] and line.fit >= HARDLY_STRAIGHT
    is_straight = growth >= GROWTH[profile.unit] and line.fit >= STRAIGHT
    if not (is_straight or is_steep) or profile.growth < DECADES:
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
    profile = flow_profile(evidence.now, few=FEW_LOST)
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


def is_shattered(evidence: Evidence) -> Found | None:
    """SHATTERED: the gradient at one image says nothing about the image beside it."""
    found = None if evidence.depth is None else evidence.depth.shattering
    if found is None:
        raise NotChecked("shattering was not measured; depth='full' does")
    if found.half >= SHATTERED:
        return None
    return Found(
        where="the input",
        number=found.half,
        threshold=SHATTERED,
        sentence=(
            f"{found.half:.1g} of the way from one image to another, the gradient at the input has already lost half of"
            " its likeness with what it was: it is close to noise, however large it is."
        ),
        actions=("add shortcuts", "take fewer layers"),
        would_change="a network of this depth with the same number that is known to train",
    )


RULES = (
    Rule("GRAD_EXP_GROWTH", "critical", "measured", 30, grows_exponentially, is_cause=True),
    Rule("GRAD_VANISH", "critical", "measured", 30, vanishes, is_cause=True),
    Rule("SHATTERED", "critical", "measured", 33, is_shattered, "whole"),
)
