"""Images per second of ResNet-20 and ResNet-56 training on CIFAR-10, batch 128: reslab beside three other loops.

The copied PyTorch loop, Lightning's Trainer and fastai's Learner, as they come and as fast as a user makes each by
hand; `benchmarks/peers/` has them and says what of each is default. All train the same network with the same SGD on
the same augmentation, loader included. Every measurement is a process of its own, because the libraries change the
environment of one another. `--network resnet20|resnet56|both` measures one of them only.

By hand means channels_last, bf16 or not, two workers or none, whichever was fastest when each was tried on this
machine before the rounds began.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn

from measure import interleave, parse_flags, ratios, report, summary
from peers.common import BATCH, Clock, Watch, hand_over, take_over
from reslab import create_model
from reslab.data import Data, DataOptions, find_source, prepare
from reslab.distributed import LOCAL
from reslab.errors import RequestError
from reslab.tasks.classify import Classify
from reslab.training.loop import fit
from reslab.training.optim import sgd
from reslab.training.options import TrainOptions
from reslab.training.schedule import constant
from reslab.training.speed import choose_speed

NETWORKS = ("resnet20", "resnet56")
STEPS = {"resnet20": 60, "resnet56": 30}  # counted steps of a measurement
QUICK_STEPS = {"resnet20": 10, "resnet56": 5}
TRIES = 2  # of each way to set a peer by hand
BARS = {"copied_loop": 2.2, "lightning_trainer": 1.8, "fastai_learner": 1.8}  # ours over each as it comes
BAR_BY_HAND = 1.0  # ours over the fastest that its user can make it
NAMES = {"copied_loop": "copied loop", "lightning_trainer": "Lightning", "fastai_learner": "fastai", "ours": "reslab"}
PACKAGES = {"lightning_trainer": "lightning", "fastai_learner": "fastai"}


@dataclass(frozen=True)
class Side:
    """One loop with its settings.

    Args:
        loop: a module of ``peers``, or ``ours``.
        amp: ``none`` or ``bf16``.
        channels_last: whether its user switched that on.
        workers: of its DataLoader.
        by_hand: whether these settings are the fastest that its user found.
    """

    loop: str
    amp: str = "none"
    channels_last: bool = False
    workers: int = 2
    by_hand: bool = False

    @property
    def title(self) -> str:
        """Its row."""
        name = NAMES[self.loop] + (f" {version(PACKAGES[self.loop])}" if self.loop in PACKAGES else "")
        if self.loop == "ours":
            return name
        settings = [self.amp] * (self.amp != "none") + ["channels_last"] * self.channels_last
        settings += [f"{self.workers} workers"] * self.by_hand
        return f"{name}, {'by hand: ' if self.by_hand else ''}{', '.join(settings) or 'as it comes'}"


def ways_by_hand(loop: str) -> list[Side]:
    """What a user of this loop would try to make it fast."""
    return [Side(loop, amp, True, workers, by_hand=True) for amp, workers in product(("bf16", "none"), (2, 0))]


# ---------------------------------------------------------------------------------------------------------------------
# reslab's side: what `reslab train` does with its defaults. THE ONE FUNCTION TO CHANGE when those change.
def ours(model: nn.Module, data: Data, *, steps: int) -> float:
    """Images per second of ``fit`` with every record that it keeps, over ``steps`` steps, in the way of its own trial.

    The trial is told that the run has 30 epochs; its seconds are not counted, as those of the peers' start aren't.
    """
    clock, task = Clock(steps), Classify(10)
    loader = data.loader(data.train, batch_size=BATCH, training=True)
    batch = torch.randn(BATCH, 3, 32, 32), torch.randint(10, (BATCH,))
    speed = choose_speed(
        model,
        lambda network, batch: task.step(network, batch).loss,
        batch,
        options=TrainOptions(),
        ranks=LOCAL,
        num_items_in_run=30 * len(data.train),
    )
    print(speed.reason, file=sys.stderr, flush=True)
    torch.set_num_threads(speed.mode.threads)
    fit(
        model,
        task,
        (loader, None),
        optimizer=sgd(model),
        schedule=constant(0.1),
        options=TrainOptions(steps=clock.last),
        mode=speed.mode,
        recorder=Watch(clock),
    )
    return clock.images_per_s()


# ---------------------------------------------------------------------------------------------------------------------


def measure_here(side: Side, network: str, *, steps: int, folder: Path) -> float:
    """Images per second of one side, in this process."""
    torch.manual_seed(0)
    model, data = create_model(network), take_over(folder)
    if side.loop == "ours":
        return ours(model, data, steps=steps)
    loop = importlib.import_module(f"peers.{side.loop}")
    settings = {"amp": side.amp, "channels_last": side.channels_last, "workers": side.workers}
    return loop.images_per_s(model, data, steps=steps, **settings)


def measure_apart(side: Side, network: str, *, steps: int, folder: Path) -> float:
    """The same in a process of its own, whose last line is the result."""
    request = json.dumps({"side": asdict(side), "network": network, "steps": steps, "folder": str(folder)})
    command = [sys.executable, "-m", "bench_training", "--child", request]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{network}, {side.title}: the measurement failed:\n{done.stderr[-2000:]}")
    result = json.loads(done.stdout.splitlines()[-1])
    if side.loop != "ours" and result["threads"] != torch.get_num_threads():
        raise SystemExit(f"{network}, {side.title}: {result['threads']} threads, here {torch.get_num_threads()}")
    said = f" ({done.stderr.splitlines()[-1]})" if side.loop == "ours" and done.stderr else ""
    print(f"{network}, {side.title}: {result['images_per_s']:.0f} images/s{said}", file=sys.stderr, flush=True)
    return result["images_per_s"]


def answer(request: str) -> None:
    """The process of one measurement: prints one JSON line, last and after whatever the library prints."""
    asked = json.loads(request)
    found = measure_here(Side(**asked["side"]), asked["network"], steps=asked["steps"], folder=Path(asked["folder"]))
    print("\n" + json.dumps({"images_per_s": found, "threads": torch.get_num_threads()}))


def fastest_by_hand(loop: str, measure: Callable[[Side], float], *, tries: int) -> Side:
    """The way that a loop was fastest in, of those that its user would try; the better of ``tries`` counts."""
    ways = ways_by_hand(loop)
    found = [(measure(side), index) for _ in range(tries) for index, side in enumerate(ways)]
    return ways[max(found)[1]]


def measure_network(network: str, folder: Path, *, quick: bool) -> dict[Side, list[float]]:
    """Images per second of every side, in turn."""
    steps = (QUICK_STEPS if quick else STEPS)[network]
    measure = partial(measure_apart, network=network, steps=steps, folder=folder)
    trial = partial(measure_apart, network=network, steps=QUICK_STEPS[network], folder=folder)
    sides = [Side("ours")]
    for loop in BARS:
        sides += [Side(loop), fastest_by_hand(loop, trial, tries=1 if quick else TRIES)]
    measurements = {side.title: partial(measure, side) for side in sides}
    found = interleave(measurements, rounds=1 if quick else 5)
    return {side: found[side.title] for side in sides}


def rows_of(network: str, found: dict[Side, list[float]]) -> list[dict[str, Any]]:
    """The table's rows; the ratio is ours over the row's loop, measured one after the other."""
    base = next(values for side, values in found.items() if side.loop == "ours")
    rows = []
    for side, values in found.items():
        speed, pair = summary(values), ratios(base, values)
        rows.append({
            "network": network, "loop": side.title, "images_per_s": speed["median"],
            "min": speed["min"], "max": speed["max"],
            "ours_over": pair["median"], "ratio_min": pair["min"], "ratio_max": pair["max"], "n": pair["n"],
        })  # fmt: skip
    return rows


def verdicts_of(network: str, found: dict[Side, list[float]]) -> list[dict[str, Any]]:
    """Each peer as it comes and as fast as its user makes it, against its bar."""
    base = next(values for side, values in found.items() if side.loop == "ours")
    verdicts = []
    for side, values in found.items():
        if side.loop == "ours":
            continue
        bar = BAR_BY_HAND if side.by_hand else BARS[side.loop]
        ratio = ratios(base, values)["median"]
        what = f"{network}: reslab over {side.title}"
        verdicts.append({"what": what, "measured": ratio, "bar": f">= {bar}", "met": ratio >= bar})
    return verdicts


def training_flags() -> argparse.Namespace:
    """The flags of every benchmark, and ``--network``."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--network", choices=[*NETWORKS, "both"], default="both")
    own, sys.argv[1:] = parser.parse_known_args()
    flags = parse_flags(__doc__)
    flags.network = own.network
    if flags.save and own.network != "both":
        raise SystemExit("--save is for the whole table: leave out --network")
    return flags


def missing() -> str:
    """What is not installed, as a phrase; empty if all is."""
    names = [name for name in PACKAGES.values() if find_spec(name) is None]
    return f"{' and '.join(names)} not installed; see benchmarks/requirements.txt" if names else ""


def load(flags: argparse.Namespace) -> Data:
    """CIFAR-10; RequestError says where it was looked for."""
    options = DataOptions(name="cifar10", dir=flags.data_dir)
    return prepare(find_source(options), options)


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        return answer(sys.argv[2])
    flags = training_flags()
    if problem := missing():
        return print(f"training is not measured: {problem}")
    rows, verdicts = [], []
    with tempfile.TemporaryDirectory() as folder:
        try:
            hand_over(load(flags), Path(folder))
        except RequestError as error:
            return print(f"training is not measured: {error}")
        for network in NETWORKS if flags.network == "both" else [flags.network]:
            found = measure_network(network, Path(folder), quick=flags.quick)
            rows, verdicts = rows + rows_of(network, found), verdicts + verdicts_of(network, found)
    report("training", rows, verdicts=verdicts, flags=flags)


if __name__ == "__main__":
    main()
