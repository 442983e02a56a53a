"""What the tests of the probes give them, and whether it comes back as it was."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def batch(
    num: int = 4, side: int = 16, *, channels: int = 3, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Images of noise, the same each time, and their labels, of three classes."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num, channels, side, side, generator=generator).to(dtype), torch.arange(num) % 3


class Words(nn.Module):
    """Takes words as numbers, by a keyword of its own beside a plain number; one block."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, ids: Tensor, *, scale: float) -> Tensor:
        x = self.embed(ids)
        return self.head((x + scale * self.mix(x)).mean(dim=1))


class Checkpointed(nn.Module):
    """Computes its inside again in the backward pass."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inner, x, use_reentrant=False)


def state_of(model: nn.Module) -> dict[str, Any]:
    """All that a probe must leave alone: tensors, modes, hooks, gradients, and the random numbers to come."""
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    return {
        "tensors": {name: tensor.detach().clone() for name, tensor in tensors.items()},
        "modes": [module.training for module in model.modules()],
        "hooks": [
            [len(hooks) for name, hooks in vars(module).items() if name.endswith("_hooks") and hooks]
            for module in model.modules()
        ],
        "gradients": [(parameter.grad, copy_of(parameter.grad)) for parameter in model.parameters()],
        "random": torch.get_rng_state(),
    }


def copy_of(gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else gradient.clone()


def assert_untouched(model: nn.Module, before: dict[str, Any]) -> None:
    """A gradient is to be the same tensor with the same values."""
    after = state_of(model)
    assert before["tensors"].keys() == after["tensors"].keys()
    assert all(torch.equal(tensor, after["tensors"][name]) for name, tensor in before["tensors"].items())
    assert (before["modes"], before["hooks"]) == (after["modes"], after["hooks"])
    for (held, values), (holds, _) in zip(before["gradients"], after["gradients"], strict=True):
        assert holds is held
        assert held is None or torch.equal(held, values)
    assert torch.equal(before["random"], after["random"])
