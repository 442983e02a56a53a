"""Singular values of input-output Jacobians: of each stage of blocks, and of the whole network.

They come from products of the Jacobian and of its transpose with vectors, on the graph that one forward pass left
behind. The product with the transpose is autograd's own; the product with the Jacobian is the derivative of that one
with respect to the vector that it is given, since it is linear in it. So whatever can be differentiated twice is
covered: operations in place, functions, and parts that begin and end inside of modules.

Reference:
    Golub and Kahan 1965, Calculating the Singular Values and Pseudo-Inverse of a Matrix.
    Pennington et al. 2017, arXiv:1711.04735: dynamical isometry.

Shape letters: I values of the input of a part, O of its output, both over all samples.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.attention import SDPBackend, sdpa_kernel

from reslab.errors import RequestError
from reslab.models.graph import Addition, Graph
from reslab.probe._forward import Execution, execute
from reslab.probe.batch import call, chosen, size_of, tensors_in
from reslab.probe.shattering import frozen_norms
from reslab.records.depth import JacobianRecord
from reslab.untouched import untouched

MAX_VALUES = 2**27
"""Values that the vectors of a bidiagonalisation may have together; of large parts fewer steps are taken."""


def jacobians(
    model: nn.Module,
    inputs: Any,
    *,
    num_directions: int = 8,
    num_steps: int = 30,
    num_samples: int = 4,
    seed: int = 0,
) -> tuple[JacobianRecord, ...]:
    """Measure how the network stretches small changes: all of it, then each stage in the order of the blocks.

    Batch norms are frozen to the statistics of the whole batch, and dropout is off, whatever mode the model is in:
    samples don't depend on each other, and the singular values are those of some of them side by side. In train mode
    the gradient of the batch would also lose what batch norm takes from it. The model is left as it was.

    Args:
        model: any.
        inputs: of the model; their first dimension counts samples.
        num_directions: of the output, at random, that ``mean_square`` is a mean over.
        num_steps: of the bidiagonalisation; as many singular values come of it, or fewer if there are no more. What
            is large settles first. An output of at most twice as many values, such as logits, gives all of its
            singular values and the mean over all directions, exactly. Any other part has none if something in it
            can't be differentiated twice, such as a hard sigmoid; ``largest`` is NaN then.
        num_samples: the first ones of the batch, that are looked at.
        seed: for directions.

    Raises:
        RequestError: if the outputs don't depend on the inputs, or the Jacobian isn't finite.
    """
    for name, count in {"num_directions": num_directions, "num_steps": num_steps, "num_samples": num_samples}.items():
        if count < 1:
            raise RequestError(f"{name} is {count}; expected at least 1.")
    generator = torch.Generator().manual_seed(seed)
    with untouched(model), torch.enable_grad():
        with frozen_norms(model, inputs):
            some = chosen(inputs, torch.arange(size_of(inputs))[:num_samples])
            parts = parts_of(model, some)
        return tuple(
            record_of(part, generator, num_directions=num_directions, num_steps=num_steps, num_samples=size_of(some))
            for part in parts
        )


def record_of(
    part: Jacobian, generator: torch.Generator, *, num_directions: int, num_steps: int, num_samples: int
) -> JacobianRecord:
    if part.num_rows <= min(2 * num_steps, MAX_VALUES // part.num_columns):
        values = svdvals(part.dense(), part.name)
        mean_square = sum(value**2 for value in values) / part.num_rows
    else:
        directions = (part.direction(generator, part.num_rows) for _ in range(num_directions))
        images = [part.transposed(direction).double().square().sum() for direction in directions]
        mean_square = torch.stack(images).mean().item()
        num_steps = min(num_steps, max(2, MAX_VALUES // (part.num_rows + part.num_columns)))
        try:
            values = singular_values(part, generator, num_steps=num_steps)
        except NoSecondDerivative:
            values = []
    return JacobianRecord(part.name, mean_square, values[0] if values else math.nan, tuple(values), num_samples)


# ---- the parts of a network


def parts_of(model: nn.Module, inputs: Any) -> list[Jacobian]:
    """The whole network and its stages, after a forward pass."""
    outputs: list[Tensor] = []

    def total(model: nn.Module) -> Tensor:
        outputs.extend(tensor for tensor in tensors_in(call(model, inputs)) if tensor.requires_grad)
        if not outputs:
            raise RequestError("The outputs contain no tensor that depends on the inputs: there is no Jacobian.")
        return torch.stack([output.sum() for output in outputs]).sum()

    with sdpa_kernel(SDPBackend.MATH):  # fused attention can't be differentiated twice
        execution = execute(model, total)
    starts = [GradientEdge(execution.graph.nodes[place], 0) for place in execution.graph.sources]
    if not starts:
        raise RequestError("The outputs don't depend on the inputs: there is no Jacobian.")
    return [Jacobian("all", starts, list(map(get_gradient_edge, outputs))), *stages(execution)]


def stages(execution: Execution) -> list[Jacobian]:
    """Runs of blocks whose sums have one shape, each going on from the one before.

    A stage goes from the fork of its first block to the activation after the last one's sum, or to that sum.
    """
    graph, runs = execution.graph, list[list[tuple[Addition, str]]]()
    for addition, name in zip(execution.additions, execution.names, strict=True):
        if runs and goes_on(graph, runs[-1][-1][0], addition):
            runs[-1].append((addition, name))
        else:
            runs.append([(addition, name)])
    parts = []
    for title, run in zip(stage_names([[name for _, name in run] for run in runs]), runs, strict=True):
        first, last = run[0][0], run[-1][0]
        mask = graph.activation_after(last)
        start = GradientEdge(graph.nodes[first.fork], first.output)
        parts.append(Jacobian(title, [start], [GradientEdge(graph.nodes[last.node if mask is None else mask], 0)]))
    return parts


def goes_on(graph: Graph, before: Addition, addition: Addition) -> bool:
    """Whether a block has the shape of another one, and nothing goes into it but through that one's sum."""
    place = addition.fork
    while place > before.node:
        place = graph.dominator[place]
    return place == before.node and addition.shape == before.shape


