"""The way that everything goes: all layers of a plain network, stem and head of others."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from reslab.probe.graph import Graph, shape_of
from reslab.probe.norms import dot
from reslab.probe.trace import Trace
from reslab.records import LayerFlowRecord


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

    def read(self, trace: Trace) -> tuple[LayerFlowRecord, ...]:
        """A record for each layer; the trace of the forward pass has their names."""
        reached = [place for place in self.places if place in self.squares]
        found = torch.stack([self.squares[place] for place in reached]).sqrt().tolist() if reached else []
        norms = dict(zip(reached, found, strict=True))
        nodes = [self.graph.nodes[place] for place in self.places]
        alike = zip(self.places, nodes, trace.likeness_of(nodes), strict=True)
        return tuple(
            LayerFlowRecord(index, trace.where.get(node, ""), shape_of(node), norms.get(place, math.nan), likeness)
            for index, (place, node, likeness) in enumerate(alike)
        )

    def close(self) -> None:
        """Removes the hooks."""
        for handle in self.handles:
            handle.remove()
