"""Takes one side of a residual addition away, in a network that knows nothing of it: lesions, and the cut twin.

The torch functions that make tensors are numbered as a forward pass calls them. A first, ordinary pass says which of
them are the residual additions; a later pass over the same batch with the same random numbers passes zeros for one
operand of those that are to be cut. So scaled, subtracted, broadcast and in-place additions are cut as simple ones are,
and nothing is assumed of the modules that they are in. It is done above autograd: no gradient goes where the zeros
stand.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node
from torch.overrides import TorchFunctionMode

from reslab.errors import RequestError
from reslab.models.graph import Addition, Graph
from reslab.models.trace import Trace
from reslab.probe._forward import execution_of
from reslab.probe._norms import dot
from reslab.probe.batch import LossOf, ModelCall, tensors_in
from reslab.records import LesionRecord, TwinRecord
from reslab.untouched import untouched

Key: TypeAlias = int | str
"""Which argument of a call: its position or its keyword."""
Origin: TypeAlias = tuple[int, int]
"""Where a tensor is first seen: the number of the call, and which of the tensors that came of it; ``~i`` is the i-th of
those that went in, for what no call has made: the model's inputs, and results of operations that are not seen."""
UNSEEN = -1
"""In place of the number of a call that is not seen."""
SUM = re.compile(r"^(add|sub|subtract|addcmul)_?(\.\w+)?$")
"""Names of the functions that add, as operators, methods, functions or overloads of torch."""
KEYWORDS = ("input", "self", "other", "tensor1", "tensor2")
"""Keywords of their operands, in the order of the operation."""
TOLERANCE = 1e-2
"""Losses that differ by less are the same: without gradients, other kernels may run, and round otherwise."""
NO_RECOMPUTING = (
    "The twin of a network that saves its activations by hooks can't be measured: what checkpointing computes again in"
    " the backward pass would have its shortcuts. Switch checkpointing off."
)


class Lesions(NamedTuple):
    """What a lesion study has found.

    Args:
        loss: of the whole network.
        lesions: one for each block whose branch can be taken away, in order of execution.
        not_cut: name of each other block to the reason.
    """

    loss: float
    lesions: tuple[LesionRecord, ...]
    not_cut: dict[str, str]


