"""Time and peak memory of one forward and backward pass of our resnet50 beside torchvision's, on the same images.

Time: the two in turn in one process. Memory: a process each, in turn, its peak resident size by the operating system.
"""

from __future__ import annotations

import subprocess
import sys
import time

import torch

from measure import interleave, parse_flags, ratios, report, summary

BATCH, SIDE = 8, 160
TIME_BAR, MEMORY_BAR = 1.03, 1.01

CHILD = """
import resource, torch
torch.manual_seed(0)
{build}
images, labels = torch.randn({batch}, 3, {side}, {side}), torch.arange({batch})
for _ in range(3):
    torch.nn.functional.cross_entropy(model(images), labels).backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
BUILD = {
    # each imports the other too, so that both processes hold the same code
    "reslab": "import torchvision, reslab; model = reslab.create_model('resnet50')",
    "torchvision": "import torchvision, reslab.models.catalog; model = torchvision.models.resnet50()",
}


def make(name: str) -> torch.nn.Module:
    scope: dict[str, torch.nn.Module] = {}
    exec(BUILD[name], scope)
    return scope["model"]


def step_seconds(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    start = time.perf_counter()
    model.zero_grad(set_to_none=True)
    torch.nn.functional.cross_entropy(model(images), labels).backward()
    return time.perf_counter() - start


def peak_mib(name: str) -> float:
    code = CHILD.format(build=BUILD[name], batch=BATCH, side=SIDE)
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def main() -> None:
    flags = parse_flags(__doc__)
    images, labels = torch.randn(BATCH, 3, SIDE, SIDE), torch.arange(BATCH)
    models = {name: make(name) for name in BUILD}
    timed = interleave(
        {name: lambda model=model: step_seconds(model, images, labels) for name, model in models.items()},
        rounds=5 if flags.quick else 40,
    )
    peaks = interleave({name: lambda name=name: peak_mib(name) for name in BUILD}, rounds=1 if flags.quick else 5)
    rows = [
        {
            "resnet50": name,
            "median_s": summary(timed[name])["median"],
            "min_s": summary(timed[name])["min"],
            "peak_mib": summary(peaks[name])["median"],
        }
        for name in BUILD
    ]
    time_ratio = ratios(timed["reslab"], timed["torchvision"])["median"]
    memory_ratio = ratios(peaks["reslab"], peaks["torchvision"])["median"]
    verdicts = [
        {"what": f"{what}, ours over torchvision's", "measured": ratio, "bar": f"<= {bar}", "met": ratio <= bar}
        for what, ratio, bar in (("time", time_ratio, TIME_BAR), ("peak memory", memory_ratio, MEMORY_BAR))
    ]
    report("resnet50_cost", rows, verdicts=verdicts, flags=flags)


if __name__ == "__main__":
    main()
