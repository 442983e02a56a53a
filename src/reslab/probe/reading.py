"""One forward and one backward pass of any network, and everything that is to be seen in them.

The model is called as it is. Its floating-point inputs are replaced by copies that ask for a gradient, so that the
graph says which operations the data goes through; where there are none, as for words, the embeddings take their place.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge

from reslab.errors import RequestError
from reslab.probe.graph import TRANSPARENT, Addition, Graph, shape_of
from reslab.probe.split import Split, Splitter, dot
from reslab.probe.trace import Trace, name_additions
from reslab.records import (
    ActivationRecord,
    BlockFlowRecord,
    LayerFlowRecord,
    ParameterRecord,
    ReadingRecord,
    TensorRecord,
)

LossFn: TypeAlias = Callable[[Any, Any], Tensor]
"""Outputs and targets to a scalar."""
Batch: TypeAlias = tuple[Any, Any]
"""What the model takes (a tensor, a tuple of arguments, a dict of keywords) and what the loss takes besides."""
PROBABILITIES = re.compile(r"^(Softmax|LogSoftmax|Sigmoid)Backward")


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
    started = time.perf_counter()
    inputs, targets = batch
    leaves, arguments = with_gradients(inputs)
    trace = Trace(model)
    with trace.following():
        outputs = call(model, arguments)
        loss = loss_fn(outputs, targets)
    node = node_of(loss)
    graph = Graph(node, sources(leaves, trace))
    additions, num_samples = graph.additions(), size_of(inputs)
    trace.complete(graph)
    names = name_additions(graph, additions, trace.where)
    splitter, spine = Splitter(graph, additions, num_samples=num_samples), Spine(graph, num_samples=num_samples)
    try:
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        loss.backward(inputs=[*trainable, *needed(leaves, graph, additions)])
        splits = splitter.read()
        blocks = tuple(
            block_record(index, name, addition, split, graph=graph, trace=trace)
            for index, (name, addition, split) in enumerate(zip(names, additions, splits, strict=True))
            if split is not None
        )
        layers = spine.read(trace.where)
    finally:
        splitter.close()
        spine.close()
    activations = activation_records(graph, additions, trace)
    responses = trace.response_stds()
    trace.clear()
    return ReadingRecord(
        step=step,
        loss=loss.item(),
        num_samples=num_samples,
        is_training=model.training,
        inputs=tuple(describe(tensor) for tensor in tensors_in(inputs) if tensor.is_floating_point()),
        outputs=tuple(describe(tensor) for tensor in tensors_in(outputs) if tensor.is_floating_point()),
        blocks=blocks,
        layers=layers,
        activations=activations,
        parameters=parameter_records(model),
        responses=responses,
        softmax_twice=has_softmax_twice(graph),
        num_classes=classes_of(graph),
        duration_s=time.perf_counter() - started,
    )


def call(model: nn.Module, arguments: Any) -> Any:
    """The model's answer to a tensor, a tuple of arguments or a dict of keywords."""
    if isinstance(arguments, Mapping):
        return model(**arguments)
    return model(*arguments) if isinstance(arguments, list | tuple) else model(arguments)


