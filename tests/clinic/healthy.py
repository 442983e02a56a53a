"""Networks and trainings with nothing wrong: whatever is found in them is a false alarm.

The catalog's families are ``fit``, but for every third, which is ``test`` together with the networks of others, on
which no threshold was chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
import torchvision
from patient import Half, Patient
from sick import ADAPTIVE, SOUND, USUAL, cnn
from small_networks import Perceptron, Sequence, Tokens
from torch import Tensor, nn

import reslab
from reslab.probe.diagnosis import Diagnosis, diagnose


@dataclass(frozen=True)
class Newborn:
    """A network as it comes, on noise of the size that it takes: no step was taken.

    Args:
        name: of it.
        half: see ``sick``.
        build: the network.
        side: of the images.
        illness: none.
    """

    name: str
    half: Half
    build: Callable[[], nn.Module]
    side: int
    illness: tuple[str, ...] = ()

    def diagnosis(self, seed: int) -> Diagnosis:
        """Of this network, with this seed."""
        torch.manual_seed(seed)
        model = self.build()
        return diagnose(model, (torch.randn(8, 3, self.side, self.side), torch.arange(8)), cross_entropy)


def cross_entropy(outputs: object, labels: Tensor) -> Tensor:
    """Of the main head, where there are several."""
    logits = outputs if isinstance(outputs, Tensor) else outputs[0]  # type: ignore[index]
    return F.cross_entropy(logits, labels)


CATALOG = [
    "resnet20", "resnet56", "resnet110", "plain20", "preresnet20", "preresnet56", "preresnet110", "preresnet164",
    "wide_resnet16_4", "seresnet20", "ecaresnet20", "highway20", "fixup_resnet20", "fixup_resnet56", "nf_resnet20",
    "nf_resnet56", "hyper_resnet56", "mhc_resnet56", "vgg11_bn_cifar", "mobilenet_v2_cifar",
    "mobilenet_v3_small_cifar", "resnet18_small", "preresnet18_small",
]  # fmt: skip
LARGER = [
    "resnet18", "resnet50", "preresnet50", "resnet50d", "seresnet50", "ecaresnet50", "resnet50_gn", "fixup_resnet50",
    "nf_resnet50", "resnext50_32x4d",
]  # fmt: skip
TORCHVISION = [
    "resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "mobilenet_v2", "mobilenet_v3_small",
    "mobilenet_v3_large", "efficientnet_b0", "efficientnet_v2_s", "regnet_x_400mf", "regnet_y_400mf", "regnet_y_1_6gf",
    "convnext_tiny", "densenet121", "shufflenet_v2_x1_0", "squeezenet1_1", "vgg11_bn", "vgg16_bn", "swin_t",
    "swin_v2_t", "alexnet",
]  # fmt: skip
TIMM = [
    "resnet26d", "resnetv2_50", "seresnet50", "ecaresnet26t", "nf_resnet50", "dm_nfnet_f0", "regnety_004",
    "efficientnet_b0", "mobilenetv3_small_100", "vit_tiny_patch16_224", "deit_tiny_patch16_224", "mixer_s32_224",
    "swin_tiny_patch4_window7_224", "convnext_atto", "convnextv2_atto", "resmlp_12_224", "poolformer_s12",
    "gmixer_12_224", "repvgg_a0", "ghostnet_100", "cait_xxs24_224", "xcit_nano_12_p16_224", "beit_base_patch16_224",
]  # fmt: skip


def timm_network(name: str) -> nn.Module:
    import timm

    return timm.create_model(name, num_classes=10)


def side_of(name: str) -> int:
    fixed = ("vit", "deit", "mixer", "swin_tiny", "resmlp", "cait", "xcit", "beit")
    return 224 if any(part in name for part in fixed) else 96


HEALTHY: list[Patient | Newborn] = [
    *(
        Newborn(f"catalog: {name}", "test" if place % 3 == 2 else "fit", partial(reslab.create_model, name, 10), side)
        for names, side in ((CATALOG, 32), (LARGER, 96))
        for place, name in enumerate(names)
    ),
    *(
        Newborn(f"torchvision: {name}", "test", partial(torchvision.models.get_model, name, num_classes=10), 96)
        for name in TORCHVISION
    ),
    *(Newborn(f"timm: {name}", "test", partial(timm_network, name), side_of(name)) for name in TIMM),
    # trained
    *(Patient(f"trained: {name}", half, build, training=usual) for name, (half, build, usual) in SOUND.items()),
    *(
        Patient(f"trained by AdamW: {name}", half, build, training=replace(ADAPTIVE, weight_decay=0.05))
        for name, (half, build, _) in SOUND.items()
    ),
    Patient("trained long: cnn", "fit", cnn("resnet14"), training=replace(USUAL, steps=200)),
    Patient(
        "trained long: residual perceptron",
        "test",
        lambda: Perceptron(20, residual=True, width=96),
        training=replace(USUAL, steps=400),
    ),
    Patient("trained long: transformer", "test", lambda: Tokens(4), training=replace(ADAPTIVE, steps=200)),
    Patient("trained: plain20", "fit", cnn("plain20"), training=USUAL),
    Patient("trained: resnet56", "fit", cnn("resnet56"), training=replace(USUAL, steps=25)),
    Patient("trained: preresnet56", "test", cnn("preresnet56"), training=replace(USUAL, steps=25)),
    Patient("trained, branches from zero: cnn", "fit", cnn("resnet14", zero_init_residual=True), training=USUAL),
    Patient("trained, fixup: cnn", "test", cnn("fixup_resnet20"), training=replace(USUAL, lr=0.02)),
    Patient("trained, small rate: cnn", "test", cnn("resnet14"), training=replace(USUAL, lr=0.01)),
    Patient("trained, large rate: sequence", "test", lambda: Sequence(6), training=replace(USUAL, lr=0.2)),
    Patient("trained, clipped at times: perceptron", "test", lambda: Perceptron(6), training=replace(USUAL, clip=3.0)),
    Patient("trained, eight a batch: cnn", "test", cnn("resnet14"), training=replace(USUAL, batch_size=8, lr=0.01)),
    Patient(
        "trained, few wrong labels: sequence",
        "test",
        lambda: Sequence(6),
        training=replace(USUAL, noise=0.03, steps=150),
    ),
]
