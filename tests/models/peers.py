"""Networks of other libraries beside ours: which pairs there are, the same weights in both, and how far they differ.

``test_peers.py`` asks that they don't; ``benchmarks/bench_parity.py`` writes the table.
"""

import re
from dataclasses import dataclass

import torch
from shrunk import settle_norms
from torch import Tensor, nn

from reslab.models.catalog import create_model

NUM_CLASSES = 11
SIZES = ((64, 64), (49, 57))
BOUND = 1e-10
"""Of every difference; logits and gradients are about 1 to 100."""


@dataclass(frozen=True)
class Pair:
    """A network of ours and the same of another library.

    Args:
        ours: name in our catalog.
        library: ``"torchvision"`` or ``"timm"``.
        theirs: name there.
        slow: whether `make test-fast` and ``--quick`` leave it out, because it is large or a quick one is like it.
    """

    ours: str
    library: str
    theirs: str
    slow: bool = False

    def __str__(self) -> str:
        return f"{self.ours}-{self.library}"


PAIRS = (
    Pair("resnet18", "torchvision", "resnet18"),
    Pair("resnet34", "torchvision", "resnet34", slow=True),
    Pair("resnet50", "torchvision", "resnet50", slow=True),
    Pair("resnet101", "torchvision", "resnet101", slow=True),
    Pair("resnet152", "torchvision", "resnet152", slow=True),
    Pair("resnext50_32x4d", "torchvision", "resnext50_32x4d"),
    Pair("resnext101_32x8d", "torchvision", "resnext101_32x8d", slow=True),
    Pair("resnext101_64x4d", "torchvision", "resnext101_64x4d", slow=True),
    Pair("wide_resnet50_2", "torchvision", "wide_resnet50_2", slow=True),
    Pair("wide_resnet101_2", "torchvision", "wide_resnet101_2", slow=True),
    Pair("resnet18d", "timm", "resnet18d"),
    Pair("resnet34d", "timm", "resnet34d", slow=True),
    Pair("resnet50c", "timm", "resnet50c", slow=True),
    Pair("resnet50d", "timm", "resnet50d", slow=True),
    Pair("resnet101d", "timm", "resnet101d", slow=True),
    Pair("resnext50_32x4d", "timm", "resnext50_32x4d", slow=True),
    Pair("wide_resnet50_2", "timm", "wide_resnet50_2", slow=True),
    Pair("seresnet18", "timm", "seresnet18"),
    Pair("seresnet50", "timm", "seresnet50", slow=True),
    Pair("seresnext50_32x4d", "timm", "seresnext50_32x4d", slow=True),
    Pair("ecaresnet50d", "timm", "ecaresnet50d", slow=True),
    Pair("ecaresnet50t", "timm", "ecaresnet50t"),
    Pair("resnet50_gn", "timm", "resnet50_gn", slow=True),
    Pair("preresnet18", "timm", "resnetv2_18"),
    Pair("preresnet34", "timm", "resnetv2_34", slow=True),
    Pair("preresnet50", "timm", "resnetv2_50", slow=True),
    Pair("preresnet101", "timm", "resnetv2_101", slow=True),
    Pair("preresnet50d", "timm", "resnetv2_50d", slow=True),
    Pair("preresnet50_bit", "timm", "resnetv2_50x1_bit"),
    Pair("nf_resnet26", "timm", "nf_resnet26"),
    Pair("nf_resnet50", "timm", "nf_resnet50", slow=True),
    Pair("nf_seresnet50", "timm", "nf_seresnet50", slow=True),
)

RENAMES = (
    # names in timm's resnetv2.py and nfnet.py -> ours; all other networks here have our names
    (r"^stages\.(\d+)\.(blocks\.)?", lambda match: f"layer{int(match[1]) + 1}."),
    (r"^stem\.conv\.", "conv1."),
    (r"^stem\.conv1\.", "conv1.0."),
    (r"^stem\.norm1\.", "conv1.1."),
    (r"^stem\.conv2\.", "conv1.3."),
    (r"^stem\.norm2\.", "conv1.4."),
    (r"^stem\.conv3\.", "conv1.6."),
    (r"^(layer\d\.\d+)\.norm(\d)\.", r"\1.bn\2."),
    (r"\.attn_last\.", ".se."),
    (r"^head\.fc\.", "fc."),
)


