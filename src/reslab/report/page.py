"""One HTML file about one run or many: opens without a network, and says in words what its charts show."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import altair as alt
import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined

from reslab.errors import RequestError
from reslab.records import (
    BlockGradientRecord,
    EpochRecord,
    RunFolder,
    RunRecord,
    StepRecord,
    as_percent,
    first_and_last,
    write_atomic,
)
from reslab.report.charts import (
    VEGALITE_VERSION,
    Portrait,
    are_paired,
    gradient_flow,
    learning_curves,
    loss_and_lr,
    portraits,
)

DASH = "\N{EN DASH}"
TABLE_ROWS = 120
"""So many rows of a long table stand on the page; the run's folder has them all."""
FEW_GROUPS = 4
"""So many runs, or sets of seeds, a caption tells about."""
FEW_COLUMNS = 6
"""Beyond so many runs, what differs between them is listed, not tabulated."""
LABELS = {
    "num_train": "training images",
    "num_val": "validation images",
    "num_test": "test images",
    "num_parameters": "parameters",
    "num_classes": "number of classes",
}


@dataclass(frozen=True)
class Table:
    """Numbers, already in words.

    Args:
        title: what they are about; may be empty.
        header: names of the columns.
        rows: of cells, each as long as the header.
    """

    title: str
    header: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Figure:
    """A chart, what it says, and the numbers behind it. Without a chart the caption says why there is none.

    Args:
        key: names it inside the page.
        title: its heading.
        caption: its conclusion, computed from the records.
        spec: Vega-Lite, or None.
        tables: its numbers.
    """

    key: str
    title: str
    caption: str
    spec: dict[str, Any] | None
    tables: list[Table]


@dataclass(frozen=True)
class Notice:
    """What a reader must know before any number: a run that is not done.

    Args:
        level: ``running``, ``interrupted`` or ``failed``.
        text: a sentence.
        items: names and values that explain it.
    """

    level: str
    text: str
    items: list[tuple[str, str]]


@dataclass(frozen=True)
class Fact:
    """One line about all runs.

    Args:
        name: what it is.
        values: one for each run, or a single one where all agree.
    """

    name: str
    values: list[str]


def write_page(runs: Sequence[RunFolder], path: Path, *, title: str, lead: str = "") -> Path:
    """Writes the page, whole or not at all, and returns its path.

    Args:
        runs: what it is about, best with their twins.
        path: of the file.
        title: its heading.
        lead: the answer in a sentence or two, shown large.

    Raises:
        RequestError: if there is no run.
    """
    if not runs:
        raise RequestError("A page needs at least one run folder, and none was given.")
    records = [run.read_run() for run in runs]
    figures = [_curves_figure(runs), _flow_figure(runs)]
    if len(runs) == 1:
        figures.append(_steps_figure(runs[0]))
    html = _template().render(
        title=title,
        lead=lead,
        notices=[notice for run, record in zip(runs, records, strict=True) if (notice := _notice(run, record))],
        results=_results_table(runs),
        figures=figures,
        names=[run.name for run in runs],
        sections=_sections(records),
        deviations=_deviations(runs, records),
        specs=_script_json({figure.key: _packed(figure.spec) for figure in figures if figure.spec}),
        vega=_vega(),
    )
    write_atomic(path, html)
    return path


def _template() -> Any:
    loader = PackageLoader("reslab.report", "")
    room = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return room.get_template("page.html.j2")


@cache
def _vega() -> str:
    """Vega, Vega-Lite and vega-embed as one script, which sets ``vegaEmbed``; it comes with vl-convert."""
    code: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGALITE_VERSION)
    return code.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _packed(spec: dict[str, Any]) -> dict[str, Any]:
    """The same spec at half the size: each data set has the names of its columns once; the page's script unpacks it."""
    packed = {}
    for name, rows in spec["datasets"].items():
        columns = list(rows[0]) if rows else []
        packed[name] = {"columns": columns, "rows": [[row[column] for column in columns] for row in rows]}
    return {**spec, "datasets": packed}


