"""Images per second of ResNet-20 training on CIFAR-10, batch 128, data included: reslab beside the loop people copy.

The copied loop is the one of tutorials: a data set of PIL images as torchvision's CIFAR10 class has it, RandomCrop,
RandomHorizontalFlip, ToTensor and Normalize in a DataLoader with two workers, fp32, default memory format. Both train
the same network with the same optimiser, and both read the loss of every step.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from measure import interleave, parse_flags, ratios, report, summary
from reslab.data.prepare import prepare
from reslab.data.sources import find_source
from reslab.errors import RequestError
from reslab.models.catalog import create_model
from reslab.tasks.classify import Classify
from reslab.train.fit import FitOptions, fit
from reslab.train.optim import sgd
from reslab.train.schedule import constant

BATCH = 128
BAR = 2.0


class PilImages(Dataset):
    """As torchvision's CIFAR10: an array in memory, a PIL image and its transform per access."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, transform: Callable[[Image.Image], torch.Tensor]):
        self.images = images.permute(0, 2, 3, 1).numpy()  # (N, C, H, W) -> (N, H, W, C)
        self.labels, self.transform = labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def copied_loop(images: torch.Tensor, labels: torch.Tensor, preprocess: Any, *, steps: int) -> float:
    """Images per second of the loop people copy, over ``steps`` steps after the loader has started."""
    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(preprocess.mean, preprocess.std),
        ]
    )
    loader = DataLoader(PilImages(images, labels, transform), batch_size=BATCH, shuffle=True, num_workers=2)
    model = create_model("resnet20")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    criterion = nn.CrossEntropyLoss()
    batches: Iterator[Any] = iter(loader)
    next(batches)  # the workers' start is not counted
    start, running = time.perf_counter(), 0.0
    for inputs, targets in islice(batches, steps):
        optimizer.zero_grad()
        loss = criterion(model(inputs), targets)
        loss.backward()
        optimizer.step()
        running += loss.item()
    return steps * BATCH / (time.perf_counter() - start)


def ours(data: Any, *, steps: int, amp: str) -> float:
    """Images per second of ``fit`` with every record that it keeps, over ``steps`` steps."""
    model = create_model("resnet20")
    loader = data.loader(data.train, batch_size=BATCH, training=True)
    options = FitOptions(steps=steps, amp=amp, channels_last=True)
    start = time.perf_counter()
    fit(model, Classify(10), (loader, None), optimizer=sgd(model), schedule=constant(0.1), options=options)
    return steps * BATCH / (time.perf_counter() - start)


def main() -> None:
    flags = parse_flags(__doc__)
    folder = flags.data_dir or os.environ.get("RESLAB_DATA", "data")
    try:
        data = prepare(find_source("cifar10", data_dir=Path(folder)))
    except RequestError as error:
        print(f"throughput is not measured: {error}")
        return
    steps = 30 if flags.quick else 100
    sides = {
        "copied loop, fp32": lambda: copied_loop(data.train.images, data.train.labels, data.preprocess, steps=steps),
        "reslab, as it comes (fp32)": lambda: ours(data, steps=steps, amp="none"),
        "reslab --amp bf16": lambda: ours(data, steps=steps, amp="bf16"),
    }
    found = interleave(sides, rounds=2 if flags.quick else 5)
    base = found["copied loop, fp32"]
    rows = []
    for name, values in found.items():
        pair = ratios(values, base)
        rows.append({
            "loop": name, "images_per_s": summary(values)["median"], "ratio": pair["median"],
            "ratio_min": pair["min"], "ratio_max": pair["max"], "n": pair["n"],
        })  # fmt: skip
    best = rows[-1]["ratio"]
    verdict = {
        "what": "reslab --amp bf16 over the copied loop",
        "measured": best,
        "bar": f">= {BAR}",
        "met": best >= BAR,
    }
    report("throughput", rows, verdicts=[verdict], flags=flags)


if __name__ == "__main__":
    main()
