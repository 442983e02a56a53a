"""Weights on disk: safetensors, and the check that they fit."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from reslab.errors import RequestError
from reslab.records import write_atomic


def save_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Writes a state_dict as safetensors, whole or not at all."""
    write_atomic(path, safetensors.torch.save({name: value.contiguous() for name, value in weights.items()}))


def load_own_weights(model: nn.Module, path: Path) -> None:
    """Loads safetensors whose names are the model's own; every key must fit.

    Raises:
        RequestError: if the file is absent or damaged, or keys are missing, unexpected or of another shape.
    """
    try:
        found = safetensors.torch.load_file(path)
    except FileNotFoundError:
        raise RequestError(f"No such weights file: {path}.") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise RequestError(f"{path} is no whole safetensors file: {error}.") from None
    if problems := misfits(model.state_dict(), found):
        raise RequestError(
            f"{path} doesn't fit the network: {'; '.join(problems)}. Were they trained with another model?"
        )
    model.load_state_dict(found)


def misfits(expected: dict[str, Tensor], found: dict[str, Tensor]) -> list[str]:
    """What keeps ``found`` from being loaded, a phrase for each kind of problem."""
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    reshaped = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in found and found[name].shape != value.shape
    ]
    return [
        f"{len(names)} keys {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for kind, names in (("are missing", missing), ("are unexpected", unexpected), ("have another shape", reshaped))
        if names
    ]
