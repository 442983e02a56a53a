"""Networks with values that count, images for them, and what the CIFAR repositories compute, spelled out."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

State = dict[str, Tensor]


def scramble(model: nn.Module, seed: int = 0) -> nn.Module:
    """Norms away from 1 and 0, biases and gains from 0, statistics from their start, so that each of them counts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim <= 1 or (set(parameter.shape[1:]) == {1} and parameter.shape[0] > 1):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
        for buffer in model.buffers():
            if buffer.is_floating_point() and buffer.ndim == 1:
                buffer.add_(0.3 * torch.rand(buffer.shape, generator=generator, dtype=buffer.dtype))
    return model.eval()


def images(side: int = 64, channels: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    """Two of them, (2, C, side, side)."""
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(1)).to(dtype)


def save(path: Path, state: State) -> Path:
    safetensors.torch.save_file({key: value.contiguous() for key, value in state.items()}, path)
    return path


def their_logits(state: State, x: Tensor, *, block: str, head: str, preactivation: bool = False) -> Tensor:
    """What these compute in eval mode by their own names, ``block`` being the template of a block's name:

    https://github.com/akamaster/pytorch_resnet_cifar10/blob/master/resnet.py
    https://github.com/kuangliu/pytorch-cifar/blob/master/models/resnet.py
    https://github.com/xternalz/WideResNet-pytorch/blob/master/wideresnet.py
    """

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def norm(x: Tensor, name: str) -> Tensor:
        parts = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts, eps=1e-5)

    x = conv(x, "conv1") if preactivation else F.relu(norm(conv(x, "conv1"), "bn1"))
    for stage in range(1, 5):
        for index in count():
            name, stride = block.format(stage, index), 2 if stage > 1 and index == 0 else 1
            if f"{name}.conv1.weight" not in state:
                break
            if preactivation:
                before = F.relu(norm(x, f"{name}.bn1"))
                out = conv(F.relu(norm(conv(before, f"{name}.conv1", stride), f"{name}.bn2")), f"{name}.conv2")
                x = out + (
                    conv(before, f"{name}.convShortcut", stride) if f"{name}.convShortcut.weight" in state else x
                )
                continue
            out = F.relu(norm(conv(x, f"{name}.conv1", stride), f"{name}.bn1"))
            out = norm(conv(out, f"{name}.conv2"), f"{name}.bn2")
            if f"{name}.shortcut.0.weight" in state:
                x = norm(conv(x, f"{name}.shortcut.0", stride), f"{name}.shortcut.1")
            elif stride == 2:  # half the new channels before, half after
                x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, x.shape[1] // 2, x.shape[1] // 2))
            x = F.relu(out + x)
    x = F.relu(norm(x, "bn1")) if preactivation else x
    return F.linear(x.mean(dim=(2, 3)), state[f"{head}.weight"], state[f"{head}.bias"])
