"""What a probe reads in one forward and backward pass.

Gradient norms are those of one sample's loss, as root mean square over the batch: a mean over N samples gives each of
them 1/N of its gradient, which is undone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class MomentsRecord:
    """Statistics of a tensor by channel, averaged over channels.

    Args:
        mean_square: average of the squared channel means.
        variance: average of the channel variances.
    """

    mean_square: float
    variance: float


@dataclass(frozen=True, kw_only=True)
class SplitRecord:
    """The gradient at the input of a residual block, in parts.

    Args:
        grad_norm: of the whole gradient.
        grad_norm_low: a tenth of the samples have less; NaN where samples can't be told apart.
        grad_norm_high: a tenth of the samples have more.
        shortcut_norm: of the part of it that came through the shortcut.
        branch_norm: of the part of it that came through the branch.
        other_norm: of what came from elsewhere, or through both at once.
        shortcut_share: of the whole, signed: the projection of the part on the whole. All shares add up to 1.
        branch_share: the same of the branch.
        other_share: the same of the rest.
        cosine: between the shortcut's and the branch's part; NaN where one of them is 0.
        pass_through: fraction of the gradient's energy that the activation after the addition lets through; 1 without
            one.
        shortcut_gain: norm of the shortcut's part over that of the gradient that arrives at the addition.
    """

    grad_norm: float
    grad_norm_low: float
    grad_norm_high: float
    shortcut_norm: float
    branch_norm: float
    other_norm: float
    shortcut_share: float
    branch_share: float
    other_share: float
    cosine: float
    pass_through: float
    shortcut_gain: float


@dataclass(frozen=True, kw_only=True)
class BlockFlowRecord(SplitRecord):
    """One residual addition, as executed.

    Args:
        index: in order of execution, from 0.
        name: of the module that holds it, such as ``layer1.0`` or ``blocks.3.mlp``.
        kind: what the shortcut does: nothing (``identity``), weights (``projection``), padding (``zero_pad``), pooling
            (``pool``), a factor (``scaled``), a factor from the branch (``gated``), or something else (``other``).
        shape: of the sum.
        stream: of the sum, before the next layer; None if it could not be read.
        shortcut: of what the shortcut adds.
        branch: of what the branch adds.
    """

    index: int
    name: str
    kind: str
    shape: tuple[int, ...]
    stream: MomentsRecord | None
    shortcut: MomentsRecord | None
    branch: MomentsRecord | None


@dataclass(frozen=True)
class LayerFlowRecord:
    """One layer with weights that everything goes through: all layers of a plain network, stem and head of others.

    Args:
        index: in order of execution, from 0.
        name: of its module.
        shape: of its output.
        grad_norm: of the gradient at its input; NaN where that is the data itself.
        likeness: mean cosine between the layer's outputs for two samples, from some of the values; NaN for one sample.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    grad_norm: float
    likeness: float


@dataclass(frozen=True)
class ActivationRecord:
    """One activation, once executed.

    Args:
        index: in order of execution, from 0.
        name: of its module.
        kind: such as ``Relu``, ``Tanh``.
        num_channels: how many units it has.
        num_positions: values of each unit in the batch: samples times positions.
        share: of a ReLU's channels, those that no position of any sample made active; of another's values, those
            that are saturated.
        on_spine: everything goes through it; a gate, or a layer of a branch, does not have everything.
        follows_addition: it comes right after a residual addition.
    """

    index: int
    name: str
    kind: str
    num_channels: int
    num_positions: int
    share: float
    on_spine: bool
    follows_addition: bool


@dataclass(frozen=True)
class ParameterRecord:
    """One parameter.

    Args:
        name: as ``named_parameters`` has it.
        shape: its own.
        weight_norm: L2.
        grad_norm: L2, of the batch's loss; None where no gradient arrived.
        is_trainable: whether it asks for a gradient.
        update_norm: L2 of what the optimiser's step added to it, momentum, decay and rate included; None where no step
            was seen.
        lost_share: of a gradient that was computed in fp16, the values that are 0 or too small for full precision
            (below 6.1e-5); None in other precisions.
    """

    name: str
    shape: tuple[int, ...]
    weight_norm: float
    grad_norm: float | None
    is_trainable: bool
    update_norm: float | None = None
    lost_share: float | None = None


@dataclass(frozen=True)
class TensorRecord:
    """Statistics of an input or output tensor.

    Args:
        shape: of the tensor.
        dtype: such as ``float32``.
        low: least value.
        high: greatest value.
        mean: of all values.
        std: of all values.
        num_non_finite: values that are NaN or infinite; left out of the numbers above.
    """

    shape: tuple[int, ...]
    dtype: str
    low: float
    high: float
    mean: float
    std: float
    num_non_finite: int


@dataclass(frozen=True)
class AnswersRecord:
    """What a classifier answered, as its cross-entropy saw it, in train mode.

    Args:
        num_classes: that it chose from.
        num_answers: one for each sample, or for each pixel.
        num_wrong: of them.
        num_sure: of all answers, those with a probability above a half.
        num_sure_wrong: of these, the wrong ones.
        wrong_rank: of these, the mean place of the label among the other classes, 0 for the runner-up and 1 for the
            least likely; NaN without any, or with fewer than three classes. A half is chance.
    """

    num_classes: int
    num_answers: int
    num_wrong: int
    num_sure: int
    num_sure_wrong: int
    wrong_rank: float


