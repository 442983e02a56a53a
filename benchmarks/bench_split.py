"""Exactness of the gradient's split into shortcut and branch, and the number of residual additions that are found.

One forward and one backward pass in float64 and train mode, of every network of the catalog (small ones of the same
make) and of networks of torchvision and timm as they come. The gap of an addition is the norm of the whole gradient
less the sum of its parts, over the norm of the whole.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from measure import parse_flags, report
from reslab.models.graph import Graph
from reslab.probe._backward import Splitter

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from models.shrunk import BASELINES, SHRUNK, build, images_for

BAR = 1e-12
BATCH = 2

PEERS = {
    # library, name: images' side, additions counted by hand
    ("torchvision", "resnet18"): (64, 8),
    ("torchvision", "resnet50"): (64, 16),
    ("torchvision", "convnext_tiny"): (64, 18),
    ("torchvision", "swin_t"): (64, 24),
    ("torchvision", "mobilenet_v2"): (64, 10),
    ("torchvision", "efficientnet_b0"): (64, 9),
    ("torchvision", "regnet_y_400mf"): (64, 16),
    ("torchvision", "resnext50_32x4d"): (64, 16),
    ("torchvision", "densenet121"): (64, 0),
    ("torchvision", "googlenet"): (64, 0),
    ("torchvision", "shufflenet_v2_x1_0"): (64, 0),
    ("torchvision", "vgg11_bn"): (32, 0),
    ("timm", "resnetv2_101"): (64, 33),
    ("timm", "vit_tiny_patch16_224"): (224, 24),
    ("timm", "mixer_s32_224"): (224, 16),
    ("timm", "swin_tiny_patch4_window7_224"): (224, 24),
    ("timm", "convnext_tiny"): (64, 18),
    ("timm", "efficientnet_b0"): (64, 9),
    ("timm", "regnety_004"): (64, 16),
    ("timm", "mobilenetv2_100"): (64, 10),
    ("timm", "seresnet50"): (64, 16),
    ("timm", "nf_resnet50"): (64, 16),
    ("timm", "dm_nfnet_f0"): (64, 12),
    ("timm", "densenet121"): (64, 0),
}


def make_peer(library: str, name: str) -> nn.Module:
    torch.manual_seed(0)
    if library == "timm":
        return timm.create_model(name)
    return torchvision.models.get_model(name, **({"aux_logits": False} if name == "googlenet" else {}))


def shaken(model: nn.Module) -> nn.Module:
    """With noise on all weights, since branches that begin at zero would say nothing."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def gaps_of(model: nn.Module, images: Tensor) -> list[float]:
    """Of each addition, in one pass."""
    model.double().train()
    images = images.double().requires_grad_()
    loss = F.cross_entropy(model(images), torch.arange(len(images)))
    graph = Graph(loss.grad_fn, [get_gradient_edge(images).node])
    splitter = Splitter(graph, graph.additions(), num_samples=len(images), check=True)
    loss.backward()
    splitter.close()
    return splitter.gaps


def row_of(library: str, name: str, gaps: list[float], expected: int | None) -> dict[str, Any]:
    row = {
        "library": library,
        "network": name,
        "additions": len(gaps),
        "expected": "" if expected is None else expected,
        "largest_gap": max(gaps, default=0.0),
    }
    print(row, flush=True, file=sys.stderr)
    return row


def main() -> None:
    flags = parse_flags(__doc__)
    rows = []
    for name in [*SHRUNK, *BASELINES][: 3 if flags.quick else None]:
        rows.append(row_of("reslab", name, gaps_of(shaken(build(name)), images_for(name)), None))
    for (library, name), (side, expected) in list(PEERS.items())[: 3 if flags.quick else None]:
        images = torch.randn(BATCH, 3, side, side, generator=torch.Generator().manual_seed(1))
        rows.append(row_of(library, name, gaps_of(shaken(make_peer(library, name)), images), expected))
    worst = max(rows, key=lambda row: row["largest_gap"])
    wrong = [row["network"] for row in rows if row["expected"] not in ("", row["additions"])]
    verdicts = [
        {
            "what": f"largest gap ({worst['network']})",
            "measured": worst["largest_gap"],
            "bar": f"<= {BAR}",
            "met": worst["largest_gap"] <= BAR,
        },
        {"what": "networks with a wrong number of additions", "measured": len(wrong), "bar": "0", "met": not wrong},
    ]
    report("split", rows, verdicts=verdicts, flags=flags)


if __name__ == "__main__":
    main()
