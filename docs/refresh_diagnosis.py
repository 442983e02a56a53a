"""Draws the picture of docs/probes.md: the gradient in a residual network, and in the same with its shortcuts cut."""

from __future__ import annotations

from pathlib import Path

import torch

import reslab
from reslab.data import DataOptions, find_source, prepare


def main() -> None:
    """One batch of handwritten digits through ResNet-56 as it starts."""
    options = DataOptions(name="digits", channels=3, val_split=0)
    data = prepare(find_source(options), options)
    images, labels = next(iter(data.loader(data.train, batch_size=128, training=True).batches(0)))
    torch.manual_seed(0)
    model = reslab.create_model("resnet56", num_classes=10)
    diagnosis = reslab.diagnose(model, (images, labels), torch.nn.functional.cross_entropy, twin=True)
    flow = diagnosis.chart("flow")
    flow.save(Path(__file__).parent / "diagnosis-flow.png")
    print(flow.caption)


if __name__ == "__main__":
    main()
