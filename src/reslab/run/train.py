"""``train``: from a config to a run's folder."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

import reslab
from reslab.data.prepared import check_classes
from reslab.distributed import launched_ranks, process_group
from reslab.errors import RequestError, unknown
from reslab.probe import step_readings
from reslab.records import Evaluation, RunFolder, RunRecord
from reslab.records.files import encode, write_atomic
from reslab.report import write_run_page
from reslab.report.run_page import run_lead
from reslab.run.assemble import TrainingInputs, assemble, evaluation_loader, training_loader
from reslab.run.config import FLAGS, RunConfig, as_before, differences, load_config, load_recipe, override
from reslab.run.display import Display, make_display
from reslab.run.load import Bundle, load
from reslab.run.record import start_record
from reslab.run.recorder import Follower, RunRecorder, TensorBoard, check_track
from reslab.training.evaluation import evaluate, reestimate_norms
from reslab.training.execution import find_device
from reslab.training.failure import NonFiniteError
from reslab.training.loop import FitResult, Probe, fit, numbers_in
from reslab.training.progress import copy_weights
from reslab.weights.bundle import BundleCard, write_bundle


@dataclass(frozen=True)
class Run:
    """A run that has been trained.

    Args:
        folder: of the run.
        record: run.json as written.
        interrupted: the run was stopped by a signal and can be resumed.
    """

    folder: RunFolder
    record: RunRecord
    interrupted: bool = False

    def load(self) -> Bundle:
        """The trained network, ready to predict."""
        return load(self.folder.root)

    def __repr__(self) -> str:
        name, score, chosen = self.record.score.name, self.record.score, self.record.chosen
        found = {} if chosen is None else {s: chosen.scores.get(f"{s}_{name}") for s in ("val", "test")}
        numbers = ", ".join(f"{split} {name} {score.format(v)}" for split, v in found.items() if v is not None)
        return f"<Run {self.folder.root}: {self.record.status}{', ' if numbers else ''}{numbers}>"


def train(
    *,
    out: Path | str = "",
    config: RunConfig | Path | str | None = None,
    recipe: str = "",
    resume: bool = False,
    overwrite: bool = False,
    display: Display | None = None,
    **options: Any,
) -> Run:
    """Train one network on one data set, and leave a run's folder behind: what ``reslab train`` does.

    Args:
        out: folder of the run; by default runs/MODEL-DATA.
        config: a config, or a TOML file.
        recipe: name of a shipped recipe, which config and options override.
        resume: continue the run in ``out``, if there is one.
        overwrite: replace the run in ``out``, if there is one, once everything else has proved right.
        display: shows progress; by default a bar, or lines where there is no terminal.
        options: what the flags of ``reslab train`` are called, such as ``model``, ``data``, ``epochs``, ``batch_size``;
            any other option by its path, such as ``**{"optim.side_lr": 0.2}``.

    Raises:
        RequestError: before anything is written, if the request can't be carried out.
        NonFiniteError: if training diverged; the run's folder then has ``failure/`` with the batch.
    """
    if isinstance(config, RunConfig):
        base = config
    elif config is not None:
        base = load_config(Path(config), recipe=recipe or None)
    else:
        base = load_recipe(recipe) if recipe else RunConfig()
    values = {FLAGS.get(name, name): str(v) if isinstance(v, Path) else v for name, v in options.items()}
    for name, path in zip(options, values, strict=True):
        if "." not in path:
            raise unknown("option", name, FLAGS)
    names = {path: name for name, path in zip(options, values, strict=True)}
    chosen = override(base, values, where="", spell=lambda path: names.get(path, path))
    folder = Path(out) if out else default_out(chosen)
    return run_training(chosen, folder, resume=resume, overwrite=overwrite, display=display or make_display())


def default_out(config: RunConfig) -> Path:
    """runs/MODEL-DATA."""
    model, data = config.model.name.replace(":", "."), Path(config.data.name).name
    if not data:
        raise RequestError(f"Can't name a run after the data {config.data.name!r}; give --out.")
    return Path("runs") / f"{model}-{data}"


def run_training(
    config: RunConfig, out: Path, *, resume: bool = False, overwrite: bool = False, display: Display | None = None
) -> Run:
    """``train``, of a config that is complete; shows nothing by default."""
    check_track(config.train.track)
    ranks = launched_ranks(find_device(config.train.device))
    display, folder = (display or Display()) if ranks.is_first else Display(), RunFolder(out)
    with process_group(ranks):
        resuming = check_out(folder, config, resume=resume, overwrite=overwrite)
        before = folder.read_run() if resuming else None
        if before is not None:
            config = as_before(config, load_config(folder.config))
            if before.status == "done":
                display.note(f"{folder.root} is done already.")
                return Run(folder, before)

        # ---- everything is built before anything is written
        inputs = assemble(config, display, ranks=ranks)
        record = start_record(inputs)
        if before is not None:
            check_same_data(before, record, folder)
            record.started, record.duration_s = before.started, before.duration_s

        # ---- from here on the folder is ours; of several processes, the first one writes
        ranks.wait()
        if ranks.is_first:
            open_folder(folder, inputs.config, record, resuming=resuming)
        started, earlier_s = time.perf_counter(), record.duration_s
        result = fit_into(folder, record, inputs, display, resuming=resuming)
        record.duration_s = earlier_s + time.perf_counter() - started
        if result.status == "interrupted":
            record.status = "interrupted"
            if ranks.is_first:
                write_atomic(folder.run, record.to_json())
            return Run(folder, record, interrupted=True)

        # ---- the one reading of the test set, of the last and of the best weights
        if result.status == "early":
            record.protocol["length"] = f"stopped early after {result.steps} of {inputs.options.steps} steps"
        finish_record(record, inputs, result)
        record.duration_s = earlier_s + time.perf_counter() - started
        if ranks.is_first:
            write_weights(folder, inputs, result)
            write_atomic(folder.run, record.to_json())
            write_run_page([folder], folder.report, title=folder.name, lead=run_lead(record))
        return Run(folder, record)


# ---- the folder


def check_out(folder: RunFolder, config: RunConfig, *, resume: bool, overwrite: bool) -> bool:
    """Whether there is a run to resume; refuses an occupied folder otherwise."""
    root = folder.root
    if root.exists() and not root.is_dir():
        raise RequestError(f"--out {root} is a file. Name a folder.")
    if not folder.holds_run():
        if root.exists() and any(root.iterdir()):
            raise RequestError(f"--out {root} has files in it but no run. Name another folder.")
        return False
    if overwrite:
        return False
    if not resume:
        raise RequestError(
            f"{root} has a run already. Resume it with --resume, replace it with --overwrite, or name another --out."
        )
    if folder.config.exists() and (changed := differences(load_config(folder.config), config)):
        raise RequestError(
            f"{root} was started with other options, and a resumed run must go on as it began: {'; '.join(changed)}."
            " Leave those options out, or start a new run."
        )
    return folder.run.exists()


def check_same_data(before: RunRecord, now: RunRecord, folder: RunFolder) -> None:
    """Refuse to resume with other data than the run began with."""
    check_classes(before.data["classes"], now.data["classes"], where=now.data["name"])
    if before.data["fingerprint"] != now.data["fingerprint"]:
        raise RequestError(
            f"{folder.root} was started on other data: the fingerprint of {now.data['name']} has changed since."
            " Bring the old data back, or start a new run."
        )


def open_folder(folder: RunFolder, config: RunConfig, record: RunRecord, *, resuming: bool) -> None:
    """Make the folder this run's: the files of another one are removed, config and record are written."""
    if not resuming:
        clear_folder(folder)
        folder.root.mkdir(parents=True, exist_ok=True)
        # so that `evaluate` finds the data from any working folder
        data_dir = str(Path(config.data.dir).resolve()) if config.data.dir else ""
        write_atomic(folder.config, replace(config, data=replace(config.data, dir=data_dir)).to_toml())
    write_atomic(folder.run, record.to_json())


