"""A run from start to end: train into a folder, evaluate it, predict with it."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

import reslab
from reslab import config as builders
from reslab.config import ModelConfig, RunConfig, load_config
from reslab.data.images import EXTENSIONS
from reslab.data.prepare import Data, check_classes, fit_for_prediction
from reslab.data.splits import Split
from reslab.data.transforms import Preprocess
from reslab.errors import RequestError
from reslab.models.resnet import CIFAR_DEPTHS, ResNet
from reslab.models.weights import load_own_weights, save_weights
from reslab.probe.gradients import BlockGradients, readings
from reslab.records import (
    BlockGradientRecord,
    EpochRecord,
    Errors,
    RecordWriter,
    RunFolder,
    RunRecord,
    StepRecord,
    decode,
    encode,
    write_atomic,
)
from reslab.report.page import write_page
from reslab.tasks.classify import Classify, probabilities
from reslab.train.checkpoint import load_newest_checkpoint, save_checkpoint
from reslab.train.evaluate import evaluate, to_device
from reslab.train.failure import NonFiniteError
from reslab.train.fit import FitResult, Recorder, Weights, fit
from reslab.train.seeds import seed_everything


class Display:
    """Shows a run while it goes on. This one shows nothing; the command line has those that do."""

    def start(self, name: str, *, total_steps: int, first_step: int) -> None:
        """Before the first step."""

    def step(self, record: StepRecord) -> None:
        """After each optimiser step."""

    def epoch(self, record: EpochRecord) -> None:
        """After each epoch."""

    def note(self, text: str) -> None:
        """Something that the user should know."""

    def stop(self) -> None:
        """After the last step, whatever happened."""


class RunRecorder(Recorder):
    """Writes what happens during ``fit`` into a run's folder, and shows it.

    Args:
        folder: of the run.
        display: where it is shown.
        resume: go on from the newest good checkpoint.
    """

    def __init__(self, folder: RunFolder, display: Display, *, resume: bool) -> None:
        self.folder, self.display, self.resume = folder, display, resume
        self.steps, self.epochs = RecordWriter(folder.steps), RecordWriter(folder.epochs)
        self.probes = RecordWriter(folder.probes)

    def restore(self) -> dict[str, Any] | None:
        """The newest good checkpoint, if the run is to go on."""
        if not self.resume:
            return None
        state, reasons = load_newest_checkpoint(self.folder.checkpoints)
        for reason in reasons:
            self.display.note(reason)
        self.display.note("no checkpoint yet: starts at step 0" if state is None else "")
        return state

    def step(self, record: StepRecord) -> None:
        """Appends to steps.jsonl."""
        self.steps.write(record)
        self.display.step(record)

    def epoch(self, record: EpochRecord) -> None:
        """Appends to epochs.jsonl."""
        self.epochs.write(record)
        self.display.epoch(record)

    def probe(self, records: Sequence[BlockGradientRecord]) -> None:
        """Appends to probes.jsonl."""
        self.probes.write(*records)

    def checkpoint(self, state: dict[str, Any], *, step: int) -> None:
        """Saves into checkpoints/."""
        save_checkpoint(self.folder.checkpoints, state, step=step)

    def close(self) -> None:
        """Closes the files."""
        for writer in (self.steps, self.epochs, self.probes):
            writer.close()


@dataclass(frozen=True)
class Outcome:
    """What ``train`` gives back.

    Args:
        folder: of the run.
        record: run.json as written.
        interrupted: the run was stopped by a signal and can be resumed.
    """

    folder: RunFolder
    record: RunRecord
    interrupted: bool


def train(
    config: RunConfig, out: Path, *, resume: bool = False, overwrite: bool = False, display: Display | None = None
) -> Outcome:
    """Trains one network on one data set and leaves a run's folder behind.

    Args:
        config: the whole of it.
        out: folder of the run.
        resume: go on with the run in ``out``, if there is one.
        overwrite: remove the run in ``out``, if there is one, once everything else has proved right.
        display: shows progress.

    Raises:
        RequestError: before anything is written, if the request can't be carried out.
        NonFiniteError: if training diverged; the run's folder then holds ``failure/`` with the batch.
    """
    display, folder = display or Display(), RunFolder(out)
    resuming = check_out(folder, config, resume=resume, overwrite=overwrite)
    if resuming and (previous := folder.read_run()).status == "done":
        display.note(f"{folder.root} is done already.")
        return Outcome(folder, previous, interrupted=False)

    # ---- everything is built before anything is written
    settings = config.train
    device = builders.build_device(settings.device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    seed_everything(settings.seed, deterministic=settings.deterministic)
    data = builders.build_data(config.data, seed=settings.seed)
    for note in data.source.notes:
        display.note(note)
    seed_everything(settings.seed, deterministic=settings.deterministic)  # whatever the data drew, twins start equal
    num_classes = len(data.source.classes)
    model = builders.build_model(config.model, num_classes=num_classes, in_channels=data.preprocess.channels).to(device)
    task = Classify(num_classes, label_smoothing=settings.label_smoothing)
    loaders = (
        data.loader(
            data.train,
            batch_size=config.data.batch_size,
            training=True,
            seed=settings.seed,
            workers=config.data.workers,
        ),
        evaluation_loader(data, data.val, config),
    )
    total_steps = builders.total_steps(settings, steps_per_epoch=len(loaders[0]))
    optimizer = builders.build_optimizer(config.optim, model)
    schedule = builders.build_schedule(
        config.schedule, lr=config.optim.lr, total_steps=total_steps, steps_per_epoch=len(loaders[0])
    )
    options = builders.build_options(config, total_steps=total_steps, device=device)
    check_forward(model, data.preprocess, device, num_classes=num_classes)

    # ---- from here on the folder is ours
    if not resuming:
        clear_folder(folder)
        folder.root.mkdir(parents=True, exist_ok=True)
        write_atomic(folder.config, config.to_toml())
    record = start_record(config, data, model, device)
    earlier_s = folder.read_run().duration_s if resuming and folder.run.exists() else 0.0
    write_atomic(folder.run, record.to_json())
    recorder = RunRecorder(folder, display, resume=resuming)
    first_step = max((step.step for step in folder.read_steps()), default=-1) + 1 if resuming else 0
    display.start(folder.name, total_steps=total_steps, first_step=first_step)
    started = time.perf_counter()
    try:
        result = fit(
            model,
            task,
            loaders,
            optimizer=optimizer,
            schedule=schedule,
            options=options,
            recorder=recorder,
            probes=make_probes(model, config, total_steps=total_steps, display=display),
        )
    except NonFiniteError as error:
        save_failure(folder, record, error)
        raise
    except BaseException:
        record.status = "failed"
        record.failure = {"what": "the process was stopped by an error; resume goes on from the last checkpoint"}
        write_atomic(folder.run, record.to_json())
        raise
    finally:
        recorder.close()
        display.stop()
        record.duration_s = earlier_s + time.perf_counter() - started

    if result.status == "interrupted":
        record.status = "interrupted"
        write_atomic(folder.run, record.to_json())
        return Outcome(folder, record, interrupted=True)

    # ---- the one reading of the test set, of the last and of the best weights
    if result.status == "early":
        record.protocol["length"] = f"stopped early after {result.steps} of {total_steps} steps"
    finish_record(record, model, task, data, result, config=config)
    record.duration_s = earlier_s + time.perf_counter() - started
    write_weights(folder, config.model, data, result)
    write_atomic(folder.run, record.to_json())
    write_page([folder], folder.report, title=folder.name, lead=lead_of(record))
    return Outcome(folder, record, interrupted=False)


def check_out(folder: RunFolder, config: RunConfig, *, resume: bool, overwrite: bool) -> bool:
    """Whether there is a run to go on with; refuses an occupied folder otherwise."""
    root = folder.root
    if root.exists() and not root.is_dir():
        raise RequestError(f"--out {root} is a file. Name a folder.")
    if not folder.holds_run():
        if root.is_dir() and any(root.iterdir()) and overwrite:
            raise RequestError(f"{root} holds files but no run; --overwrite removes runs only. Choose another --out.")
        return False
    if overwrite:
        return False
    if not resume:
        raise RequestError(f"{root} holds a run already. Go on with it by --resume, replace it by --overwrite.")
    before = load_config(folder.config)
    if changed := differences(before, config):
        raise RequestError(
            f"{root} was started with another config, and a resumed run must go on as it began: {'; '.join(changed)}."
            " Leave those options out, or start a new run."
        )
    return folder.run.exists()


def differences(before: RunConfig, after: RunConfig) -> list[str]:
    """Keys whose values differ, as phrases. Where the data lies and how many workers read it may change."""
    free = ("data.dir", "data.workers", "data.download")
    phrases = []
    for path, _, _ in builders.leaves():
        section, key = path.split(".")
        old, new = getattr(getattr(before, section), key), getattr(getattr(after, section), key)
        if old != new and path not in free:
            phrases.append(f"{path} was {old!r}, now {new!r}")
    return phrases


def clear_folder(folder: RunFolder) -> None:
    """Removes the files of an earlier run, and only those."""
    for path in (folder.config, folder.run, folder.steps, folder.epochs, folder.probes, folder.report):
        path.unlink(missing_ok=True)
    for path in (folder.weights, folder.weights_card, folder.last_weights):
        path.unlink(missing_ok=True)
    for sub_folder, patterns in (
        (folder.checkpoints, ("step-*.pt", "step-*.json")),
        (folder.failure, ("batch.safetensors", "failure.json")),
    ):
        for pattern in patterns:
            for path in sub_folder.glob(pattern):
                path.unlink()


def evaluation_loader(data: Data, split: Split | None, config: RunConfig) -> Any:
    """A loader without shuffling or augmentation; None for no split."""
    if split is None:
        return None
    return data.loader(split, batch_size=max(256, config.data.batch_size), workers=config.data.workers)


def check_forward(model: nn.Module, preprocess: Preprocess, device: torch.device, *, num_classes: int) -> None:
    """Refuses a network that can't take these images, before anything is written."""
    images = torch.zeros(2, preprocess.channels, preprocess.height, preprocess.width, device=device)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            outputs = model(images)
    except (RuntimeError, ValueError) as error:
        shape = f"{preprocess.channels}x{preprocess.height}x{preprocess.width}"
        raise RequestError(f"The network can't take images of {shape}: {str(error).splitlines()[0]}") from None
    finally:
        model.train(was_training)
    if not isinstance(outputs, torch.Tensor) or outputs.shape != (2, num_classes):
        found = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        raise RequestError(f"The network gives {found} for two images; expected (2, {num_classes}), a logit a class.")


