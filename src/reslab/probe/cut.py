"""Takes one side of a residual addition away, in a network that knows nothing of it.

The torch functions that make tensors are numbered as a forward pass calls them. A first, ordinary pass says which of
them are the residual additions; a later pass over the same batch with the same random numbers gives zeros to one
operand of those that are to be cut. So scaled, subtracted, broadcast and in-place additions are cut as simple ones are,
and nothing is assumed of the modules that they are in. It is done above autograd: no gradient goes where the zeros
stand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node
from torch.overrides import TorchFunctionMode

from reslab.errors import RequestError
from reslab.probe.eager import eagerly
from reslab.probe.graph import Addition, Graph
from reslab.probe.inputs import call, tensors_in, with_gradients
from reslab.probe.reading import Batch, LossFn, node_of, sources
from reslab.probe.trace import Trace, name_additions
from reslab.probe.untouched import untouched

Key: TypeAlias = int | str
"""Which argument of a call: its position or its keyword."""
Origin: TypeAlias = tuple[int, int]
"""Where a tensor is first seen: the number of the call, and which of the tensors that came of it; ``~i`` is the i-th of
those that went in, for what no call has made: the model's inputs, and results of operations that go by unseen."""
UNSEEN = -1
"""In place of the number of a call that goes by unseen."""
SUM = re.compile(r"^(add|sub|subtract|addcmul)_?(\.\w+)?$")
"""Names of the functions that add, as operators, methods, functions or overloads of torch."""
KEYWORDS = ("input", "self", "other", "tensor1", "tensor2")
"""What the operands of these are called where they go by name, in the order of the operation."""


@dataclass(frozen=True)
class Junction:
    """A residual addition, and where in the pass it is.

    Args:
        name: of the block, as in ``BlockFlowRecord``.
        call: number of the addition's call.
        shortcut: which argument of the call the shortcut's operand is.
        branch: which one the branch's is.
        fork: where the block's input is first seen; None if it never is.
        why_not: why neither side can be taken away; None if either can.
    """

    name: str
    call: int = UNSEEN
    shortcut: Key = 0
    branch: Key = 1
    fork: Origin | None = None
    why_not: str | None = None


@dataclass(frozen=True)
class Survey:
    """What an ordinary pass has shown.

    Args:
        loss: of the batch.
        calls: names of the functions, in the order in which they were called.
        junctions: residual additions, in order of execution: those of ``Graph.additions``.
    """

    loss: float
    calls: tuple[str, ...]
    junctions: tuple[Junction, ...]


class Pass(TorchFunctionMode):
    """One forward pass whose calls are numbered. Serves once."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0
        """Of the next call."""
        self.leaves: list[Tensor] = []

    def loss_of(self, model: nn.Module, batch: Batch, loss_fn: LossFn) -> Tensor:
        """Runs the pass, from the inputs to the loss."""
        inputs, targets = batch
        self.leaves, arguments = with_gradients(inputs)
        with self:
            return loss_fn(call(model, arguments), targets)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Numbers a call; inside of it no other is seen."""
        before = edges_of((args, kwargs or {}))  # taken now: the call may write over what goes in
        result = self.perform(func, args, kwargs or {})
        if any(True for _ in tensors_in(result)):  # else it was a question about a tensor, such as its size
            self.count(func)
            for index, edge in before.items():
                self.note((self.number, ~index), edge)
            for index, edge in edges_of(result).items():
                self.note((self.number, index), edge)
            self.number += 1
        return result

    def perform(self, func: Callable[..., Any], args: Sequence[Any], keywords: dict[str, Any]) -> Any:
        """What a call does that may be the next."""
        return func(*args, **keywords)

    def count(self, func: Callable[..., Any]) -> None:
        """Looks at a call that is the next."""

    def note(self, origin: Origin, edge: GradientEdge) -> None:
        """Looks at what went into that call, and at what came of it."""