def clear_folder(folder: RunFolder) -> None:
    """Remove the files of an earlier run, and only those."""
    for path in folder.files():
        path.unlink(missing_ok=True)
    for sub_folder, patterns in (
        (folder.checkpoints, ("step-*.pt", "step-*.json")),
        (folder.tensorboard, ("events.out.tfevents.*",)),
        (folder.failure, ("batch.safetensors", "failure.json", "verdict.txt")),
    ):
        for pattern in patterns:
            for path in sub_folder.glob(pattern):
                path.unlink()


# ---- training


def fit_into(
    folder: RunFolder, record: RunRecord, inputs: TrainingInputs, display: Display, *, resuming: bool
) -> FitResult:
    """Run ``fit`` with the folder as its recorder; note a failure in run.json before it is raised further."""
    is_first, total_steps = inputs.mode.ranks.is_first, inputs.options.steps
    first_step = max((step.step for step in folder.read_steps()), default=-1) + 1 if resuming else 0
    recorder: Follower | RunRecorder = Follower(folder, resume=resuming)
    if is_first:
        tracker = TensorBoard(folder, total_steps=total_steps) if inputs.config.train.track else None
        recorder = RunRecorder(folder, display, score=inputs.task.score, resume=resuming, tracker=tracker)
    display.start(folder.name, total_steps=total_steps, first_step=first_step)
    try:
        return fit(
            inputs.model,
            inputs.task,
            inputs.loaders,
            optimizer=inputs.optimizer,
            schedule=inputs.schedule,
            options=inputs.options,
            mode=inputs.mode,
            recorder=recorder,
            probes=make_probes(inputs, display),
        )
    except NonFiniteError as error:
        if is_first:
            save_failure(folder, record, error)
        raise
    except BaseException as error:
        record.status = "failed"
        record.failure = {
            "what": f"{type(error).__name__}: {error}",
            "sentence": "--resume continues from the last checkpoint.",
        }
        if is_first:
            write_atomic(folder.run, record.to_json())
        raise
    finally:
        recorder.close()
        display.stop()


