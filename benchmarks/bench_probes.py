"""What a probed training step costs over a plain one: reslab, TorchLens, wandb.watch and Cockpit.

A step is one of SGD with momentum in fp32. Plain and probed steps are taken in turn, and the cost is the median of
their ratios; each side of each network is a process of its own, because the libraries change their surroundings. A
side that fails, or is not installed, shows its error. The share of the training time of ``watch(every=50)`` follows
from the cost, and is measured too.

Measured with torchlens 2.36.1, wandb 0.31.0 and cockpit-for-pytorch 1.0.2, which needs ``setuptools<81``.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from fresh import in_fresh_process
from measure import parse_flags, report
from reslab import create_model, diagnose, watch

NETWORKS = {
    # shape of the images: those of an ordinary training, but for the batch of the large ones
    "torchvision resnet18": (16, 3, 224, 224),
    "torchvision resnet50": (8, 3, 224, 224),
    "resnet20": (128, 3, 32, 32),
    "resnet56": (128, 3, 32, 32),
    "resnet110": (128, 3, 32, 32),
}
SIDES = ("reslab", "torchlens", "wandb", "cockpit")
DEEP, DEEP_SHAPE = "resnet1202", (8, 3, 16, 16)
EVERY = 50
BAR, BAR_SHARE, BAR_DEEP = 1.15, 0.01, 3.0


@dataclass
class Training:
    """A network, its batch, and the step that is probed or not.

    Args:
        name: of the network.
        shape: of the images.
    """

    name: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        library, _, name = self.name.rpartition(" ")
        self.model: nn.Module = torchvision.models.get_model(name) if library else create_model(name)
        self.model.train()
        self.images, self.labels = torch.randn(self.shape), torch.arange(self.shape[0]) % 10
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)

    def step(self) -> None:
        """A plain one."""
        self.optimizer.zero_grad()
        self.loss(self.model(self.images)).backward()
        self.optimizer.step()

    def loss(self, outputs: Tensor) -> Tensor:
        """Of the batch."""
        return F.cross_entropy(outputs, self.labels)


@contextmanager
def reslab_side(training: Training) -> Iterator[Callable[[], None]]:
    """``watch`` that reads each step."""

    def step() -> None:
        with watch(training.model, every=1) as probe:
            training.step()
        assert len(probe.readings) == 1

    yield step


@contextmanager
def torchlens_side(training: Training) -> Iterator[Callable[[], None]]:
    """A trace of the forward pass, and its log of the backward pass."""
    import torchlens

    def step() -> None:
        training.optimizer.zero_grad()
        options = torchlens.options.CaptureOptions(backward_ready=True)
        trace = torchlens.trace(training.model, training.images, capture=options)
        trace.log_backward(training.loss(trace[trace.output_layers[0]].out))
        training.optimizer.step()

    yield step


@contextmanager
def wandb_side(training: Training) -> Iterator[Callable[[], None]]:
    """``watch(log="all")`` of a network of its own, since its hooks stay; each step is logged, offline."""
    import wandb

    watched = Training(training.name, training.shape)
    with tempfile.TemporaryDirectory() as folder:
        run = wandb.init(project="probes", mode="offline", dir=folder, settings=wandb.Settings(silent=True))
        run.watch(watched.model, log="all", log_freq=1)

        def step() -> None:
            watched.step()
            run.log({})

        yield step
        run.finish()


@contextmanager
def cockpit_side(training: Training) -> Iterator[Callable[[], None]]:
    """Its configuration ``economy`` at each step, on a network that BackPACK has extended."""
    from backpack import extend
    from cockpit import Cockpit
    from cockpit.utils.configuration import configuration

    extended = Training(training.name, training.shape)
    model = extend(extended.model, use_converter=True).train()
    mean, single = extend(nn.CrossEntropyLoss()), nn.CrossEntropyLoss(reduction="none")
    cockpit = Cockpit(model.parameters(), quantities=configuration("economy"))
    count = iter(range(1_000_000))

    def step() -> None:
        extended.optimizer.zero_grad()
        number, outputs = next(count), model(extended.images)
        loss = mean(outputs, extended.labels)
        info = {
            "batch_size": len(outputs),
            "individual_losses": single(outputs, extended.labels),
            "loss": loss,
            "optimizer": extended.optimizer,
        }
        with cockpit(number, info=info):
            loss.backward(create_graph=cockpit.create_graph(number))
        extended.optimizer.step()

    yield step


def seconds(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def cost(side: str, name: str, rounds: int) -> list[float]:
    """For a fresh process: median seconds of a plain step and of a probed one, and the median of their ratios."""
    warnings.simplefilter("ignore")
    training = Training(name, NETWORKS[name])
    with globals()[f"{side}_side"](training) as probed:
        return in_turn(training.step, probed, rounds=rounds)


def cost_or_error(side: str, name: str, rounds: int) -> list[float] | str:
    """For a fresh process: ``cost``, or what it failed with. What is printed on the way goes to stderr."""
    printed, os.environ["WANDB_SILENT"] = os.dup(1), "true"
    os.dup2(2, 1)
    try:
        return cost(side, name, rounds)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:120]
    finally:
        os.dup2(printed, 1)


def deep_cost(rounds: int) -> list[float]:
    """For a fresh process: a training step of a thousand blocks, and its quick diagnosis."""
    training = Training(DEEP, DEEP_SHAPE)
    batch = training.images, training.labels
    return in_turn(training.step, lambda: diagnose(training.model, batch, F.cross_entropy), rounds=rounds)


def shared(name: str, steps: int) -> list[float]:
    """For a fresh process: seconds of as many steps alone and watched, in turn by the interval, and what is more."""
    training = Training(name, NETWORKS[name])
    training.step()

    def watched() -> None:
        with watch(training.model, every=EVERY):
            for _ in range(EVERY):
                training.step()

    def plain() -> None:
        for _ in range(EVERY):
            training.step()

    return in_turn(plain, watched, rounds=steps // EVERY, warm=False)


def in_turn(plain: Callable[[], Any], probed: Callable[[], Any], *, rounds: int, warm: bool = True) -> list[float]:
    if warm:
        seconds(plain), seconds(probed)
    pairs = [(seconds(plain), seconds(probed)) for _ in range(rounds)]
    ratios = [after / before for before, after in pairs]
    return [*(statistics.median(column) for column in zip(*pairs, strict=True)), statistics.median(ratios)]


def row_of(what: str, side: str, shape: tuple[int, ...], found: list[float] | str) -> dict[str, Any]:
    plain, probed, ratio = ("", "", "") if isinstance(found, str) else found
    row = {
        "network": what,
        "images": "x".join(map(str, shape)),
        "side": side,
        "plain_s": plain,
        "probed_s": probed,
        "ratio": ratio,
        "error": found if isinstance(found, str) else "",
    }
    print(row, flush=True, file=sys.stderr)
    return row


def fresh(call: str) -> Any:
    """What a function of this file returns in a process of its own; the error where that dies."""
    try:
        return in_fresh_process(f"bench_probes.{call}")
    except subprocess.CalledProcessError as error:
        return f"the process ended with {error.returncode}"


def main() -> None:
    flags = parse_flags(__doc__)
    rounds, peer_rounds = (3, 1) if flags.quick else (15, 5)
    rows = []
    for name, shape in NETWORKS.items():
        for side in SIDES:
            count = rounds if side == "reslab" else peer_rounds
            rows.append(row_of(name, side, shape, fresh(f"cost_or_error({side!r}, {name!r}, {count})")))
    ours = [row for row in rows if row["side"] == "reslab"]
    worst = max(ours, key=lambda row: row["ratio"] or 0.0)
    steps = EVERY if flags.quick else 200
    whole = row_of("resnet20", f"reslab, every={EVERY}", NETWORKS["resnet20"], fresh(f"shared('resnet20', {steps})"))
    deep = row_of(DEEP, "reslab, quick diagnosis", DEEP_SHAPE, fresh(f"deep_cost({2 if flags.quick else 5})"))
    bars = [
        (f"probed step over plain step, worst network ({worst['network']})", worst["ratio"], BAR),
        (f"share of watch(every={EVERY}), by the worst ratio", (worst["ratio"] - 1) / EVERY, BAR_SHARE),
        (f"share of watch(every={EVERY}) over {steps} steps of resnet20", whole["ratio"] - 1, BAR_SHARE),
        (f"quick diagnosis of {DEEP} over a training step", deep["ratio"], BAR_DEEP),
    ]
    verdicts = [{"what": what, "measured": value, "bar": f"<= {bar}", "met": value <= bar} for what, value, bar in bars]
    report("probes", [*rows, whole, deep], verdicts=verdicts, flags=flags)


if __name__ == "__main__":
    main()
