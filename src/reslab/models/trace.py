"""What happens in a network while it runs: every layer, addition and concatenation, in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reslab.errors import RequestError
from reslab.models.block import Block
from reslab.models.count import Counter, aten, elsewhere, eval_mode, same_random_numbers, told_of_modules
from reslab.models.layer_text import describe, is_told
from reslab.records import LayerRecord

Shape = tuple[int, ...]

BATCH = 2  # a parameter that is added to the stream has one sample, and so can be told from a shortcut


@dataclass(frozen=True)
class Call:
    """One layer that ran.

    Args:
        path: name of its module.
        layer: what it is; None for an identity.
    """

    path: str
    layer: LayerRecord | None


@dataclass(frozen=True)
class Join:
    """Two or more tensors that became one.

    Args:
        path: name of the module in whose own forward it happened.
        direct: of an addition, the names of the modules on those sides that read the input directly; "" is the input
            itself. Empty for a concatenation.
    """

    path: str
    direct: tuple[str, ...]


Event = Call | Join


def run_and_trace(model: nn.Module, image_shape: Shape) -> Tracer:
    """What happens in one forward with values of the meta device in place of the model's own; it stays as it is.

    Raises:
        RequestError: if the model can't be run without values.
    """
    tracer = Tracer(model)
    values = {name: elsewhere(parameter, "meta") for name, parameter in model.named_parameters()}
    values |= {name: elsewhere(buffer, "meta") for name, buffer in model.named_buffers()}
    images = torch.empty(BATCH, *image_shape, device="meta")
    try:
        with torch.no_grad(), eval_mode(model), same_random_numbers(), told_of_modules(tracer), tracer:
            torch.func.functional_call(model, values, (images,))
    except Exception as error:
        raise RequestError(
            f"Can't run {type(model).__name__} on shapes alone, with input {' x '.join(map(str, image_shape))}:"
            f" {type(error).__name__}: {error}"
        ) from None
    return tracer


class Tracer(Counter):
    """Counts, and notes every layer that runs and every addition and concatenation, in order.

    Tensors are told apart by identity: each is kept alive until the end, and on the meta device costs nothing.

    Args:
        model: that will run.

    Attributes:
        modules: of the model, by name.
        events: what happened.
        shapes: of the input and the output of each module, without the batch.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__({module: name for name, module in model.named_modules()})
        self.modules = dict(model.named_modules())
        self.events: list[Event] = []
        self.shapes: dict[str, tuple[Shape, Shape]] = {}
        self._given: list[set[int]] = []  # which tensors each running module was given
        self._makers: dict[int, str] = {}
        self._readers: dict[str, set[int]] = {}
        self._kept: list[Any] = []

    def start(self, module: nn.Module, inputs: Any) -> None:
        """A module begins to run."""
        super().start(module, inputs)
        self._given.append({id(value) for value in inputs})
        self._kept.append(inputs)

    def end(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """A module has run."""
        super().end(module, inputs, output)
        path = self.names[module]
        self._readers[path] = self._given.pop()
        self._kept.append(output)
        if any(is_told(self.modules[outer]) for outer in self.running):
            return
        self._makers[id(output)] = path
        has_streams = isinstance(module, Block) and module.streams is not None  # (n, N, C, *)
        self.shapes[path] = (
            shape_of(next(iter(inputs), None), batch_axis=int(has_streams)),
            shape_of(output, batch_axis=int(has_streams)),
        )
        if is_told(module):
            self.events.append(Call(path, describe(module)))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Runs one operation, counts it, and notes it if it joins tensors."""
        if func in (aten.add.Tensor, aten.add_.Tensor) and is_sum_of_equals(*args[:2]):
            self._note_join(args[:2])
        elif func is aten.cat.default:
            self._note_join(())
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _note_join(self, sides: Sequence[Tensor]) -> None:
        """The innermost running module that is not named as a whole has joined these."""
        owners = [place for place, path in enumerate(self.running) if not is_told(self.modules[path])]
        if owners:
            path, given = self.running[owners[-1]], self._given[owners[-1]]
            makers = [self._makers.get(id(side), "?") for side in sides if id(side) not in given]
            direct = [maker for maker in makers if self._readers.get(maker, set()) & given]
            self.events.append(Join(path, tuple(direct) if len(makers) == len(sides) else ("",)))


def shape_of(value: Any, *, batch_axis: int) -> Shape:
    """Of one sample: what follows the batch. () of what is no tensor."""
    return tuple(value.shape[batch_axis + 1 :]) if isinstance(value, Tensor) else ()


def is_sum_of_equals(left: Any, right: Any) -> bool:
    """Whether two batches of one shape are added; a parameter is none."""
    if not (isinstance(left, Tensor) and isinstance(right, Tensor)):
        return False
    return left.shape == right.shape and left.ndim > 1 and left.shape[0] == BATCH
