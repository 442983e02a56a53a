"""What every side shares: the images as people hand them over, the clock, and the data from process to process."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from reslab.data import Data, DataOptions, Preprocess, Source
from reslab.data.splits import ArraySplit
from reslab.records import StepRecord
from reslab.training.loop import Recorder

BATCH = 128
WARMUP = 8  # steps: longer than what two workers have read ahead, so that a loader that is too slow shows
SGD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4}


class PilImages(Dataset):
    """As torchvision's CIFAR10: an array in memory, a PIL image and its transform per access."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, transform: Callable[[Image.Image], torch.Tensor]):
        self.images = images.permute(0, 2, 3, 1).contiguous().numpy()  # (N, C, H, W) -> (N, H, W, C)
        self.labels, self.transform = labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def pil_images(data: Data) -> PilImages:
    """The training split behind the tutorials' transforms: 4 pixels padded, a random crop, flipped, normalised."""
    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(data.preprocess.mean, data.preprocess.std),
        ]
    )
    return PilImages(data.train.images, data.train.targets, transform)


def torch_loader(data: Data, *, workers: int) -> DataLoader[Any]:
    """PyTorch's own DataLoader over ``pil_images``."""
    return DataLoader(pil_images(data), batch_size=BATCH, shuffle=True, num_workers=workers)


class Clock:
    """Times ``steps`` steps after ``WARMUP`` steps that aren't counted; tell it of each step's end by ``tick``."""

    def __init__(self, steps: int) -> None:
        self.last = WARMUP + steps
        self.ends: list[float] = []

    def tick(self) -> None:
        """A step has ended."""
        self.ends.append(time.perf_counter())

    @property
    def done(self) -> bool:
        """Whether enough steps have ended."""
        return len(self.ends) >= self.last

    def images_per_s(self) -> float:
        """Over the counted steps."""
        if len(self.ends) != self.last:
            raise RuntimeError(f"{len(self.ends)} steps ended, {self.last} were asked for")
        return (self.last - WARMUP) * BATCH / (self.ends[-1] - self.ends[WARMUP - 1])


def hand_over(data: Data, folder: Path) -> None:
    """Writes the decoded training split, so that a process that measures need not decode it again."""
    np.save(folder / "images.npy", data.train.images.numpy())
    np.save(folder / "labels.npy", data.train.targets.numpy())
    about = {
        "classes": data.source.classes,
        "preprocess": data.preprocess.to_dict(),
        "augment": data.options.augment,
    }
    (folder / "about.json").write_text(json.dumps(about))


def take_over(folder: Path) -> Data:
    """What ``hand_over`` wrote: the same training split, without the others."""
    about = json.loads((folder / "about.json").read_text())
    images, labels = (torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ("images", "labels"))
    train = ArraySplit(images, labels)
    source = Source("cifar10", "", about["classes"], {"train": train}, about["augment"])
    options = DataOptions(name="cifar10", augment=about["augment"])
    return Data(source, train, None, None, Preprocess.from_dict(about["preprocess"]), options)


class Watch(Recorder):
    """Looks at the clock after every step of our own loop."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def step(self, record: StepRecord) -> None:
        """A step has ended."""
        self.clock.tick()
