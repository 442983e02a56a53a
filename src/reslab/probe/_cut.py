"""Takes one side of a residual addition away, in a network that knows nothing of it: lesions, and the cut twin.

The torch functions that make tensors are numbered as a forward pass calls them. A first, ordinary pass says which of
them are the residual additions; a later pass over the same batch with the same random numbers passes zeros for one
operand of those that are to be cut. So scaled, subtracted, broadcast and in-place additions are cut as simple ones are,
and nothing is assumed of the modules that they are in. It is done above autograd: no gradient goes where the zeros
stand.

Reference:
    Lesions: Veit et al. 2016, arXiv:1605.06431, sec. 4.1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
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
from reslab.records.depth import LesionRecord, TwinRecord
from reslab.untouched import untouched

Key: TypeAlias = int | str
"""Which argument of a call: its position or its keyword."""
Origin: TypeAlias = tuple[int, int]
"""Where a tensor is first seen: the number of the call, and which of the tensors that came of it; ``~i`` is the i-th of
those that went in, for what no call has made: the model's inputs, and results of operations that are not seen."""
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
    """The loss of the whole network, a record for each block that can be cut, and of each other one why it can't."""

    loss: float
    lesions: tuple[LesionRecord, ...]
    not_cut: dict[str, str]


def lesions(model: nn.Module, loss_of: LossOf, *, mode: Literal["eval", "train"] = "eval") -> Lesions:
    """Measure the loss without the branch of each block in turn; the shortcut stays, a projection too.

    It takes a forward pass for each block and two besides. In ``eval`` mode the norms use the statistics that training
    has stored, as in the paper, and no block can make up for the one that is missing; before training there are none
    worth using. In ``train`` mode they use the batch's own, which are taken again without the block, and random masks
    are the same in all passes. The model is left as it was, bit for bit.

    Raises:
        RequestError: if the loss isn't a scalar or has no graph, or no two passes are alike.
    """
    is_training = mode == "train"
    with untouched(model, is_training=is_training):
        seen = survey(model, loss_of)
    can_cut = [(index, junction) for index, junction in enumerate(seen.junctions) if not junction.why_not]
    losses: list[Tensor] = []
    for without in [{}, *({junction.call: junction.branch} for _, junction in can_cut)]:
        with untouched(model, is_training=is_training), torch.no_grad():
            losses.append(NumberedPass(seen.calls, without).run(model, loss_of).detach())
    whole, *others = torch.stack(losses).tolist()  # read from the device at once
    is_alike = math.isclose(seen.loss, whole, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    if not is_alike and not (math.isnan(seen.loss) and math.isnan(whole)):
        raise RequestError(
            f"The model gave a loss of {seen.loss:.6g} and then, for the same batch, of {whole:.6g}. It must not use"
            " random numbers that are not torch's, nor keep anything from one pass to the next but in its buffers."
        )
    found = zip(can_cut, others, strict=True)
    records = tuple(LesionRecord(index, junction.name, loss, loss - whole) for (index, junction), loss in found)
    return Lesions(whole, records, {junction.name: junction.why_not for junction in seen.junctions if junction.why_not})


def cut_twin(model: nn.Module, loss_of: LossOf) -> TwinRecord:
    """Run the batch through the network with the shortcut of every block cut, and back; in train mode.

    The blocks are those of ``diagnose``, in the same order, and their inputs' gradients are normed as there: per
    sample, as root mean square over the batch. A projection is cut as an identity is. What stays are sums inside a
    branch and skips over many blocks, which are no blocks of their own. The weights stay what they are: where branches
    start at zero, the twin of an untrained network passes nothing on, and its gradients are zero or nearly so, which
    says nothing of its depth. A network without residual additions is its own twin. The model is left as it was.

    Raises:
        RequestError: if a shortcut can't be cut, with the reason; if the loss isn't a scalar or has no graph; if no two
            passes are alike; if activations are computed again in the backward pass.
    """
    with untouched(model, is_training=True):
        seen = survey(model, loss_of)
    reasons = [f"{junction.name}: {junction.why_not}" for junction in seen.junctions if junction.why_not]
    if reasons:  # what is left would not be a twin
        more = f", and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        raise RequestError(f"Not all shortcuts can be cut. {'; '.join(reasons[:3])}{more}.")
    forks = [junction.fork for junction in seen.junctions]
    last = max((fork[0] for fork in forks if fork is not None), default=-1)
    cut = NumberedPass(seen.calls, {junction.call: junction.shortcut for junction in seen.junctions}, last=last)
    with untouched(model, is_training=True), torch.enable_grad():
        with torch.autograd.graph.disable_saved_tensors_hooks(NO_RECOMPUTING):
            try:
                loss = cut.run(model, loss_of)
            except RuntimeError as error:
                if NO_RECOMPUTING not in str(error):
                    raise
                raise RequestError(NO_RECOMPUTING) from error
        squares = squared_gradients(loss, [cut.edges.get(fork) if fork else None for fork in forks])
        numbers = torch.stack([loss.detach().double().cpu(), *squares]).tolist()
    return TwinRecord(numbers[0], tuple(math.sqrt(square * cut.seen.num_samples) for square in numbers[1:]))


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
        why_not: why neither side can be taken away; empty if either can.
    """

    name: str
    call: int = -1
    shortcut: Key = 0
    branch: Key = 1
    fork: Origin | None = None
    why_not: str = ""


class Survey(NamedTuple):
    """What an ordinary pass has shown: the loss, the names of the functions as they were called, and its additions."""

    loss: float
    calls: Sequence[str]
    junctions: Sequence[Junction]


def survey(model: nn.Module, loss_of: LossOf) -> Survey:
    """Run an ordinary forward pass, in the mode that the model is in, inside of ``untouched``.

    Raises:
        RequestError: if the loss isn't a scalar, or has no graph.
    """
    trace, ordinary = Trace(model), NumberedPass()
    with torch.enable_grad(), trace.following():
        loss = ordinary.run(model, loss_of)
    found = execution_of(loss, ordinary.seen, trace)
    junctions = [
        ordinary.junction(name, found.graph, addition)
        for name, addition in zip(found.names, found.additions, strict=True)
    ]
    return Survey(loss.item(), ordinary.calls, junctions)


class NumberedPass(TorchFunctionMode):
    """One forward pass whose calls are numbered, and in which some of them may get zeros for an argument.

    Args:
        expected: names of the calls of an ordinary pass with the same model, batch and random numbers.
        without: number of a call to the argument that is taken away.
        last: the last call of interest, if it comes after those.

    Attributes:
        calls: names of the functions, in the order in which they were called.
        edges: of each origin, where its tensor is in the graph.
        origins: of each output of a node, where it is first seen.

    Raises:
        RequestError: in the pass, if it calls other functions than expected, up to the last call of interest.
    """

    def __init__(
        self, expected: Sequence[str] = (), without: Mapping[int, Key] | None = None, *, last: int = -1
    ) -> None:
        super().__init__()
        self.expected, self.without = expected, without or {}
        self.last = max([last, *self.without])
        self.seen = ModelCall()
        self.calls: list[str] = []
        self.edges: dict[Origin, GradientEdge] = {}
        self.origins: dict[tuple[Node, int], Origin] = {}
        self._operands: dict[int, tuple[Key, ...]] = {}  # of additions

    def run(self, model: nn.Module, loss_of: LossOf) -> Tensor:
        """Run the pass, from the inputs to the loss."""
        with self.seen.hooked(model), self:
            loss = loss_of(model)
        if len(self.calls) <= self.last:
            raise self._changed("the end")
        return loss

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Numbers a call; inside of it no other is seen."""
        number, name, keywords = len(self.calls), getattr(func, "__name__", type(func).__name__), kwargs or {}
        before = edges_of((args, keywords))  # taken now: the call may write over what goes in
        if number in self.without and name == self.expected[number]:
            result = call_without(self.without[number], func, args, keywords)
        else:
            result = func(*args, **keywords)
        if not any(True for _ in tensors_in(result)):  # a question about a tensor, such as its size
            return result
        if number <= self.last and name != self.expected[number]:
            raise self._changed(name)
        if SUM.match(name):
            self._operands[number] = operand_keys(args, keywords)
        after = {(number, index): edge for index, edge in edges_of(result).items()}
        for origin, edge in ({(number, ~index): edge for index, edge in before.items()} | after).items():
            self.edges[origin] = edge
            self.origins.setdefault((edge.node, edge.output_nr), origin)  # who returns an argument has not made it
        self.calls.append(name)
        return result

    def _changed(self, now: str) -> RequestError:
        number = len(self.calls)
        return RequestError(
            f"The model's forward pass can't be repeated: call {number} of it was {self.expected[number]} at first, and"
            f" then {now}. What it computes may depend on the values, on whether gradients are asked for, or on random"
            " numbers that are not torch's; if it keeps something from its first pass, run it once before."
        )

    def junction(self, name: str, graph: Graph, addition: Addition) -> Junction:
        """Return where in the pass the addition is, and how it can be cut."""
        origin = self.origins.get((graph.nodes[addition.node], 0))
        if origin is None or origin[1] < 0:
            return Junction(name, why_not="its addition is not seen, in compiled or scripted code or in a function")
        number = origin[0]
        (shortcut,) = (e.position for e in graph.inputs[addition.node] if e.position != addition.operand)
        keys = self._operands.get(number, ())
        if len(keys) <= max(shortcut, addition.operand):
            return Junction(name, number, why_not=f"its addition is a part of what {self.calls[number]} does")
        if shortcut and addition.operand:  # addcmul adds their product to something else
            return Junction(name, number, why_not=f"{self.calls[number]} multiplies its shortcut by its branch")
        fork = self.origins.get((graph.nodes[addition.fork], addition.output))
        return Junction(name, number, keys[shortcut], keys[addition.operand], fork)


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