class Numbering(Pass):
    """An ordinary pass that remembers which call has made what."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.operands: dict[int, tuple[Key, ...]] = {}
        self.origins: dict[tuple[Node, int], Origin] = {}

    def perform(self, func: Callable[..., Any], args: Sequence[Any], keywords: dict[str, Any]) -> Any:
        """Does what it does, and remembers of an addition which arguments its operands are."""
        if SUM.match(name_of(func)):
            self.operands[self.number] = operand_keys(args, keywords)
        return func(*args, **keywords)

    def count(self, func: Callable[..., Any]) -> None:
        """Remembers its name."""
        self.names.append(name_of(func))

    def note(self, origin: Origin, edge: GradientEdge) -> None:
        """Remembers where each tensor is first seen: a function that hands on its argument has not made it."""
        self.origins.setdefault((edge.node, edge.output_nr), origin)

    def junction(self, name: str, graph: Graph, addition: Addition) -> Junction:
        """Where in the pass the addition is, and how it can be cut."""
        origin = self.origins.get((graph.nodes[addition.node], 0))
        if origin is None or origin[1] < 0:
            return Junction(name, why_not="its addition goes by unseen, in compiled or scripted code or in a function")
        number, function = origin[0], self.names[origin[0]]
        (shortcut,) = (place for _, _, place in graph.inputs[addition.node] if place != addition.operand)
        keys = self.operands.get(number, ())
        if len(keys) <= max(shortcut, addition.operand):
            return Junction(name, call=number, why_not=f"its addition is a part of what {function} does")
        if shortcut and addition.operand:  # addcmul adds their product to something else
            return Junction(name, call=number, why_not=f"{function} multiplies its shortcut by its branch")
        fork = self.origins.get((graph.nodes[addition.fork], addition.output))
        return Junction(name, call=number, shortcut=keys[shortcut], branch=keys[addition.operand], fork=fork)


class Cut(Pass):
    """A pass in which some calls get zeros for an argument.

    Args:
        survey: of the same model, batch and random numbers.
        without: number of a call to the argument that is taken away.
        watched: origins of tensors whose place in the graph is wanted.

    Raises:
        RequestError: in the pass, if it calls other functions than the survey's did, up to the last call of interest.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> class Residual(nn.Module):
        ...     def forward(self, x):
        ...         return x + model(x)
        >>> batch, loss_fn = (torch.ones(3, 2), None), lambda out, _: out.sum()
        >>> (junction,) = survey(Residual(), batch, loss_fn).junctions
        >>> cut = Cut(survey(Residual(), batch, loss_fn), {junction.call: junction.branch})
        >>> cut.loss_of(Residual(), batch, loss_fn).item()
        6.0
    """

    def __init__(self, survey: Survey, without: Mapping[int, Key], *, watched: Iterable[Origin] = ()) -> None:
        super().__init__()
        self.calls, self.without, self.watched = survey.calls, without, frozenset(watched)
        self.last = max([UNSEEN, *without, *(number for number, _ in self.watched)])
        self.edges: dict[Origin, GradientEdge] = {}
        """Where the watched tensors are in the graph; those that ask for no gradient are left out."""

    def loss_of(self, model: nn.Module, batch: Batch, loss_fn: LossFn) -> Tensor:
        """Runs the pass, from the inputs to the loss."""
        loss = super().loss_of(model, batch, loss_fn)
        if self.number <= self.last:
            raise changed(self.number, self.calls[self.number], "the end")
        return loss

    def perform(self, func: Callable[..., Any], args: Sequence[Any], keywords: dict[str, Any]) -> Any:
        """Does what it does, without an argument if it is to be cut."""
        if self.number in self.without and name_of(func) == self.calls[self.number]:
            return call_without(self.without[self.number], func, args, keywords)
        return func(*args, **keywords)

    def count(self, func: Callable[..., Any]) -> None:
        """Compares it with that of the survey."""
        if self.number <= self.last and name_of(func) != self.calls[self.number]:
            raise changed(self.number, self.calls[self.number], name_of(func))

    def note(self, origin: Origin, edge: GradientEdge) -> None:
        """Keeps the place of a watched tensor."""
        if origin in self.watched:
            self.edges[origin] = edge


def survey(model: nn.Module, batch: Batch, loss_fn: LossFn) -> Survey:
    """An ordinary forward pass, in the mode that the model is in; it is to be ``repeatable``.

    Raises:
        RequestError: if the loss is no scalar, or has no graph.
    """
    trace, numbering = Trace(model), Numbering()
    with torch.enable_grad(), trace.following():  # entered before: what the trace computes for itself isn't numbered
        loss = numbering.loss_of(model, batch, loss_fn)
    graph = Graph(node_of(loss), sources(numbering.leaves, trace))
    trace.complete(graph)
    additions = graph.additions()
    names = name_additions(graph, additions, trace.where)
    found = [numbering.junction(name, graph, addition) for name, addition in zip(names, additions, strict=True)]
    return Survey(loss.item(), tuple(numbering.names), tuple(found))


@contextmanager
def repeatable(model: nn.Module, *, is_training: bool) -> Iterator[None]:
    """A pass that leaves nothing behind, so that the next one sees the same parameters, buffers and random numbers.

    Args:
        model: any; a compiled one runs uncompiled.
        is_training: the mode of the pass. A model that is in train mode keeps the parts of it that are not.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(eagerly())
        stack.enter_context(untouched(model))
        if not (model.training and is_training):
            model.train(is_training)
        yield


def call_without(key: Key, func: Callable[..., Any], args: Sequence[Any], keywords: dict[str, Any]) -> Any:
    """Calls an addition with zeros for one operand; what it would have written over that one is written there."""
    dropped = args[key] if isinstance(key, int) else keywords[key]
    zeros = torch.zeros_like(dropped, requires_grad=False)
    if isinstance(key, int):
        result = func(*args[:key], zeros, *args[key + 1 :], **keywords)
    else:
        result = func(*args, **{**keywords, key: zeros})
    # an addition in place has written over the zeros; whoever holds the tensor itself must see it, too
    return dropped.copy_(result) if result is zeros else result


def edges_of(values: Any) -> dict[int, GradientEdge]:
    """Where the tensors of a nest are in the graph, by their place in the nest; those that no node has made are not."""
    tensors = enumerate(tensors_in(values))
    return {index: GradientEdge(t.grad_fn, t.output_nr) for index, t in tensors if t.grad_fn is not None}


def operand_keys(args: Sequence[Any], keywords: Mapping[str, Any]) -> tuple[Key, ...]:
    """The arguments that are tensors, in the order of the operation; none if others stand between them."""
    operands: dict[Key, Any] = dict(enumerate(args))
    operands.update({key: keywords[key] for key in KEYWORDS if key in keywords})
    return tuple(operands) if all(isinstance(value, Tensor) for value in operands.values()) else ()


def name_of(func: Callable[..., Any]) -> str:
    """A function's name."""
    return getattr(func, "__name__", type(func).__name__)


def changed(number: int, before: str, now: str) -> RequestError:
    """The error for a pass that is not like the one before."""
    return RequestError(
        f"The model's forward pass can't be repeated: call {number} of it was {before} at first, and then {now}. What"
        " it computes may depend on the values, on whether gradients are asked for, or on random numbers that are not"
        " torch's; if it keeps something from its first pass, run it once before."
    )
