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
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node, get_gradient_edge

from reslab.errors import RequestError
from reslab.probe.answers import answers_of
from reslab.probe.checks import check_loss
from reslab.probe.eager import eagerly
from reslab.probe.graph import TRANSPARENT, Addition, Graph
from reslab.probe.inputs import call, mapped, size_of, tensors_in, with_gradients, with_graph
from reslab.probe.norms import norms_of
from reslab.probe.spine import Spine
from reslab.probe.split import Splitter
from reslab.probe.trace import Signal, Trace, name_additions
from reslab.records import (
    ActivationRecord,
    BlockFlowRecord,
    ParameterRecord,
    ReadingRecord,
    SplitRecord,
    TensorRecord,
)

LossFn: TypeAlias = Callable[[Any, Any], Tensor]
"""Outputs and targets to a scalar."""
Batch: TypeAlias = tuple[Any, Any]
"""What the model takes (a tensor, a tuple of arguments, a dict of keywords) and what the loss takes besides."""
PROBABILITIES = re.compile(r"^(Softmax|LogSoftmax|Sigmoid)Backward")


class Reader:
    """One pass in two halves: what the forward pass leaves behind, and what the backward pass says of it.

    Args:
        model: whose pass it is.
        inputs: what it takes: a tensor, a tuple of arguments or a dict of keywords, nested or not.
        connected: whether inputs that ask for a gradient by themselves are to get it.
    """

    def __init__(self, model: nn.Module, inputs: Any, *, connected: bool = False) -> None:
        self.started, self.model, self.inputs = time.perf_counter(), model, inputs
        self.leaves, self.arguments = with_gradients(inputs, connected=connected)
        self.trace, self.num_samples = Trace(model), size_of(inputs)
        self.outputs: Any = None

    @contextmanager
    def following(self) -> Iterator[None]:
        """While this is open, the forward pass is read; what was compiled runs as it was written."""
        with eagerly(), self.trace.following():
            yield

    @contextmanager
    def attached(self, loss: Tensor) -> Iterator[list[Tensor]]:
        """While this is open, the backward pass of the loss is read.

        Yields:
            The leaves whose gradient the reading needs, for a backward pass that is told what to compute.

        Raises:
            RequestError: if the loss is no scalar, or has no graph.
        """
        self.graph = Graph(node_of(loss), sources(self.leaves, self.trace))
        self.additions, self.loss = self.graph.additions(), loss
        self.trace.complete(self.graph)
        self.answers = answers_of(self.graph)
        self.splitter = Splitter(self.graph, self.additions, num_samples=self.num_samples)
        self.spine = Spine(self.graph, num_samples=self.num_samples)
        try:
            yield needed(self.leaves, self.graph, self.additions)
        finally:
            self.splitter.close()
            self.spine.close()

    def wanted(self, leaves: Sequence[Tensor]) -> list[Tensor] | None:
        """What the backward pass of a training step is to compute; None for all of it.

        The gradient of the data is left out: it takes time, and is part of no step. Not where an input asks for it by
        itself, or where other processes wait for the pass.
        """
        parameters = self.graph.parameters()
        is_asked_for = any(tensor.requires_grad for tensor in tensors_in(self.inputs))
        if parameters is None or is_asked_for or torch.distributed.is_initialized():
            return None
        return [*parameters, *leaves]

    def record(self, *, step: int) -> ReadingRecord:
        """What was seen, in the step of the training that is given; the graph is let go."""
        graph, trace = self.graph, self.trace
        names = name_additions(graph, self.additions, trace.where)
        signals = trace.signals_of([graph.nodes[addition.node] for addition in self.additions])
        splits = self.splitter.read()
        found = zip(names, self.additions, splits, signals, strict=True)
        record = ReadingRecord(
            step=step,
            loss=self.loss.item(),
            num_samples=self.num_samples,
            is_training=self.model.training,
            inputs=tuple(describe(tensor) for tensor in tensors_in(self.inputs) if tensor.is_floating_point()),
            outputs=tuple(describe(tensor) for tensor in tensors_in(self.outputs) if tensor.is_floating_point()),
            blocks=tuple(
                block_record(index, name, addition, split, signal=signal)
                for index, (name, addition, split, signal) in enumerate(found)
                if split is not None
            ),
            layers=self.spine.read(trace),
            activations=activation_records(graph, self.additions, trace),
            parameters=parameter_records(self.model, in_fp16=trace.in_fp16),
            responses=trace.response_stds(),
            softmax_twice=has_softmax_twice(graph),
            answers=self.answers,
            num_batch_norms=trace.num_batch_norms,
            unsplit=unsplit(graph),
            duration_s=time.perf_counter() - self.started,
        )
        trace.clear()
        del self.graph, self.additions, self.splitter, self.spine, self.loss
        return record