def stage_names(runs: Sequence[Sequence[str]]) -> list[str]:
    """A name for each run of blocks: what their names begin with, or its number where that tells nothing."""
    shared = []
    for names in runs:
        parts = zip(*(re.sub(r"#\d+$", "", name).split(".") for name in names), strict=False)
        same = [found[0] for found in itertools.takewhile(lambda found: len(set(found)) == 1, parts)]
        shared.append(".".join(same[:-1] if same and same[-1].isdigit() else same))
    return [
        name if name and name != "all" and shared.count(name) == 1 else f"stage {index}"
        for index, name in enumerate(shared, start=1)
    ]


# ---- products and singular values


class NoSecondDerivative(RuntimeError):
    """Something in the model can be differentiated once only."""


class Jacobian:
    """The matrix (O, I) of a part, by its products with vectors; the graph stays whole.

    Args:
        name: of the part.
        starts: edges that stand for its input.
        ends: edges that stand for its output.
    """

    def __init__(self, name: str, starts: Sequence[GradientEdge], ends: Sequence[GradientEdge]) -> None:
        self.name, self.starts, self.ends = name, starts, ends
        inputs, outputs = ([edge.node._input_metadata[edge.output_nr] for edge in side] for side in (starts, ends))
        self.shapes = [torch.Size(each.shape) for each in inputs]
        self.cotangents = [
            torch.zeros(tuple(each.shape), dtype=each.dtype, device=each.device, requires_grad=True) for each in outputs
        ]
        self.pulled: tuple[Tensor | None, ...] | None = None
        some = self.cotangents[0].detach()  # half precision can't be made orthogonal
        self.vector = some.new_empty(0, dtype=torch.promote_types(some.dtype, torch.float32))
        self.num_rows = sum(cotangent.numel() for cotangent in self.cotangents)
        self.num_columns = sum(shape.numel() for shape in self.shapes)

    def direction(self, generator: torch.Generator, size: int) -> Tensor:
        """A random vector of length 1."""
        vector = torch.randn(size, generator=generator).to(self.vector)
        return vector.div(vector.norm())

    def dense(self) -> Tensor:
        """All of it, (O, I): one product for each row."""
        rows = torch.eye(self.num_rows, dtype=self.vector.dtype, device=self.vector.device)
        return torch.stack([self.transposed(row) for row in rows])

    def transposed(self, vector: Tensor) -> Tensor:
        """The product of the transpose: (O) -> (I)."""
        pieces = vector.split([cotangent.numel() for cotangent in self.cotangents])
        cotangents = [piece.view(c.shape).to(c) for piece, c in zip(pieces, self.cotangents, strict=True)]
        found = self._pull(cotangents, retain_graph=True)
        pairs = zip(found, self.shapes, strict=True)
        return in_one_row((vector.new_zeros(shape) if part is None else part for part, shape in pairs), vector)

    def times(self, vector: Tensor) -> Tensor:
        """The product: (I) -> (O)."""
        if self.pulled is None:  # the product with the transpose, as a function of the cotangents
            self.pulled = self._pull(self.cotangents, create_graph=True)
        pieces = vector.split([shape.numel() for shape in self.shapes])
        pairs = [
            (pulled, piece.view(shape).to(pulled))
            for pulled, piece, shape in zip(self.pulled, pieces, self.shapes, strict=True)
            if pulled is not None and pulled.requires_grad
        ]
        if not pairs:
            return vector.new_zeros(self.num_rows)
        outputs, tangents = zip(*pairs, strict=True)
        try:
            found = torch.autograd.grad(outputs, self.cotangents, tangents, retain_graph=True, materialize_grads=True)
        except RuntimeError as error:
            if "not implemented" not in str(error) and "once_differentiable" not in str(error):
                raise
            raise NoSecondDerivative(str(error)) from error
        return in_one_row(found, vector)

    def _pull(self, cotangents: Sequence[Tensor], **options: bool) -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(self.ends, self.starts, cotangents, allow_unused=True, **options)


