"""``train``: from a config to a run's folder."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

from reslab.config import ModelConfig, RunConfig, build, load_config
from reslab.config.changes import as_before, differences
from reslab.data.prepare import Data, Place, check_classes
from reslab.distributed import launched_ranks, local_device, process_group
from reslab.errors import RequestError
from reslab.models.weights import save_weights
from reslab.probe import step_readings
from reslab.records import Evaluation, RunFolder, RunRecord, encode, write_atomic
from reslab.report.page import write_page
from reslab.run.assemble import Parts, assemble
from reslab.run.describe import lead_of, start_record
from reslab.run.measure import evaluate_split
from reslab.run.recorder import Display, Follower, RunRecorder
from reslab.run.track import TensorBoard, check_track
from reslab.train.failure import NonFiniteError
from reslab.train.fit import FitResult, Probe, fit
from reslab.train.precise_norm import reestimate_norms
from reslab.train.progress import Weights, copy_weights


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
    check_track(config.train.track)
    ranks, device = launched_ranks(), local_device(build.device(config.train.device))
    display, folder = (display or Display()) if ranks.is_first else Display(), RunFolder(out)
    with process_group(ranks, device):
        resuming = check_out(folder, config, resume=resume, overwrite=overwrite)
        before = folder.read_run() if resuming else None
        if before is not None:
            config = as_before(config, load_config(folder.config))
            if before.status == "done":
                display.note(f"{folder.root} is done already.")
                return Outcome(folder, before, interrupted=False)

        # ---- everything is built before anything is written
        parts = assemble(config, display, device=device, ranks=ranks)
        record = start_record(parts.config, parts.data, parts.model, device, notes=parts.notes)
        if before is not None:
            check_same_data(before, record, folder)
            record.started, record.duration_s = before.started, before.duration_s

        # ---- from here on the folder is ours; of several processes, the first one writes
        ranks.wait()
        if ranks.is_first:
            open_folder(folder, parts.config, record, resuming=resuming)
        started, earlier_s = time.perf_counter(), record.duration_s
        result = fit_into(folder, record, parts, display, resuming=resuming)
        record.duration_s = earlier_s + time.perf_counter() - started
        if result.status == "interrupted":
            record.status = "interrupted"
            if ranks.is_first:
                write_atomic(folder.run, record.to_json())
            return Outcome(folder, record, interrupted=True)

        # ---- the one reading of the test set, of the last and of the best weights
        if result.status == "early":
            record.protocol["length"] = f"stopped early after {result.steps} of {parts.options.steps} steps"
        finish_record(record, parts, result)
        record.duration_s = earlier_s + time.perf_counter() - started
        if ranks.is_first:
            write_weights(folder, parts.config.model, parts.data, result)
            write_atomic(folder.run, record.to_json())
            write_page([folder], folder.report, title=folder.name, lead=lead_of(record))
        return Outcome(folder, record, interrupted=False)


def open_folder(folder: RunFolder, config: RunConfig, record: RunRecord, *, resuming: bool) -> None:
    """Makes the folder this run's: the files of another one go, config and record are written."""
    if not resuming:
        clear_folder(folder)
        folder.root.mkdir(parents=True, exist_ok=True)
        write_atomic(folder.config, with_absolute_data_dir(config).to_toml())
    write_atomic(folder.run, record.to_json())


def fit_into(folder: RunFolder, record: RunRecord, parts: Parts, display: Display, *, resuming: bool) -> FitResult:
    """Runs ``fit`` with the folder as its recorder; notes a failure in run.json before it goes on up."""
    is_first, total_steps = parts.options.ranks.is_first, parts.options.steps
    first_step = max((step.step for step in folder.read_steps()), default=-1) + 1 if resuming else 0
    recorder: Follower | RunRecorder = Follower(folder, resume=resuming)
    if is_first:
        tracker = TensorBoard(folder, total_steps=total_steps) if parts.config.train.track else None
        recorder = RunRecorder(folder, display, resume=resuming, tracker=tracker)
    display.start(folder.name, total_steps=total_steps, first_step=first_step)
    try:
        return fit(
            parts.model,
            parts.task,
            parts.loaders,
            optimizer=parts.optimizer,
            schedule=parts.schedule,
            options=parts.options,
            recorder=recorder,
            probes=make_probes(parts, display=display),
        )
    except NonFiniteError as error:
        if is_first:
            save_failure(folder, record, error)
        raise
    except BaseException as error:
        record.status = "failed"
        record.failure = {
            "what": f"{type(error).__name__}: {error}",
            "sentence": "Resume goes on from the last checkpoint.",
        }
        if is_first:
            write_atomic(folder.run, record.to_json())
        raise
    finally:
        recorder.close()
        display.stop()


def with_absolute_data_dir(config: RunConfig) -> RunConfig:
    """So that ``evaluate`` finds the data from any folder."""
    if not config.data.dir:
        return config
    found = str(Path(config.data.dir).resolve())
    return config.model_copy(update={"data": config.data.model_copy(update={"dir": found})})


