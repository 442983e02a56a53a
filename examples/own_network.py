"""A network of your own in reslab's training, with everything that a run of a catalog network leaves behind.

``build`` is all that reslab needs. By the command line, in the folder that holds this file:

    reslab train --model own_network:build --data digits --epochs 5 --out runs/mine

and from Python, as below:

    python examples/own_network.py [--quick]

Expected: test error between 1 and 6 % (with --quick, after two epochs: above 50 %).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from torch import Tensor, nn

import reslab


class ScaledBlock(nn.Module):
    """A block whose branch is multiplied by one learned number that starts at zero (SkipInit).

    Reference:
        De and Smith 2020, arXiv:2002.10444, Algorithm 1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        conv = [nn.Conv2d(channels, channels, kernel_size=3, padding=1) for _ in range(2)]
        self.branch = nn.Sequential(nn.ReLU(), conv[0], nn.ReLU(), conv[1])
        self.scale = nn.Parameter(conv[0].weight.new_zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Images or maps (N, C, H, W) -> (N, C, H, W)."""
        return x + self.scale * self.branch(x)


def build(num_classes: int, in_channels: int) -> nn.Module:
    """What ``--model own_network:build`` calls: images (N, in_channels, H, W) -> logits (N, num_classes)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 32, kernel_size=3, padding=1),
        *(ScaledBlock(32) for _ in range(8)),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, num_classes),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 epochs instead of 20")
    epochs = 2 if parser.parse_args().quick else 20
    with tempfile.TemporaryDirectory() as folder:  # yours would be such as runs/mine
        run = reslab.train(
            model="own_network:build",  # by name, so that the run can be opened again
            data="digits",
            batch_size=64,
            lr=0.1,
            epochs=epochs,
            device="cpu",
            out=Path(folder) / "mine",
            clip_grad=1.0,
        )
        print("left behind:", ", ".join(sorted(path.name for path in run.folder.root.iterdir())))
    record = run.record
    print(f"{record.model['num_parameters']:,} parameters; test error of the best weights", end=" ")
    print(f"{record.best.scores['test_error']:.2%}")


if __name__ == "__main__":
    main()
