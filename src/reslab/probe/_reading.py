"""One forward and one backward pass of any network, and everything that is to be seen in them.

The model is called as it is. Its floating-point inputs are replaced by copies that ask for a gradient, so that the
graph says which operations the data goes through; where there are none, as for words, the embeddings take their place.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction

from reslab.errors import RequestError
from reslab.models.graph import TRANSPARENT, Addition, Graph
from reslab.probe._backward import Spine, Splitter
from reslab.probe._forward import Execution, execution_of
from reslab.probe._norms import at_once, norms_of
from reslab.probe._values import ValueTrace
from reslab.probe.batch import BatchLoss, LossOf, ModelCall, tensors_in
from reslab.records import ReadingRecord
from reslab.records.diagnosis import (
    ActivationRecord,
    AnswersRecord,
    BlockFlowRecord,
    MomentsRecord,
    ParameterRecord,
    SplitRecord,
    TensorRecord,
)
from reslab.untouched import uncompiled

PROBABILITIES = re.compile(r"^(Softmax|LogSoftmax|Sigmoid)Backward")
SURE = 0.5
"""Probability from which an answer is a confident one."""
MAX_ANSWERS = 2**14
"""Pixels that are looked at, at most, spread over the batch."""
SUBNORMAL = 6.1e-5
"""What is smaller has fewer digits in fp16, down to none at all."""
SCALED = {"grad_norm", "grad_norm_low", "grad_norm_high", "shortcut_norm", "branch_norm", "other_norm"}
"""Fields of records that are proportional to the loss."""


class Reader:
    """One pass in two halves: what the forward pass leaves behind, and what the backward pass shows of it.

    Args:
        model: whose pass it is.
        connected: whether inputs that ask for a gradient by themselves are to get it.
    """

    def __init__(self, model: nn.Module, *, connected: bool = False) -> None:
        self.started, self.model = time.perf_counter(), model
        self.call, self.trace = ModelCall(connected=connected), ValueTrace(model)

    @contextmanager
    def following(self) -> Iterator[None]:
        """While this is open, the forward pass is read; what was compiled runs as it was written."""
        with uncompiled(), self.trace.following():
            yield

    @contextmanager
    def attached(self, loss: Tensor) -> Iterator[list[Tensor]]:
        """While this is open, the backward pass of the loss is read.

        Yields:
            The leaves whose gradient the reading needs, for a backward pass with ``inputs``.

        Raises:
            RequestError: if the loss isn't a scalar, or has no graph.
        """
        self.execution = execution_of(loss, self.call, self.trace)
        graph, num_samples = self.execution.graph, self.call.num_samples
        self.answers = answers_of(graph)
        self.splitter = Splitter(graph, self.execution.additions, num_samples=num_samples)
        self.spine = Spine(graph, num_samples=num_samples)
        with ExitStack() as stack:
            stack.callback(self.splitter.close)
            stack.callback(self.spine.close)
            yield needed(self.execution)

    def wanted(self, leaves: Sequence[Tensor]) -> list[Tensor] | None:
        """Return what the backward pass of a training step is to compute; None for all of it.

        The gradient of the data is left out: it takes time, and is part of no step. Not where an input asks for it by
        itself, or where other processes wait for the pass.
        """
        parameters = self.execution.graph.parameters()
        is_asked_for = any(tensor.requires_grad for tensor in tensors_in(self.call.inputs))
        if parameters is None or is_asked_for or torch.distributed.is_initialized():
            return None
        return [*parameters, *leaves]

    def record(self, *, step: int) -> ReadingRecord:
        """Return what was seen, in the given step of the training; the graph is let go."""
        execution, trace = self.execution, self.trace
        graph, additions = execution.graph, execution.additions
        moments = trace.moments_of([graph.nodes[addition.node] for addition in additions])
        names, stds = [name for name, _ in trace.responses], at_once([std for _, std in trace.responses])
        found = zip(execution.names, additions, self.splitter.read(), moments, strict=True)
        record = ReadingRecord(
            step=step,
            loss=execution.loss.item(),
            num_samples=self.call.num_samples,
            is_training=self.model.training,
            inputs=tensor_records(self.call.inputs),
            outputs=tensor_records(self.call.outputs),
            blocks=tuple(
                block_record(index, name, addition, split, moments=moments)
                for index, (name, addition, split, moments) in enumerate(found)
                if split is not None
            ),
            layers=self.spine.read(trace),
            activations=activation_records(graph, additions, trace),
            parameters=parameter_records(self.model, in_fp16=trace.in_fp16),
            responses=tuple(zip(names, stds, strict=True)),
            softmax_twice=has_softmax_twice(graph),
            answers=self.answers,
            num_batch_norms=trace.num_batch_norms,
            unsplit=unsplit(graph),
            duration_s=time.perf_counter() - self.started,
        )
        trace.clear()
        del self.execution, self.splitter, self.spine
        return record


def read(model: nn.Module, loss_of: LossOf, *, step: int = 0) -> ReadingRecord:
    """Run the batch forward and backward and read what there is; gradients are left in ``.grad``.

    Args:
        model: any; in the mode that it is to be read in, on the batch's device.
        loss_of: runs it up to the loss.
        step: noted in the record.

    Raises:
        RequestError: if the loss isn't a scalar or has no graph, or if the model or the loss raises.
    """
    reader = Reader(model)
    seen = reader.call

    def where() -> tuple[str, Any]:
        if seen.outputs is None:
            return "The model's forward pass", seen.inputs
        if isinstance(loss_of, BatchLoss):
            return "loss_fn", (seen.outputs, loss_of.batch[1])
        return "The loss", seen.outputs

    with seen.hooked(model), reader.following(), naming_errors(where):
        loss = loss_of(model)
    with reader.attached(loss) as leaves, naming_errors(lambda: ("The backward pass", seen.inputs)):
        loss.backward(inputs=[*(p for p in model.parameters() if p.requires_grad), *leaves])
    return reader.record(step=step)


@contextmanager
def naming_errors(where: Callable[[], tuple[str, Any]]) -> Iterator[None]:
    """Says of an exception that isn't ours where it was raised, and what went in."""
    try:
        yield
    except RequestError:
        raise
    except Exception as error:
        what, given = where()
        shapes = ", ".join(f"{str(t.dtype).removeprefix('torch.')} {tuple(t.shape)}" for t in tensors_in(given))
        lines = str(error).strip().splitlines()
        raise RequestError(
            f"{what} raised {type(error).__name__}{f': {lines[0]}' if lines else ''}. It was given"
            f" {shapes or 'no tensor'}. Does the batch fit the model? The model is as it was."
        ) from error


