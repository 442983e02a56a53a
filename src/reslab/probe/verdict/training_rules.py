"""Rules about the training: what the optimiser makes of the gradient, and what labels and precision do to it."""

from __future__ import annotations

import math
import statistics

from reslab.probe.verdict.evidence import Evidence, NotChecked
from reslab.probe.verdict.rule import Found, Rule
from reslab.records import ReadingRecord, UpdateRecord

FAST, FAST_IN_VAIN = -0.9, -1.5
"""Decades of update over weight, in the median weight: an eighth of it in one step; or less, if the loss doesn't fall.

Muon, whose steps are large by design, has -1.1."""
SLOW, SLOWEST, STUCK = -3.7, -2.6, 0.6
"""The same of steps that are too small, in the median weight and in the fastest; and the share of the loss that is
left."""
LEFT_OVER = 0.1
CLIPPED, OFTEN, FEW_STEPS = 0.95, 0.5, 4
DECAYING = 2.0
BY_CHANCE, FEW_SURE, FEW_WRONG, BETTER_THAN_CHANCE = 0.27, 30, 0.1, 0.7
LOST = 0.5
SHARP = 2.0
WORSE, FEW_SAMPLES = 2.0, 2


def steps_of(evidence: Evidence) -> list[tuple[ReadingRecord, UpdateRecord]]:
    """Readings after which a step of the optimiser was seen."""
    found = [(reading, reading.update) for reading in evidence.readings if reading.update is not None]
    if not found:
        raise NotChecked(
            "no step of an optimiser was seen: it takes a run, or reslab.watch and steps without a closure"
        )
    return found


def weights_move_wrongly(evidence: Evidence) -> Found | None:
    """UPDATE_RATIO: steps that are far too large or far too small for the weights."""
    steps = [(ratios, reading, update) for reading, update in steps_of(evidence) if (ratios := ratios_of(reading))]
    if not steps:
        raise NotChecked("no weight with more than one dimension was updated")
    ratios, reading, update = max(steps, key=lambda found: statistics.median(found[0]))
    largest, left = statistics.median(ratios), loss_left(evidence)
    if largest > FAST or (largest > FAST_IN_VAIN and left >= 1):
        return Found(
            where="the optimiser",
            number=largest,
            threshold=FAST if largest > FAST else FAST_IN_VAIN,
            sentence=(
                f"At step {reading.step} {update.optimizer} changed the typical weight by {10**largest:.2g} of its own"
                f" size in one step, with a learning rate of {update.lr:.3g}; about a thousandth to a hundredth is"
                " usual."
            ),
            actions=(
                f"lower the learning rate to about {update.lr * 10 ** (-2.5 - largest):.1g}",
                "warm up",
                "clip the gradient",
            ),
            would_change="a loss that falls all the same",
            severity="critical",
        )
    typical = statistics.median(statistics.median(ratios) for ratios, _, _ in steps)
    fastest = statistics.median(ratios[-1] for ratios, _, _ in steps)
    if typical >= SLOW or fastest >= SLOWEST or left < STUCK or clipped_share(evidence) > OFTEN:
        return None  # clipped steps are the business of CLIP_ALWAYS
    return Found(
        where="the optimiser",
        number=typical,
        threshold=SLOW,
        sentence=(
            f"{update.optimizer} changes the typical weight by {10**typical:.1g} of its own size in a step, with a"
            f" learning rate of {update.lr:.3g}; about a thousandth is usual: training will take for ever."
        ),
        actions=(f"raise the learning rate to about {update.lr * 10 ** (-3 - typical):.1g}",),
        would_change="weights that are to stay near where they are, as in fine-tuning",
    )