def peer_of(pair: Pair) -> nn.Module:
    """The other library's network with its own initial values."""
    if pair.library == "torchvision":
        import torchvision

        return getattr(torchvision.models, pair.theirs)(weights=None, num_classes=NUM_CLASSES)
    import timm

    return timm.create_model(pair.theirs, pretrained=False, num_classes=NUM_CLASSES)


def build(pair: Pair) -> tuple[nn.Module, nn.Module]:
    """Theirs, with random values and running statistics that fit them, and ours, both in float64."""
    torch.manual_seed(0)
    theirs, ours = peer_of(pair).double(), create_model(pair.ours, NUM_CLASSES).double()
    randomise(theirs)
    settle_norms(theirs, torch.randn(4, 3, 64, 64, dtype=torch.float64))
    return theirs, ours


@torch.no_grad()
def randomise(net: nn.Module) -> None:
    """Values of which none is 0 or 1, so that each counts; filters keep the size of what they read."""
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            parameter.uniform_(-0.5, 0.5)
        elif (fan_in := parameter[0].numel()) == 1:  # factors of norms, gains
            parameter.uniform_(0.5, 1.5)
        else:
            parameter.normal_(std=fan_in**-0.5)


def translate(theirs: dict[str, Tensor], ours: nn.Module) -> dict[str, Tensor]:
    """Values of theirs, by name, under our names."""
    shortcut = 1 if ours.architecture.shortcut == "projection_pool" else 0  # a pool stands before the convolution
    found = {}
    for name, value in theirs.items():
        for pattern, new in (*RENAMES, (r"\.downsample\.conv\.", f".downsample.{shortcut}.")):
            name = re.sub(pattern, new, name)
        found[name] = value.flatten(1) if name == "fc.weight" else value  # (K, D, 1, 1) -> (K, D)
    return found


@dataclass(frozen=True)
class Difference:
    """How far two networks are apart: the largest absolute differences, but for parameters relative ones.

    Args:
        logits: of the logits.
        image_gradient: of the gradient of a weighted sum of the logits with respect to the images.
        parameter_gradients: of those with respect to each parameter, over the largest entry of that gradient.
        buffers: of the running statistics afterwards.
        largest_logit: of theirs, in magnitude.
        largest_image_gradient: of theirs, in magnitude.
    """

    logits: float
    image_gradient: float
    parameter_gradients: float
    buffers: float
    largest_logit: float
    largest_image_gradient: float


def compare(theirs: nn.Module, ours: nn.Module, *, size: tuple[int, int], training: bool) -> Difference:
    """Gives ours the weights of theirs, runs both on the same two images (2, 3, *size), and says what differs."""
    ours.load_state_dict(translate(theirs.state_dict(), ours), strict=True)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, *size, dtype=torch.float64, generator=generator)
    cotangent = torch.randn(2, NUM_CLASSES, dtype=torch.float64, generator=generator)
    logits, image_gradient, gradients = run(theirs.train(training), images, cotangent)
    our_logits, our_image_gradient, our_gradients = run(ours.train(training), images, cotangent)
    return Difference(
        logits=largest(our_logits - logits),
        image_gradient=largest(our_image_gradient - image_gradient),
        parameter_gradients=apart(our_gradients, translate(gradients, ours), relative=True),
        buffers=apart(dict(ours.named_buffers()), translate(dict(theirs.named_buffers()), ours)),
        largest_logit=largest(logits),
        largest_image_gradient=largest(image_gradient),
    )


def run(net: nn.Module, images: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Logits, and the gradients of their sum weighted by ``cotangent``: of the images, and of each parameter."""
    net.zero_grad()
    images = images.clone().requires_grad_()
    logits = net(images)
    (logits * cotangent).sum().backward()
    return logits.detach(), images.grad, {name: parameter.grad for name, parameter in net.named_parameters()}


def largest(values: Tensor) -> float:
    return values.abs().max().item()


def apart(ours: dict[str, Tensor], theirs: dict[str, Tensor], *, relative: bool = False) -> float:
    """The largest difference between values of the same name; 0 if there are none, NaN if there is one."""
    assert ours.keys() == theirs.keys()
    found = [largest(value - theirs[name]) / (largest(theirs[name]) if relative else 1) for name, value in ours.items()]
    return largest(torch.tensor([0.0, *found]))
