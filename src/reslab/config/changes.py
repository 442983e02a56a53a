"""What differs between two configs, as far as it changes a run."""

from __future__ import annotations

from reslab.config.files import override
from reslab.config.tree import RunConfig, leaves

FREE = ("data.dir", "data.workers", "data.download", "data.fit_batch", "train.track")
"""Where the data lies, how many workers read it, and who looks on: a run comes out the same."""
LEFT_OPEN = {
    "train.amp": "auto", "train.channels_last": "auto", "train.compile": "auto",
    "train.threads": 0, "data.workers": -1,
}  # fmt: skip
"""What a trial settles at a run's start, and the word for leaving it to that."""


def differences(before: RunConfig, after: RunConfig) -> list[str]:
    """Keys whose values differ, as phrases; empty where the run would be the same.

    Example:
        >>> from reslab.config import TrainConfig
        >>> differences(RunConfig(train=TrainConfig(threads=2)), RunConfig(train=TrainConfig(epochs=3)))
        ['train.epochs was 30, now 3']
    """
    phrases = []
    after = as_before(after, before)
    for path, _, _ in leaves():
        section, key = path.split(".")
        old, new = getattr(getattr(before, section), key), getattr(getattr(after, section), key)
        if old != new and path not in FREE:
            phrases.append(f"{path} was {old!r}, now {new!r}")
    return phrases


def as_before(config: RunConfig, before: RunConfig) -> RunConfig:
    """What the config leaves to a trial is as the run's first trial had it."""
    settled = {}
    for path, word in LEFT_OPEN.items():
        section, key = path.split(".")
        if getattr(getattr(config, section), key) == word:
            settled[path] = getattr(getattr(before, section), key)
    return override(config, settled, where="the run before")
