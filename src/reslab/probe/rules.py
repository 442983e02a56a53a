"""From readings to a verdict: one rule for each problem, with its severity, the basis of its threshold, and the fix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import reslab.probe._network_rules as network
import reslab.probe._training_rules as training
from reslab.probe.evidence import Evidence, Found, NotChecked
from reslab.records.diagnosis import SEVERITIES, FindingRecord, Severity, VerdictRecord

Basis = Literal["literature", "tool", "measured", "heuristic"]
Scope = Literal["whole", "most", "once"]
"""Whether a rule is asked once about everything, or about each reading, and of how many it takes then: most, or one.

A cause is also found where only the first readings show it, since what it has brought about may hide it later.
"""
WINDOW, MOST = 8, 5 / 8
"""Of how many of the last readings which fraction must show it."""
VERDICTS: dict[Severity, Literal["healthy", "warning", "sick"]] = {
    "critical": "sick",
    "warning": "warning",
    "info": "healthy",
}


@dataclass(frozen=True)
class Rule:
    """One problem, and how it is found.

    Args:
        id: such as ``GRAD_VANISH``.
        severity: ``info`` is not a problem.
        basis: where the threshold comes from.
        rank: among findings of one severity, the lower is named first: causes before consequences.
        check: the evidence to what was found, or None; raises ``NotChecked`` where it can't say.
        finds: what that is, in words.
        actions: the suggested fix, the best first; three at most.
        would_change: what else would show whether the rule is wrong.
        scope: see ``Scope``.
        is_cause: it may have brought about what ranks behind it, and is as severe as that.
    """

    id: str
    severity: Severity
    basis: Basis
    rank: int
    check: Callable[[Evidence], Found | None]
    finds: str
    actions: tuple[str, ...]
    would_change: str
    scope: Scope = "most"
    is_cause: bool = False


RULES = (
    Rule(
        "NONFINITE", "critical", "literature", 0, network.is_not_finite, scope="once",
        finds="a NaN or an infinity",
        actions=("look for log, sqrt and divisions near 0", "lower the learning rate"),
        would_change="another batch without them",
    ),
    Rule(
        "SOFTMAX_TWICE", "critical", "literature", 5, network.softmax_comes_twice, is_cause=True,
        finds="cross-entropy is given probabilities and takes them for logits",
        actions=("remove the last softmax and pass the logits to the loss",),
        would_change="nothing: the graph shows both",
    ),
    Rule(
        "GRAD_ACCUMULATES", "critical", "literature", 8, training.gradients_accumulate, scope="whole", is_cause=True,
        finds="gradients of earlier steps are still there when the next ones are added",
        actions=("call optimizer.zero_grad() before each backward pass",),
        would_change="nothing: a step was taken with these gradients, and they were not zeroed after it",
    ),
    Rule(
        "INPUT_SCALE", "warning", "heuristic", 10, network.input_is_not_normalised, is_cause=True,
        finds="values such as 0 to 255 go in as they are",
        actions=("subtract the mean of the training data and divide by its standard deviation",),
        would_change="a network that normalises its input itself",
    ),
    Rule(
        "BN_MISMATCH", "warning", "heuristic", 12, training.batch_norm_sees_too_little, is_cause=True,
        finds="batch norm behaves differently in evaluation than in training",
        actions=("larger batches, or group norm", "a larger momentum, or precise statistics before evaluating"),
        would_change="a larger batch in training than in this reading",
    ),
    Rule(
        "AMP_UNDERFLOW", "warning", "tool", 14, training.fp16_loses_gradients, is_cause=True,
        finds="fp16 has no digits for the gradients, which become 0",
        actions=("use bf16", "scale the loss: torch.amp.GradScaler", "compute the loss in fp32"),
        would_change="gradients as small in fp32",
    ),
    Rule(
        "NO_GRAD", "warning", "literature", 15, network.some_get_no_gradient, is_cause=True,
        finds="parameters that the loss doesn't depend on, or that don't ask for a gradient",
        actions=("look for detach(), no_grad() or .data after them", "remove them, if they are not used"),
        would_change="another batch that takes another path through the network",
    ),
    Rule(
        "WEIGHT_DECAY", "critical", "heuristic", 16, training.decay_wins, scope="whole", is_cause=True,
        finds="decay takes more off the weights than the gradient gives them",
        actions=("lower the weight decay to 1e-4 or 5e-4 (SGD), 0.01 to 0.05 (AdamW)",),
        would_change="a training loss that keeps falling",
    ),
    Rule(
        "ACT_EXPLODE", "critical", "literature", 20, network.stream_explodes, is_cause=True,
        finds="the stream's variance is multiplied by the same factor from block to block",
        actions=(
            "normalise the branches",
            "start the branches at zero (zero-init, SkipInit, Fixup)",
            "scale each branch by 1 / sqrt(number of blocks)",
        ),
        would_change="a variance that grows by the same amount per block, as normalised branches make it",
    ),
    Rule(
        "SATURATED", "warning", "tool", 25, network.units_are_saturated, is_cause=True,
        finds="sigmoid or tanh so far from the middle that hardly any gradient comes through",
        actions=("lower the gain of the weights before it", "add a norm before it", "replace it by ReLU"),
        would_change="a gate that is meant to be open or shut",
    ),
    Rule(
        "GRAD_EXP_GROWTH", "critical", "measured", 30, network.grows_exponentially, is_cause=True,
        finds="the gradient is multiplied by the same factor from block to block towards the input",
        actions=("add shortcuts", "use fewer layers", "clip the gradient and warm up, if it has to stay as it is"),
        would_change="the same profile in a network of this depth that is known to train",
    ),
    Rule(
        "GRAD_VANISH", "critical", "measured", 30, network.vanishes, is_cause=True,
        finds="the gradient is lost on its way to the input",
        actions=("add a norm after each layer", "add shortcuts", "initialise for the activation (He for ReLU)"),
        would_change="a profile that has become flat after some hundred steps",
    ),
    Rule(
        "DEAD_RELU", "warning", "tool", 32, network.units_are_dead, is_cause=True,
        finds="ReLUs that no input activates; they get no gradient, so they stay as they are",
        actions=("lower the learning rate", "start with biases of 0", "use leaky ReLUs, or a norm before them"),
        would_change="another batch in which they are active",
    ),
    Rule(
        "SHATTERED", "critical", "measured", 33, network.is_shattered, scope="whole",
        finds="the gradient at one image says nothing about the image beside it",
        actions=("add shortcuts", "use fewer layers"),
        would_change="a network of this depth with the same number that is known to train",
    ),
    Rule(
        "SHORTCUT_BLOCKED", "warning", "literature", 35, network.shortcut_is_blocked,
        finds="hardly any gradient comes back through the shortcuts, or through what follows the additions",
        actions=(
            "use identity shortcuts wherever the shape stays",
            "remove activations and norms from the shortcut",
        ),
        would_change="a gate that opens during training",
    ),
    Rule(
        "BRANCH_DEAD", "warning", "heuristic", 38, network.branch_is_dead,
        finds="a block whose branch does nothing, while others do; or all of them, long after the start",
        actions=(
            "look for weights, a gain or a ReLU at zero in it",
            "use a higher learning rate for the branch's last gain",
            "remove the block",
        ),
        would_change="a lesion that raises the loss (depth='full')",
    ),
    Rule(
        "ACT_COLLAPSE", "warning", "tool", 40, network.stream_collapses,
        finds="hardly anything is left of the differences between samples",
        actions=("add shortcuts", "add a norm after each layer", "use fewer layers"),
        would_change="samples that are as alike at the input",
    ),
    Rule(
        "UPDATE_RATIO", "warning", "heuristic", 40, training.weights_move_wrongly, scope="whole", is_cause=True,
        finds="steps that are far too large or far too small for the weights",
        actions=("change the learning rate",),
        would_change="weights that are to stay near where they are, as in fine-tuning",
    ),
    Rule(
        "LOSS_RANGE", "warning", "heuristic", 45, network.loss_is_out_of_range,
        finds="at the start, a cross-entropy far above that of a guess",
        actions=(
            "use a smaller gain for the last layer",
            "normalise the input",
            "add norms, or start the branches at zero",
        ),
        would_change="weights that were trained for something else before",
    ),
    Rule(
        "BRANCH_DOMINATES", "warning", "heuristic", 50, network.branch_dominates,
        finds="most of the gradient comes through the branches, as in a plain network",
        actions=("scale the branches down", "normalise the branches", "start the branches at zero"),
        would_change="a ratio near 1 after some hundred steps",
    ),
    Rule(
        "LR_SHARP", "warning", "literature", 55, training.rate_is_too_sharp, scope="whole",
        finds="the learning rate is larger than what the curvature of the loss lets converge",
        actions=("lower the learning rate", "warm up"),
        would_change="a loss that falls all the same: training often settles at the edge",
    ),
    Rule(
        "LABEL_NOISE", "warning", "measured", 60, training.labels_are_noisy, scope="whole",
        finds="where a confident prediction is wrong, the label is as unlikely as any other: as if assigned at random",
        actions=("look at the images with the largest loss", "use label smoothing", "leave out what contradicts"),
        would_change="classes without any similarity, where the second guess is as good as a third",
    ),
    Rule(
        "MEAN_SHIFT", "warning", "literature", 65, network.means_shift,
        finds="channels of the stream keep an offset that grows along the depth, all samples alike",
        actions=("standardise the weights", "add a norm in each branch", "use an activation with mean 0"),
        would_change="a norm before the head, which removes the mean",
    ),
    Rule(
        "CLIP_ALWAYS", "info", "heuristic", 80, training.clips_always, scope="whole",
        finds="clipping is not the exception but the rule, and sets the length of the steps",
        actions=("raise the limit above the usual norm", "lower the learning rate instead"),
        would_change="an optimiser for which only the direction counts",
    ),
    Rule(
        "SHALLOW", "info", "heuristic", 85, network.depth_is_unused, scope="whole",
        finds="most of the depth of a trained network is not used",
        actions=("prune the blocks whose lesion costs nothing", "use fewer blocks"),
        would_change="a harder task",
    ),
    Rule(
        "NOISE", "info", "heuristic", 86, network.gradient_is_noise, scope="whole",
        finds="the gradient of one batch is mostly chance",
        actions=("use larger batches, or accumulate gradients over several", "average the weights (ema_decay)"),
        would_change="the end of a training, where only noise is left",
    ),
    Rule(
        "ZERO_INIT", "info", "measured", 90, network.starts_at_zero,
        finds="the branches start at zero, by design",
        actions=("read it again after some hundred steps",),
        would_change="branches that are still at zero then",
    ),
)  # fmt: skip


def judge(evidence: Evidence) -> VerdictRecord:
    """Apply all rules; the findings come worst first, and causes before consequences."""
    judged, clean, not_checked = list[Judged](), [], {}
    for rule in RULES:
        try:
            found = apply(rule, evidence)
        except NotChecked as why:
            not_checked[rule.id] = str(why)
        else:
            clean += [rule.id] if found is None else []
            judged += [] if found is None else [found]
    findings = by_severity(judged)
    return VerdictRecord(
        verdict=VERDICTS[findings[0].severity] if findings else "healthy",
        findings=tuple(findings),
        clean=tuple(clean),
        not_checked=not_checked,
    )


@dataclass(frozen=True)
class Judged:
    """A finding, and its place among others.

    Args:
        rule: that found it.
        finding: what it says.
        came_later: the first reading didn't show it yet: it may have come about by the training.
    """

    rule: Rule
    finding: FindingRecord
    came_later: bool = False

    @property
    def rank(self) -> tuple[bool, int]:
        """What was there from the beginning comes before what came later, causes before consequences."""
        return (self.came_later, self.rule.rank)


def apply(rule: Rule, evidence: Evidence) -> Judged | None:
    """Return the finding, if there is one.

    Raises:
        NotChecked: if no reading lets the rule say.
    """
    if rule.scope == "whole":
        found = rule.check(evidence)
        return None if found is None else Judged(rule, finding_of(rule, found))
    said, why = list[Found | None](), NotChecked("there is no reading")
    for reading in evidence.readings:
        try:
            said.append(rule.check(replace(evidence, readings=(reading,))))
        except NotChecked as reason:
            why = reason
    if not said:
        raise why
    window = said[-WINDOW:]
    found = next((one for one in said[::-1] if one is not None), None)
    is_enough = rule.scope == "once" or sum(one is not None for one in window) >= MOST * len(window)
    is_there_at_once = said[0] is not None
    if found is None or not (is_enough or (is_there_at_once and rule.is_cause)):
        return None
    return Judged(rule, finding_of(rule, found), came_later=not is_there_at_once)


def finding_of(rule: Rule, found: Found) -> FindingRecord:
    """What was found, with what is known of the rule itself."""
    return FindingRecord(
        id=rule.id,
        severity=found.severity or rule.severity,
        where=found.where,
        number=found.number,
        threshold=found.threshold,
        basis=rule.basis,
        sentence=found.sentence,
        actions=found.actions or rule.actions,
        would_change=found.would_change or rule.would_change,
    )


def by_severity(judged: Sequence[Judged]) -> list[FindingRecord]:
    """Worst first; a cause is as severe as the worst of what ranks behind it."""
    worst, found = len(SEVERITIES) - 1, list[FindingRecord]()
    for one in sorted(judged, key=lambda one: one.rank)[::-1]:
        place = SEVERITIES.index(one.finding.severity)
        if one.rule.is_cause and one.finding.severity != "info":
            place = min(place, worst)
        worst = min(worst, place)
        found.insert(0, replace(one.finding, severity=SEVERITIES[place]))
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))
