"""The values that a network starts with: this is the only place that sets them.

| layer                        | weight                            | bias                           |
|------------------------------|-----------------------------------|--------------------------------|
| convolution                  | normal, variance 2 / fan_out      | 0                              |
| norm                         | 1                                 | 0                              |
| linear                       | uniform within 1 / sqrt(fan_in)   | the same                       |
| gate of a connection         | 0                                 | the connection's own           |
| Fixup: branch, not its last  | as above, times L^(-1 / (2m - 2)) | scalar biases 0, factors 1     |
| Fixup: last of branch, head  | 0                                 | 0                              |
| NormFree: last of branch     | gain 0, others 1                  | 0                              |
| zero_init_residual           | last norm, or last convolution, 0 |                                |
|   but where a shortcut pads  | as above                          |                                |

L counts blocks, m the convolutions of a branch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from reslab.layers.connections import Fixup, NormFree
from reslab.layers.junction import GatedAdd
from reslab.layers.nd import Standardised
from reslab.layers.shortcut import ZeroPad
from reslab.models.block import last_layer

if TYPE_CHECKING:
    from reslab.models.resnet import ResNet

OWN_TO_THE_CONNECTION = ("downsample", "junction", "streams")
"""Parts of a block that its plain twin doesn't have."""


@torch.no_grad()
def initialise(model: ResNet, *, seed: int) -> None:
    """Gives every layer its initial values.

    Shortcuts and junctions are filled last, from the same stream of numbers, so that a network with them and one
    without agree in all the rest. Nothing happens on the meta device, where there are no values.

    Reference:
        He et al. 2015, arXiv:1502.01852, eq. 14; Fixup: Zhang et al. 2019, arXiv:1901.09321, sec. 3; norm-free: Brock
        et al. 2021, arXiv:2101.08692; zero: Goyal et al. 2017, arXiv:1706.02677, sec. 5.1.

    Deviates:
        Initial variance is 2 / fan_out, as in torchvision; the paper doesn't say which fan it took. Fixup's stem has it
        too, where the authors' code leaves it at PyTorch's default.
    """
    parameters = list(model.parameters())
    if parameters[0].is_meta:
        return
    fill(model, torch.Generator(device=parameters[0].device).manual_seed(seed))
    connection = model.architecture.joined
    if isinstance(connection, Fixup):
        start_fixup(model)
    elif isinstance(connection, NormFree):
        for _, block in model.blocks():
            nn.init.zeros_(last_convolution(block).gain)  # type: ignore[arg-type]
    if model.architecture.zero_init_residual:
        zero_branches(model)


def fill(model: nn.Module, generator: torch.Generator) -> None:
    """Convolutions, norms, linear layers and gates."""
    named = list(model.named_modules())
    # A stable sort: among those that twins share, and among the others, the order stays.
    for _, module in sorted(named, key=lambda item: any(part in item[0] for part in OWN_TO_THE_CONNECTION)):
        if isinstance(module, _ConvNd):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, (_NormBase, nn.GroupNorm)) and module.weight is not None:
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            module.weight.uniform_(-bound, bound, generator=generator)
            module.bias.uniform_(-bound, bound, generator=generator)
    for module in model.modules():
        if isinstance(module, GatedAdd):
            module.start()


def start_fixup(model: ResNet) -> None:
    """Scales and zeroes."""
    for site, (_, block) in zip(
        (s for stage in model.architecture.sites() for s in stage), model.blocks(), strict=True
    ):
        *others, last = [getattr(block, f"conv{index}") for index in range(1, site.num_convs + 1)]
        for conv in others:
            conv.weight.mul_(site.num_blocks ** (-1 / (2 * site.num_convs - 2)))
        nn.init.zeros_(last.weight)
    assert isinstance(model.fc, nn.Linear)
    nn.init.zeros_(model.fc.weight)
    nn.init.zeros_(model.fc.bias)


def zero_branches(model: ResNet) -> None:
    """Every branch starts as F(x) = 0, by its last norm, or where it ends in a convolution by that.

    Not where the shortcut pads: the new channels would be exactly 0 for every image, and a rectifier hands no gradient
    back at 0, so that they would stay 0 for ever.
    """
    for _, block in model.blocks():
        if isinstance(block.downsample, ZeroPad):
            continue
        layer = last_layer(block)
        nn.init.zeros_(layer.gain if isinstance(layer, Standardised) else layer.weight)  # type: ignore[arg-type]


def last_convolution(block: nn.Module) -> nn.Module:
    """The one with the highest number."""
    return [layer for name, layer in block.named_children() if name.startswith("conv")][-1]
