"""Rules about the training: what the optimiser makes of the gradient, and what labels, precision and norms do to it.

Each rule's id and texts stand in the table of ``rules.py``.
"""

from __future__ import annotations

import math
import statistics

from reslab.probe.evidence import Evidence, Found, NotChecked
from reslab.records import ReadingRecord

MAX_UPDATE, MAX_UPDATE_IN_VAIN = -0.9, -1.5
"""Decades of update over weight, in the median weight: an eighth of it in one step; or less, if the loss doesn't fall.

Muon, whose steps are large by design, has -1.1."""
MIN_UPDATE, MIN_FASTEST_UPDATE, MIN_LOSS_LEFT = -3.7, -2.6, 0.6
"""The same of steps that are too small, in the median weight and in the fastest; and the fraction of the loss that is
left."""
MAX_LEFT_OVER = 0.1
CLIPPED, MOST_STEPS, MIN_STEPS = 0.95, 0.5, 4
MAX_DECAY = 2.0
MAX_LABEL_RANK, MIN_CONFIDENT, MIN_WRONG, MAX_ERROR_OVER_CHANCE = 0.27, 30, 0.1, 0.7
MAX_LOST = 0.5
MAX_SHARPNESS = 2.0
MAX_EVAL_LOSS, MAX_FEW_SAMPLES = 2.0, 2


