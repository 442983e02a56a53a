"""The studies by name. ``STUDIES`` is the one dict of them; each file is loaded when its study is asked for."""

from __future__ import annotations

from importlib import import_module

from reslab.errors import unknown
from reslab.studies.presets import Choices
from reslab.studies.study import Study

STUDIES = {
    "degradation": "deeper networks with and without shortcuts, by clean training error",
    "mnist": "a plain network and its residual twin on MNIST, ten epochs",
    "identity": "learning to do nothing, with and without shortcuts",
    "regularisation": "dropout, batch norm, augmentation, early stopping, L1 and L2 on one network",
    "recipe": "warm-up, label smoothing and mixed precision, one at a time and together",
    "variants": "every kind of shortcut, connection and order, at three depths",
    "scale": "time and memory of a step, from 20 layers to 1202",
}


def create_study(name: str, choices: Choices) -> Study:
    """A study as its user chose it.

    Raises:
        RequestError: for an unknown name, or choices that the study doesn't have.
    """
    if name not in STUDIES:
        raise unknown("study", name, STUDIES)
    study: Study = getattr(import_module(f"reslab.studies.{name}"), name)(choices)
    return study
