"""Optimisers with their parameter groups, the L1 penalty, and the moving average of weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)


def parameter_groups(model: nn.Module, *, weight_decay: float, decay_norms: bool) -> list[dict[str, object]]:
    """Every trainable parameter in exactly one group: decayed, or exempt from decay.

    Exempt are the parameters of norms and all biases, told by the module that owns them, unless ``decay_norms``.
    """
    exempt_ids = {id(p) for p in exempt_parameters(model)} if not decay_norms else set()
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, object]] = [
        {"params": [p for p in trainable if id(p) not in exempt_ids], "weight_decay": weight_decay},
        {"params": [p for p in trainable if id(p) in exempt_ids], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def exempt_parameters(model: nn.Module) -> Iterable[nn.Parameter]:
    """Parameters of norms, and biases."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, NORMS) or name == "bias":
                yield parameter


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
    """Sum of absolute values of all weights; norms and biases are exempt, since zero is not their neutral value.

    Returns:
        A 0-dim tensor with a gradient.
    """
    exempt_ids = {id(p) for p in exempt_parameters(model)}
    weights = [p.abs().sum() for p in model.parameters() if p.requires_grad and id(p) not in exempt_ids]
    return torch.stack(weights).sum()


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of the model that follows it: average = decay * average + (1 - decay) * model, buffers included.

    Reference:
        Polyak and Juditsky 1992; with exponential weights as in Szegedy et al. 2015, arXiv:1512.00567, sec. 8.
    """
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
