"""``fit`` on tensors of your own: a loader of fifteen lines, a warm-up, a moving average, a recorder that prints.

The data are made here: 16x16 images of noise with a horizontal or a vertical bar somewhere in it.

    python examples/fit_your_data.py [--quick]

Expected: validation error below 2 % (with --quick, which has a tenth of the images: 5 to 50 %).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from torch import Tensor

import reslab
from reslab.records import EpochRecord
from reslab.tasks import Classify
from reslab.training import Recorder, TrainOptions, cosine, evaluate, fit, sgd, warm_up


class TensorBatches:
    """What ``fit`` needs of a loader: ``batch_size``, ``len``, and the batches of an epoch from any batch on."""

    def __init__(self, images: Tensor, labels: Tensor, *, batch_size: int, shuffle: bool = False) -> None:
        self.images, self.labels, self.batch_size, self.shuffle = images, labels, batch_size, shuffle

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def batches(self, epoch: int = 0, *, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The order follows from the epoch alone, so that an interrupted run can go on anywhere."""
        generator = torch.Generator().manual_seed(epoch)
        number = len(self.labels)
        order = torch.randperm(number, generator=generator) if self.shuffle else torch.arange(number)
        for chosen in order.split(self.batch_size)[start:]:
            yield self.images[chosen], self.labels[chosen]


class PrintEpochs(Recorder):
    """A recorder gets every record; this one prints those of epochs and forgets the rest."""

    def epoch(self, record: EpochRecord) -> None:
        """A line per epoch."""
        scores = record.scores
        errors = f"training error {scores['train_error']:.2%}, validation {scores['val_error']:.2%}"
        print(f"epoch {record.epoch + 1}: lr {record.lr:.4f}, train loss {scores['train_loss']:.3f}, {errors}")


def bars(number: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Noise with a bar: class 0 horizontal, class 1 vertical. Images float (N, 1, 16, 16), labels int64 (N,)."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(number, 1, 16, 16, generator=generator)
    labels, places = torch.randint(2, (number,), generator=generator), torch.randint(16, (number,), generator=generator)
    for image, label, place in zip(images, labels, places, strict=True):
        row = image[0, place] if label == 0 else image[0, :, place]
        row += 1.5
    return images, labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the images")
    number = 200 if parser.parse_args().quick else 2000

    torch.manual_seed(0)
    training = TensorBatches(*bars(number, seed=0), batch_size=50, shuffle=True)
    validation = TensorBatches(*bars(number // 2, seed=1), batch_size=250)
    model = reslab.create_model("resnet8", num_classes=2, in_channels=1)
    task = Classify(2, label_smoothing=0.1)
    steps = 8 * len(training)
    result = fit(
        model,
        task,
        (training, validation),
        optimizer=sgd(model, weight_decay=5e-4),
        schedule=warm_up(cosine(0.1, total_steps=steps), steps=len(training)),  # one epoch of warm-up
        options=TrainOptions(steps=steps, ema_decay=0.95, clip_grad_norm=1.0),
        recorder=PrintEpochs(),
    )
    model.load_state_dict(result.best)  # of the moving average; `result.last` has the last one
    found = evaluate(model, task, validation)
    print(f"{result.status} after {result.steps} steps; best in epoch {result.best_epoch + 1}:", end=" ")
    print(f"validation error {found['error']:.2%}, loss {found['loss']:.3f}")


if __name__ == "__main__":
    main()