def loss_left(evidence: Evidence) -> float:
    """The loss at the end over that at the beginning, each the mean of a fifth of the steps, or of the readings."""
    losses = [record.loss for record in evidence.losses] or [reading.loss for reading in evidence.readings]
    part = max(1, len(losses) // 5)
    first, last = statistics.fmean(losses[:part]), statistics.fmean(losses[-part:])
    return last / first if first > 0 else 1.0


def ratios_of(reading: ReadingRecord) -> list[float]:
    """log10(update / weight) of all weights that moved, rising."""
    pairs = [(p.update_norm, p.weight_norm) for p in reading.parameters if len(p.shape) > 1]
    return sorted(math.log10(update / weight) for update, weight in pairs if update and 0 < weight < math.inf > update)


def typical_ratio(reading: ReadingRecord) -> float | None:
    """That of the median weight; None without any that moved."""
    return statistics.median(ratios) if (ratios := ratios_of(reading)) else None


def gradients_accumulate(evidence: Evidence) -> Found | None:
    """GRAD_ACCUMULATES: gradients of earlier steps are still there when the next ones are added."""
    steps = steps_of(evidence)
    left = [(reading, update) for reading, update in steps if update.leftover_norm > LEFT_OVER * update.grad_norm]
    if len(left) <= OFTEN * len(steps[1:]) or not left:
        return None
    reading, update = left[-1]
    return Found(
        where="the optimiser",
        number=update.leftover_norm / update.grad_norm,
        threshold=LEFT_OVER,
        sentence=(
            f"At step {reading.step} gradients of norm {update.leftover_norm:.3g} from before the last step were still"
            " there, and the new ones were added to them: each step repeats all earlier ones."
        ),
        actions=("call optimizer.zero_grad() before each backward pass",),
        would_change="nothing: a step was taken with these gradients, and they were not zeroed after it",
    )


def clips_always(evidence: Evidence) -> Found | None:
    """CLIP_ALWAYS: clipping is no exception but the rule, and sets the length of the steps."""
    steps = [update for _, update in steps_of(evidence) if update.grad_norm > 0]
    if len(steps) < FEW_STEPS:
        raise NotChecked(f"{len(steps)} steps were read; it takes {FEW_STEPS}")
    clipped = clipped_share(evidence)
    if clipped <= OFTEN:
        return None
    typical = [ratio for reading in evidence.readings if (ratio := typical_ratio(reading)) is not None]
    is_slow = bool(typical) and statistics.median(typical) < SLOW and loss_left(evidence) >= STUCK
    left = statistics.median(update.taken_norm / update.grad_norm for update in steps)
    return Found(
        where="the optimiser",
        number=clipped,
        threshold=OFTEN,
        sentence=(
            f"In {clipped:.0%} of the steps that were read the gradient was clipped, to {left:.2g} of its length in the"
            " median: its direction is used, its length is thrown away."
            + (" What is left moves the weights too little to learn." if is_slow else "")
        ),
        actions=("raise the limit above the usual norm", "lower the learning rate instead"),
        would_change="an optimiser for which only the direction counts",
        severity="warning" if is_slow else None,
    )


def clipped_share(evidence: Evidence) -> float:
    """Of the steps that were read, those whose gradient was clipped."""
    updates = [update for _, update in steps_of(evidence) if update.grad_norm > 0]
    return sum(update.taken_norm < CLIPPED * update.grad_norm for update in updates) / max(1, len(updates))


def decay_wins(evidence: Evidence) -> Found | None:
    """WEIGHT_DECAY: what decay takes off the weights is more than the gradient gives them."""
    ratios = [update.decay_ratio for _, update in steps_of(evidence) if not math.isnan(update.decay_ratio)]
    if not ratios:
        raise NotChecked("this optimiser's decay can't be told from the rest of its step")
    typical = statistics.median(ratios)
    if typical <= DECAYING:
        return None
    return Found(
        where="the optimiser",
        number=typical,
        threshold=DECAYING,
        sentence=(
            f"Weight decay takes off {typical:.3g} times what the gradient changes: the weights shrink, whatever the"
            " data say."
        ),
        actions=("lower the weight decay to 1e-4 or 5e-4 (SGD), 0.01 to 0.05 (AdamW)",),
        would_change="a training loss that keeps falling",
    )


def labels_are_noisy(evidence: Evidence) -> Found | None:
    """LABEL_NOISE: where a sure answer is wrong, the label is as unlikely as any other: as if it were drawn by lot."""
    answers = [reading.answers for reading in evidence.readings if reading.answers is not None]
    if not answers or answers[0].num_classes < 4:
        raise NotChecked("it takes a cross-entropy over four classes or more")
    chance = 1 - 1 / answers[0].num_classes
    able = [found for found in answers if found.num_wrong < BETTER_THAN_CHANCE * chance * found.num_answers]
    wrong = [found for found in able if found.num_sure_wrong]
    num_sure, num_wrong = (sum(getattr(found, key) for found in able) for key in ("num_sure", "num_sure_wrong"))
    if num_sure < FEW_SURE:
        raise NotChecked(f"{num_sure} sure answers of a network better than chance were seen; it takes {FEW_SURE}")
    if num_wrong < FEW_WRONG * num_sure:
        return None
    rank = sum(found.wrong_rank * found.num_sure_wrong for found in wrong) / num_wrong
    if rank <= BY_CHANCE:
        return None
    return Found(
        where="the labels",
        number=rank,
        threshold=BY_CHANCE,
        sentence=(
            f"{num_wrong} of {num_sure} sure answers are not the label, and the label's mean place among the other"
            f" classes is {rank:.2f} there, with 0 for the runner-up and 0.5 for chance: many labels seem to be drawn"
            " by lot."
        ),
        actions=("look at the images with the largest loss", "label smoothing", "leave out what contradicts"),
        would_change="classes without any likeness, where the second guess is as good as a third",
    )


def fp16_loses_gradients(evidence: Evidence) -> Found | None:
    """AMP_UNDERFLOW: fp16 has no digits for the gradients, which become 0."""
    weights = [p for p in evidence.now.parameters if p.lost_share is not None and len(p.shape) > 1]
    if not weights:
        raise NotChecked("nothing was computed in fp16")
    total = sum(math.prod(p.shape) for p in weights)
    share = sum((p.lost_share or 0.0) * math.prod(p.shape) for p in weights) / total
    if share <= LOST:
        return None
    worst = max(weights, key=lambda p: p.lost_share or 0.0)
    return Found(
        where=worst.name,
        number=share,
        threshold=LOST,
        sentence=(
            f"{share:.0%} of the gradients are 0 or below 6.1e-5, where fp16 has few digits or none: most of what the"
            " backward pass computes is lost."
        ),
        actions=("use bf16", "scale the loss: torch.amp.GradScaler", "compute the loss in fp32"),
        would_change="gradients as small in fp32",
    )


def rate_is_too_sharp(evidence: Evidence) -> Found | None:
    """LR_SHARP: the rate is larger than what the curvature of the loss lets converge."""
    curvature = None if evidence.depth is None else evidence.depth.curvature
    if curvature is None:
        raise NotChecked("the curvature was not measured; depth='full' does")
    if not curvature.has_converged:
        raise NotChecked("the curvature's largest value was not found")
    lr = steps_of(evidence)[-1][1].lr
    product = lr * curvature.largest
    if product <= SHARP:
        return None
    return Found(
        where="the optimiser",
        number=product,
        threshold=SHARP,
        sentence=(
            f"The learning rate {lr:.3g} times the loss's greatest curvature {curvature.largest:.3g} is"
            f" {product:.3g}; above 2, plain gradient descent overshoots along that direction."
        ),
        actions=("lower the learning rate", "warm up"),
        would_change="a loss that falls all the same: training often settles at the edge",
    )


def batch_norm_sees_too_little(evidence: Evidence) -> Found | None:
    """BN_MISMATCH: batch norm behaves otherwise in evaluation than in training."""
    now = evidence.now
    if not now.num_batch_norms:
        raise NotChecked("no batch norm took its statistics from the batch")
    actions = ("larger batches, or group norm", "a larger momentum, or precise statistics before evaluating")
    if now.num_samples <= FEW_SAMPLES:
        return Found(
            where="the batch",
            number=now.num_samples,
            threshold=FEW_SAMPLES,
            sentence=(
                f"{now.num_batch_norms} batch norms take their statistics from {now.num_samples} sample"
                f"{'s' * (now.num_samples > 1)}: each says more of the others than of itself, and evaluation, with"
                " averages over many, sees another network."
            ),
            actions=actions,
            would_change="a larger batch in training than in this reading",
        )
    if now.eval_loss is None or evidence.at_start:
        return None
    ratio = now.eval_loss / now.loss if now.loss > 0 else math.nan
    if not ratio > WORSE:
        return None
    return Found(
        where="the norms",
        number=ratio,
        threshold=WORSE,
        sentence=(
            f"The same batch has a loss of {now.loss:.3g} with its own statistics and of {now.eval_loss:.3g} with the"
            " stored ones: these are stale, or belong to other data."
        ),
        actions=actions[::-1],
        would_change="a loss near 0, where a ratio says little",
    )


RULES = (
    Rule("GRAD_ACCUMULATES", "critical", "literature", 8, gradients_accumulate, "whole", is_cause=True),
    Rule("WEIGHT_DECAY", "critical", "heuristic", 16, decay_wins, "whole", is_cause=True),
    Rule("UPDATE_RATIO", "warning", "heuristic", 40, weights_move_wrongly, "whole", is_cause=True),
    Rule("AMP_UNDERFLOW", "warning", "tool", 14, fp16_loses_gradients, is_cause=True),
    Rule("BN_MISMATCH", "warning", "heuristic", 12, batch_norm_sees_too_little, is_cause=True),
    Rule("LR_SHARP", "warning", "literature", 55, rate_is_too_sharp, "whole"),
    Rule("LABEL_NOISE", "warning", "measured", 60, labels_are_noisy, "whole"),
    Rule("CLIP_ALWAYS", "info", "heuristic", 80, clips_always, "whole"),
)