def make_probes(inputs: TrainingInputs, display: Display) -> list[Probe]:
    """Readings of the gradient flow at eight steps, where they can be taken."""
    if not inputs.config.train.probe or not inputs.mode.ranks.is_first:
        return []
    if inputs.mode.ranks.world > 1:
        display.note("readings: not recorded, because each process sees a part of the batch only")
        return []
    try:
        return [step_readings(inputs.model, inputs.optimizer, total_steps=inputs.options.steps)]
    except RequestError as error:
        display.note(f"readings: not recorded. {error}")
        return []


def save_failure(folder: RunFolder, record: RunRecord, error: NonFiniteError) -> None:
    """Write failure/ with the batch, and run.json with what happened."""
    folder.failure.mkdir(exist_ok=True)
    tensors = {name: value.cpu().contiguous() for name, value in named_tensors(error.batch).items()}
    write_atomic(folder.failure / "batch.safetensors", safetensors.torch.save(tensors))
    failure = {
        "what": error.what,
        "step": error.step,
        "epoch": error.epoch,
        "lr": error.lr,
        **asdict(error.origin),
        "before": error.before,
        "sentence": str(error),
        "batch": "failure/batch.safetensors",
        "flight": folder.flight.name,
    }
    write_atomic(folder.failure / "failure.json", encode(failure, indent=2))
    record.status, record.failure = "failed", failure
    write_atomic(folder.run, record.to_json())


