"""A trained network put to use: load it, evaluate it, predict with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reslab.data import Data, DataOptions, Preprocess, find_source, prepare
from reslab.data.prepared import check_classes
from reslab.data.preprocess import fit_for_prediction
from reslab.data.sources import SOURCES, image_files
from reslab.distributed import Ranks
from reslab.errors import RequestError, unknown
from reslab.records import RunFolder
from reslab.run.assemble import build_network, evaluation_loader
from reslab.run.config import RunConfig, load_config, parse_config
from reslab.tasks.catalog import make_task
from reslab.tasks.task import Task
from reslab.training.evaluation import evaluate
from reslab.training.execution import ExecutionMode, find_device
from reslab.weights.bundle import BundleCard, load_state, read_bundle


@dataclass(frozen=True)
class Answer:
    """What the network says about one input.

    Args:
        source: path of the file.
        prediction: the task's, such as a ``Classification``.
        note: how the input was made to fit, if it had to be.
    """

    source: str
    prediction: Any
    note: str = ""

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        return {"image": self.source, **asdict(self.prediction), "note": self.note}


@dataclass(frozen=True, repr=False)
class Bundle:
    """A trained network with all that using it takes.

    Args:
        path: where it came from.
        model: in eval mode, on its device.
        task: what it was trained for.
        preprocess: what every input goes through.
        card: what the bundle says about itself.
        config: of the run that it came from; the defaults for a bundle without one.
        weights: which of the run's weights these are.
    """

    path: Path
    model: nn.Module
    task: Task
    preprocess: Preprocess
    card: BundleCard
    config: RunConfig
    weights: str = "selected"

    @property
    def classes(self) -> list[str]:
        """Names in the order of the outputs."""
        return self.card.classes

    @property
    def device(self) -> torch.device:
        return ExecutionMode.of(self.model).device

    def __repr__(self) -> str:
        return f"<Bundle {self.path}: {self.card.model['name']}, {self.task.name}, {len(self.classes)} classes>"

    def predict(
        self,
        inputs: Path | str | Sequence[Path | str],
        *,
        on_error: Callable[[RequestError], object] | None = None,
        **options: Any,
    ) -> list[Answer]:
        """Answer for images, and for all images below folders.

        Args:
            inputs: one path, or several.
            on_error: called for each image that can't be used, while the others are still answered; by default the
                first such image raises its error.
            options: of the task's predictions, such as ``top=3`` for classification.

        Raises:
            RequestError: if an image can't be read, or doesn't suit the network.
        """
        paths = [Path(inputs)] if isinstance(inputs, str | Path) else [Path(path) for path in inputs]
        answers: list[Answer] = []
        mode = ExecutionMode(channels_last=True, ranks=Ranks(device=self.device))
        for path in image_files(paths):
            try:
                image, note = fit_for_prediction(path, self.preprocess, name=str(path))
            except RequestError as error:
                if on_error is None:
                    raise
                on_error(error)
                continue
            batch = mode.move(self.task.collate(image.unsqueeze(0), None))
            with torch.no_grad():
                outputs = self.task.outputs(self.model, batch)
            answers.append(Answer(str(path), self.task.predict(outputs, batch, **options)[0], note))
        return answers

    def data(self, name: str = "", *, data_dir: str = "", test: bool = True) -> Data:
        """The run's data as it was split and preprocessed then, or other data with the same classes.

        Args:
            name: another data set, not split; by default the run's own.
            data_dir: where it lies now.
            test: with its test split.
        """
        before = self.config.data
        options = replace(
            before,
            name=name or _where_now(before, RunFolder(self.path)),
            val_split=0 if name else before.val_split,
            dir=data_dir or before.dir,
            test=test,
            cache_mib=0,
            channels=1 if self.preprocess.channels == 1 else 3,
            image_size=before.image_size if self.preprocess.resize is None else self.preprocess.height,
        )
        if name:  # is never trained on
            options = replace(options, augment="none", max_shift=0, alternate_flip=False, erasing=0.0)
        source = find_source(options)
        check_classes(self.classes, source.classes, where=source.name)
        return prepare(source, options, seed=self.config.train.seed, preprocess=self.preprocess)

    def evaluate(self, data: str = "", *, split: str = "", data_dir: str = "") -> dict[str, Any]:
        """Compute the task's metrics on a split, by the recorded preprocessing, in the precision of the training.

        Args:
            data: another data set with the same classes; by default the run's own. What has no split of its own is
                evaluated whole.
            split: ``train``, ``val`` or ``test``; by default test, or else val, or else train.
            data_dir: where the data lies now.
        """
        found = self.data(data, data_dir=data_dir, test=self.config.data.test or split == "test")
        splits = {"train": found.train, "val": found.val, "test": found.test}
        name = split or next(key for key in ("test", "val", "train") if splits[key] is not None)
        if name not in splits:
            raise unknown("split", name, splits)
        if splits[name] is None:
            there = ", ".join(key for key, value in splits.items() if value is not None)
            raise RequestError(f"{found.source.name} has no {name} split. It has: {there}.")
        train, ranks = self.config.train, Ranks(device=self.device)
        amp = "none" if train.amp == "auto" else train.amp
        mode = ExecutionMode(amp, channels_last=train.channels_last != "off", ranks=ranks)
        loader = evaluation_loader(found, self.task, splits[name], self.config, ranks=ranks)
        folder = RunFolder(self.path)
        fingerprint = folder.read_run().data.get("fingerprint") if folder.run.exists() else None
        return {
            "run": str(self.path),
            "data": found.source.name,
            "split": name,
            "weights": self.weights,
            **evaluate(self.model, self.task, loader, mode=mode),
            "classes": self.classes,
            "same_data": fingerprint == found.train.fingerprint(),
        }


def load(path: Path | str, *, weights: str = "", device: str = "cpu") -> Bundle:
    """Load a trained network: of a run, or of a folder with config.json and model.safetensors.

    Args:
        path: the folder, or the file in it.
        weights: ``"best"`` for the selected ones (the best, if there was a validation split), which is the default;
            ``"last"`` for those after the last step; or the path of another safetensors file.
        device: where the network goes: auto, cpu, cuda, cuda:N or mps.

    Raises:
        RequestError: if there is no trained network, it is damaged, or the weights don't fit.

    Example:
        >>> load("runs/absent")
        Traceback (most recent call last):
        reslab.errors.RequestError: No such run or bundle: runs/absent.
    """
    path = Path(path)
    if not path.exists():
        raise RequestError(f"No such run or bundle: {path}.")
    root = path if path.is_dir() else path.parent
    folder = RunFolder(root)
    if folder.run.exists() and not folder.has_weights():
        raise RequestError(
            f"{root} has no weights yet: the run is {folder.read_run().status}. Resume it with --resume."
        )
    card, tensors = read_bundle(path, weights=weights)
    config = load_config(folder.config) if folder.config.exists() else RunConfig()
    chosen = {key: value for key, value in card.model.items() if key not in ("num_classes", "in_channels")}
    parsed = parse_config({"model": chosen, "task": card.task}, where=f"the card of {root}")
    task = make_task(parsed.task, card.classes)
    preprocess = Preprocess.from_dict(card.preprocess)
    model = build_network(parsed.model, task, in_channels=preprocess.channels)
    load_state(model, tensors, where=str(path) if weights in ("", "best", "last") else weights)
    model = model.to(find_device(device)).eval()
    return Bundle(root, model, task, preprocess, card, config, weights or "selected")


def _where_now(options: DataOptions, folder: RunFolder) -> str:
    """The run's data; a folder that was named from elsewhere is found by the path that run.json recorded."""
    is_path = options.name not in SOURCES and not options.name.startswith("hf:")
    recorded = folder.read_run().data.get("path", "") if folder.run.exists() else ""
    has_moved = is_path and not Path(options.name).is_dir() and recorded and Path(recorded).is_dir()
    return recorded if has_moved else options.name