def read(model: nn.Module, batch: Batch, loss_fn: LossFn, *, step: int = 0) -> ReadingRecord:
    """Runs the batch forward and backward and reads what there is; gradients are left in ``.grad``.

    Args:
        model: any; in the mode that it is to be read in.
        batch: inputs and targets, on the model's device.
        loss_fn: outputs and targets to a scalar.
        step: noted in the record.

    Raises:
        RequestError: if the loss is no scalar, or has no graph.
    """
    inputs, targets = batch
    reader = Reader(model, inputs)
    with reader.following():
        with telling("The model's forward pass", inputs):
            reader.outputs = call(model, reader.arguments)
        with telling("loss_fn", (reader.outputs, targets)):
            loss = loss_fn(reader.outputs, mapped(targets, with_graph))
    with reader.attached(loss) as leaves, telling("The backward pass", inputs):
        loss.backward(inputs=[*(p for p in model.parameters() if p.requires_grad), *leaves])
    return reader.record(step=step)


@contextmanager
def telling(what: str, given: Any) -> Iterator[None]:
    """Says of an exception that isn't ours whose it is, and what went in."""
    try:
        yield
    except RequestError:
        raise
    except Exception as error:
        shapes = ", ".join(f"{str(t.dtype).removeprefix('torch.')} {tuple(t.shape)}" for t in tensors_in(given))
        said = str(error).strip().splitlines()
        raise RequestError(
            f"{what} raised {type(error).__name__}{f': {said[0]}' if said else ''}. It was given"
            f" {shapes or 'no tensor'}. Does the batch fit the model? The model is as it was."
        ) from error


def node_of(loss: Any) -> Node:
    """Where the backward pass of a loss begins."""
    node = check_loss(loss).grad_fn
    if node is None:
        raise RequestError(
            "The loss has no graph to go back through: it was computed without gradients (no_grad, detach, .item()), or"
            " nothing in the model asks for them."
        )
    return node


def sources(leaves: Sequence[Tensor], trace: Trace) -> list[Node]:
    """Nodes that stand for the input: the leaves', or those of the embeddings of what is no floating-point tensor."""
    if leaves:
        return [get_gradient_edge(leaf).node for leaf in leaves]
    return [node for node in trace.where if node.name().startswith("Embedding")]


def needed(leaves: Sequence[Tensor], graph: Graph, additions: Sequence[Addition]) -> list[Tensor]:
    """The leaves, if a fork lies so near to them that no parameter does; their gradient is left out otherwise."""
    is_reached = [False] * len(graph.nodes)  # on the way to some parameter's gradient
    for place, node in enumerate(graph.nodes):
        before = [graph.place[parent] for parent, _ in node.next_functions if parent is not None]
        is_parameter = not before and place not in graph.sources
        is_reached[place] = is_parameter or any(is_reached[parent] for parent in before)
    return [] if all(is_reached[addition.fork] for addition in additions) else list(leaves)


