"""Rules about what goes in and what comes out: the batch, the loss, and which parameters a gradient reaches."""

from __future__ import annotations

import math
from collections.abc import Sequence

from reslab.probe.verdict.evidence import Evidence, NotChecked
from reslab.probe.verdict.rule import Found, Rule
from reslab.records import ParameterRecord

LARGE, SMALL = 5.0, 0.02
"""Root mean square of the input's values, beyond which it is hardly normalised."""
FAR = 3.0
FROZEN = 0.5


def is_not_finite(evidence: Evidence) -> Found | None:
    """NONFINITE: a NaN or an infinity."""
    now = evidence.now
    found = [("the input", sum(record.num_non_finite for record in now.inputs))]
    found += [("the output", sum(record.num_non_finite for record in now.outputs))]
    found += [("the loss", int(not math.isfinite(now.loss)))]
    bad = [p.name for p in now.parameters if p.grad_norm is not None and not math.isfinite(p.grad_norm)]
    found += [(f"the gradient of {bad[0]}" if bad else "a gradient", len(bad))]
    where, number = next(((where, number) for where, number in found if number), ("", 0))
    if not number:
        return None
    return Found(
        where=where,
        number=number,
        threshold=0,
        sentence=f"{where.capitalize()} is not finite ({number} NaNs or infinities): nothing can be learned from it.",
        actions=(
            "look at the data for missing values"
            if where == "the input"
            else "look for log, sqrt and divisions near 0",
            "under fp16, a loss scale that is too high",
            "lower the learning rate",
        ),
        would_change="another batch without them",
    )


def input_is_not_normalised(evidence: Evidence) -> Found | None:
    """INPUT_SCALE: values such as 0 to 255 go in as they are."""
    inputs = [record for record in evidence.now.inputs if math.isfinite(record.std)]
    if not inputs:
        raise NotChecked("no floating-point input")
    sizes = [math.hypot(record.mean, record.std) for record in inputs]
    for record, size in zip(inputs, sizes, strict=True):
        if SMALL <= size <= LARGE:
            continue
        return Found(
            where="the input",
            number=size,
            threshold=LARGE if size > LARGE else SMALL,
            sentence=(
                f"The input's values lie between {record.low:.3g} and {record.high:.3g}, with mean {record.mean:.3g}"
                f" and standard deviation {record.std:.3g}: far from the 0 and 1 that initialisations are made for."
            ),
            actions=("subtract the mean of the training data and divide by its standard deviation",),
            would_change="a network that normalises its input itself",
        )
    return None


def softmax_comes_twice(evidence: Evidence) -> Found | None:
    """SOFTMAX_TWICE: cross-entropy is given probabilities and takes them for logits."""
    if not evidence.now.softmax_twice:
        return None
    return Found(
        where="the output",
        number=1,
        threshold=0,
        sentence=(
            "The network ends with a softmax or sigmoid, and the loss applies a softmax to that again: the loss can't"
            " fall below that of a mild guess, and its gradient is small."
        ),
        actions=("take the last softmax away and give the loss the logits",),
        would_change="nothing: the graph shows both",
    )


def loss_is_out_of_range(evidence: Evidence) -> Found | None:
    """LOSS_RANGE: at the start, a cross-entropy far above that of a guess."""
    now = evidence.now
    if now.answers is None or not evidence.at_start:
        raise NotChecked("only a cross-entropy before training says what a guess would get")
    guess = math.log(now.answers.num_classes)
    if not math.isfinite(now.loss) or now.loss <= FAR * guess:
        return None
    return Found(
        where="the loss",
        number=now.loss,
        threshold=FAR * guess,
        sentence=(
            f"Before training the loss is {now.loss:.3g}, and a guess among {now.answers.num_classes} classes would get"
            f" {guess:.2f}: the network is sure of what it can't know, because its logits are large."
        ),
        actions=(
            "a smaller gain for the last layer",
            "normalise the input",
            "add norms, or start the branches at zero",
        ),
        would_change="weights that were trained for something else before",
    )


def some_get_no_gradient(evidence: Evidence) -> Found | None:
    """NO_GRAD: parameters that the loss doesn't depend on, or that don't ask for a gradient."""
    parameters = evidence.now.parameters
    if not parameters:
        raise NotChecked("the network has no parameters")
    total = sum(math.prod(p.shape) for p in parameters)
    unreached = [p for p in parameters if p.is_trainable and p.grad_norm is None]
    frozen = [p for p in parameters if not p.is_trainable]
    if unreached:
        share = sum(math.prod(p.shape) for p in unreached) / total
        return Found(
            where=unreached[0].name,
            number=share,
            threshold=0,
            sentence=(
                f"{len(unreached)} of {len(parameters)} parameters ({share:.0%} of all weights) get no gradient,"
                f" beginning with {unreached[0].name}: the loss doesn't depend on them."
            ),
            actions=("look for detach(), no_grad() or .data after them", "remove them, if they are not used"),
            would_change="another batch that goes another way through the network",
        )
    share, between = sum(math.prod(p.shape) for p in frozen) / total, frozen_between(parameters)
    if share <= FROZEN and not between:
        return None
    where = frozen[0].name if share > FROZEN else between[0].name
    place = "" if share > FROZEN else ", between layers that train"
    return Found(
        where=where,
        number=share,
        threshold=FROZEN if share > FROZEN else 0,
        sentence=f"{share:.0%} of all weights are frozen (requires_grad is False), beginning with {where}{place}.",
        actions=("requires_grad_(True), unless they were trained before and are to stay as they are",),
        would_change="weights that were trained before: then it is by design",
    )


def frozen_between(parameters: Sequence[ParameterRecord]) -> list[ParameterRecord]:
    """Frozen weights of layers that have layers which train before and behind them."""
    layers = [p for p in parameters if len(p.shape) > 1 and p.name.endswith("weight")]
    training = [place for place, p in enumerate(layers) if p.is_trainable]
    if not training:
        return []
    return [p for p in layers[training[0] : training[-1]] if not p.is_trainable]


RULES = (
    Rule("NONFINITE", "critical", "literature", 0, is_not_finite, "once"),
    Rule("SOFTMAX_TWICE", "critical", "literature", 5, softmax_comes_twice, is_cause=True),
    Rule("INPUT_SCALE", "warning", "heuristic", 10, input_is_not_normalised, is_cause=True),
    Rule("NO_GRAD", "warning", "literature", 15, some_get_no_gradient, is_cause=True),
    Rule("LOSS_RANGE", "warning", "heuristic", 45, loss_is_out_of_range),
)
