"""Images per second that the loader delivers alone, against what ResNet-20 training consumes: CIFAR-10, batch 128.

One epoch of shuffled, normalised, cropped and flipped batches, with nothing done to them; beside it the same training
as in `bench_training.py`, which has this loader in it.
"""

from __future__ import annotations

import time

from bench_training import load, ours
from measure import interleave, parse_flags, ratios, report, summary
from peers.common import BATCH
from reslab import create_model
from reslab.data import Data
from reslab.errors import RequestError

BAR = 10.0


def loader_alone(data: Data) -> float:
    """Images per second of one epoch, the drawing of its order included."""
    loader = data.loader(data.train, batch_size=BATCH, training=True)
    start, delivered = time.perf_counter(), 0
    for images, _ in loader.batches():
        delivered += len(images)
    return delivered / (time.perf_counter() - start)


def main() -> None:
    flags = parse_flags(__doc__)
    try:
        data = load(flags)
    except RequestError as error:
        return print(f"loader is not measured: {error}")
    steps = 10 if flags.quick else 80
    sides = {
        "loader alone": lambda: loader_alone(data),
        "resnet20 training": lambda: ours(create_model("resnet20"), data, steps=steps),
    }
    found = interleave(sides, rounds=2 if flags.quick else 5)
    rows = []
    for name, values in found.items():
        speed, pair = summary(values), ratios(values, found["resnet20 training"])
        rows.append({
            "what": name, "images_per_s": speed["median"], "min": speed["min"], "max": speed["max"],
            "ratio": pair["median"], "ratio_min": pair["min"], "ratio_max": pair["max"], "n": pair["n"],
        })  # fmt: skip
    measured = rows[0]["ratio"]
    what = "loader alone over what resnet20 training consumes"
    verdict = {"what": what, "measured": measured, "bar": f">= {BAR}", "met": measured >= BAR}
    report("loader", rows, verdicts=[verdict], flags=flags)


if __name__ == "__main__":
    main()