def block_record(
    index: int, name: str, addition: Addition, split: SplitRecord, *, signal: Signal | None
) -> BlockFlowRecord:
    """What the graph, the backward pass and the forward pass know of one addition."""
    operands = (None, None) if signal is None or addition.operand > 1 else signal.operands
    return BlockFlowRecord(
        index=index,
        name=name,
        kind=addition.kind,
        shape=addition.shape,
        stream=None if signal is None else signal.stream,
        shortcut=operands[1 - addition.operand] if addition.operand <= 1 else None,
        branch=operands[addition.operand] if addition.operand <= 1 else None,
        **vars(split),
    )


def activation_records(graph: Graph, additions: Sequence[Addition], trace: Trace) -> tuple[ActivationRecord, ...]:
    """A record for each activation that was executed."""
    spine, sums = set(graph.spine()), {addition.node for addition in additions}
    return tuple(
        ActivationRecord(
            index=index,
            name=unit.module,
            kind=unit.kind,
            num_channels=unit.channels,
            num_positions=unit.positions,
            share=share,
            on_spine=graph.place.get(node) in spine,
            follows_addition=any(parent in sums for parent, _, _ in graph.inputs[graph.place[node]])
            if node in graph.place
            else False,
        )
        for index, (node, unit, share) in enumerate(trace.layers())
    )


def unsplit(graph: Graph) -> tuple[str, ...]:
    """What may join a shortcut and a branch and is no addition to autograd, or hides one; in words."""
    joins = sum(name.startswith("Cat") and len(graph.inputs[place]) > 1 for place, name in enumerate(graph.names))
    hidden = sum(name == "CheckpointFunctionBackward" for name in graph.names)
    own = Counter(
        name.removesuffix("Backward")
        for place, name in enumerate(graph.names)
        if isinstance(graph.nodes[place], BackwardCFunction) and name != "CheckpointFunctionBackward"
    )
    found = [f"{joins} joins by torch.cat"] if joins else []
    found += [f"{hidden} parts under reentrant checkpointing"] if hidden else []
    return (*found, *(f"the operation {name} of one's own" for name in own))


def has_softmax_twice(graph: Graph) -> bool:
    """Whether probabilities go through a softmax again, as cross-entropy does with what it takes for logits."""
    for place, name in enumerate(graph.names):
        if not name.startswith("LogSoftmax"):
            continue
        inputs = graph.inputs[place]
        while len(inputs) == 1 and TRANSPARENT.search(graph.names[inputs[0][0]]):
            inputs = graph.inputs[inputs[0][0]]
        if len(inputs) == 1 and PROBABILITIES.match(graph.names[inputs[0][0]]):
            return True
    return False


SUBNORMAL = 6.1e-5
"""What is smaller has fewer digits in fp16, down to none at all."""


@torch.no_grad()
def parameter_records(model: nn.Module, *, in_fp16: bool) -> tuple[ParameterRecord, ...]:
    """Norms of all weights and their gradients, and what fp16 has lost of these, each read from the device at once."""
    named = list(model.named_parameters())
    reached = [parameter.grad for _, parameter in named if parameter.grad is not None]
    weights, gradients = norms_of([parameter for _, parameter in named]), iter(norms_of(reached))
    lost = [(gradient.abs() < SUBNORMAL).double().mean() for gradient in reached] if in_fp16 and reached else []
    shares = iter(torch.stack(lost).tolist() if lost else [None] * len(reached))
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


def unscaled(record: ReadingRecord, scale: float) -> ReadingRecord:
    """The same, of a loss that wasn't multiplied by ``scale``, as fp16's loss scaling does."""
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


SCALED = {"grad_norm", "grad_norm_low", "grad_norm_high", "shortcut_norm", "branch_norm", "other_norm"}
"""Fields that are proportional to the loss."""


@torch.no_grad()
def describe(tensor: Tensor) -> TensorRecord:
    """Range, mean and deviation of the finite values, and how many are not."""
    values = finite = tensor.detach().flatten()
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