def make_probes(model: nn.Module, config: RunConfig, *, total_steps: int, display: Display) -> list[BlockGradients]:
    """The gradient at each block, about twenty times in the run, where that can be read."""
    if not config.train.probe:
        return []
    if config.train.compile or not isinstance(model, ResNet):
        display.note("gradient per block: not recorded, because the network is compiled or not one of the catalog's")
        return []
    return [BlockGradients([name for name, _ in model.blocks()], when=readings(total_steps))]


# ---- what is written down


def start_record(config: RunConfig, data: Data, model: nn.Module, device: torch.device) -> RunRecord:
    """run.json as it stands before the first step."""
    return RunRecord(
        model={
            **config.model.model_dump(mode="json"),
            "num_classes": len(data.source.classes),
            "in_channels": data.preprocess.channels,
            "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        },
        data=data.describe(),
        protocol=protocol_of(config, data),
        deviations=deviations(config),
        versions={
            "reslab": reslab.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        },
        machine=machine_of(device),
        seed=config.train.seed,
        status="running",
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def protocol_of(config: RunConfig, data: Data) -> dict[str, Any]:
    """How the numbers of the run come about, in words."""
    own_split = "val" in data.source.splits
    validation = (
        "none"
        if data.val is None
        else f"the data's own validation split, {len(data.val)} images"
        if own_split
        else f"{len(data.val)} of the {len(data.val) + len(data.train)} training images, stratified, seed {config.train.seed}"
    )
    return {
        "validation": validation,
        "best": "none: no validation split" if data.val is None else "lowest validation error, ties by loss",
        "test": "none: no test split" if data.test is None else "read once, after training, for last and best weights",
        "training_error": "clean: eval mode, no augmentation, over all training images",
        "precision": config.train.amp if config.train.amp != "none" else "fp32",
        "weights": "moving average" if config.train.ema_decay else "as trained",
        "fingerprint": "pixels and labels" if data.describe()["in_memory"] else "file names, sizes and labels",
    }


PAPER = {
    # He et al. 2015, arXiv:1512.03385, sec. 3.4 and 4.2
    "model.shortcut": "auto",
    "model.zero_init_residual": False,
    "model.dropout": 0.0,
    "data.augment": "auto",
    "data.batch_size": 128,
    "optim.kind": "sgd",
    "optim.lr": 0.1,
    "optim.momentum": 0.9,
    "optim.nesterov": False,
    "optim.weight_decay": 1e-4,
    "optim.decay_norms": True,
    "optim.l1": 0.0,
    "optim.clip_grad_norm": 0.0,
    "schedule.kind": "multistep",
    "train.steps": 64_000,
    "train.label_smoothing": 0.0,
    "train.amp": "none",
    "train.ema_decay": 0.0,
    "train.patience": 0,
}


def deviations(config: RunConfig) -> list[str]:
    """Where a run of a CIFAR network on CIFAR-10 leaves the paper; what else is no reproduction is said to be none."""
    names = {f"{kind}{depth}" for depth in CIFAR_DEPTHS for kind in ("resnet", "plain")}
    if config.model.name not in names or config.data.name != "cifar10":
        return [f"{config.model.name} on {config.data.name} is not an experiment of the paper: nothing to compare with"]
    found = []
    for path, paper in PAPER.items():
        section, key = path.split(".")
        ours = getattr(getattr(config, section), key)
        if path == "train.steps" and not ours:
            found.append(f"length is {config.train.epochs} epochs, paper 64000 steps")
        elif ours != paper:
            found.append(f"{path} is {ours}, paper {paper}")
    found.append("images are normalised by channel mean and deviation; the paper subtracts the mean of each pixel")
    return found


def machine_of(device: torch.device) -> dict[str, Any]:
    """Processor, cores, threads, memory and device."""
    machine: dict[str, Any] = {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": str(device),
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        machine["memory_gib"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    if device.type == "cuda":
        machine["gpu"] = torch.cuda.get_device_name(device)
    return machine


def processor_name() -> str:
    """The processor's own name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def finish_record(
    record: RunRecord, model: nn.Module, task: Classify, data: Data, result: FitResult, *, config: RunConfig
) -> None:
    """Measures the last and the best weights on every split and notes it in the record."""
    record.last = measure(model, task, data, result.last, epoch=result.epoch, config=config)
    if result.best is not None and result.best_epoch is not None:
        same = result.best_epoch == result.epoch
        record.best = (
            record.last if same else measure(model, task, data, result.best, epoch=result.best_epoch, config=config)
        )
    record.status = "done"


def measure(model: nn.Module, task: Classify, data: Data, weights: Weights, *, epoch: int, config: RunConfig) -> Errors:
    """Loss and error of one set of weights on every split, in eval mode and without augmentation."""
    model.load_state_dict(weights)
    numbers: dict[str, float] = {}
    for name, split in (("train", data.train), ("val", data.val), ("test", data.test)):
        if split is not None:
            found = evaluate_split(model, task, data, split, config=config)
            numbers[f"{name}_loss"], numbers[f"{name}_error"] = found["loss"], found["error"]
    return Errors(epoch=epoch, **numbers)


def evaluate_split(model: nn.Module, task: Classify, data: Data, split: Split, *, config: RunConfig) -> dict[str, Any]:
    """The task's metrics on one split, in the precision that the run trained in."""
    return evaluate(
        model,
        task,
        evaluation_loader(data, split, config),
        amp=config.train.amp,
        channels_last=config.train.channels_last,
    )


def write_weights(folder: RunFolder, model: ModelConfig, data: Data, result: FitResult) -> None:
    """weights.safetensors with the chosen weights, the last ones beside them, and the card that says what they are."""
    chosen = result.best if result.best is not None else result.last
    save_weights(folder.weights, chosen)
    save_weights(folder.last_weights, result.last)
    card = {
        "task": "classify",
        "model": model.model_dump(mode="json"),
        "num_classes": len(data.source.classes),
        "classes": data.source.classes,
        "preprocess": data.preprocess.to_dict(),
        "selected": "best" if result.best is not None else "last",
        "epoch": result.epoch if result.best is None else result.best_epoch,
    }
    write_atomic(folder.weights_card, encode(card, indent=2))


def save_failure(folder: RunFolder, record: RunRecord, error: NonFiniteError) -> None:
    """failure/ with the batch, and run.json with what happened."""
    folder.failure.mkdir(exist_ok=True)
    save_weights(folder.failure / "batch.safetensors", {"images": error.images.cpu(), "labels": error.labels.cpu()})
    failure = {
        "what": error.what,
        "step": error.step,
        "epoch": error.epoch,
        "lr": error.lr,
        **asdict(error.origin),
        "sentence": str(error),
        "batch": "failure/batch.safetensors",
    }
    write_atomic(folder.failure / "failure.json", encode(failure, indent=2))
    record.status, record.failure = "failed", failure
    write_atomic(folder.run, record.to_json())


def lead_of(record: RunRecord) -> str:
    """The page's first sentence, computed from the record."""
    chosen, which = (record.best, "best") if record.best else (record.last, "last")
    assert chosen is not None, "a finished run has errors"
    parts = [f"{100 * chosen.train_error:.2f} % clean training error"]
    if chosen.val_error is not None:
        parts.append(f"{100 * chosen.val_error:.2f} % validation error")
    if chosen.test_error is not None:
        parts.append(f"{100 * chosen.test_error:.2f} % test error")
    numbers = ", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + parts[-1]
    return f"{record.model['name']} on {record.data['name']} ends with {numbers} ({which} weights, epoch {chosen.epoch + 1})."


# ---- after training


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
    card = decode(folder.weights_card.read_text(encoding="utf-8"))
    config, preprocess = load_config(folder.config), Preprocess.from_dict(card["preprocess"])
    model = builders.build_model(config.model, num_classes=card["num_classes"], in_channels=preprocess.channels)
    paths = {"": folder.weights, "best": folder.weights, "last": folder.last_weights}
    load_own_weights(model, paths.get(weights, Path(weights)))
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
        split: ``train``, ``val`` or ``test``; by default the test split, or else the validation split.
        weights: see ``open_run``.
        data: another data set with the same classes; by default the run's own.
        data_dir: where it lies now.
        device: see ``build_device``.
    """
    trained = open_run(folder, weights=weights, device=builders.build_device(device))
    config = trained.config
    data_config = config.data.model_copy(
        update={
            "name": data or config.data.name,
            "dir": data_dir or config.data.dir,
            "channels": trained.preprocess.channels,
        }
    )
    if trained.preprocess.resize is not None:
        data_config = data_config.model_copy(update={"image_size": trained.preprocess.height})
    found = builders.build_data(data_config, seed=config.train.seed, preprocess=trained.preprocess)
    check_classes(trained.classes, found.source.classes, where=found.source.name)
    splits = {"train": found.train, "val": found.val, "test": found.test}
    name = split or ("test" if found.test is not None else "val")
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
    trained = open_run(folder, weights=weights, device=builders.build_device(device))
    target = next(trained.model.parameters()).device
    predictions, refused = [], []
    for path in expand(paths):
        try:
            tensor, note = fit_for_prediction(path, trained.preprocess, name=str(path))
        except RequestError as error:
            refused.append(str(error))
            continue
        batch = to_device(tensor.unsqueeze(0), target, channels_last=trained.config.train.channels_last)
        with torch.no_grad():
            shares, order = probabilities(trained.model(batch))[0].topk(min(top, len(trained.classes)))
        ranked = [(trained.classes[i], share) for i, share in zip(order.tolist(), shares.tolist(), strict=True)]
        predictions.append(Prediction(str(path), ranked[0][0], ranked[0][1], ranked, note))
    return predictions, refused


def expand(paths: Iterable[Path]) -> list[Path]:
    """Files as they are, folders as the images below them."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            images = sorted(p for p in path.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file())
            if not images:
                raise RequestError(f"{path} holds no images ({' '.join(EXTENSIONS)}).")
            found += images
        elif path.exists():
            found.append(path)
        else:
            raise RequestError(f"No such image or folder: {path}.")
    return found
