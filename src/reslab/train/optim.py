"""Optimisers with their parameter groups, the L1 penalty, and the moving average of weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
LAYERS = (_ConvNd, nn.Linear, nn.Bilinear)


def parameter_groups(model: nn.Module, *, weight_decay: float, decay_norms: bool) -> list[dict[str, Any]]:
    """Every trainable parameter in exactly one group, by whether it decays and by its share of the learning rate.

    Who is special is told by the module that owns the parameter, never by names of the network or by shapes: a module
    may list own parameters in ``no_decay``, and shares of the rate in ``lr_scales``. Parameters of norms and biases of
    layers are exempt from decay too, unless ``decay_norms``.
    """
    never = {id(p) for module in model.modules() for p in own_parameters(module, getattr(module, "no_decay", ()))}
    exempt = never if decay_norms else never | {id(p) for p in norms_and_biases(model)}
    scales = {
        id(p): scale
        for module in model.modules()
        for name, scale in getattr(module, "lr_scales", {}).items()
        for p in own_parameters(module, [name])
    }
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {(True, 1.0): [], (False, 1.0): []}
    for parameter in model.parameters():
        if parameter.requires_grad:
            key = (id(parameter) not in exempt, scales.get(id(parameter), 1.0))
            groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay if decays else 0.0}
        | ({} if scale == 1 else {"lr_scale": scale})
        for (decays, scale), parameters in groups.items()
        if parameters
    ]


def own_parameters(module: nn.Module, names: Iterable[str]) -> Iterable[nn.Parameter]:
    """Those of the named ones that the module has: a connection's scale, for one, may be a constant."""
    for name in names:
        path, _, last = name.rpartition(".")
        owner = module.get_submodule(path)
        if isinstance(parameter := getattr(owner, last, None), nn.Parameter):
            yield parameter


def norms_and_biases(model: nn.Module) -> Iterable[nn.Parameter]:
    """Parameters of norms, and biases of convolutions and linear layers."""
    for module in model.modules():
        if isinstance(module, NORMS):
            yield from module.parameters(recurse=False)
        elif isinstance(module, LAYERS) and module.bias is not None:
            assert isinstance(module.bias, nn.Parameter)
            yield module.bias


def sgd(
    model: nn.Module,
    *,
    lr: float = 0.1,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 1e-4,
    decay_norms: bool = True,
) -> torch.optim.SGD:
    """SGD with momentum; ``weight_decay`` is an L2 penalty of half its size times the squared weights.

    Reference:
        He et al. 2015, arXiv:1512.03385, sec. 3.4: momentum 0.9, weight decay 1e-4 on all parameters.

    Deviates:
        Caffe, which the paper used, keeps the rate inside the momentum buffer; torch multiplies by it afterwards.
    """
    groups = parameter_groups(model, weight_decay=weight_decay, decay_norms=decay_norms)
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov)


def adamw(
    model: nn.Module,
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 1e-2,
    decay_norms: bool = True,
) -> torch.optim.AdamW:
    """Adam with decoupled weight decay.

    Reference:
        Loshchilov and Hutter 2017, arXiv:1711.05101, Algorithm 2.
    """
    groups = parameter_groups(model, weight_decay=weight_decay, decay_norms=decay_norms)
    return torch.optim.AdamW(groups, lr=lr, betas=betas)


def l1_penalty(model: nn.Module) -> Tensor:
    """Sum of absolute values of all weights; what is exempt from decay is exempt here, since zero isn't neutral for it.

    Returns:
        A 0-dim tensor with a gradient.
    """
    groups = parameter_groups(model, weight_decay=1.0, decay_norms=False)
    decaying = [group["params"] for group in groups if group["weight_decay"]]
    return torch.stack([p.abs().sum() for parameters in decaying for p in parameters]).sum()


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of the model that follows it: average = decay * average + (1 - decay) * model, buffers included.

    Reference:
        Polyak and Juditsky 1992; with exponential weights as in Szegedy et al. 2015, arXiv:1512.00567, sec. 8.
    """
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