def named_tensors(batch: Any, name: str = "") -> dict[str, Tensor]:
    """The tensors of a batch by their place in it: ``inputs`` and ``targets`` of a pair, keys, numbers.

    Example:
        >>> import torch
        >>> list(named_tensors((torch.ones(2), {"digit": torch.zeros(2)})))
        ['inputs', 'targets.digit']
    """
    if isinstance(batch, Tensor):
        return {name or "inputs": batch}
    if isinstance(batch, dict):
        parts = {str(key): value for key, value in batch.items()}
    elif isinstance(batch, list | tuple):
        keys = ("inputs", "targets") if isinstance(batch, tuple) and len(batch) == 2 and not name else range(len(batch))
        parts = dict(zip(map(str, keys), batch, strict=True))
    else:
        return {}
    return {
        full: tensor
        for key, value in parts.items()
        for full, tensor in named_tensors(value, f"{name}.{key}".lstrip(".")).items()
    }


# ---- the end of a run


def finish_record(record: RunRecord, inputs: TrainingInputs, result: FitResult) -> None:
    """Measure the last and the best weights on every split and note it in the record."""
    settle_norms(inputs, result)
    record.last = measure(inputs, result.last, epoch=result.epoch)
    if result.plain is not None:
        record.plain = measure(inputs, result.plain, epoch=result.epoch)
    if result.best is not None and result.best_epoch is not None:
        same = result.best_epoch == result.epoch
        record.best = record.last if same else measure(inputs, result.best, epoch=result.best_epoch)
    record.status = "done"


def settle_norms(inputs: TrainingInputs, result: FitResult) -> None:
    """Estimate batch norm's statistics again, if asked for, for each of the weights that are kept."""
    num_images = inputs.config.train.precise_norm
    if not num_images:
        return
    mode = replace(inputs.mode, ranks=replace(inputs.mode.ranks, rank=0, world=1))  # every process sees all images
    loader = training_loader(inputs.data, inputs.task, inputs.config, ranks=mode.ranks)
    for weights in (result.last, result.plain, result.best):
        if weights is not None:
            inputs.model.load_state_dict(weights)
            reestimate_norms(inputs.model, inputs.task, loader, num_images=num_images, mode=mode)
            weights.update(copy_weights(inputs.model))


def measure(inputs: TrainingInputs, weights: dict[str, Tensor], *, epoch: int) -> Evaluation:
    """Evaluate one set of weights on every split, in eval mode and without augmentation."""
    inputs.model.load_state_dict(weights)
    data, task, scores = inputs.data, inputs.task, dict[str, float]()
    for name, split in (("train", data.train), ("val", data.val), ("test", data.test)):
        if split is not None:
            loader = evaluation_loader(data, task, split, inputs.config, ranks=inputs.mode.ranks)
            found = numbers_in(evaluate(inputs.model, task, loader, mode=inputs.mode))
            scores |= {f"{name}_{key}": value for key, value in found.items()}
    return Evaluation(epoch, scores)


def write_weights(folder: RunFolder, inputs: TrainingInputs, result: FitResult) -> None:
    """Write the chosen weights as a bundle, with the last ones beside them."""
    chosen, epoch = (result.best, result.best_epoch) if result.best is not None else (result.last, result.epoch)
    config, data = inputs.config, inputs.data
    defaults = asdict(type(config.model)())
    choices = {name: value for name, value in asdict(config.model).items() if value != defaults[name]}
    card = BundleCard(
        model={
            **{name: value for name, value in choices.items() if name != "weights"},
            "name": config.model.name,
            "num_classes": inputs.task.num_outputs,
            "in_channels": data.preprocess.channels,
        },
        task=asdict(config.task),
        classes=data.source.classes,
        preprocess=data.preprocess.to_dict(),
        provenance={
            "data": data.source.name,
            "selected": "best" if result.best is not None else "last",
            "epoch": epoch,
            "reslab": reslab.__version__,
        },
    )
    write_bundle(folder.root, card, chosen, last=result.last)
