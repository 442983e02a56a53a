"""A plain network and its residual twin, at two depths, in a bare PyTorch loop: deeper is worse without shortcuts.

Shows reslab's parts one by one: a source, the prepared data, loaders, twins that start from the same values. The loop
is PyTorch's own. Data: scikit-learn's handwritten digits, embedded, offline.

    python examples/train_twins.py [--quick]

Expected, in under a minute on one core: clean training error below 1 % for plain20, resnet20 and resnet56, and between
30 and 90 % for plain56. With --quick the networks are too shallow to show it.
"""

from __future__ import annotations

import argparse
import time

import torch
import torch.nn.functional as F
from torch import nn

import reslab
from reslab.data import DataOptions, Loader, find_source, prepare


def train(model: nn.Module, loader: Loader, *, epochs: int) -> None:
    """SGD with momentum, one cycle up to the rate 0.1, gradients clipped to the norm 1."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.1, total_steps=epochs * len(loader), cycle_momentum=False
    )
    model.train()
    for epoch in range(epochs):
        for images, labels in loader.batches(epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()


@torch.no_grad()
def error(model: nn.Module, loader: Loader) -> float:
    """Fraction of wrong answers in eval mode; the loader doesn't augment."""
    model.eval()
    wrong = torch.cat([model(images).argmax(1) != labels for images, labels in loader.batches()])
    return wrong.float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shallower, shorter; shows that it runs, not the effect")
    quick = parser.parse_args().quick
    depths, epochs = ((8, 14), 1) if quick else ((20, 56), 10)

    options = DataOptions(name="digits", val_split=0)
    data = prepare(find_source(options), options)
    training = data.loader(data.train, batch_size=64, training=True)
    measuring = {"training": data.loader(data.train, batch_size=256), "test": data.loader(data.test, batch_size=256)}

    print(f"{'network':<10} {'parameters':>10} {'clean training error':>21} {'test error':>11} {'seconds':>8}")
    for depth in depths:
        for kind in ("plain", "resnet"):
            torch.manual_seed(0)  # the same seed: the twins start from the same values
            model = reslab.create_model(f"{kind}{depth}", num_classes=10, in_channels=1)
            start = time.perf_counter()
            train(model, training, epochs=epochs)
            seconds = time.perf_counter() - start
            clean, test = (100 * error(model, loader) for loader in measuring.values())
            size = sum(parameter.numel() for parameter in model.parameters())
            print(f"{kind}{depth:<{10 - len(kind)}} {size:>10,} {clean:>19.2f} % {test:>9.2f} % {seconds:>8.1f}")


if __name__ == "__main__":
    main()
