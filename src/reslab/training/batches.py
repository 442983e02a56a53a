"""Batches are nests of tensors that only a task looks into; here they are moved, split and cut as wholes.

Tuples, mappings and dataclasses are structure. A list has one entry per item, such as the targets of a detector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor


def map_tensors(batch: Any, change: Callable[[Tensor], Any]) -> Any:
    """Change every tensor of a nest; whatever else is in it stays.

    Example:
        >>> map_tensors({"image": torch.ones(2), "size": (torch.zeros(1), 3)}, len)
        {'image': 2, 'size': (1, 3)}
    """
    return change(batch) if isinstance(batch, Tensor) else _map_parts(batch, lambda part: map_tensors(part, change))


def tensors_in(batch: Any) -> list[Tensor]:
    """All tensors of a nest, in order."""
    found: list[Tensor] = []
    map_tensors(batch, found.append)
    return found


def _map_parts(value: Any, change: Callable[[Any], Any]) -> Any:
    """A container of the same type with every part changed; anything else as it is."""
    if isinstance(value, Mapping):
        changed = {key: change(part) for key, part in value.items()}
        return changed if type(value) is dict else type(value)(changed)  # type: ignore[call-arg]
    if isinstance(value, tuple) and hasattr(value, "_fields"):  # a namedtuple
        return type(value)(*map(change, value))
    if isinstance(value, list | tuple):
        return type(value)(map(change, value))
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: change(getattr(value, f.name)) for f in fields(value) if f.init})
    return value


def num_items(batch: Any) -> int:
    """Count the items of a batch: the length of its first list, or of its first tensor that has one."""
    found: list[int] = []

    def count(value: Any) -> Any:
        if isinstance(value, list) or (isinstance(value, Tensor) and value.ndim):
            found.append(len(value))
            return value
        return _map_parts(value, count)

    count(batch)
    return found[0] if found else 0


def to_device(batch: Any, device: torch.device, *, channels_last: bool | None = None) -> Any:
    """Send a batch to a device without waiting for it.

    Args:
        batch: any nest.
        device: where the network is.
        channels_last: memory format of images, (N, C, H, W) or (N, C, D, H, W); None leaves it as it is.
    """

    def move(tensor: Tensor) -> Tensor:
        if channels_last is None or not tensor.is_floating_point() or tensor.ndim not in (4, 5):
            return tensor.to(device, non_blocking=True)
        wanted = torch.channels_last if tensor.ndim == 4 else torch.channels_last_3d
        layout = wanted if channels_last else torch.contiguous_format
        return tensor.to(device, non_blocking=True, memory_format=layout)

    return map_tensors(batch, move)


def split_batch(batch: Any, parts: int) -> list[Any]:
    """Split a batch into ``parts`` pieces of nearly equal size.

    Example:
        >>> split_batch((torch.arange(3), [{"boxes": 0}, {"boxes": 1}, {"boxes": 2}]), 2)
        [(tensor([0, 1]), [{'boxes': 0}, {'boxes': 1}]), (tensor([2]), [{'boxes': 2}])]
    """
    if parts == 1:
        return [batch]
    return [select_items(batch, chosen) for chosen in torch.arange(num_items(batch)).tensor_split(parts)]


def resize_batch(batch: Any, size: int) -> Any:
    """A batch of another size, made of the first items, over and over where there are too few."""
    return select_items(batch, torch.arange(size) % num_items(batch))


def select_items(batch: Any, index: Tensor) -> Any:
    """Some items of a batch, (n,); what doesn't have one entry per item is left as it is."""
    count, places = num_items(batch), index.tolist()
    is_run = places == list(
        range(places[0], places[-1] + 1)
    )  # sliced, which copies nothing and keeps the memory format

    def select(value: Any) -> Any:
        if isinstance(value, Tensor):
            if not value.ndim or len(value) != count:
                return value
            return value[places[0] : places[-1] + 1] if is_run else value[index.to(value.device)]
        if isinstance(value, list) and len(value) == count:
            return [value[place] for place in places]
        return _map_parts(value, select)

    return select(batch)