def check_same_data(before: RunRecord, now: RunRecord, folder: RunFolder) -> None:
    """Refuses to go on with other data than the run began with."""
    check_classes(before.data["classes"], now.data["classes"], where=now.data["name"])
    if before.data["fingerprint"] != now.data["fingerprint"]:
        raise RequestError(
            f"{folder.root} was started on other data: the fingerprint of {now.data['name']} has changed since."
            " Bring the old data back, or start a new run."
        )


def check_out(folder: RunFolder, config: RunConfig, *, resume: bool, overwrite: bool) -> bool:
    """Whether there is a run to go on with; refuses an occupied folder otherwise."""
    root = folder.root
    if root.exists() and not root.is_dir():
        raise RequestError(f"--out {root} is a file. Name a folder.")
    if not folder.holds_run():
        if root.is_dir() and (found := next(root.iterdir(), None)):
            raise RequestError(
                f"{root} holds {found.name} but no run; a run's folder starts empty. Choose another --out."
            )
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


def clear_folder(folder: RunFolder) -> None:
    """Removes the files of an earlier run, and only those."""
    for path in (folder.config, folder.run, folder.steps, folder.epochs, folder.probes, folder.readings, folder.flight):
        path.unlink(missing_ok=True)
    for path in (folder.weights, folder.weights_card, folder.last_weights, folder.report, folder.depth, folder.costs):
        path.unlink(missing_ok=True)
    for sub_folder, patterns in (
        (folder.checkpoints, ("step-*.pt", "step-*.json")),
        (folder.tensorboard, ("events.out.tfevents.*",)),
        (folder.failure, ("batch.safetensors", "failure.json", "verdict.txt")),
    ):
        for pattern in patterns:
            for path in sub_folder.glob(pattern):
                path.unlink()


def make_probes(parts: Parts, *, display: Display) -> list[Probe]:
    """Whole readings at eight steps, where they can be.

    Of several processes none reads: each sees a part of the batch only.
    """
    model, total_steps = parts.model, parts.options.steps
    if not parts.config.train.probe or not parts.options.ranks.is_first:
        return []
    if parts.options.ranks.world > 1:
        display.note("readings: not recorded, because each process sees a part of the batch only")
        return []
    probes: list[Probe] = []
    try:
        probes.append(step_readings(model, parts.optimizer, total_steps=total_steps))
    except RequestError as error:
        display.note(f"readings: not recorded. {error}")
    return probes


def finish_record(record: RunRecord, parts: Parts, result: FitResult) -> None:
    """Measures the last and the best weights on every split and notes it in the record."""
    settle_norms(parts, result)
    record.last = measure(parts, result.last, epoch=result.epoch)
    if result.plain is not None:
        record.plain = measure(parts, result.plain, epoch=result.epoch)
    if result.best is not None and result.best_epoch is not None:
        same = result.best_epoch == result.epoch
        record.best = record.last if same else measure(parts, result.best, epoch=result.best_epoch)
    record.status = "done"


def settle_norms(parts: Parts, result: FitResult) -> None:
    """Estimates batch norm's statistics again, if asked for, for each of the weights that are kept."""
    train = parts.config.train
    if not train.precise_norm:
        return
    loader = parts.data.loader(
        parts.data.train,
        batch_size=parts.config.data.batch_size,
        training=True,
        seed=train.seed,
        workers=parts.config.data.workers,
        place=Place(parts.options.device),
    )
    for weights in (result.last, result.plain, result.best):
        if weights is not None:
            parts.model.load_state_dict(weights)
            reestimate_norms(
                parts.model,
                loader,
                num_images=train.precise_norm,
                device=parts.options.device,
                amp=parts.options.amp,
                channels_last=parts.options.channels_last,
            )
            weights.update(copy_weights(parts.model))


def measure(parts: Parts, weights: Weights, *, epoch: int) -> Evaluation:
    """Loss and error of one set of weights on every split, in eval mode and without augmentation."""
    parts.model.load_state_dict(weights)
    ranks = parts.options.ranks
    place = Place(parts.options.device, ranks.rank, ranks.world)
    numbers: dict[str, float] = {}
    for name, split in (("train", parts.data.train), ("val", parts.data.val), ("test", parts.data.test)):
        if split is not None:
            found = evaluate_split(parts.model, parts.task, parts.data, split, config=parts.config, place=place)
            numbers[f"{name}_loss"], numbers[f"{name}_error"] = found["loss"], found["error"]
    return Evaluation(epoch, numbers)


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
        "before": error.before,
        "sentence": str(error),
        "batch": "failure/batch.safetensors",
        "flight": folder.flight.name,
    }
    write_atomic(folder.failure / "failure.json", encode(failure, indent=2))
    record.status, record.failure = "failed", failure
    write_atomic(folder.run, record.to_json())
