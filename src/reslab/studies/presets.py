"""How large a study is: data, recipe and length, by name; and what its user chooses instead."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reslab.config import DataConfig, OptimConfig, RunConfig, ScheduleConfig, TrainConfig, override
from reslab.errors import RequestError, unknown

DIGITS = RunConfig(
    data=DataConfig(name="digits", batch_size=64, workers=0),
    optim=OptimConfig(lr=0.1, momentum=0.9, weight_decay=1e-4, clip_grad_norm=1.0),
    schedule=ScheduleConfig(kind="one_cycle"),
    train=TrainConfig(epochs=15, device="cpu", threads=1, amp="none", channels_last="on", compile="off"),
)
"""The recipe for handwritten digits. Without clipping, one seed of resnet110 in two diverges on the way up to the peak
rate (dev/LOG.md); the paper met the same and warmed up."""
CIFAR10 = RunConfig(
    data=DataConfig(name="cifar10", batch_size=128, val_split=0),
    optim=OptimConfig(lr=0.1, momentum=0.9, weight_decay=1e-4),
    schedule=ScheduleConfig(kind="one_cycle"),
    train=TrainConfig(epochs=4, threads=1, amp="none", channels_last="on"),
)
"""All images of CIFAR-10, a few times. Here and above twins have one precision and one memory format."""
OFFLINE = "scikit-learn's handwritten digits, 8 x 8"
ONLINE = "CIFAR-10, all images"
SEEDS = 3


@dataclass(frozen=True)
class Preset:
    """How large a study is.

    Args:
        config: the one recipe of all runs.
        about: the data.
        depths: each 6n+2.
        kinds: of networks.
        seeds: runs of each.
    """

    config: RunConfig
    about: str
    depths: tuple[int, ...] = ()
    kinds: tuple[str, ...] = ()
    seeds: int = SEEDS


@dataclass(frozen=True)
class Choices:
    """What the user chooses.

    Args:
        preset: of the study's; empty for its first.
        seeds: runs of each setting; 0 for the preset's.
        depths: in place of the preset's.
        kinds: in place of the preset's.
        epochs: in place of the preset's; 0 for these.
        data_dir: where named data sets lie.
    """

    preset: str = ""
    seeds: int = 0
    depths: tuple[int, ...] = ()
    kinds: tuple[str, ...] = ()
    epochs: int = 0
    data_dir: str = ""

    def check(self, study: str, *, without: Sequence[str] = ()) -> None:
        """Refuses numbers out of range, and choices that this study doesn't have.

        Raises:
            RequestError: that names the choice.
        """
        if self.seeds < 0 or self.epochs < 0:
            raise RequestError(
                f"seeds and epochs start at 1, or at 0 for the preset's, got {self.seeds} and {self.epochs}."
            )
        if min(self.depths, default=1) < 1:
            raise RequestError(f"Depths start at 1, got {', '.join(map(str, self.depths))}.")
        for name, chosen in (("depths", self.depths), ("kinds", self.kinds)):
            if len(set(chosen)) < len(chosen):
                raise RequestError(f"Each of --{name} is named once, got {', '.join(map(str, chosen))}.")
        for name in without:
            if value := getattr(self, name):
                raise RequestError(f"The study {study} has no --{name} to choose, got {value!r}. Leave it out.")

    def pick(self, presets: Mapping[str, Preset]) -> Preset:
        """The preset, with what was chosen instead of its own."""
        name = self.preset or next(iter(presets))
        if name not in presets:
            raise unknown("preset", name, presets)
        found = presets[name]
        changes: dict[str, object] = {}
        if self.epochs:
            changes |= {"train.epochs": self.epochs, "train.steps": 0}
        if self.data_dir:
            changes["data.dir"] = self.data_dir
        depths = self.depths or found.depths
        if found.depths:
            check_depths(depths)
        return Preset(
            override(found.config, changes, where="the study"),
            found.about,
            depths,
            self.kinds or found.kinds,
            self.seeds or found.seeds,
        )

    def label(self, study: str, presets: Mapping[str, Preset]) -> str:
        """Of study and preset, such as ``degradation-digits``; marked if other runs were chosen."""
        name = f"{study}-{self.preset or next(iter(presets))}" if presets else study
        own = f"{self.depths} {self.kinds} {self.epochs}"
        return name if own == f"{()} {()} 0" else f"{name}-{hashlib.sha256(own.encode()).hexdigest()[:6]}"

    def command(self, study: str, presets: Mapping[str, Preset]) -> str:
        """That runs the study as chosen; where the data lies is the user's own matter. A study may have no presets."""
        preset = f" --preset {self.preset or next(iter(presets))}" if presets else ""
        parts = [f"reslab study {study}{preset} --seeds {self.pick(presets).seeds if presets else self.seeds or SEEDS}"]
        if self.depths:
            parts.append(f"--depths {' '.join(map(str, self.depths))}")
        if self.kinds:
            parts.append("--kinds " + " ".join(f'"{kind}"' if " " in kind else kind for kind in self.kinds))
        if self.epochs:
            parts.append(f"--epochs {self.epochs}")
        return " ".join(parts)


def check_depths(depths: Sequence[int]) -> None:
    """Refuses what isn't a depth of the paper's networks for small images, and no depth at all."""
    wrong = [depth for depth in depths if (depth - 2) % 6 or depth < 8]
    if wrong or not depths:
        raise RequestError(f"Depths are 6n+2 (8, 14, 20, ...), got {', '.join(map(str, wrong)) or 'none'}.")


def check_kinds(kinds: Sequence[str], known: Mapping[str, object]) -> None:
    """Refuses a kind that the study doesn't know."""
    for kind in kinds:
        if kind not in known:
            raise unknown("kind", kind, known, hint=f"There are {', '.join(known)}.")
