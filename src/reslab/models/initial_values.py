"""The values that a network starts with: this is the only place that sets them, but for torchvision's MobileNets.

| layer                        | weight                            | bias                           |
|------------------------------|-----------------------------------|--------------------------------|
| convolution                  | normal, variance 2 / fan_out      | 0                              |
| norm                         | 1                                 | 0                              |
| linear                       | uniform within 1 / sqrt(fan_in)   | the same                       |
| linear of a plain stack      | normal, standard deviation 0.01   | 0                              |
| gate of a connection         | 0                                 | the connection's own           |
| Fixup: branch, not its last  | as above, times L^(-1 / (2m - 2)) | scalar biases 0, factors 1     |
| Fixup: last of branch, head  | 0                                 | 0                              |
| NormFree: last of branch     | gain 0, others 1                  | 0                              |
| zero_init_residual           | last norm, or last convolution, 0 |                                |
|   except if a shortcut pads  | as above                          |                                |

L counts blocks, m the convolutions of a branch. Fixup and NormFree say theirs in ``layers/connections.py``.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from reslab.layers.connections import Connection
from reslab.layers.nd import Standardised
from reslab.layers.shortcut import ZeroPad
from reslab.layers.spec import BlockSpec
from reslab.models.block import Block

OWN_TO_THE_CONNECTION = ("downsample", "junction", "streams")
"""Parts of a block that its plain twin doesn't have."""


@torch.no_grad()
def draw_values(model: nn.Module, *, seed: int, linear_std: float | None = None) -> None:
    """Give convolutions, norms and linear layers their initial values.

    Shortcuts and junctions are filled last, from the same stream of numbers, so that a network with them and one
    without agree in all the rest. Nothing happens on the meta device, where there are no values.

    Args:
        model: any network.
        seed: of the stream of numbers.
        linear_std: standard deviation of linear layers; by default they are uniform.

    Reference:
        He et al. 2015, arXiv:1502.01852, eq. 14.

    Deviates:
        Initial variance is 2 / fan_out, as in torchvision; the paper doesn't say which fan it took. Fixup's stem has it
        too, where the authors' code leaves it at PyTorch's default.
    """
    device = next(model.parameters()).device
    if device.type == "meta":
        return
    generator = torch.Generator(device=device).manual_seed(seed)
    # A stable sort: among those that twins share, and among the others, the order stays.
    named = sorted(model.named_modules(), key=lambda item: any(part in item[0] for part in OWN_TO_THE_CONNECTION))
    for _, module in named:
        if isinstance(module, _ConvNd):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, (_NormBase, nn.GroupNorm)) and module.weight is not None:
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and linear_std is not None:
            nn.init.normal_(module.weight, std=linear_std, generator=generator)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            module.weight.uniform_(-bound, bound, generator=generator)
            module.bias.uniform_(-bound, bound, generator=generator)


@torch.no_grad()
def start_block(block: Block, spec: BlockSpec, connection: Connection, *, zero_branch: bool) -> None:
    """Set the initial values of one block that are not the usual ones.

    Reference:
        Zeroed branches: Goyal et al. 2017, arXiv:1706.02677, sec. 5.1.
    """
    if reset := getattr(block.junction, "reset_parameters", None):
        reset()
    connection.initialise(block, spec)
    # Not where the shortcut pads: the new channels would be exactly 0 for every image, and a rectifier passes back no
    # gradient at 0, so that they would stay 0.
    if zero_branch and not isinstance(block.downsample, ZeroPad):
        layer = block.last_layer()
        nn.init.zeros_(layer.gain if isinstance(layer, Standardised) else layer.weight)  # type: ignore[arg-type]
