"""A finished run put to use: evaluate it, predict with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reslab.config import RunConfig, build, load_config
from reslab.data.images import EXTENSIONS
from reslab.data.prepare import Data, check_classes, fit_for_prediction
from reslab.data.sources import SOURCES
from reslab.data.transforms import Preprocess
from reslab.errors import RequestError
from reslab.records import RunFolder, decode
from reslab.run.measure import evaluate_split
from reslab.tasks.classify import Classify, probabilities
from reslab.train.evaluate import to_device
from reslab.weights import load_state, read_safetensors


@dataclass(frozen=True)
class TrainedModel:
    """A network with its card: what ``evaluate`` and ``predict`` start from.

    Args:
        model: in eval mode.
        classes: names in the order of the logits.
        preprocess: what every image goes through.
        config: of the run.
    """

    model: nn.Module
    classes: list[str]
    preprocess: Preprocess
    config: RunConfig


def open_run(folder: RunFolder, *, weights: str = "", device: torch.device | None = None) -> TrainedModel:
    """The network of a finished run.

    Args:
        folder: of the run.
        weights: ``""`` for weights.safetensors (the best, if there was a validation split), ``"last"`` for those after
            the last step, or the path of another safetensors file.
        device: where the network goes; by default the CPU.

    Raises:
        RequestError: if there is no run, it is not finished, or the weights don't fit.
    """
    if not folder.holds_run():
        raise RequestError(f"{folder.root} is not a run: it has no run.json. `reslab train --out FOLDER` makes one.")
    if not folder.weights_card.exists():
        status = folder.read_run().status if folder.run.exists() else "not started"
        raise RequestError(f"{folder.root} has no weights yet: the run is {status}. Go on with it by --resume.")
    try:
        card = decode(folder.weights_card.read_text(encoding="utf-8"))
        preprocess = Preprocess.from_dict(card["preprocess"])
    except (ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{folder.weights_card} is damaged: {type(error).__name__}: {error}.") from None
    config = load_config(folder.config)
    model = build.model(config.model, num_classes=card["num_classes"], in_channels=preprocess.channels)
    paths = {"": folder.weights, "best": folder.weights, "last": folder.last_weights}
    file = paths.get(weights, Path(weights))
    load_state(model, read_safetensors(file), where=str(file))
    return TrainedModel(model.to(device or torch.device("cpu")).eval(), card["classes"], preprocess, config)


def evaluate_run(
    folder: RunFolder,
    *,
    split: str = "",
    weights: str = "",
    data: str = "",
    data_dir: str = "",
    device: str = "auto",
) -> dict[str, Any]:
    """Loss, error and confusion of a run's network on a split, by the recorded preprocessing.

    Args:
        folder: of the run.
        split: ``train``, ``val`` or ``test``; by default test, or else val, or else train.
        weights: see ``open_run``.
        data: another data set with the same classes; by default the run's own. What has no split of its own is
            evaluated whole.
        data_dir: where it lies now.
        device: see ``config.build.device``.
    """
    trained = open_run(folder, weights=weights, device=build.device(device))
    config = trained.config
    found = data_of(folder, trained, data=data, data_dir=data_dir, test=config.data.test or split == "test")
    splits = {"train": found.train, "val": found.val, "test": found.test}
    name = split or next(key for key in ("test", "val", "train") if splits[key] is not None)
    if name not in splits:
        raise RequestError(f"Unknown split {name!r}. Expected train, val or test.")
    chosen = splits[name]
    if chosen is None:
        there = ", ".join(key for key, value in splits.items() if value is not None)
        raise RequestError(f"{found.source.name} has no {name} split. It has: {there}.")
    fingerprint = folder.read_run().data.get("fingerprint")
    numbers = evaluate_split(trained.model, Classify(len(trained.classes)), found, chosen, config=config)
    return {
        "run": str(folder.root),
        "data": found.source.name,
        "split": name,
        "weights": weights or "selected",
        **numbers,
        "classes": trained.classes,
        "same_data": fingerprint == found.train.fingerprint(),
    }


def data_of(folder: RunFolder, trained: TrainedModel, *, data: str = "", data_dir: str = "", test: bool = True) -> Data:
    """The data of a run as it was split and preprocessed then, or other data with the same classes.

    Args:
        folder: of the run.
        trained: its network.
        data: another data set, not split; by default the run's own.
        data_dir: where it lies now.
        test: with its test split.
    """
    config = trained.config
    data_config = config.data.model_copy(
        update={
            "name": data or where_now(config.data.name, folder),
            "val_split": 0 if data else config.data.val_split,
            "dir": data_dir or config.data.dir,
            "test": test,
            "channels": trained.preprocess.channels,
        }
    )
    if trained.preprocess.resize is not None:
        data_config = data_config.model_copy(update={"image_size": trained.preprocess.height})
    source = build.source(data_config)
    check_classes(trained.classes, source.classes, where=source.name)
    return build.data(data_config, source, seed=config.train.seed, preprocess=trained.preprocess)


def where_now(name: str, folder: RunFolder) -> str:
    """The run's data; a folder that was named from elsewhere is found by the path that run.json recorded."""
    recorded = folder.read_run().data.get("path", "")
    is_path = name not in SOURCES and not name.startswith("hf:")
    return recorded if is_path and not Path(name).is_dir() and Path(recorded).is_dir() else name


@dataclass(frozen=True)
class Prediction:
    """The network's answer for one image.

    Args:
        image: its path.
        label: name of the likeliest class.
        probability: the network's for it; softmax of the logits, not calibrated.
        top: the likeliest classes with their probabilities, best first.
        note: how the image was made to fit, if it had to be.
    """

    image: str
    label: str
    probability: float
    top: list[tuple[str, float]]
    note: str = ""


def predict_run(
    folder: RunFolder, paths: Sequence[Path], *, top: int = 3, weights: str = "", device: str = "auto"
) -> tuple[list[Prediction], list[str]]:
    """Classifies images and folders of images.

    Returns:
        Predictions in order, and a sentence for each image that was refused; the others are classified all the same.
    """
    if top < 1:
        raise RequestError(f"--top counts classes from 1, got {top}.")
    trained = open_run(folder, weights=weights, device=build.device(device))
    target = next(trained.model.parameters()).device
    predictions, refused = [], []
    for path in expand(paths):
        try:
            tensor, note = fit_for_prediction(path, trained.preprocess, name=str(path))
        except RequestError as error:
            refused.append(str(error))
            continue
        batch = to_device(tensor.unsqueeze(0), target, channels_last=trained.config.train.channels_last != "off")
        with torch.no_grad():
            shares, order = probabilities(trained.model(batch))[0].topk(min(top, len(trained.classes)))
        ranked = [(trained.classes[i], share) for i, share in zip(order.tolist(), shares.tolist(), strict=True)]
        predictions.append(Prediction(str(path), ranked[0][0], ranked[0][1], ranked, note))
    return predictions, refused


def expand(paths: Iterable[Path]) -> list[Path]:
    """Files as they are, absent ones too; folders as the images below them."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            images = sorted(p for p in path.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file())
            if not images:
                raise RequestError(f"{path} holds no images ({' '.join(EXTENSIONS)}).")
            found += images
        else:
            found.append(path)
    return found
