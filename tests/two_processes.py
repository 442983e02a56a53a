"""What ``test_distributed`` runs in two processes by torchrun: writes what each saw to the folder that it is given."""

import sys
from pathlib import Path

import torch
from tests.training.bright_data import make_loader

from reslab.data.loader import MemoryLoader, Order
from reslab.data.splits import ArraySplit
from reslab.distributed import launched_ranks, process_group
from reslab.layers.nd import sync_norms
from reslab.models.catalog import create_model
from reslab.tasks.classify import Classify
from reslab.training.evaluation import evaluate
from reslab.training.execution import ExecutionMode
from reslab.training.loop import Recorder, fit
from reslab.training.optim import sgd
from reslab.training.options import TrainOptions
from reslab.training.schedule import constant


class Steps(Recorder):
    """Keeps the step records."""

    def __init__(self):
        self.steps = []

    def step(self, record):
        self.steps.append(record)


def train(ranks, *, steps, synced=True, **options):
    """A few steps on the conftest's data in float64, of which this process gets its share."""
    torch.manual_seed(0)
    model = create_model("resnet8", 3, in_channels=1).double()
    if synced and ranks.world > 1:
        sync_norms(model)
    whole = make_loader()
    order = Order(48, 16, training=True, seed=3, ranks=ranks)
    loader = MemoryLoader(ArraySplit(whole.images, whole.targets), whole.augment, order)
    recorder = Steps()
    fit(
        model,
        Classify(3),
        (Doubles(loader), None),
        optimizer=sgd(model, momentum=0.0, weight_decay=0.0),
        schedule=constant(0.1),
        options=TrainOptions(steps=steps, **options),
        mode=ExecutionMode(ranks=ranks),
        recorder=recorder,
    )
    return model, recorder.steps


class Doubles:
    """A loader's images in float64, so that rounding can't hide a difference."""

    def __init__(self, loader):
        self.loader, self.batch_size = loader, loader.batch_size

    def __len__(self):
        return len(self.loader)

    def batches(self, epoch=0, *, start=0):
        """As the loader's."""
        for images, labels in self.loader.batches(epoch, start=start):
            yield images.double(), labels


def evaluated(ranks):
    """Metrics over 23 images, which two processes can't share evenly."""
    torch.manual_seed(0)
    model = create_model("resnet8", 3, in_channels=1)
    whole = make_loader(training=False, augment="none")
    split = ArraySplit(whole.images[:23], whole.targets[:23])
    return evaluate(model, Classify(3), MemoryLoader(split, whole.augment, Order(23, 16, ranks=ranks)))


def results(ranks):
    """Everything that the test compares."""
    found = {}
    for name, steps, options in (
        ("one", 1, {}),
        ("five", 5, {}),
        ("l1", 2, {"l1": 1e-3}),
        ("parts", 2, {"accumulate": 2}),
    ):
        model, records = train(ranks, steps=steps, **options)
        found[name] = {
            "weights": model.state_dict(),
            "loss": [record.loss for record in records],
            "grad_norm": [record.grad_norm for record in records],
        }
    found["plain_norms"] = {"weights": train(ranks, steps=1, synced=False)[0].state_dict()}
    numbers = evaluated(ranks)
    found["evaluated"] = {"loss": numbers["loss"], "error": numbers["error"], "num_images": numbers["num_images"]}
    return found


if __name__ == "__main__":
    with process_group(launched_ranks()) as here:
        torch.save(results(here), Path(sys.argv[1]) / f"{here.rank}.pt")
