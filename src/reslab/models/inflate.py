"""A 2-D network turned into the 3-D one that answers a clip of one repeated frame as the 2-D one answers the frame."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from reslab.errors import RequestError
from reslab.models.architecture import change
from reslab.models.resnet import ResNet


@torch.no_grad()
def inflate(net: ResNet) -> ResNet:
    """The 3-D network with the weights of a 2-D one: each kernel repeated along time and divided by its length.

    Time is padded by repeating frames and its resolution falls with that of space, so that a clip of one repeated frame
    stays one in every layer, and the outputs are equal. Where weights are standardised and scaled, the gain takes the
    division, since the standardised weight doesn't depend on the scale of the stored one.

    Args:
        net: 2-D; it is left as it is.

    Shape:
        clips (N, C, T, H, W) -> logits (N, K)

    Raises:
        RequestError: if ``net`` is not 2-D, or its convolutions are standardised without a gain that could be divided.

    Example:
        >>> from reslab.models.catalog import create_model
        >>> clip = torch.zeros(1, 3, 8, 32, 32)
        >>> inflate(create_model("resnet20")).eval()(clip).shape
        torch.Size([1, 10])

    Reference:
        Carreira and Zisserman 2017, arXiv:1705.07750, sec. 2.4, "Bootstrapping 3D filters from 2D filters".

    Deviates:
        The paper pads time with zeros and leaves it unpooled in the first layers; both are choices of the architecture.
    """
    old = net.architecture
    if old.ndim != 2:
        raise RequestError(f"Only a 2-D network is inflated to 3-D, got one with ndim={old.ndim}.")
    if old.conv == "standardised":
        raise RequestError(
            "A network with standardised weights can't be inflated: the weights are scaled anew at every use, so"
            " dividing them by the kernel's length changes nothing. One with conv='plain' or 'scaled' can."
        )
    state = torch.random.get_rng_state()
    inflated = ResNet(change(old, ndim=3, time_padding="replicate"))
    torch.random.set_rng_state(state)
    like = next(net.parameters())
    inflated.to(device=like.device, dtype=like.dtype).train(net.training)
    target = inflated.state_dict()
    lengths = {
        name: target[name].shape[2] for name, value in net.state_dict().items() if is_kernel(value, target[name])
    }
    inflated.load_state_dict({name: repeated(name, value, lengths) for name, value in net.state_dict().items()})
    return inflated


def is_kernel(old: Tensor, new: Tensor) -> bool:
    """Whether the tensor has got a dimension."""
    return new.ndim == old.ndim + 1


def repeated(name: str, value: Tensor, lengths: dict[str, int]) -> Tensor:
    """The tensor for the 3-D network.

    Args:
        name: its key.
        value: in the 2-D network.
        lengths: of the kernels along time, by key.
    """
    if name.endswith(".gain"):  # (C_out, 1, 1, 1) -> (C_out, 1, 1, 1, 1); fan_in grows by the length, sums by it too
        return value.unsqueeze(2) / math.sqrt(lengths[name.removesuffix("gain") + "weight"])
    if name not in lengths:
        return value
    kernel = value.unsqueeze(2).repeat(1, 1, lengths[name], *[1] * (value.ndim - 2))  # (O, I, H, W) -> (O, I, T, H, W)
    scaled = name.removesuffix("weight") + "gain"
    return kernel if scaled in lengths else kernel / lengths[name]