def unscaled(record: ReadingRecord, scale: float) -> ReadingRecord:
    """Return the reading of the loss before it was multiplied by ``scale``, as fp16's loss scaling does."""
    if scale == 1:
        return record

    def divided(part: Any) -> Any:
        norms = {key: value / scale for key, value in vars(part).items() if key in SCALED and value is not None}
        return replace(part, **norms)

    return replace(
        record,
        loss=record.loss / scale,
        blocks=tuple(map(divided, record.blocks)),
        layers=tuple(map(divided, record.layers)),
        parameters=tuple(map(divided, record.parameters)),
    )


# ---- parts of the record


def needed(execution: Execution) -> list[Tensor]:
    """The leaves, if a fork lies so near to them that no parameter does; their gradient is left out otherwise."""
    graph = execution.graph
    is_reached = [False] * len(graph.nodes)  # on the way to some parameter's gradient
    for place, node in enumerate(graph.nodes):
        before = [graph.place[parent] for parent, _ in node.next_functions if parent is not None]
        is_parameter = not before and place not in graph.sources
        is_reached[place] = is_parameter or any(is_reached[parent] for parent in before)
    return [] if all(is_reached[addition.fork] for addition in execution.additions) else list(execution.call.leaves)


def block_record(
    index: int, name: str, addition: Addition, split: SplitRecord, *, moments: Sequence[MomentsRecord] | None
) -> BlockFlowRecord:
    """What the graph, the backward pass and the forward pass know of one addition."""
    operands = None if moments is None or addition.operand > 1 else moments
    return BlockFlowRecord(
        index=index,
        name=name,
        kind=addition.kind,
        shape=addition.shape,
        stream=None if moments is None else moments[2],
        shortcut=None if operands is None else operands[1 - addition.operand],
        branch=None if operands is None else operands[addition.operand],
        **vars(split),
    )


def activation_records(graph: Graph, additions: Sequence[Addition], trace: ValueTrace) -> tuple[ActivationRecord, ...]:
    """A record for each activation that was executed."""
    spine, sums = set(graph.spine()), {addition.node for addition in additions}
    shares = at_once([activation.share for activation in trace.activations])
    records = []
    for index, (activation, share) in enumerate(zip(trace.activations, shares, strict=True)):
        place = graph.place.get(activation.node)
        before = [] if place is None else [edge.producer for edge in graph.inputs[place]]
        records.append(
            ActivationRecord(
                index=index,
                name=activation.name,
                kind=activation.kind,
                num_channels=activation.num_channels,
                num_positions=activation.num_positions,
                share=share,
                on_spine=place in spine,
                follows_addition=any(parent in sums for parent in before),
            )
        )
    return tuple(records)


@torch.no_grad()
def parameter_records(model: nn.Module, *, in_fp16: bool) -> tuple[ParameterRecord, ...]:
    """Norms of all weights and their gradients, and what fp16 has lost of these, each read from the device at once."""
    named = list(model.named_parameters())
    reached = [parameter.grad for _, parameter in named if parameter.grad is not None]
    weights, gradients = norms_of([parameter for _, parameter in named]), iter(norms_of(reached))
    lost = at_once([(gradient.abs() < SUBNORMAL).double().mean() for gradient in reached]) if in_fp16 else []
    shares: Iterator[float | None] = iter(lost) if in_fp16 else repeat(None)
    return tuple(
        ParameterRecord(
            name=name,
            shape=tuple(parameter.shape),
            weight_norm=weight,
            grad_norm=None if parameter.grad is None else next(gradients),
            is_trainable=parameter.requires_grad,
            lost_share=None if parameter.grad is None else next(shares),
        )
        for (name, parameter), weight in zip(named, weights, strict=True)
    )


