"""What the tests of the probes give them, and whether it comes back as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import reslab


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

    def __init__(self, inner: nn.Module, *, use_reentrant: bool = False) -> None:
        super().__init__()
        self.inner, self.use_reentrant = inner, use_reentrant

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inner, x, use_reentrant=self.use_reentrant)


NETWORKS = {
    "post-activation": lambda: reslab.create_model("resnet20", num_classes=3),
    "pre-activation": lambda: reslab.create_model("preresnet20", num_classes=3),
    "projection": lambda: reslab.create_model("resnet20", num_classes=3, shortcut="projection"),
    "gates": lambda: reslab.create_model("highway20", num_classes=3),
    "drop path": lambda: reslab.create_model("resnet20", num_classes=3, drop_path=0.5),
    "torchvision, in place": lambda: torchvision.models.resnet18(num_classes=3),
}
"""Forms of residual networks."""


@torch.no_grad()
def awake(build: Callable[[], nn.Module]) -> nn.Module:
    """The network in double precision and train mode, with no weights at zero, as some begin."""
    torch.manual_seed(0)
    model = build().double().train()
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return model


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
