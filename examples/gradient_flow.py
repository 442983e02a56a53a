"""The gradient that arrives at each block, read in a bare PyTorch loop: ours, and torchvision's ResNet-18 as it is.

For each network, at its first and at its last step: the gradient's norm at the input of the block next to the stem and
of the block next to the head, and how many times larger the first is.

    python examples/gradient_flow.py [--quick]

Expected: at step 0 the ratio is in the thousands for plain56, between 5 and 30 for the other two: without shortcuts the
gradient grows towards the input. Later plain56's ratio moves about; the others' stay of the same order.
"""

from __future__ import annotations

import argparse
import itertools

import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import reslab
from reslab.data import Data, DataOptions, find_source, prepare
from reslab.records import ReadingRecord


def networks() -> dict[str, nn.Module]:
    """Twins of ours, and one of torchvision's."""
    made: dict[str, nn.Module] = {}
    for name in ("plain56", "resnet56"):
        torch.manual_seed(0)
        made[name] = reslab.create_model(name, num_classes=10)
    torch.manual_seed(0)
    made["torchvision resnet18"] = torchvision.models.resnet18(num_classes=10)
    return made


def train(model: nn.Module, data: Data, *, steps: int) -> tuple[ReadingRecord, ...]:
    """Train for a few steps and return the readings of the first and of the last one."""
    loader = data.loader(data.train, batch_size=64, training=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    batches = itertools.chain.from_iterable(loader.batches(epoch) for epoch in itertools.count())
    model.train()
    with reslab.watch(model, every=steps - 1) as probe:
        for images, labels in itertools.islice(batches, steps):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
    return probe.readings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5 steps instead of 40")
    steps = 5 if parser.parse_args().quick else 40
    options = DataOptions(name="digits", channels=3, val_split=0)
    data = prepare(find_source(options), options)

    print(f"{'network':<21} {'step':>4} {'first block':>12} {'last block':>12} {'first / last':>13}")
    for name, model in networks().items():
        for reading in train(model, data, steps=steps):
            norms = [block.grad_norm for block in reading.block_norms()]
            first, last = norms[0], norms[-1]
            print(f"{name:<21} {reading.step:>4} {first:>12.3g} {last:>12.3g} {first / last:>13.3g}")


if __name__ == "__main__":
    main()