def lesions(model: nn.Module, loss_of: LossOf, *, mode: Literal["eval", "train"] = "eval") -> Lesions:
    """Measure the loss without the branch of each block in turn; the shortcut stays, a projection too.

    It takes a forward pass for each block and two besides. The model is left as it was, bit for bit.

    Args:
        model: any, on the batch's device.
        loss_of: runs it up to the loss.
        mode: of the model in all passes. In ``eval`` the norms use the statistics that training has stored, as in the
            paper, and no block can make up for the one that is missing; before training there are none worth using.
            In ``train`` they use the batch's own, which are taken again without the block, and random masks are the
            same in all passes.

    Raises:
        RequestError: if the loss isn't a scalar or has no graph, or no two passes are alike.

    Example:
        >>> import reslab
        >>> from reslab.probe.batch import BatchLoss
        >>> batch = torch.randn(4, 3, 16, 16), torch.arange(4) % 3
        >>> found = lesions(reslab.create_model("resnet8", 3), BatchLoss(batch, nn.functional.cross_entropy))
        >>> [lesion.name for lesion in found.lesions]
        ['layer1.0', 'layer2.0', 'layer3.0']

    Reference:
        Veit et al. 2016, arXiv:1605.06431, sec. 4.1.
    """
    is_training = mode == "train"
    with untouched(model, is_training=is_training):
        seen = survey(model, loss_of)
    found = [(index, junction) for index, junction in enumerate(seen.junctions) if junction.why_not is None]
    losses: list[Tensor] = []
    for without in [{}, *({junction.call: junction.branch} for _, junction in found)]:
        with untouched(model, is_training=is_training), torch.no_grad():
            losses.append(Cut(seen, without).run(model, loss_of).detach())
    whole, *others = torch.stack(losses).tolist()  # read from the device at once
    first, both_nan = seen.loss, math.isnan(seen.loss) and math.isnan(whole)
    if not both_nan and not math.isclose(first, whole, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
        raise RequestError(
            f"The model gave a loss of {first:.6g} and then, for the same batch, of {whole:.6g}. It must not use random"
            " numbers that are not torch's, nor keep anything from one pass to the next but in its buffers."
        )
    return Lesions(
        loss=whole,
        lesions=tuple(
            LesionRecord(index=index, name=junction.name, loss=loss, increase=loss - whole)
            for (index, junction), loss in zip(found, others, strict=True)
        ),
        not_cut={junction.name: junction.why_not for junction in seen.junctions if junction.why_not is not None},
    )


def cut_twin(model: nn.Module, loss_of: LossOf) -> TwinRecord:
    """Run the batch through the network with the shortcut of every block cut, and back; in train mode.

    The blocks are those of ``diagnose``, in the same order, and their inputs' gradients are normed as there: per
    sample, as root mean square over the batch. A projection is cut as an identity is. What stays are sums inside a
    branch and skips over many blocks, which are no blocks of their own. The weights stay what they are: where branches
    start at zero, as with LayerScale or a last gain of zero, the twin of an untrained network passes nothing on, and
    its gradients are zero or nearly so. That says nothing of its depth.

    A network without residual additions is its own twin.

    Args:
        model: any; it is left as it was, bit for bit.
        loss_of: runs it up to the loss.

    Raises:
        RequestError: if a shortcut can't be cut, with the reason; if the loss isn't a scalar or has no graph; if no two
            passes are alike; if activations are computed again in the backward pass.

    Example:
        >>> import reslab
        >>> from reslab.probe.batch import BatchLoss
        >>> batch = torch.randn(4, 3, 16, 16), torch.arange(4) % 3
        >>> twin = cut_twin(reslab.create_model("resnet8", 3), BatchLoss(batch, nn.functional.cross_entropy))
        >>> len(twin.grad_norms)
        3
    """
    with untouched(model, is_training=True):
        whole = survey(model, loss_of)
    reasons = [f"{junction.name}: {junction.why_not}" for junction in whole.junctions if junction.why_not]
    if reasons:  # what is left would not be a twin
        more = f", and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        raise RequestError(f"Not all shortcuts can be cut. {'; '.join(reasons[:3])}{more}.")
    forks = [junction.fork for junction in whole.junctions]
    without = {junction.call: junction.shortcut for junction in whole.junctions}
    cut = Cut(whole, without, watched=[fork for fork in forks if fork is not None])
    with untouched(model, is_training=True), torch.enable_grad():
        loss = without_recomputing(cut, model, loss_of)
        squares = squared_gradients(loss, [cut.edges.get(fork) if fork else None for fork in forks])
        numbers = torch.stack([loss.detach().double().cpu(), *squares]).tolist()
    return TwinRecord(numbers[0], tuple(math.sqrt(square * cut.seen.num_samples) for square in numbers[1:]))


def without_recomputing(cut: Cut, model: nn.Module, loss_of: LossOf) -> Tensor:
    """The loss; an error if something is left to be computed again in the backward pass, where nothing is cut."""
    with torch.autograd.graph.disable_saved_tensors_hooks(NO_RECOMPUTING):
        try:
            return cut.run(model, loss_of)
        except RuntimeError as error:
            if NO_RECOMPUTING in str(error):
                raise RequestError(NO_RECOMPUTING) from error
            raise


def squared_gradients(loss: Tensor, edges: Sequence[GradientEdge | None]) -> list[Tensor]:
    """Squared norm of the loss's gradient at each edge, 0-dim; NaN where none arrives."""
    wanted = dict.fromkeys(edge for edge in edges if edge is not None)
    found = torch.autograd.grad(loss, [*wanted], allow_unused=True) if wanted and loss.requires_grad else ()
    arrived = {edge: dot(grad, grad).cpu() for edge, grad in zip(wanted, found, strict=False) if grad is not None}
    return [arrived[edge] if edge in arrived else torch.tensor(math.nan, dtype=torch.float64) for edge in edges]


# ---- a pass whose calls are numbered


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


def survey(model: nn.Module, loss_of: LossOf) -> Survey:
    """Run an ordinary forward pass, in the mode that the model is in, inside of ``untouched``.

    Raises:
        RequestError: if the loss isn't a scalar, or has no graph.
    """
    trace, numbering = Trace(model), Numbering()
    with torch.enable_grad(), trace.following():  # entered before: what the trace computes for itself isn't numbered
        loss = numbering.run(model, loss_of)
    execution = execution_of(loss, numbering.seen, trace)
    found = [
        numbering.junction(name, execution.graph, addition)
        for name, addition in zip(execution.names, execution.additions, strict=True)
    ]
    return Survey(loss.item(), tuple(numbering.names), tuple(found))


class NumberedPass(TorchFunctionMode):
    """One forward pass whose calls are numbered. Serves once."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0
        """Of the next call."""
        self.seen = ModelCall()

    def run(self, model: nn.Module, loss_of: LossOf) -> Tensor:
        """Runs the pass, from the inputs to the loss."""
        with self.seen.hooked(model), self:
            return loss_of(model)

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
        """Runs a call that may be the next."""
        return func(*args, **keywords)

    def count(self, func: Callable[..., Any]) -> None:
        """Looks at a call that is the next."""

    def note(self, origin: Origin, edge: GradientEdge) -> None:
        """Looks at what went into that call, and at what came of it."""


class Numbering(NumberedPass):
    """An ordinary pass that remembers which call has made what."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.operands: dict[int, tuple[Key, ...]] = {}
        self.origins: dict[tuple[Node, int], Origin] = {}

    def perform(self, func: Callable[..., Any], args: Sequence[Any], keywords: dict[str, Any]) -> Any:
        if SUM.match(name_of(func)):
            self.operands[self.number] = operand_keys(args, keywords)
        return func(*args, **keywords)

    def count(self, func: Callable[..., Any]) -> None:
        self.names.append(name_of(func))

    def note(self, origin: Origin, edge: GradientEdge) -> None:
        """Remembers where each tensor is first seen: a function that returns its argument has not made it."""
        self.origins.setdefault((edge.node, edge.output_nr), origin)

    def junction(self, name: str, graph: Graph, addition: Addition) -> Junction:
        """Return where in the pass the addition is, and how it can be cut."""
        origin = self.origins.get((graph.nodes[addition.node], 0))
        if origin is None or origin[1] < 0:
            return Junction(name, why_not="its addition is not seen, in compiled or scripted code or in a function")
        number, function = origin[0], self.names[origin[0]]
        (shortcut,) = (e.position for e in graph.inputs[addition.node] if e.position != addition.operand)
        keys = self.operands.get(number, ())
        if len(keys) <= max(shortcut, addition.operand):
            return Junction(name, call=number, why_not=f"its addition is a part of what {function} does")
        if shortcut and addition.operand:  # addcmul adds their product to something else
            return Junction(name, call=number, why_not=f"{function} multiplies its shortcut by its branch")
        fork = self.origins.get((graph.nodes[addition.fork], addition.output))
        return Junction(name, call=number, shortcut=keys[shortcut], branch=keys[addition.operand], fork=fork)


class Cut(NumberedPass):
    """A pass in which some calls get zeros for an argument.

    Args:
        survey: of the same model, batch and random numbers.
        without: number of a call to the argument that is taken away.
        watched: origins of tensors whose place in the graph is wanted.

    Attributes:
        edges: where the watched tensors are in the graph; those that ask for no gradient are left out.

    Raises:
        RequestError: in the pass, if it calls other functions than the survey's did, up to the last call of interest.
    """

    def __init__(self, survey: Survey, without: Mapping[int, Key], *, watched: Iterable[Origin] = ()) -> None:
        super().__init__()
        self.calls, self.without, self.watched = survey.calls, without, frozenset(watched)
        self.last = max([UNSEEN, *without, *(number for number, _ in self.watched)])
        self.edges: dict[Origin, GradientEdge] = {}

    def run(self, model: nn.Module, loss_of: LossOf) -> Tensor:
        loss = super().run(model, loss_of)
        if self.number <= self.last:
            raise changed(self.number, self.calls[self.number], "the end")
        return loss

    def perform(self, func: Callable[..., Any], args: Sequence[Any], keywords: dict[str, Any]) -> Any:
        if self.number in self.without and name_of(func) == self.calls[self.number]:
            return call_without(self.without[self.number], func, args, keywords)
        return func(*args, **keywords)

    def count(self, func: Callable[..., Any]) -> None:
        if self.number <= self.last and name_of(func) != self.calls[self.number]:
            raise changed(self.number, self.calls[self.number], name_of(func))

    def note(self, origin: Origin, edge: GradientEdge) -> None:
        if origin in self.watched:
            self.edges[origin] = edge


def call_without(key: Key, func: Callable[..., Any], args: Sequence[Any], keywords: dict[str, Any]) -> Any:
    """Call an addition with zeros for one operand; what it would have written over that one is written there."""
    dropped = args[key] if isinstance(key, int) else keywords[key]
    zeros = torch.zeros_like(dropped, requires_grad=False)
    if isinstance(key, int):
        result = func(*args[:key], zeros, *args[key + 1 :], **keywords)
    else:
        result = func(*args, **{**keywords, key: zeros})
    # an addition in place has written over the zeros; whoever holds the tensor itself must see it, too
    return dropped.copy_(result) if result is zeros else result


def edges_of(values: Any) -> dict[int, GradientEdge]:
    """Where the tensors of a nest are in the graph, by their place in the nest; without those that no node has made."""
    tensors = enumerate(tensors_in(values))
    return {index: GradientEdge(t.grad_fn, t.output_nr) for index, t in tensors if t.grad_fn is not None}


def operand_keys(args: Sequence[Any], keywords: Mapping[str, Any]) -> tuple[Key, ...]:
    """The arguments that are tensors, in the order of the operation; none if others stand between them."""
    operands: dict[Key, Any] = dict(enumerate(args))
    operands.update({key: keywords[key] for key in KEYWORDS if key in keywords})
    return tuple(operands) if all(isinstance(value, Tensor) for value in operands.values()) else ()


def name_of(func: Callable[..., Any]) -> str:
    return getattr(func, "__name__", type(func).__name__)


def changed(number: int, before: str, now: str) -> RequestError:
    """The error for a pass that is not like the one before."""
    return RequestError(
        f"The model's forward pass can't be repeated: call {number} of it was {before} at first, and then {now}. What"
        " it computes may depend on the values, on whether gradients are asked for, or on random numbers that are not"
        " torch's; if it keeps something from its first pass, run it once before."
    )