@dataclass(frozen=True)
class UpdateRecord:
    """What the optimiser's step did with the gradient.

    Args:
        optimizer: name of its class.
        lr: of its first group.
        grad_norm: L2 of all gradients together after the backward pass, of the unscaled loss.
        taken_norm: the same when the step was taken: less where it was clipped.
        leftover_norm: of the gradients that still lay there before the backward pass although a step had been taken
            with them; 0 where they had been zeroed.
        decay_ratio: norm of what weight decay takes off over the norm of what the gradient does, in one step.
    """

    optimizer: str
    lr: float
    grad_norm: float
    taken_norm: float
    leftover_norm: float
    decay_ratio: float


@dataclass(frozen=True)
class ReadingRecord:
    """Everything read in one forward and backward pass.

    Args:
        step: of the training that it belongs to; 0 for a network by itself.
        loss: of the batch.
        num_samples: in it.
        is_training: whether the model was in train mode.
        inputs: floating-point tensors that went in.
        outputs: floating-point tensors that came out.
        blocks: residual additions in order of execution.
        layers: layers that everything goes through.
        activations: in order of execution.
        parameters: in order of definition.
        responses: name and standard deviation of each norm's output, in order of execution.
        softmax_twice: the last layer's probabilities go through a softmax again.
        answers: where the loss is a cross-entropy with one label each; None otherwise.
        num_batch_norms: that took their statistics from this batch.
        duration_s: what the reading took.
        unsplit: what may be a residual connection and can't be split, or hides one: joins by ``torch.cat``, reentrant
            checkpointing, operations of one's own.
        update: of the optimiser's step after it; None where none was seen.
        eval_loss: of the same batch in eval mode; None where it wasn't measured.
    """

    step: int
    loss: float
    num_samples: int
    is_training: bool
    inputs: tuple[TensorRecord, ...]
    outputs: tuple[TensorRecord, ...]
    blocks: tuple[BlockFlowRecord, ...]
    layers: tuple[LayerFlowRecord, ...]
    activations: tuple[ActivationRecord, ...]
    parameters: tuple[ParameterRecord, ...]
    responses: tuple[tuple[str, float], ...]
    softmax_twice: bool
    answers: AnswersRecord | None
    num_batch_norms: int
    duration_s: float
    unsplit: tuple[str, ...] = ()
    update: UpdateRecord | None = None
    eval_loss: float | None = None

    def block_norms(self) -> list[BlockNorm]:
        """Return the gradient norm at each block's input; without shortcuts, at the input of each block's first layer.

        Layers that lie in no block, such as stem and head, are left out where others do.
        """
        if self.blocks:
            return [BlockNorm(self.step, block.name, block.index, block.grad_norm) for block in self.blocks]
        firsts: dict[str, float] = {}
        for layer in self.layers:
            if layer.grad_norm == layer.grad_norm:  # NaN where the input is the data
                firsts.setdefault(layer.name.rpartition(".")[0] or layer.name, layer.grad_norm)
        nested = {name: norm for name, norm in firsts.items() if "." in name}
        found = enumerate((nested or firsts).items())
        return [BlockNorm(self.step, name, index, norm) for index, (name, norm) in found]


@dataclass(frozen=True)
class BlockNorm:
    """The gradient at the input of one block, at one step.

    Args:
        step: of the training.
        block: the module's name, such as ``layer2.3``.
        index: position in execution order, 0 next to the stem.
        grad_norm: as in ``BlockFlowRecord``.
    """

    step: int
    block: str
    index: int
    grad_norm: float


def first_and_last(readings: Sequence[ReadingRecord]) -> tuple[list[BlockNorm], list[BlockNorm]]:
    """Return the blocks' gradient norms in the first reading and in the last."""
    return (readings[0].block_norms(), readings[-1].block_norms()) if readings else ([], [])


@dataclass(frozen=True)
class LossRecord:
    """The loss at one step.

    Args:
        step: of the training.
        loss: of its batch.
    """

    step: int
    loss: float


Severity = Literal["info", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "info")
"""Worst first."""


@dataclass(frozen=True)
class FindingRecord:
    """One problem found by a rule.

    Args:
        id: of the rule, such as ``GRAD_EXP_GROWTH``.
        severity: ``info`` is not a problem.
        where: block, layer or parameter.
        number: that was measured.
        threshold: that it was compared with.
        basis: where the threshold comes from: ``literature``, ``tool``, ``measured`` or ``heuristic``.
        sentence: what it means, for a person.
        actions: the suggested fix, the best first; three at most.
        would_change: what else would show whether the rule is wrong.
    """

    id: str
    severity: Severity
    where: str
    number: float
    threshold: float
    basis: str
    sentence: str
    actions: tuple[str, ...]
    would_change: str


@dataclass(frozen=True)
class VerdictRecord:
    """The verdict of all rules together.

    Args:
        verdict: severity of the worst finding.
        findings: worst first.
        clean: rules that ran and found nothing.
        not_checked: why a rule couldn't run, by rule.
    """

    verdict: Literal["healthy", "warning", "sick"]
    findings: tuple[FindingRecord, ...]
    clean: tuple[str, ...]
    not_checked: dict[str, str]
