"""How large a study is: data, recipe and length, by name; and what its user chooses instead."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reslab.data import DataOptions
from reslab.errors import RequestError, unknown
from reslab.run.config import RunConfig, override
from reslab.training.options import OptimOptions, ScheduleOptions, TrainOptions

DIGITS = RunConfig(
    data=DataOptions(name="digits", batch_size=64, workers=0),
    optim=OptimOptions(lr=0.1, momentum=0.9, weight_decay=1e-4),
    schedule=ScheduleOptions(kind="one_cycle"),
    train=TrainOptions(
        epochs=15, clip_grad_norm=1.0, device="cpu", threads=1, amp="none", channels_last="on", compile="off"
    ),
)
"""The recipe for handwritten digits. Without clipping, one seed of resnet110 in two diverges on the way up to the peak
rate (dev/LOG.md); the paper met the same and warmed up."""
CIFAR10 = RunConfig(
    data=DataOptions(name="cifar10", batch_size=128, val_split=0),
    optim=OptimOptions(lr=0.1, momentum=0.9, weight_decay=1e-4),
    schedule=ScheduleOptions(kind="one_cycle"),
    train=TrainOptions(epochs=4, threads=1, amp="none", channels_last="on"),
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
        depths: each 6n+2, or blocks.
        kinds: of networks.
        seeds: runs of each.
        blocks: whether depths are numbers of blocks, from 1.
    """

    config: RunConfig = field(default_factory=RunConfig)
    about: str = ""
    depths: tuple[int, ...] = ()
    kinds: tuple[str, ...] = ()
    seeds: int = SEEDS
    blocks: bool = False


@dataclass(frozen=True)
class Chosen:
    """What a study is made of, once its user has chosen.

    Args:
        name: of study and preset, such as ``degradation-digits``; marked if other runs were chosen.
        command: that runs it; where the data lies is the user's own matter.
        config: the one recipe of all runs.
        about: the data.
        depths: each 6n+2, or blocks.
        kinds: of networks.
        seeds: of each setting.
    """

    name: str
    command: str
    config: RunConfig
    about: str
    depths: tuple[int, ...]
    kinds: tuple[str, ...]
    seeds: tuple[int, ...]

    def setting(self) -> str:
        """Data and length, a sentence of the protocol."""
        return f"{self.about}; {self.config.train.epochs} epochs."


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
        download: fetch what is absent there.
    """

    preset: str = ""
    seeds: int = 0
    depths: tuple[int, ...] = ()
    kinds: tuple[str, ...] = ()
    epochs: int = 0
    data_dir: str = ""
    download: bool = False

    def settle(
        self, study: str, presets: Mapping[str, Preset], kinds: Collection[str], *, without: Sequence[str] = ()
    ) -> Chosen:
        """The preset, with what was chosen instead of its own.

        Args:
            study: its name.
            presets: by name, its first one the default; a study that has only one calls it by an empty name.
            kinds: all that the study knows.
            without: choices that it doesn't have.

        Raises:
            RequestError: for numbers out of range, unknown names, and choices that the study doesn't have.
        """
        self._check(study, without)
        name = self.preset or next(iter(presets))
        if name not in presets:
            raise unknown("preset", name, presets)
        preset = presets[name]
        depths = self.depths or preset.depths
        if preset.depths and not preset.blocks:
            check_depths(depths)
        for kind in self.kinds:
            if kind not in kinds:
                raise unknown("kind", kind, kinds, hint=f"There are {', '.join(kinds)}." if len(kinds) > 12 else "")
        changes: dict[str, object] = {}
        if self.epochs:
            changes |= {"train.epochs": self.epochs, "train.steps": 0}
        if self.data_dir:
            changes["data.dir"] = self.data_dir
        if self.download:
            changes["data.download"] = True
        seeds = self.seeds or preset.seeds
        return Chosen(
            name=self._name(study, name),
            command=self._command(study, name, seeds),
            config=override(preset.config, changes, where="the study"),
            about=preset.about,
            depths=depths,
            kinds=self.kinds or preset.kinds,
            seeds=tuple(range(seeds)),
        )

    def _check(self, study: str, without: Sequence[str]) -> None:
        """What needs no preset."""
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
                got = "" if value is True else f", got {value!r}"
                raise RequestError(f"The study {study} has no --{name.replace('_', '-')} to choose{got}. Leave it out.")

    def _name(self, study: str, preset: str) -> str:
        name = f"{study}-{preset}" if preset else study
        own = f"{self.depths} {self.kinds} {self.epochs}"
        return name if own == f"{()} {()} 0" else f"{name}-{hashlib.sha256(own.encode()).hexdigest()[:6]}"

    def _command(self, study: str, preset: str, seeds: int) -> str:
        parts = [f"reslab study {study}", f"--preset {preset}" if preset else "", f"--seeds {seeds}"]
        if self.depths:
            parts.append(f"--depths {' '.join(map(str, self.depths))}")
        if self.kinds:
            parts.append("--kinds " + " ".join(f'"{kind}"' if " " in kind else kind for kind in self.kinds))
        if self.epochs:
            parts.append(f"--epochs {self.epochs}")
        return " ".join(filter(None, parts))


def check_depths(depths: Sequence[int]) -> None:
    """Refuses what isn't a depth of the paper's networks for small images, and no depth at all."""
    wrong = [depth for depth in depths if (depth - 2) % 6 or depth < 8]
    if wrong or not depths:
        raise RequestError(f"Depths are 6n+2 (8, 14, 20, ...), got {', '.join(map(str, wrong)) or 'none'}.")


def together(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The changes of all parts in one.

    Example:
        >>> together({"warm-up": {"schedule.warmup_epochs": 1.0}, "L1": {"optim.l1": 1e-5}})
        {'schedule.warmup_epochs': 1.0, 'optim.l1': 1e-05}
    """
    return {key: value for changes in parts.values() for key, value in changes.items()}
