"""What a run leaves behind: typed records, JSON lines, and the folder that holds them. No library but Python's own."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from reslab.errors import RequestError

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class StepRecord:
    """One optimiser step, as it was really taken.

    Args:
        step: counts from 0 over the whole run.
        epoch: counts from 0.
        lr: learning rate applied in this step (of the first parameter group).
        loss: mean over the step's batch, without the L1 penalty.
        grad_norm: L2 norm of the gradient of all parameters together, before clipping, of the batch-mean loss.
        l1_penalty: the L1 term that was added to the loss; None without one.
        skipped: fp16 overflowed, and the loss scaler skipped this step.
    """

    step: int
    epoch: int
    lr: float
    loss: float
    grad_norm: float
    l1_penalty: float | None = None
    skipped: bool = False


@dataclass(frozen=True)
class EpochRecord:
    """One pass over the training data.

    Args:
        epoch: counts from 0.
        step: optimiser steps taken so far.
        lr: learning rate of the epoch's last step.
        train_loss: mean over the epoch's batches, as trained (train mode, augmented).
        train_error: share of wrong answers among the same batches, while the weights moved. Not the clean error.
        val_loss: mean over the validation split in eval mode; None without a split.
        val_error: share of wrong answers on it.
        images_per_s: training throughput, data included, validation not.
        duration_s: seconds for the epoch with its validation.
        data_wait_frac: share of the training time that the loop waited for its batches: what a faster loader would
            save. None in records of before it was measured.
        val_error_plain: validation error of the weights themselves, where a moving average is kept and ``val_error`` is
            that of the average.
    """

    epoch: int
    step: int
    lr: float
    train_loss: float
    train_error: float
    val_loss: float | None
    val_error: float | None
    images_per_s: float
    duration_s: float
    data_wait_frac: float | None = None
    val_error_plain: float | None = None


@dataclass(frozen=True)
class BlockGradientRecord:
    """The gradient that arrived at the output of one block at one step.

    Args:
        step: optimiser steps taken before this reading.
        block: the module's name, such as ``layer2.3``.
        index: position in execution order, 0 next to the stem.
        grad_norm: L2 norm over each sample of d(sample's loss)/d(block output), as RMS over the batch.
    """

    step: int
    block: str
    index: int
    grad_norm: float


@dataclass(frozen=True)
class Errors:
    """Losses and errors of one set of weights on every split, in eval mode; None where there is no split.

    Args:
        epoch: that the weights are from, counted from 0.
        train_loss: mean cross-entropy over the training images, not augmented.
        train_error: share of wrong answers among them: the clean training error.
        val_loss: the same for the validation split.
        val_error: the same for the validation split.
        test_loss: the same for the test split.
        test_error: the same for the test split.
    """

    epoch: int
    train_loss: float
    train_error: float
    val_loss: float | None = None
    val_error: float | None = None
    test_loss: float | None = None
    test_error: float | None = None


RunStatus = Literal["running", "done", "interrupted", "failed"]


@dataclass
class RunRecord:
    """run.json: what was run on what, under which protocol, and how it ended.

    Args:
        model: ``name``, ``num_parameters`` and the arguments of the builder.
        data: ``name``, ``path``, ``classes``, ``fingerprint``, split sizes, and the recorded preprocessing.
        protocol: how numbers came about: validation split, selection, what the test set was read for.
        deviations: in words, where this run leaves the paper whose network it trains.
        versions: of reslab, Python, torch and torchvision.
        machine: processor, cores, threads, memory, device.
        seed: everything random in the run follows from it.
        status: ``running``, then ``done``, ``interrupted`` or ``failed``.
        started: ISO 8601, UTC.
        duration_s: training and the final evaluation, all sittings together.
        last: errors of the weights after the last step. Training error is clean: eval mode, no augmentation.
        best: errors of the weights with the lowest validation error; None without a validation split.
        plain: errors of the weights themselves after the last step, where ``last`` and ``best`` are of their moving
            average; None without one.
        failure: what went wrong, for status ``failed``.
        schema_version: of this record; a newer one than this reslab knows is refused.
    """

    model: dict[str, Any]
    data: dict[str, Any]
    protocol: dict[str, Any]
    deviations: list[str]
    versions: dict[str, str]
    machine: dict[str, Any]
    seed: int
    status: RunStatus
    started: str
    duration_s: float = 0.0
    last: Errors | None = None
    best: Errors | None = None
    plain: Errors | None = None
    failure: dict[str, Any] | None = None
    schema_version: int = field(default=SCHEMA_VERSION)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads what ``to_json`` wrote; refuses a schema newer than this version knows."""
        raw = decode(text)
        if raw.get("schema_version", 0) > SCHEMA_VERSION:
            raise ValueError(
                f"run.json has schema {raw['schema_version']}, this reslab knows {SCHEMA_VERSION}: upgrade reslab."
            )
        for key in ("last", "best", "plain"):
            raw[key] = None if raw.get(key) is None else Errors(**raw[key])
        return cls(**raw)

    def to_json(self) -> str:
        """One indented JSON object."""
        return encode(asdict(self), indent=2)


Record = TypeVar("Record", StepRecord, EpochRecord, BlockGradientRecord)

NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def encode(value: Any, *, indent: int | None = None) -> str:
    """Strict JSON; NaN and the infinities become strings, because JSON has no word for them.

    Example:
        >>> encode({"loss": float("nan")})
        '{"loss": "NaN"}'
    """
    return json.dumps(_name_non_finite(value), indent=indent, allow_nan=False, ensure_ascii=False)


def decode(text: str) -> Any:
    """Reads what ``encode`` wrote.

    Example:
        >>> decode('{"loss": "-Infinity"}')
        {'loss': -inf}
    """
    return json.loads(
        text, object_hook=lambda d: {k: NON_FINITE.get(v, v) if isinstance(v, str) else v for k, v in d.items()}
    )


def _name_non_finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, dict):
        return {key: _name_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_name_non_finite(item) for item in value]
    return value


