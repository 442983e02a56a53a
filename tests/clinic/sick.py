"""Networks and trainings with a known illness.

``fit`` is what thresholds may be chosen on: networks for images and perceptrons. ``test`` is what they are judged by:
sequences and transformers, and other sizes, which no threshold was chosen on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from patient import Build, Half, Patient
from small_networks import Perceptron, Sequence, Tokens, Wrapped
from torch import Tensor, nn
from trainings import Training

import reslab

USUAL = Training()
ADAPTIVE = Training(kind="adamw", lr=1e-3, weight_decay=0.01)


def cnn(name: str = "resnet20", **choices: object) -> Build:
    """One of the catalog, for grey images."""
    return lambda: reslab.create_model(name, 10, in_channels=1, **choices)  # type: ignore[arg-type]


SOUND: dict[str, tuple[Half, Build, Training]] = {
    "cnn": ("fit", cnn("resnet14"), USUAL),
    "perceptron": ("fit", lambda: Perceptron(6), USUAL),
    "residual perceptron": ("fit", lambda: Perceptron(12, residual=True), USUAL),
    "pre-activation cnn": ("test", cnn("preresnet14"), USUAL),
    "sequence": ("test", lambda: Sequence(6), USUAL),
    "transformer": ("test", lambda: Tokens(6), ADAPTIVE),
}
"""Networks that are sound, and a training that suits them: half of the illnesses are done to these."""


# ---- what is done to a network


def scale_weights(factor: float) -> Callable[[nn.Module], None]:
    def harm(model: nn.Module) -> None:
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(factor)

    return harm


def kill_rectifiers(model: nn.Module) -> None:
    """The biases before one layer's rectifiers are far below zero."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d)]
    norms[len(norms) // 2].bias.fill_(-50.0)


def freeze_most(model: nn.Module) -> None:
    """All but the last layer."""
    for parameter in list(model.parameters())[:-2]:
        parameter.requires_grad_(False)


def freeze_middle(model: nn.Module) -> None:
    """One block, half way."""
    modules = [m for m in blocks_of(model) if any(True for _ in m.parameters())]
    modules[len(modules) // 2].requires_grad_(False)


def silence_block(model: nn.Module) -> None:
    """The last weights of one block's branch are zero."""
    block = blocks_of(model)[len(blocks_of(model)) // 2]
    for name in ("bn2", "norm2", "fc2"):
        if (last := getattr(block, name, None)) is not None and isinstance(last, nn.Module):
            for parameter in last.parameters():
                parameter.zero_()


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Blocks, whatever the network calls them."""
    if isinstance(model, Perceptron):
        return list(model.layers)
    if isinstance(model, Sequence | Tokens):
        return list(model.blocks)
    return [model.get_submodule(name) for name, _ in model.blocks()]  # type: ignore[operator]


class Detached(nn.Module):
    """A block whose branch gives its weights no gradient."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x).detach()


def detach_block(model: nn.Module) -> None:
    if isinstance(model, Sequence | Tokens):
        model.blocks[1] = Detached(model.blocks[1])
    elif isinstance(model, Perceptron):
        model.norms[2] = nn.Sequential(model.norms[2], Cutting())
    else:
        block = model.layer2[1]  # type: ignore[index, union-attr]
        block.bn1 = nn.Sequential(block.bn1, Cutting())


class Cutting(nn.Module):
    """Lets no gradient back."""

    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


def logarithm(x: Tensor) -> Tensor:
    return x.log()


def halve(model: nn.Module) -> None:
    """Everything in fp16."""
    model.half()


class Root(nn.Module):
    """Square roots, of what may be negative."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sqrt()


class Small(nn.Module):
    """An output so small that fp16 has no digits left for its gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return 1e-4 * x


# ---- the ward


def everybody(
    illness: str,
    ids: tuple[str, ...],
    *,
    only: tuple[str, ...] = (),
    training: Callable[[Training], Training | None] = lambda t: t,
    harm: Callable[[nn.Module], None] = lambda model: None,
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
) -> list[Patient]:
    """The same illness for several of the sound networks."""
    names = only or tuple(SOUND)
    return [
        Patient(
            f"{illness}: {name}",
            half,
            build=lambda build=build: wrap(build()),  # type: ignore[misc]
            illness=ids,
            training=training(usual),
            harm=harm,
        )
        for name, (half, build, usual) in SOUND.items()
        if name in names
    ]


def shortened(training: Training) -> Training:
    return replace(training, steps=20)


WITH_NORMS = ("cnn", "perceptron", "residual perceptron", "pre-activation cnn", "sequence")
WITH_RECTIFIERS = WITH_NORMS
GROWS, VANISHES, ALIKE = "GRAD_EXP_GROWTH", "GRAD_VANISH", "ACT_COLLAPSE"
EXPLODES = ("ACT_EXPLODE", GROWS, "LOSS_RANGE", "NONFINITE")


def at_start(
    name: str, half: Half, build: Build, ids: tuple[str, ...], harm: Callable[[nn.Module], None] | None = None
) -> Patient:
    """A network that is ill before its first step."""
    return Patient(name, half, build, ids, training=None, harm=harm or (lambda model: None))


SHORT = replace(USUAL, steps=20)
SICK: list[Patient] = [
    # depth without shortcuts
    at_start("plain with norms: plain56", "fit", cnn("plain56"), (GROWS, "SHATTERED")),
    at_start("plain with norms: plain110", "fit", cnn("plain110"), (GROWS, "SHATTERED")),
    at_start("plain with norms: perceptron of 50", "fit", lambda: Perceptron(50), (GROWS, "SHATTERED")),
    at_start("plain with norms: sequence of 50", "test", lambda: Sequence(25, residual=False), (GROWS, "SHATTERED")),
    at_start("plain with norms: sequence of 80", "test", lambda: Sequence(40, residual=False), (GROWS, "SHATTERED")),
    at_start("plain with norms: plain80", "test", cnn("plain80"), (GROWS, "SHATTERED")),
    Patient("plain with norms, trained: plain56", "fit", cnn("plain56"), (GROWS, "SHATTERED"), SHORT),
    Patient(
        "plain with norms, trained: sequence of 50",
        "test",
        lambda: Sequence(25, residual=False),
        (GROWS, "SHATTERED"),
        SHORT,
    ),
    at_start("plain without norms: plain56", "fit", cnn("plain56", norm="none"), (ALIKE, VANISHES, "SHATTERED")),
    at_start("plain without norms: plain110", "fit", cnn("plain110", norm="none"), (ALIKE, VANISHES, "SHATTERED")),
    at_start("plain without norms: perceptron of 20", "fit", lambda: Perceptron(20, norm=None), (ALIKE, VANISHES)),
    at_start(
        "plain without norms: sequence of 50",
        "test",
        lambda: Sequence(25, residual=False, norm=False),
        (ALIKE, VANISHES),
    ),
    at_start(
        "plain without norms: perceptron of 40", "test", lambda: Perceptron(40, norm=None, width=96), (ALIKE, VANISHES)
    ),
    at_start(
        "plain without norms: sequence of 70",
        "test",
        lambda: Sequence(35, width=32, residual=False, norm=False),
        (ALIKE, VANISHES),
    ),
    at_start("plain without norms: plain68", "test", cnn("plain68", norm="none"), (ALIKE, VANISHES, "SHATTERED")),
    at_start("residual without norms: resnet56", "fit", cnn("resnet56", norm="none"), EXPLODES),
    at_start("residual without norms: resnet110", "fit", cnn("resnet110", norm="none"), EXPLODES),
    at_start("residual without norms: sequence of 25 blocks", "test", lambda: Sequence(25, norm=False), EXPLODES),
    at_start("residual without norms: resnet80", "test", cnn("resnet80", norm="none"), EXPLODES),
    # activations with bounds
    at_start(
        "sigmoids: perceptron of 12",
        "fit",
        lambda: Perceptron(12, norm=None, activation=nn.Sigmoid),
        (VANISHES, "SATURATED"),
    ),
    at_start(
        "tanh: perceptron of 30", "fit", lambda: Perceptron(30, norm=None, activation=nn.Tanh), (VANISHES, "SATURATED")
    ),
    at_start(
        "sigmoids: perceptron of 20",
        "test",
        lambda: Perceptron(20, norm=None, activation=nn.Sigmoid, width=96),
        (VANISHES, "SATURATED"),
    ),
    at_start(
        "tanh, large gain: perceptron of 4",
        "fit",
        lambda: Perceptron(4, norm=None, activation=nn.Tanh),
        ("SATURATED", "LOSS_RANGE", GROWS),
        scale_weights(30),
    ),
    at_start(
        "tanh, large gain: perceptron of 8",
        "test",
        lambda: Perceptron(8, norm=None, activation=nn.Tanh, width=96),
        ("SATURATED", "LOSS_RANGE", GROWS),
        scale_weights(20),
    ),
    # initialisation
    at_start("gain too large: resnet20 without norms", "fit", cnn("resnet20", norm="none"), EXPLODES, scale_weights(5)),
    at_start("gain too large: perceptron", "fit", lambda: Perceptron(12, norm=None), EXPLODES, scale_weights(10)),
    at_start("gain too large: sequence", "test", lambda: Sequence(8, norm=False), EXPLODES, scale_weights(5)),
    at_start("gain too large: transformer", "test", lambda: Tokens(6), (*EXPLODES, "SATURATED"), scale_weights(10)),
    at_start(
        "gain too large: transformer of 10",
        "test",
        lambda: Tokens(10, width=48),
        (*EXPLODES, "SATURATED"),
        scale_weights(8),
    ),
    at_start(
        "gain too small: plain20 without norms",
        "fit",
        cnn("plain20", norm="none"),
        (VANISHES, ALIKE),
        scale_weights(0.1),
    ),
    at_start(
        "gain too small: perceptron", "fit", lambda: Perceptron(6, norm=None), (VANISHES, ALIKE), scale_weights(0.2)
    ),
    at_start(
        "gain too small: sequence",
        "test",
        lambda: Sequence(8, norm=False, residual=False),
        (VANISHES, ALIKE),
        scale_weights(0.1),
    ),
    # the optimiser
    *everybody(
        "rate too high", ("UPDATE_RATIO", "NONFINITE", "LR_SHARP"), training=lambda t: replace(t, lr=100 * t.lr)
    ),
    *everybody("rate too low", ("UPDATE_RATIO",), training=lambda t: replace(t, lr=t.lr / 1000)),
    *everybody("no zero_grad", ("GRAD_ACCUMULATES",), training=lambda t: replace(t, zero_grad=False)),
    *everybody("clipped always", ("CLIP_ALWAYS",), training=lambda t: replace(t, clip=0.01)),
    *everybody(
        "decay too high",
        ("WEIGHT_DECAY",),
        training=lambda t: replace(t, weight_decay=1.0 if t.kind == "sgd" else 100.0),
    ),
    # the data and the loss
    *everybody("as from a file", ("INPUT_SCALE",), training=lambda t: replace(t, scale=60.0)),
    *everybody("labels by lot", ("LABEL_NOISE",), training=lambda t: replace(t, noise=0.4, steps=200)),
    *everybody(
        "softmax twice",
        ("SOFTMAX_TWICE",),
        wrap=lambda m: Wrapped(m, after=nn.Softmax(dim=1)),
        training=shortened,
    ),
    *everybody(
        "logarithm of the input",
        ("NONFINITE",),
        wrap=lambda m: Wrapped(m, before=logarithm, after=nn.Identity()),
        training=shortened,
    ),
    *everybody(
        "root of the output",
        ("NONFINITE",),
        wrap=lambda m: Wrapped(m, after=Root()),
        training=shortened,
    ),
    *everybody(
        "two samples a batch",
        ("BN_MISMATCH",),
        only=WITH_NORMS,
        training=lambda t: replace(t, batch_size=2, lr=t.lr / 5),
    ),
    Patient(
        "fp16: perceptron",
        "fit",
        lambda: Wrapped(Perceptron(4, norm=None), after=Small()),
        ("AMP_UNDERFLOW",),
        replace(USUAL, half=True),
        halve,
    ),
    Patient(
        "fp16: transformer",
        "test",
        lambda: Wrapped(Tokens(4), after=Small()),
        ("AMP_UNDERFLOW",),
        replace(ADAPTIVE, half=True),
        halve,
    ),
    # a part of the network
    *everybody(
        "dead rectifiers",
        ("DEAD_RELU",),
        only=WITH_RECTIFIERS,
        harm=kill_rectifiers,
        training=shortened,
    ),
    *everybody("frozen but for the head", ("NO_GRAD",), harm=freeze_most, training=shortened),
    *everybody("a frozen block", ("NO_GRAD",), harm=freeze_middle, training=shortened),
    *everybody("a detached branch", ("NO_GRAD", "SHORTCUT_BLOCKED"), harm=detach_block, training=shortened),
    *everybody(
        "a dead block",
        ("BRANCH_DEAD",),
        only=("cnn", "sequence", "transformer"),
        harm=silence_block,
        training=lambda t: None,
    ),
]