def weights_move_wrongly(evidence: Evidence) -> Found | None:
    evidence.updates()  # says why, if there are none
    steps = [(ratios, r, r.update) for r in evidence.readings if r.update is not None and (ratios := update_ratios(r))]
    if not steps:
        raise NotChecked("no weight with more than one dimension was updated")
    ratios, reading, update = max(steps, key=lambda step: statistics.median(step[0]))
    largest, left = statistics.median(ratios), loss_left(evidence)
    if largest > MAX_UPDATE or (largest > MAX_UPDATE_IN_VAIN and left >= 1):
        return Found(
            "the optimiser",
            largest,
            MAX_UPDATE if largest > MAX_UPDATE else MAX_UPDATE_IN_VAIN,
            f"At step {reading.step} {update.optimizer} changed the typical weight by {10**largest:.2g} of its own size"
            f" in one step, with a learning rate of {update.lr:.3g}; about a thousandth to a hundredth is usual.",
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
    if typical >= MIN_UPDATE or fastest >= MIN_FASTEST_UPDATE or left < MIN_LOSS_LEFT:
        return None
    if clipped_fraction(evidence) > MOST_STEPS:
        return None  # CLIP_ALWAYS reports clipped steps
    sentence = (
        f"{update.optimizer} changes the typical weight by {10**typical:.1g} of its own size per step, with a learning"
        f" rate of {update.lr:.3g}; about a thousandth is usual: training will take far too long."
    )
    actions = (f"raise the learning rate to about {update.lr * 10 ** (-3 - typical):.1g}",)
    return Found("the optimiser", typical, MIN_UPDATE, sentence, actions=actions)


def loss_left(evidence: Evidence) -> float:
    """The loss at the end over that at the beginning, each the mean of a fifth of the steps, or of the readings."""
    losses = [record.loss for record in evidence.losses] or [reading.loss for reading in evidence.readings]
    part = max(1, len(losses) // 5)
    first, last = statistics.fmean(losses[:part]), statistics.fmean(losses[-part:])
    return last / first if first > 0 else 1.0


def update_ratios(reading: ReadingRecord) -> list[float]:
    """log10(update / weight) of all weights that moved, rising."""
    pairs = [(p.update_norm, p.weight_norm) for p in reading.parameters if len(p.shape) > 1]
    return sorted(math.log10(update / weight) for update, weight in pairs if update and 0 < weight < math.inf > update)


def clipped_fraction(evidence: Evidence) -> float:
    """Of the steps that were read, those whose gradient was clipped."""
    updates = [update for update in evidence.updates() if update.grad_norm > 0]
    return sum(update.taken_norm < CLIPPED * update.grad_norm for update in updates) / max(1, len(updates))


def gradients_accumulate(evidence: Evidence) -> Found | None:
    num_steps = len(evidence.updates())
    steps = [(reading.step, reading.update) for reading in evidence.readings if reading.update is not None]
    left = [(step, update) for step, update in steps if update.leftover_norm > MAX_LEFT_OVER * update.grad_norm]
    if len(left) <= MOST_STEPS * (num_steps - 1) or not left:
        return None
    step, update = left[-1]
    sentence = (
        f"At step {step} gradients of norm {update.leftover_norm:.3g} from before the last step were still there, and"
        " the new ones were added to them: each step repeats all earlier ones."
    )
    return Found("the optimiser", update.leftover_norm / update.grad_norm, MAX_LEFT_OVER, sentence)


def clips_always(evidence: Evidence) -> Found | None:
    steps = [update for update in evidence.updates() if update.grad_norm > 0]
    if len(steps) < MIN_STEPS:
        raise NotChecked(f"{len(steps)} steps were read; it needs {MIN_STEPS}")
    clipped = clipped_fraction(evidence)
    if clipped <= MOST_STEPS:
        return None
    typical = [statistics.median(ratios) for reading in evidence.readings if (ratios := update_ratios(reading))]
    is_slow = bool(typical) and statistics.median(typical) < MIN_UPDATE and loss_left(evidence) >= MIN_LOSS_LEFT
    left = statistics.median(update.taken_norm / update.grad_norm for update in steps)
    sentence = (
        f"In {clipped:.0%} of the steps that were read the gradient was clipped, to {left:.2g} of its length in the"
        " median: its direction is used, its length is thrown away."
        + (" What is left moves the weights too little to learn." if is_slow else "")
    )
    return Found("the optimiser", clipped, MOST_STEPS, sentence, severity="warning" if is_slow else None)


def decay_wins(evidence: Evidence) -> Found | None:
    ratios = [update.decay_ratio for update in evidence.updates() if not math.isnan(update.decay_ratio)]
    if not ratios:
        raise NotChecked("this optimiser's decay can't be separated from the rest of its step")
    typical = statistics.median(ratios)
    if typical <= MAX_DECAY:
        return None
    sentence = (
        f"Weight decay takes off {typical:.3g} times what the gradient changes: the weights shrink, whatever the data"
        " say."
    )
    return Found("the optimiser", typical, MAX_DECAY, sentence)


def labels_are_noisy(evidence: Evidence) -> Found | None:
    answers = [reading.answers for reading in evidence.readings if reading.answers is not None]
    if not answers or answers[0].num_classes < 4:
        raise NotChecked("it needs a cross-entropy over four classes or more")
    chance = 1 - 1 / answers[0].num_classes
    able = [found for found in answers if found.num_wrong < MAX_ERROR_OVER_CHANCE * chance * found.num_answers]
    num_confident, num_wrong = sum(a.num_sure for a in able), sum(a.num_sure_wrong for a in able)
    if num_confident < MIN_CONFIDENT:
        raise NotChecked(f"needs {MIN_CONFIDENT} confident predictions, has {num_confident}")
    if num_wrong < MIN_WRONG * num_confident:
        return None
    rank = sum(found.wrong_rank * found.num_sure_wrong for found in able if found.num_sure_wrong) / num_wrong
    if rank <= MAX_LABEL_RANK:
        return None
    sentence = (
        f"{num_wrong} of {num_confident} confident predictions are not the label, and the label's mean rank among the"
        f" other classes is {rank:.2f} there, with 0 for the runner-up and 0.5 for chance: many labels seem to be"
        " assigned at random."
    )
    return Found("the labels", rank, MAX_LABEL_RANK, sentence)


def fp16_loses_gradients(evidence: Evidence) -> Found | None:
    weights = [
        (p.name, p.lost_share, math.prod(p.shape))
        for p in evidence.now.parameters
        if p.lost_share is not None and len(p.shape) > 1
    ]
    if not weights:
        raise NotChecked("nothing was computed in fp16")
    fraction = sum(lost * size for _, lost, size in weights) / sum(size for _, _, size in weights)
    if fraction <= MAX_LOST:
        return None
    sentence = (
        f"{fraction:.0%} of the gradients are 0 or below 6.1e-5, where fp16 has few digits or none: most of what the"
        " backward pass computes is lost."
    )
    return Found(max(weights, key=lambda weight: weight[1])[0], fraction, MAX_LOST, sentence)


def rate_is_too_sharp(evidence: Evidence) -> Found | None:
    curvature = None if evidence.depth is None else evidence.depth.curvature
    if curvature is None:
        raise NotChecked("the curvature was not measured; depth='full' does")
    if not curvature.has_converged:
        raise NotChecked("the curvature's largest value was not found")
    lr = evidence.updates()[-1].lr
    product = lr * curvature.largest
    if product <= MAX_SHARPNESS:
        return None
    sentence = (
        f"The learning rate {lr:.3g} times the loss's greatest curvature {curvature.largest:.3g} is {product:.3g};"
        " above 2, plain gradient descent overshoots along that direction."
    )
    return Found("the optimiser", product, MAX_SHARPNESS, sentence)


def batch_norm_sees_too_little(evidence: Evidence) -> Found | None:
    now = evidence.now
    if not now.num_batch_norms:
        raise NotChecked("no batch norm took its statistics from the batch")
    if now.num_samples <= MAX_FEW_SAMPLES:
        sentence = (
            f"{now.num_batch_norms} batch norms take their statistics from {now.num_samples}"
            f" sample{'s' * (now.num_samples > 1)}: each output depends more on the others than on its own input, and"
            " evaluation, with averages over many, sees another network."
        )
        return Found("the batch", now.num_samples, MAX_FEW_SAMPLES, sentence)
    if now.eval_loss is None or evidence.at_start:
        return None
    ratio = now.eval_loss / now.loss if now.loss > 0 else math.nan
    if not ratio > MAX_EVAL_LOSS:
        return None
    return Found(
        "the norms",
        ratio,
        MAX_EVAL_LOSS,
        f"The same batch has a loss of {now.loss:.3g} with its own statistics and of {now.eval_loss:.3g} with the"
        " stored ones: these are stale, or belong to other data.",
        actions=("a larger momentum, or precise statistics before evaluating", "larger batches, or group norm"),
        would_change="a loss near 0, where a ratio says little",
    )