@torch.no_grad()
def tensor_records(nest: Any) -> tuple[TensorRecord, ...]:
    """Range, mean and deviation of the finite values of each floating-point tensor, and how many are not finite."""
    return tuple(tensor_record(tensor.detach()) for tensor in tensors_in(nest) if tensor.is_floating_point())


def tensor_record(tensor: Tensor) -> TensorRecord:
    values = finite = tensor.flatten()
    numbers = [math.nan] * 4
    if values.numel() and not torch.stack(values.aminmax()).isfinite().all():
        finite = values[values.isfinite()]
    if finite.numel():
        exact = finite.double()
        mean = exact.mean()
        std = torch.linalg.vector_norm(exact - mean) / math.sqrt(len(exact))
        numbers = torch.stack([*(end.double() for end in finite.aminmax()), mean, std]).tolist()
    return TensorRecord(
        shape=tuple(tensor.shape),
        dtype=str(tensor.dtype).removeprefix("torch."),
        low=numbers[0],
        high=numbers[1],
        mean=numbers[2],
        std=numbers[3],
        num_non_finite=values.numel() - finite.numel(),
    )


# ---- what the graph shows of the loss


@torch.no_grad()
def answers_of(graph: Graph) -> AnswersRecord | None:
    """Return a classifier's answers as its cross-entropy saw them; None where the loss isn't one with one label each.

    They are read from the cross-entropy's node, no matter who wrote the loss around it, and before the backward pass,
    which frees what the node has saved.
    """
    found = [node for node, name in zip(graph.nodes, graph.names, strict=True) if name.startswith("NllLoss")]
    if not found:
        return None
    node: Any = found[-1]
    scores, labels = node._saved_self.detach(), node._saved_target
    scores, labels = scores.movedim(1, -1).flatten(0, -2), labels.flatten()  # (N, K, *) -> (N, K)
    used = labels != node._saved_ignore_index
    stride = max(1, len(labels) // MAX_ANSWERS)
    return count_answers(scores[used][::stride].float(), labels[used][::stride])


def count_answers(scores: Tensor, labels: Tensor) -> AnswersRecord:
    """Count what is right and wrong, and where the label ranks among the other classes.

    Args:
        scores: logarithms of probabilities, (N, K) of samples or pixels and classes.
        labels: (N,).
    """
    num_classes = scores.shape[1]
    above = (scores > scores.gather(1, labels[:, None])).sum(dim=1)  # (N, K) -> (N), classes likelier than the label
    wrong, sure = above > 0, scores.amax(dim=1) > math.log(SURE)
    both = wrong & sure
    counts = [wrong.sum(), sure.sum(), both.sum(), ((above - 1) * both).sum()]
    num_wrong, num_sure, num_sure_wrong, places = torch.stack(counts).tolist()
    others = num_classes - 2  # places of the label behind the answer, from 0
    rank = places / (num_sure_wrong * others) if num_sure_wrong and others > 0 else math.nan
    return AnswersRecord(num_classes, len(labels), num_wrong, num_sure, num_sure_wrong, rank)


def has_softmax_twice(graph: Graph) -> bool:
    """Whether probabilities go through a softmax again, as cross-entropy does with what it takes for logits."""
    for place, name in enumerate(graph.names):
        if not name.startswith("LogSoftmax"):
            continue
        inputs = graph.inputs[place]
        while len(inputs) == 1 and TRANSPARENT.search(graph.names[inputs[0].producer]):
            inputs = graph.inputs[inputs[0].producer]
        if len(inputs) == 1 and PROBABILITIES.match(graph.names[inputs[0].producer]):
            return True
    return False


def unsplit(graph: Graph) -> tuple[str, ...]:
    """What may join a shortcut and a branch and is no addition to autograd, or hides one; in words."""
    joins = sum(name.startswith("Cat") and len(graph.inputs[place]) > 1 for place, name in enumerate(graph.names))
    hidden = sum(name == "CheckpointFunctionBackward" for name in graph.names)
    nodes: list[Any] = graph.nodes
    custom = Counter(
        name.removesuffix("Backward")
        for node, name in zip(nodes, graph.names, strict=True)
        if isinstance(node, BackwardCFunction) and name != "CheckpointFunctionBackward"
    )
    found = [f"{joins} joins by torch.cat"] if joins else []
    found += [f"{hidden} parts under reentrant checkpointing"] if hidden else []
    return (*found, *(f"the custom operation {name}" for name in custom))
