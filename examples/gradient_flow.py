"""The gradient that arrives at each block, read in a bare PyTorch loop: ours, and torchvision's ResNet-18 as it is.

For each network, at its first and at its last step: the gradient's norm at the output of the block next to the stem and
of the block next to the head, and how many times larger the first is.

    python examples/gradient_flow.py [--quick]

Expected: at step 0 the ratio is in the thousands for plain56, between 5 and 30 for the other two: without shortcuts the
gradient grows towards the input. Later plain56's ratio moves about; the others' stay of the same order.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import reslab
from reslab.data.prepare import Data, prepare
from reslab.data.sources import find_source
from reslab.probe.gradients import BlockGradients, readings
from reslab.records import BlockGradientRecord, first_and_last


def networks() -> dict[str, tuple[nn.Module, list[str]]]:
    """Each network with the names of its blocks in execution order."""
    made: dict[str, tuple[nn.Module, list[str]]] = {}
    for name in ("plain56", "resnet56"):
        torch.manual_seed(0)
        model = reslab.create_model(name, num_classes=10)
        made[name] = (model, [block for block, _ in model.blocks()])
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=10)
    block = torchvision.models.resnet.BasicBlock
    made["torchvision resnet18"] = (theirs, [n for n, module in theirs.named_modules() if isinstance(module, block)])
    return made


def train(model: nn.Module, blocks: list[str], data: Data, *, steps: int) -> list[BlockGradientRecord]:
    """Trains for a few steps and returns the readings of the first and of the last one."""
    loader = data.loader(data.train, batch_size=64, training=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    probe = BlockGradients(blocks, when=readings(steps, count=1))
    records: list[BlockGradientRecord] = []
    step = 0
    model.train()
    with probe.attach(model):
        while step < steps:
            for images, labels in loader.batches(step // len(loader)):
                optimizer.zero_grad()
                F.cross_entropy(model(images), labels).backward()
                records += probe.read(step)  # after backward; empty at the steps in between
                optimizer.step()
                step += 1
                if step == steps:
                    break
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5 steps instead of 40")
    steps = 5 if parser.parse_args().quick else 40
    data = prepare(find_source("digits", channels=3), val_split=0)

    print(f"{'network':<21} {'step':>4} {'first block':>12} {'last block':>12} {'first / last':>13}")
    for name, (model, blocks) in networks().items():
        for reading in first_and_last(train(model, blocks, data, steps=steps)):
            first, last = reading[0].grad_norm, reading[-1].grad_norm
            print(f"{name:<21} {reading[0].step:>4} {first:>12.3g} {last:>12.3g} {first / last:>13.3g}")


if __name__ == "__main__":
    main()