class RecordWriter:
    """Appends records to a JSON-lines file, one line each, flushed at once: what was written survives a kill.

    A torn last line, left by a kill in the middle of a write, is cut off when the file is opened again.
    """

    def __init__(self, path: Path) -> None:
        _cut_torn_line(path)
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, *records: StepRecord | EpochRecord | BlockGradientRecord) -> None:
        """Appends each record as a line."""
        self._file.write("".join(encode(asdict(record)) + "\n" for record in records))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    with path.open("rb+") as file:
        content = file.read()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            file.truncate(end)


def read_records(path: Path, kind: type[Record]) -> list[Record]:
    """All records of a file in order of step; an absent file has none.

    A torn last line is dropped. A run that was killed and resumed has repeated the steps since its checkpoint: of two
    records for the same thing the later counts.

    Raises:
        RequestError: if a line before the last is damaged; it names the file and the line.
    """
    if not path.exists():
        return []
    known = {f.name for f in fields(kind)}
    records: dict[tuple[Any, ...], Record] = {}
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline is torn or empty
        try:
            raw = decode(line)
            record = kind(**{key: value for key, value in raw.items() if key in known})
        except (ValueError, TypeError, AttributeError) as error:
            raise RequestError(
                f"{path}, line {number}, is damaged ({error}). Delete that line to read the rest."
            ) from None
        records[_identity(record)] = record
    return sorted(records.values(), key=_identity)


