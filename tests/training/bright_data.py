"""Small noisy images whose brightness tells their class."""

import torch

from reslab.data import DataOptions, Preprocess
from reslab.data._augment import BatchAugment
from reslab.data.loader import MemoryLoader, Order
from reslab.data.preprocess import channel_statistics
from reslab.data.splits import ArraySplit


def make_loader(*, num=48, batch_size=16, training=True, augment="crop_flip", seed=3):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num) % 3
    noise = torch.randint(0, 120, (num, 1, 8, 8), generator=generator)
    images = (noise + 60 * labels.view(-1, 1, 1, 1)).to(torch.uint8)  # brightness tells the class
    preprocess = Preprocess(8, 8, 1, *channel_statistics(images))
    augmentation = BatchAugment(preprocess, DataOptions(augment=augment), num_classes=3)
    return MemoryLoader(ArraySplit(images, labels), augmentation, Order(num, batch_size, training=training, seed=seed))
