"""Optimisers with their parameter groups, the L1 penalty, and the moving average of weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from reslab.errors import RequestError
from reslab.training._optimizers import Lamb, Muon
from reslab.training.options import OptimOptions

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
LAYERS = (_ConvNd, nn.Linear, nn.Bilinear)


def parameter_groups(
    model: nn.Module, *, weight_decay: float, decay_norms: bool, norm_lr: float = 1.0
) -> list[dict[str, Any]]:
    """Put every trainable parameter into exactly one group, by whether it decays and by its fraction of the rate.

    The module that owns a parameter says what is special about it, never its name in the network or its shape: a module
    may list own parameters in ``no_decay``, and fractions of the rate in ``lr_scales``. Parameters of norms and biases
    of layers are exempt from decay too, unless ``decay_norms``, and learn at the fraction ``norm_lr`` of the rate.
    """
    never = {id(p) for module in model.modules() for p in own_parameters(module, getattr(module, "no_decay", ()))}
    norms = {id(p) for p in norms_and_biases(model)}
    exempt = never if decay_norms else never | norms
    scales = dict.fromkeys(norms, norm_lr) | {
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
    """Find the named parameters that the module has: a connection's scale, for one, may be a constant."""
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
    norm_lr: float = 1.0,
) -> torch.optim.SGD:
    """Make SGD with momentum; ``weight_decay`` is an L2 penalty of half its size times the squared weights.

    One fused kernel does the step where torch has one for the device.

    Reference:
        He et al. 2015, arXiv:1512.03385, sec. 3.4: momentum 0.9, weight decay 1e-4 on all parameters.

    Deviates:
        Caffe, which the paper used, keeps the rate inside the momentum buffer; torch multiplies by it afterwards.
    """
    groups = parameter_groups(model, weight_decay=weight_decay, decay_norms=decay_norms, norm_lr=norm_lr)
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=can_fuse(model))


def adamw(
    model: nn.Module,
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 1e-2,
    decay_norms: bool = True,
    norm_lr: float = 1.0,
) -> torch.optim.AdamW:
    """Make Adam with decoupled weight decay.

    Reference:
        Loshchilov and Hutter 2017, arXiv:1711.05101, Algorithm 2.
    """
    groups = parameter_groups(model, weight_decay=weight_decay, decay_norms=decay_norms, norm_lr=norm_lr)
    return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=can_fuse(model))


def lamb(
    model: nn.Module, *, lr: float = 5e-3, weight_decay: float = 0.02, decay_norms: bool = False, norm_lr: float = 1.0
) -> Lamb:
    """Make Adam whose step is as long as a fraction of each weight: see ``Lamb``."""
    groups = parameter_groups(model, weight_decay=weight_decay, decay_norms=decay_norms, norm_lr=norm_lr)
    return Lamb(groups, lr=lr)


def muon(
    model: nn.Module,
    *,
    lr: float = 0.05,
    momentum: float = 0.6,
    weight_decay: float = 0.0,
    fixed_norm: bool = False,
    side_lr: float = 0.4,
    side_momentum: float = 0.9,
    decay_norms: bool = False,
    norm_lr: float = 1.0,
) -> Muon:
    """Make orthogonal steps for weights inside the network, SGD for its ends, norms and biases: see ``Muon``.

    Args:
        model: its first and last convolution or linear layer, in order of definition, are its ends.
        lr: rate of the orthogonal steps.
        momentum: of the orthogonal steps.
        weight_decay: of both.
        fixed_norm: keep the orthogonal weights at one norm; for networks whose layers are each followed by a norm.
        side_lr: rate of SGD.
        side_momentum: of SGD.
        decay_norms: decay norms and biases too.
        norm_lr: fraction of ``side_lr`` that norms and biases learn at.

    Raises:
        RequestError: if the norm is to be fixed in a network without norms, where it decides what a layer does.
    """
    if fixed_norm and not any(isinstance(module, NORMS) for module in model.modules()):
        raise RequestError(
            "optim.fixed_norm is for layers that a norm follows, and this network has no norms. Leave it out."
        )
    inner = {id(layer.weight) for layer in inner_layers(model)}
    found = []
    for group in parameter_groups(model, weight_decay=weight_decay, decay_norms=decay_norms, norm_lr=norm_lr):
        scale = group.get("lr_scale", 1.0)
        for orthogonal in (True, False):
            members = [p for p in group["params"] if (id(p) in inner) is orthogonal]
            share = scale if orthogonal else scale * side_lr / lr
            if members:
                kind = {"orthogonal": orthogonal, "momentum": momentum if orthogonal else side_momentum}
                found.append({**group, "params": members, "lr_scale": share, **kind})
    return Muon(found, lr=lr, fixed_norm=fixed_norm)


DECAY = ("lr", "weight_decay", "decay_norms", "norm_lr")
MAKERS: dict[str, tuple[Callable[..., torch.optim.Optimizer], tuple[str, ...]]] = {
    # kind: what makes it, the options that it has besides those that all have
    "sgd": (sgd, ("momentum", "nesterov")),
    "adamw": (adamw, ()),
    "lamb": (lamb, ()),
    "muon": (muon, ("momentum", "fixed_norm", "side_lr", "side_momentum")),
}


def make_optimizer(options: OptimOptions, model: nn.Module) -> torch.optim.Optimizer:
    """Make the optimiser that options ask for, over a model's parameters."""
    make, names = MAKERS[options.kind]
    return make(model, **{name: getattr(options, name) for name in (*names, *DECAY)})


def inner_layers(model: nn.Module) -> list[_ConvNd | nn.Linear]:
    """Convolutions and linear layers but the first and the last one."""
    layers = [module for module in model.modules() if isinstance(module, (_ConvNd, nn.Linear))]
    return layers[1:-1]


def can_fuse(model: nn.Module) -> bool:
    """Whether torch has a fused step for all of the model's parameters."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return all(p.device.type in ("cpu", "cuda", "mps") and p.is_floating_point() for p in parameters)


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
