"""What every network of the catalog offers besides ``forward(images)``: its maps, a new head, or no head at all."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from reslab.errors import RequestError

Indices = int | Sequence[int] | None
"""Which maps: all with None, the last n with a number n, or these, where -1 is the last."""


@dataclass(frozen=True)
class FeatureInfo:
    """One intermediate map of a network.

    Args:
        name: the module that puts it out.
        channels: C of the map (N, C, H, W).
        reduction: how many pixels of the image lie along one side of a pixel of the map.
    """

    name: str
    channels: int
    reduction: int


@runtime_checkable
class FeatureNetwork(Protocol):
    """A network that can be asked for its maps; ``feature_info`` lists them from the stem to the last stage.

    The first map is the stem's before its pool; then follows one for each stage. The last is what ``forward_features``
    gives. ``forward_intermediates`` gives that together with the maps asked for, in the order asked, or with
    ``intermediates_only`` the maps alone, and then runs no further than the last of them. ``reset_classifier(0)``
    removes the head: the logits are then the pooled features.

    Reference:
        The names and the meaning of ``indices`` are those of timm, https://huggingface.co/docs/timm/feature_extraction.

    Deviates:
        timm gives the maps in the order of execution, whatever the order of the indices.
    """

    feature_info: list[FeatureInfo]

    def forward_features(self, images: Tensor) -> Tensor: ...

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor: ...

    def forward_intermediates(
        self, images: Tensor, indices: Indices = None, *, intermediates_only: bool = False
    ) -> tuple[Tensor, list[Tensor]] | list[Tensor]: ...

    def reset_classifier(self, num_classes: int) -> None: ...

    def features_only(self, indices: Indices = None) -> FeaturesOnly: ...


class FeaturesOnly(nn.Module):
    """A network without its head that gives a list of maps: the backbone of a detector or of a segmentation.

    Its parameters are those of the network, not copies: training one trains both. The head isn't among them. Stages
    after the last map asked for aren't computed, though their parameters are still there.

    Args:
        network: any ``FeatureNetwork``; it keeps its own head.
        indices: which maps; None for all, n for the last n, or a list.

    Shape:
        images (N, C, H, W) -> list of maps (N, channels, about H / reduction, about W / reduction)

    Raises:
        RequestError: if the network has no such map.

    Example:
        >>> from reslab import create_model
        >>> backbone = FeaturesOnly(create_model("vgg20_cifar"), indices=[0, -1])
        >>> [tuple(maps.shape) for maps in backbone(torch.zeros(1, 3, 32, 32))]
        [(1, 16, 32, 32), (1, 64, 8, 8)]
    """

    def __init__(self, network: FeatureNetwork, indices: Indices = None) -> None:
        super().__init__()
        self.indices = resolve_indices(indices, len(network.feature_info))
        self.feature_info = [network.feature_info[index] for index in self.indices]
        self.network = without_head(network)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (N, C, H, W) -> the chosen maps."""
        maps = self.network.forward_intermediates(images, self.indices, intermediates_only=True)
        return cast(list[Tensor], maps)


def without_head(network: FeatureNetwork) -> FeatureNetwork:
    """Return the same network, module by module, with no head; ``network`` itself keeps its own."""
    twin = copy.copy(network)
    for name, value in list(vars(twin).items()):
        if isinstance(value, dict):  # the tables of parameters, buffers, modules and hooks: same entries, own table
            vars(twin)[name] = value.copy()
    twin.reset_classifier(0)
    return twin


def resolve_indices(indices: Indices, count: int) -> list[int]:
    """Return indices from 0 of the maps that were asked for, in the order asked.

    Args:
        indices: None for all, n for the last n, or a sequence, where -1 is the last.
        count: how many maps there are.

    Raises:
        RequestError: if there is no such map, or none is asked for.
    """
    if indices is None:
        return list(range(count))
    if isinstance(indices, int):
        if not 1 <= indices <= count:
            raise RequestError(f"The network has {count} maps: a number of maps is 1 to {count}, got {indices}.")
        return list(range(count - indices, count))
    if not indices or any(not -count <= index < count for index in indices):
        raise RequestError(
            f"The network has {count} maps: indices are {-count} to {count - 1}, at least one, got {list(indices)}."
        )
    return [index % count for index in indices]


def check_sizes(num_classes: int, *, in_channels: int = 1, dropout: float = 0.0) -> None:
    """Check the sizes of a network that has no ``Architecture``."""
    if num_classes < 0:
        raise RequestError(f"num_classes must be at least 1, or 0 for no head, got {num_classes}.")
    if in_channels < 1:
        raise RequestError(f"in_channels must be at least 1, got {in_channels}.")
    if not 0 <= dropout < 1:
        raise RequestError(f"dropout must be at least 0 and below 1, got {dropout}.")


def has_values(module: nn.Module, values: Mapping[str, Tensor]) -> bool:
    """Whether a module has exactly these values; never on the meta device, where there are none."""
    return all(not value.is_meta and torch.equal(value, values[name]) for name, value in module.state_dict().items())


def run_layers(
    layers: nn.Sequential, images: Tensor, ends: Sequence[int], indices: Indices, *, intermediates_only: bool
) -> tuple[Tensor, list[Tensor]] | list[Tensor]:
    """Run ``forward_intermediates`` of a network that is one sequence, of which layer ``ends[i]`` puts out map i."""
    wanted = [ends[index] for index in resolve_indices(indices, len(ends))]
    x, maps = images, {}
    for index, layer in enumerate(islice(layers, max(wanted) + 1 if intermediates_only else None)):
        x = layer(x)
        if index in wanted:
            maps[index] = x
    found = [maps[index] for index in wanted]
    return found if intermediates_only else (x, found)