def in_one_row(tensors: Iterable[Tensor], vector: Tensor) -> Tensor:
    """All values, of the type and on the device of ``vector``."""
    return torch.cat([tensor.detach().reshape(-1).to(vector) for tensor in tensors])


def singular_values(jacobian: Jacobian, generator: torch.Generator, *, num_steps: int) -> list[float]:
    """Golub-Kahan bidiagonalisation with full re-orthogonalisation: at most ``num_steps`` values, greatest first.

    It begins on the side with fewer values. From the other one, which the Jacobian sends to zero for the most part,
    rounding would grow with every step. A value that occurs several times is found once.
    """
    is_wide = jacobian.num_rows <= jacobian.num_columns
    there, back = (jacobian.transposed, jacobian.times) if is_wide else (jacobian.times, jacobian.transposed)
    diagonal, above = list[Tensor](), list[Tensor]()
    smalls, larges = [jacobian.direction(generator, min(jacobian.num_rows, jacobian.num_columns))], list[Tensor]()
    tiny = 100 * torch.finfo(jacobian.vector.dtype).eps
    while True:
        image = orthogonal(there(smalls[-1]), larges)
        diagonal.append(image.norm())
        scale = torch.stack(diagonal + above).amax()
        if len(diagonal) == num_steps or not diagonal[-1] > tiny * scale:
            break
        larges.append(image / diagonal[-1])
        image = back(larges[-1])
        # 1 if the two products are each other's transposes
        if abs((torch.dot(image, smalls[-1]) / diagonal[-1]).item() - 1) > 0.1:
            raise NoSecondDerivative("A Function's backward pass leaves no graph, or rounding hides everything.")
        image = orthogonal(image, smalls)
        if not image.norm() > tiny * scale:
            break
        above.append(image.norm())
        smalls.append(image / above[-1])
    matrix = torch.diag(torch.stack(diagonal).double())
    if above:
        matrix += torch.diag(torch.stack(above).double(), 1)
    return svdvals(matrix, jacobian.name)


def svdvals(matrix: Tensor, name: str) -> list[float]:
    """All singular values, greatest first; ``name`` is that of the part."""
    if not matrix.isfinite().all():
        raise RequestError(f"The Jacobian of {name} is not finite: values or weights are too large, or not numbers.")
    values: list[float] = torch.linalg.svdvals(matrix).tolist()
    return values


def orthogonal(vector: Tensor, basis: Sequence[Tensor]) -> Tensor:
    """What is left of a vector without its parts along others; twice, since once leaves rounding."""
    for _ in range(2):
        for other in basis:
            vector = vector - torch.dot(other, vector) * other
    return vector