def _script_json(value: Any) -> str:
    """JSON from which no ``</script>`` inside a name can break out."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


# ---- results


def result_rows(runs: Iterable[RunFolder]) -> list[dict[str, Any]]:
    """One row a run, for the page and the terminal; errors are shares, and None where there is no such number.

    Keys: ``run``, ``model``, ``num_parameters``; ``train_error`` (clean: eval mode, no augmentation), ``val_error`` and
    ``test_error`` of the weights after the last step; the same with ``best_`` before them, of the weights with the
    lowest validation error, and ``best_epoch``, counted from 1; ``duration_s``; ``status``.
    """
    rows = []
    for run in runs:
        record = run.read_run()
        row = {"run": run.name, "model": record.model.get("name"), "num_parameters": record.model.get("num_parameters")}
        for prefix, errors in (("", record.last), ("best_", record.best)):
            for split in ("train_error", "val_error", "test_error"):
                row[prefix + split] = getattr(errors, split, None)
        row["best_epoch"] = record.best.epoch + 1 if record.best else None
        rows.append(row | {"duration_s": record.duration_s, "status": record.status})
    return rows


def _results_table(runs: Sequence[RunFolder]) -> Table:
    header = ["run", "training, clean", "validation", "test", "of epoch", "training, clean", "validation", "test"]
    header += ["network", "parameters", "duration", "status"]
    errors = ("train_error", "val_error", "test_error")
    rows = [
        [row["run"]]
        + [_percent(row[key]) for key in errors]
        + [in_words(row["best_epoch"])]
        + [_percent(row[f"best_{key}"]) for key in errors]
        + [in_words(row["model"]), in_words(row["num_parameters"]), _duration(row["duration_s"]), row["status"]]
        for row in result_rows(runs)
    ]
    return Table("", header, rows)


def _percent(share: float | None) -> str:
    return DASH if share is None else as_percent(share)


def _duration(seconds: float) -> str:
    """Two units at most.

    Example:
        >>> _duration(83.4), _duration(7380)
        ('1 min 23 s', '2 h 3 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"


def _notice(run: RunFolder, record: RunRecord) -> Notice | None:
    epochs = len(run.read_epochs())
    done = f"{epochs} epoch{'s' * (epochs != 1)} finished"
    sentences = {
        "running": f"{run.name} is not finished ({done}): its numbers are those of now.",
        "interrupted": f"{run.name} was interrupted ({done}). Go on with it by --resume.",
        "failed": f"{run.name} failed ({done}). Its numbers end there.",
    }
    if record.status not in sentences:
        return None
    items = [(_label(key), in_words(value)) for key, value in (record.failure or {}).items()]
    return Notice(record.status, sentences[record.status], items)


# ---- figures


def _curves_figure(runs: Sequence[RunFolder]) -> Figure:
    epochs = {run.name: records for run in runs if (records := run.read_epochs())}
    if not epochs:
        return Figure("curves", "Learning curves", "No epoch was finished, so there is no curve to draw.", None, [])
    caption = _curves_caption(runs, {run: run.read_epochs() for run in runs})
    return Figure("curves", "Learning curves", caption, _spec(learning_curves(runs), caption), [_curves_table(epochs)])


def _spec(chart: alt.TopLevelMixin, caption: str) -> dict[str, Any]:
    """``caption`` is what a screen reader says about the chart."""
    return {**chart.to_dict(), "description": caption}


def _curves_table(epochs: dict[str, list[EpochRecord]]) -> Table:
    by_number = {name: {record.epoch: record for record in records} for name, records in epochs.items()}
    numbers = sorted({number for records in by_number.values() for number in records})
    rows = []
    for number in _spread(numbers):
        cells = [str(number + 1)]
        for records in by_number.values():
            record = records.get(number)
            cells += [_percent(record.val_error), _percent(record.train_error)] if record else [DASH, DASH]
        rows.append(cells)
    header = ["epoch"] + [f"{name} {kind}" for name in epochs for kind in ("validation", "training")]
    return Table(_left_out(len(numbers)), header, rows)


def _spread(items: list[Any]) -> list[Any]:
    """At most ``TABLE_ROWS`` of them, evenly spaced, the first and the last among them."""
    if len(items) <= TABLE_ROWS:
        return items
    return [items[round(place * (len(items) - 1) / (TABLE_ROWS - 1))] for place in range(TABLE_ROWS)]


def _left_out(num_rows: int) -> str:
    return f"{TABLE_ROWS} of {num_rows:,} rows; the run's folder has them all" if num_rows > TABLE_ROWS else ""


def _curves_caption(runs: Sequence[RunFolder], epochs: dict[RunFolder, list[EpochRecord]]) -> str:
    faces = [face for face in portraits(runs) if epochs[face.run]]
    last = {face.run: epochs[face.run][-1] for face in faces}
    if len(runs) == 1:
        sentences = [_one_curve(runs[0].name, epochs[runs[0]])]
    elif any(face.twin for face in faces):
        sentences = [_by_depth(family, faces, last) for family in ("plain", "residual")]
    else:
        sentences = [_by_run(last)]
    counts = {record.epoch + 1 for record in last.values()}
    if len(counts) > 1:
        sentences.append(f"The runs have different lengths: {min(counts)} to {max(counts)} epochs.")
    absent = [run.name for run in runs if not epochs[run]]
    sentences.append(f"No epoch finished: {', '.join(absent)}." if absent else "")
    return " ".join(filter(None, sentences))


def _one_curve(name: str, epochs: list[EpochRecord]) -> str:
    last = epochs[-1]
    text = f"After epoch {last.epoch + 1}, {name} has a training error (as it ran) of {as_percent(last.train_error)}"
    measured = [(record.val_error, record.epoch) for record in epochs if record.val_error is not None]
    if not measured:
        return f"{text}; there is no validation split."
    error, epoch = min(measured)
    return (
        f"{text} and a validation error of {_percent(last.val_error)};"
        f" the lowest validation error was {as_percent(error)}, after epoch {epoch + 1}."
    )


def _by_depth(family: str, faces: list[Portrait], last: dict[RunFolder, EpochRecord]) -> str:
    """How the errors at the end move from the shallowest to the deepest network of a family."""
    depths: dict[int, list[EpochRecord]] = {}
    for face in faces:
        if face.twin and face.twin.family == family:
            depths.setdefault(face.twin.depth, []).append(last[face.run])
    if not depths:
        return ""
    low, high = min(depths), max(depths)
    phrases = []
    for kind, pick in ERRORS_OF.items():
        ends = [_mean(pick(record) for record in depths[depth]) for depth in (low, high)]
        if ends[0] is not None and ends[1] is not None:
            phrases.append(_movement(kind, ends[0], ends[1]) if high > low else f"{kind} error {as_percent(ends[0])}")
    span = f"from {low} to {high} layers the" if high > low else f"{low} layers end at"
    seeds = max(len(records) for records in depths.values())
    note = f" (means of up to {seeds} runs)" if seeds > 1 else ""
    return f"{family.capitalize()} networks: {span} {' and the '.join(phrases)}{note}."


ERRORS_OF: dict[str, Callable[[EpochRecord], float | None]] = {
    "validation": lambda record: record.val_error,
    "training": lambda record: record.train_error,
}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _movement(kind: str, start: float, end: float) -> str:
    if as_percent(start) == as_percent(end):
        return f"{kind} error stays at {as_percent(end)}"
    return f"{kind} error {'rises' if end > start else 'falls'} from {as_percent(start)} to {as_percent(end)}"


def _by_run(last: dict[RunFolder, EpochRecord]) -> str:
    kind = "validation" if all(record.val_error is not None for record in last.values()) else "training"
    errors = {run.name: ERRORS_OF[kind](record) or 0.0 for run, record in last.items()}
    low, high = min(errors, key=lambda name: errors[name]), max(errors, key=lambda name: errors[name])
    return (
        f"{kind.capitalize()} error at the end: lowest {low} with {as_percent(errors[low])},"
        f" highest {high} with {as_percent(errors[high])}."
    )


def _flow_figure(runs: Sequence[RunFolder]) -> Figure:
    title = "Gradient flow, from the loss back to the input"
    probes = {run: records for run in runs if (records := run.read_probes())}
    if not probes:
        return Figure("flow", title, "No gradient was recorded block by block, so there is nothing to draw.", None, [])
    caption = _flow_caption(runs, probes)
    tables = [_flow_table(run.name, *first_and_last(records)) for run, records in probes.items()]
    return Figure("flow", title, caption, _spec(gradient_flow(runs), caption), tables)


def _flow_table(name: str, first: list[BlockGradientRecord], last: list[BlockGradientRecord]) -> Table:
    finals = {record.index: f"{record.grad_norm:.4g}" for record in last}
    rows = [
        [str(record.index), record.block, f"{record.grad_norm:.4g}", finals.get(record.index, DASH)] for record in first
    ]
    return Table(name, ["place", "block", f"step {first[0].step:,}", f"step {last[0].step:,}"], rows)


def _flow_caption(runs: Sequence[RunFolder], probes: dict[RunFolder, list[BlockGradientRecord]]) -> str:
    groups: dict[str, list[RunFolder]] = {}  # seeds of one network are told together
    for face in _deepest(portraits(runs)):
        if face.run in probes:
            groups.setdefault(face.label, []).append(face.run)
    shown = list(groups.items())[:FEW_GROUPS]
    sentences = [_stem_against_head(label, [first_and_last(probes[run]) for run in group]) for label, group in shown]
    sentences += [_count_odd(probes, word, test) for word, test in ODD.items()]
    return " ".join(filter(None, sentences))


ODD: dict[str, Callable[[float], bool]] = {
    "exactly 0": lambda norm: norm == 0,
    "not finite": lambda norm: not math.isfinite(norm),
}


def _deepest(faces: list[Portrait]) -> list[Portrait]:
    """Of twins the deepest pair, where the difference is largest; all runs where there are none."""
    if not are_paired(face.twin for face in faces):
        return faces
    depth = max(face.twin.depth for face in faces if face.twin)
    return [face for face in faces if face.twin and face.twin.depth == depth]


def _stem_against_head(label: str, readings: list[tuple[list[BlockGradientRecord], list[BlockGradientRecord]]]) -> str:
    """The gradient next to the stem against the one next to the head, first and last, of one run or several seeds."""
    firsts, lasts = [first for first, _ in readings], [last for _, last in readings]
    seeds = f" ({len(readings)} runs)" if len(readings) > 1 else ""
    text = f"{label}{seeds}: in the first reading (step {firsts[0][0].step:,}) the gradient next to the stem is"
    if lasts[0][0].step == firsts[0][0].step:
        return f"{text} {_times(firsts)}."
    return f"{text} {_times(firsts)}; in the last (step {lasts[0][0].step:,}) {_times(lasts)}."


def _times(readings: list[list[BlockGradientRecord]]) -> str:
    pairs = [(records[0].grad_norm, records[-1].grad_norm) for records in readings]
    ratios = sorted(stem / head for stem, head in pairs if 0 < stem < math.inf and 0 < head < math.inf)
    if ratios:
        span = dict.fromkeys(map(_ratio, (ratios[0], ratios[-1])))  # one if both ends read the same
        return f"{' to '.join(span)} \N{MULTIPLICATION SIGN} that next to the head"
    stem, head = pairs[0]
    return f"{_norm(stem)}, that next to the head {_norm(head)}"


def _norm(value: float) -> str:
    return next((word for word, holds in ODD.items() if holds(value)), f"{value:.3g}")


def _ratio(value: float) -> str:
    """Three digits.

    Example:
        >>> _ratio(1240.4), _ratio(3.14159), _ratio(2.5e9)
        ('1,240', '3.14', '2.5e+09')
    """
    return f"{float(f'{value:.3g}'):,.0f}" if 100 <= value < 1e6 else f"{value:.3g}"


def _count_odd(probes: dict[RunFolder, list[BlockGradientRecord]], word: str, test: Callable[[float], bool]) -> str:
    """How many of the drawn readings the axis has no place for."""
    counts = {}
    for run, records in probes.items():
        first, last = first_and_last(records)
        drawn = first if first == last else first + last
        counts[run.name] = sum(test(record.grad_norm) for record in drawn)
    listed = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
    return f"Readings that are {word}: {listed}." if listed else ""


def _steps_figure(run: RunFolder) -> Figure:
    steps = run.read_steps()
    if not steps:
        return Figure("steps", "Step by step", "No step was taken, so there is nothing to draw.", None, [])
    caption = _steps_caption(steps)
    rows = [
        [f"{record.step:,}", f"{record.loss:.5g}", f"{record.grad_norm:.5g}", f"{record.lr:.5g}"]
        for record in _spread(steps)
    ]
    table = Table(_left_out(len(steps)), ["step", "loss", "gradient norm", "learning rate"], rows)
    return Figure("steps", "Step by step", caption, _spec(loss_and_lr(run), caption), [table])


def _steps_caption(steps: list[StepRecord]) -> str:
    finite = [record for record in steps if math.isfinite(record.loss)]
    window = max(1, min(100, len(finite) // 10))
    sentences = []
    if finite:
        ends = [fmean(record.loss for record in part) for part in (finite[:window], finite[-window:])]
        span = f"mean of the first and of the last {window} steps" if window > 1 else "first and last step"
        sentences.append(f"The loss goes from {ends[0]:.3g} to {ends[1]:.3g} ({span}).")
    norms = [record for record in steps if math.isfinite(record.grad_norm)]
    if norms:
        peak = max(norms, key=lambda record: record.grad_norm)
        sentences.append(f"The largest gradient norm is {peak.grad_norm:.3g}, in step {peak.step:,}.")
    for name, bad in (("Loss", len(steps) - len(finite)), ("Gradient norm", len(steps) - len(norms))):
        sentences.append(f"{name} not finite in {bad:,} of {len(steps):,} steps." if bad else "")
    skipped = sum(record.skipped for record in steps)
    sentences.append(f"The loss scaler skipped {skipped:,} steps." if skipped else "")
    return " ".join(filter(None, sentences))


# ---- what was run, on what, how


def _sections(records: list[RunRecord]) -> list[tuple[str, list[Fact]]]:
    parts: dict[str, list[dict[str, Any]]] = {
        "Protocol": [{**record.protocol, "seed": str(record.seed)} for record in records],
        "Data": [record.data for record in records],
        "Network": [record.model for record in records],
        "Machine": [{**record.machine, "started": _moment(record.started)} for record in records],
        "Versions": [record.versions for record in records],
    }
    return [(heading, _facts(values)) for heading, values in parts.items()]


def _moment(started: str) -> str:
    """To the minute; whatever isn't ISO 8601 as it is.

    Example:
        >>> _moment("2026-01-05T10:00:31+00:00")
        '2026-01-05 10:00 UTC'
    """
    try:
        return datetime.fromisoformat(started).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    except ValueError:
        return started


def _facts(values: list[dict[str, Any]]) -> list[Fact]:
    keys = list(dict.fromkeys(key for value in values for key in value))
    facts = []
    for key in keys:
        words = [in_words(value.get(key)) for value in values]
        different = list(dict.fromkeys(words))
        if len(different) > 1 and len(words) > FEW_COLUMNS:
            different = [in_words(different)]
        facts.append(Fact(_label(key), different if len(different) == 1 else words))
    return facts


def _label(key: str) -> str:
    return LABELS.get(key, key.replace("_", " "))


def in_words(value: Any) -> str:
    """How the page writes any value of a record.

    Example:
        >>> in_words(1727962), in_words(True), in_words({"mean": [0.5], "size": 8}), in_words(["cat", "dog"])
        ('1,727,962', 'yes', 'mean: 0.5; size: 8', 'cat, dog')
    """
    if value is None or value in ("", [], {}):
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return "; ".join(f"{_label(key)}: {in_words(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        shown = ", ".join(in_words(item) for item in value[:12])
        return shown if len(value) <= 12 else f"{shown} \N{HORIZONTAL ELLIPSIS} ({len(value)} in all)"
    return str(value)


def _deviations(runs: Sequence[RunFolder], records: list[RunRecord]) -> list[tuple[str, list[str]]]:
    """Each list of deviations once, with the runs that it belongs to."""
    grouped: dict[tuple[str, ...], list[str]] = {}
    for run, record in zip(runs, records, strict=True):
        grouped.setdefault(tuple(record.deviations), []).append(run.name)
    return [
        ("All runs" if len(names) == len(runs) > 1 else ", ".join(names), list(deviations))
        for deviations, names in grouped.items()
    ]