def _identity(record: StepRecord | EpochRecord | BlockGradientRecord) -> tuple[int, int]:
    if isinstance(record, EpochRecord):
        return (record.epoch, 0)
    return (record.step, record.index if isinstance(record, BlockGradientRecord) else 0)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Writes a file whole or not at all: a temporary file in the same folder, fsync, rename, fsync of the folder."""
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes renames in a folder durable, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class RunFolder:
    """The names of a run's files, and how to read its records.

    Args:
        root: such as ``runs/r20``.
    """

    root: Path

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.root / "config.toml"

    @property
    def run(self) -> Path:
        """The run record."""
        return self.root / "run.json"

    @property
    def steps(self) -> Path:
        """Step records."""
        return self.root / "steps.jsonl"

    @property
    def epochs(self) -> Path:
        """Epoch records."""
        return self.root / "epochs.jsonl"

    @property
    def probes(self) -> Path:
        """Probe records."""
        return self.root / "probes.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Training states."""
        return self.root / "checkpoints"

    @property
    def weights(self) -> Path:
        """The network for others."""
        return self.root / "weights.safetensors"

    @property
    def weights_card(self) -> Path:
        """What the weights are."""
        return self.root / "weights.json"

    @property
    def last_weights(self) -> Path:
        """The weights after the last step, where others were chosen."""
        return self.root / "weights-last.safetensors"

    @property
    def failure(self) -> Path:
        """What a diverged run saved."""
        return self.root / "failure"

    @property
    def report(self) -> Path:
        """The page."""
        return self.root / "report.html"

    @property
    def name(self) -> str:
        """What pages and tables call the run."""
        return self.root.resolve().name

    def holds_run(self) -> bool:
        """Whether a run was started here."""
        return self.run.exists() or self.config.exists()

    def read_run(self) -> RunRecord:
        """run.json; a RequestError names it if it is damaged or absent."""
        try:
            return RunRecord.from_json(self.run.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RequestError(f"{self.root} is not a run: it has no run.json.") from None
        except (ValueError, TypeError, AttributeError) as error:
            raise RequestError(f"{self.run} is damaged: {error}") from None

    def read_steps(self) -> list[StepRecord]:
        """steps.jsonl."""
        return read_records(self.steps, StepRecord)

    def read_epochs(self) -> list[EpochRecord]:
        """epochs.jsonl."""
        return read_records(self.epochs, EpochRecord)

    def read_probes(self) -> list[BlockGradientRecord]:
        """probes.jsonl."""
        return read_records(self.probes, BlockGradientRecord)


def find_runs(folder: Path) -> Iterator[RunFolder]:
    """Runs directly inside ``folder``, in order of name."""
    if folder.is_dir():
        yield from (RunFolder(path) for path in sorted(folder.iterdir()) if RunFolder(path).run.exists())


def as_percent(share: float | None) -> str:
    """How an error is written everywhere: two decimals, a dash where there is none.

    Example:
        >>> as_percent(0.0827), as_percent(None)
        ('8.27 %', '-')
    """
    return "-" if share is None else f"{100 * share:.2f} %"


def as_short(count: int | None) -> str:
    """How a large count is written where three digits do; a dash where there is none.

    Example:
        >>> as_short(4_089_184_256), as_short(853_018), as_short(10), as_short(None)
        ('4.09 G', '853 k', '10', '-')
    """
    if count is None:
        return "-"
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= 0.9995 * size:
            share = count / size
            return f"{share:.{0 if share >= 99.95 else 1 if share >= 9.995 else 2}f} {unit}"
    return str(count)


def first_and_last(
    records: Iterable[BlockGradientRecord],
) -> tuple[list[BlockGradientRecord], list[BlockGradientRecord]]:
    """Readings of the first and of the last step that was probed, each in execution order."""
    by_step: dict[int, list[BlockGradientRecord]] = {}
    for record in records:
        by_step.setdefault(record.step, []).append(record)
    if not by_step:
        return [], []
    return by_step[min(by_step)], by_step[max(by_step)]


LAYERS = "layers"
"""Kind of what is no block, but layers in a row."""
LayerKind = Literal["conv", "linear", "norm", "activation", "pool", "attention", "other"]


@dataclass(frozen=True)
class LayerRecord:
    """One layer as a picture names it.

    Args:
        kind: what sort of layer.
        text: such as ``"3x3 conv, 64, /2"`` or ``"batch norm"``; its parts are separated by ``", "``.
    """

    kind: LayerKind
    text: str


@dataclass(frozen=True)
class BlockRecord:
    """A run of equal blocks: one described, and how many there are. Numbers are of one block.

    Args:
        name: of the first block, such as ``layer1.0``.
        last: name of the last one.
        count: how many.
        kind: ``SingleBlock``, ``BasicBlock``, ``Bottleneck``, or what its class is called; ``LAYERS`` for layers in no
            block.
        in_shape: channels and resolution of one sample, such as (64, 56, 56).
        out_shape: the same of the result.
        entry: layers before the way forks.
        branch: layers of F(x) in executed order.
        shortcut: ``identity``, ``zero_pad``, ``projection``, ``projection_pool``, ``subsample``, ``other``; ``none`` of
            a plain block; ``inside`` where the block's inner ways are not told apart.
        shortcut_layers: layers of S(x).
        junction: how both are joined, in words; empty without a shortcut.
        after: layers that follow the junction.
        num_parameters: all of them.
        macs: multiply-accumulates of convolutions and linear layers for one sample.
    """

    name: str
    last: str
    count: int
    kind: str
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    entry: tuple[LayerRecord, ...]
    branch: tuple[LayerRecord, ...]
    shortcut: str
    shortcut_layers: tuple[LayerRecord, ...]
    junction: str
    after: tuple[LayerRecord, ...]
    num_parameters: int
    macs: int


@dataclass(frozen=True)
class StageRecord:
    """Stem, stage or head: layers in a row, or blocks in a row.

    Args:
        name: such as ``layer1``.
        in_shape: channels and resolution of one sample.
        out_shape: the same of the result.
        layers: of a stem or head; empty in a stage.
        blocks: runs of equal blocks; empty in a stem or head.
        num_parameters: of all its blocks together.
        macs: of all its blocks together.
    """

    name: str
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    layers: tuple[LayerRecord, ...]
    blocks: tuple[BlockRecord, ...]
    num_parameters: int
    macs: int


@dataclass(frozen=True)
class StructureRecord:
    """What a network is made of, equal blocks folded: enough to print or draw it.

    Args:
        name: of the network.
        in_shape: channels and resolution of one sample.
        depth: convolutions and linear layers in a row, those of shortcuts and attention not counted.
        num_parameters: all of them.
        macs: multiply-accumulates of convolutions and linear layers for one sample.
        stages: stem, stages and head in executed order.
    """

    name: str
    in_shape: tuple[int, ...]
    depth: int
    num_parameters: int
    macs: int
    stages: tuple[StageRecord, ...]


@dataclass(frozen=True)
class RangeStep:
    """One step of a learning-rate range test.

    Args:
        step: counts from 0.
        lr: rate of this step.
        loss: of its batch, before the weights move.
        mean_lr: exponential average of the rates so far, over their logarithms, bias-corrected.
        mean_loss: exponential average of the losses so far, with the same weights.
    """

    step: int
    lr: float
    loss: float
    mean_lr: float
    mean_loss: float


@dataclass(frozen=True)
class RangeRecord:
    """lr-range.json: what a learning-rate range test found.

    Args:
        name: network and data.
        optimizer: its kind.
        batch_size: images a step.
        seed: of everything random.
        lowest: first rate of the range.
        highest: last rate of the range.
        num_steps: planned.
        ending: ``done``, ``diverged`` or ``not finite``.
        lr: suggested rate; None if there is nothing to suggest.
        steepest_lr: where the mean loss falls fastest.
        tenth_lr: a tenth of the rate at the lowest mean loss.
        reason: in words.
        steps: those that were taken.
    """

    name: str
    optimizer: str
    batch_size: int
    seed: int
    lowest: float
    highest: float
    num_steps: int
    ending: str
    lr: float | None
    steepest_lr: float | None
    tenth_lr: float | None
    reason: str
    steps: list[RangeStep]