def with_gradients(inputs: Any) -> tuple[list[Tensor], Any]:
    """Leaves that stand for the floating-point inputs, and inputs made of copies of these.

    The copies may be written over; the leaves and what the user handed in may not.
    """
    leaves: list[Tensor] = []

    def copy(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        leaves.append(tensor.detach().requires_grad_())
        return leaves[-1].clone()

    if isinstance(inputs, Tensor):
        return leaves, copy(inputs)
    if isinstance(inputs, Mapping):
        return leaves, {key: copy(value) if isinstance(value, Tensor) else value for key, value in inputs.items()}
    return leaves, [copy(value) if isinstance(value, Tensor) else value for value in inputs]


def tensors_in(value: Any) -> Iterable[Tensor]:
    """All tensors of a nest of tuples, lists and mappings, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


def size_of(inputs: Any) -> int:
    """N: the length of the first tensor that has one."""
    return next((len(tensor) for tensor in tensors_in(inputs) if tensor.ndim), 1)


def node_of(loss: Any) -> Node:
    """Where the backward pass of a loss begins."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise RequestError(f"loss_fn gave {found}; expected a scalar, such as a mean over the batch.")
    if loss.grad_fn is None:
        raise RequestError(
            "The loss has no graph to go back through: it was computed without gradients (no_grad, detach, .item()), or"
            " nothing in the model asks for them."
        )
    return loss.grad_fn


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


class Spine:
    """The layers with weights that everything goes through, and the gradient at the input of each.

    At the input, because the output of a layer before a norm has whatever scale its weights happen to have.

    Args:
        graph: of the forward pass.
        num_samples: N.
    """

    def __init__(self, graph: Graph, *, num_samples: int) -> None:
        self.graph, self.num_samples = graph, num_samples
        self.places = [
            place for place in graph.spine() if graph.is_weighted(place) and len(shape_of(graph.nodes[place])) > 1
        ]
        self.squares: dict[int, Tensor] = {}
        self.handles = []
        for place in self.places:
            for parent, output, _ in graph.inputs[place][:1]:
                if parent not in graph.sources:
                    self.handles.append(graph.nodes[parent].register_prehook(self._taker(place, output)))

    def _taker(self, place: int, output: int) -> Callable[[tuple[Tensor | None, ...]], None]:
        def take(gradients: tuple[Tensor | None, ...]) -> None:
            gradient = gradients[output]
            if gradient is not None:
                self.squares[place] = dot(gradient, gradient) * self.num_samples

        return take

    def read(self, where: dict[Node, str]) -> tuple[LayerFlowRecord, ...]:
        """A record for each layer."""
        reached = [place for place in self.places if place in self.squares]
        found = torch.stack([self.squares[place] for place in reached]).sqrt().tolist() if reached else []
        norms = dict(zip(reached, found, strict=True))
        nodes = [(place, self.graph.nodes[place]) for place in self.places]
        return tuple(
            LayerFlowRecord(index, where.get(node, ""), shape_of(node), norms.get(place, math.nan))
            for index, (place, node) in enumerate(nodes)
        )

    def close(self) -> None:
        """Removes the hooks."""
        for handle in self.handles:
            handle.remove()


def block_record(
    index: int, name: str, addition: Addition, split: Split, *, graph: Graph, trace: Trace
) -> BlockFlowRecord:
    """What the graph, the backward pass and the forward pass know of one addition."""
    signal = trace.signal_of(graph.nodes[addition.node])
    operands = (None, None) if signal is None or addition.operand > 1 else signal.operands
    return BlockFlowRecord(
        index=index,
        name=name,
        kind=addition.kind,
        shape=addition.shape,
        grad_norm=split.whole,
        shortcut_norm=split.shortcut,
        branch_norm=split.branch,
        shortcut_share=split.shortcut_share,
        branch_share=split.branch_share,
        other_share=split.other_share,
        cosine=split.cosine,
        pass_through=split.pass_through,
        shortcut_gain=split.shortcut_gain,
        stream=None if signal is None else signal.stream,
        shortcut=operands[1 - addition.operand] if addition.operand <= 1 else None,
        branch=operands[addition.operand] if addition.operand <= 1 else None,
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


def classes_of(graph: Graph) -> int | None:
    """Over how many classes a cross-entropy was taken; None where the loss is something else."""
    found = [place for place in graph.spine() if graph.names[place].startswith("LogSoftmax")]
    return shape_of(graph.nodes[found[-1]])[1] if found and len(shape_of(graph.nodes[found[-1]])) > 1 else None


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


def parameter_records(model: nn.Module) -> tuple[ParameterRecord, ...]:
    """Norms of all weights and their gradients, read from the device at once."""
    named = list(model.named_parameters())
    if not named:
        return ()
    with torch.no_grad():
        weights = torch.stack([norm_of(parameter) for _, parameter in named]).tolist()
        present = [norm_of(parameter.grad) for _, parameter in named if parameter.grad is not None]
        gradients = iter(torch.stack(present).tolist() if present else [])
    return tuple(
        ParameterRecord(
            name=name,
            shape=tuple(parameter.shape),
            weight_norm=weight,
            grad_norm=None if parameter.grad is None else next(gradients),
            is_trainable=parameter.requires_grad,
        )
        for (name, parameter), weight in zip(named, weights, strict=True)
    )


def norm_of(values: Tensor) -> Tensor:
    """L2 norm, 0-dim, in double precision, on the CPU."""
    return dot(values.detach(), values.detach()).sqrt().cpu()


@torch.no_grad()
def describe(tensor: Tensor) -> TensorRecord:
    """Range, mean and deviation of the finite values, and how many are not."""
    values = tensor.detach().double().flatten()
    finite = values[values.isfinite()]
    numbers = [math.nan] * 4
    if finite.numel():
        numbers = torch.stack([*finite.aminmax(), finite.mean(), finite.std(correction=0)]).tolist()
    return TensorRecord(
        shape=tuple(tensor.shape),
        dtype=str(tensor.dtype).removeprefix("torch."),
        low=numbers[0],
        high=numbers[1],
        mean=numbers[2],
        std=numbers[3],
        num_non_finite=values.numel() - finite.numel(),
    )
