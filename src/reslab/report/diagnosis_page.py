"""The page of one diagnosis, or of several side by side, and the figures of a diagnosis by name."""

from __future__ import annotations

import json
import math
import statistics
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from reslab.errors import RequestError, unknown
from reslab.records import ReadingRecord
from reslab.records.depth import DepthRecord
from reslab.records.diagnosis import BlockFlowRecord, VerdictRecord
from reslab.records.files import from_plain
from reslab.report import _depth
from reslab.report._activations import signal_figure, units_figure
from reslab.report._loss_slice import slices_figure, surface_figure
from reslab.report._over_time import heatmap_figure, is_named, spread, updates_figure
from reslab.report._page import Section, Table, figure_sections, read_records, write_page
from reslab.report._split import spine_figure, split_figure
from reslab.report._style import RUN_COLOURS
from reslab.report.figure import DataRow, Figure
from reslab.report.flow import flow_comparison, flow_figure
from reslab.report.profile import depth_profile, is_measured, slope_of
from reslab.report.text import DASH, duration, in_words, percent, plural, ratio, times
from reslab.report.verdict import SIGNS, where_of

PAGE_SCHEMA = 2
"""Of the JSON inside a page; a reader refuses a newer one."""
MAX_NUMBERS = 120_000
"""That the readings inside a page may have; beyond, some of the readings between are left out."""
MAX_COMPARED = len(RUN_COLOURS)
SEVERITY_SIGNS = {"critical": "\u2716", "warning": "\u25b2", "info": "\u25cf", "clean": "\u2714", "not-checked": DASH}
"""What a check can say of a network, the worst first."""
GLOSSARY = Path(__file__).with_name("glossary.json")


@dataclass(frozen=True)
class DiagnosisRecord:
    """One diagnosis: all that its figures and pages take.

    Args:
        name: of the network.
        judged: what the checks say.
        readings: in order of step; at least one.
        depth: what the depth is used for, if it was measured.
        facts: name to value, for the page: versions, batch, loss, cost.

    Raises:
        RequestError: without a reading.
    """

    name: str
    judged: VerdictRecord
    readings: tuple[ReadingRecord, ...]
    depth: DepthRecord | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.readings:
            raise RequestError(f"There is no reading of {self.name} to draw. Expected at least one.")


FIGURES: dict[str, Callable[[DiagnosisRecord], Figure]] = {
    "flow": lambda found: flow_figure(found.readings[-1], found.depth),
    "split": lambda found: split_figure(found.readings[-1]),
    "signal": lambda found: signal_figure(found.readings[-1]),
    "units": lambda found: units_figure(found.readings[-1]),
    "updates": lambda found: updates_figure(found.readings),
    "paths": lambda found: _depth.paths_figure(found.depth),
    "shattering": lambda found: _depth.shattering_figure(found.depth),
    "lesions": lambda found: _depth.lesions_figure(found.depth),
    "jacobian": lambda found: _depth.jacobian_figure(found.depth),
    "surface": lambda found: surface_figure(found.depth),
    "heatmap": lambda found: heatmap_figure(found.readings, findings=found.judged.findings),
    "spine": lambda found: spine_figure(found.readings[-1]),
}
"""In the order of the page."""


def diagnosis_figure(name: str, diagnosis: DiagnosisRecord) -> Figure:
    """Draw one figure of a diagnosis.

    Args:
        name: of ``FIGURES``.
        diagnosis: of one network; one reading from ``diagnose``, several from ``watch``.

    Returns:
        The figure; where the records don't have what it takes, one without a chart, whose caption says why.

    Raises:
        RequestError: for another name.
    """
    if name not in FIGURES:
        raise unknown("chart", name, FIGURES, hint=f"There are {', '.join(FIGURES)}.")
    return FIGURES[name](diagnosis)


# ---- one diagnosis


def write_diagnosis_page(diagnosis: DiagnosisRecord, path: Path | str, *, title: str = "") -> Path:
    """Write the page of one diagnosis, whole or not at all, and return its path.

    The verdict comes first, then what was read, the figures, all blocks, a glossary. All records are inside as JSON;
    ``read_diagnoses`` gets them out again.

    Args:
        diagnosis: what was seen, and what it means.
        path: of the file.
        title: its heading; by default the name of the network.

    Raises:
        RequestError: if the file can't be written.
    """
    rows = block_rows(diagnosis)
    left_out = len(diagnosis.readings) - len(kept_readings(diagnosis.readings, MAX_NUMBERS))
    between = f"{plural(left_out, 'reading')} between the first and the last are left out." if left_out else ""
    unit = f"{'block' if diagnosis.readings[-1].blocks else 'layer'}s"
    order = f"{len(rows):,} in order of execution. A click on a heading sorts."
    return write_page(
        path,
        title=title or f"Diagnosis of {diagnosis.name}",
        verdicts={diagnosis.name: diagnosis.judged},
        sections=[
            Section("What was read", "cards", facts_of(diagnosis)),
            *figure_sections([draw(diagnosis) for draw in FIGURES.values()]),
            *([Section(f"All {unit}", "sortable", "blocks", order)] if rows else []),
            Section("Glossary", "terms", json.loads(GLOSSARY.read_text(encoding="utf-8"))),
            Section("Records", "records", [diagnosis.name], between),
        ],
        tables={"blocks": rows} if rows else {},
        records=embedded([diagnosis]),
    )


def facts_of(diagnosis: DiagnosisRecord) -> list[tuple[str, str]]:
    readings, reading = diagnosis.readings, diagnosis.readings[-1]
    steps = f"step {reading.step:,}"
    if len(readings) > 1:
        steps = f"{len(readings)} readings, steps {readings[0].step:,} to {reading.step:,}"
    trained = [each for each in reading.parameters if each.is_trainable]
    size = sum(math.prod(each.shape) for each in trained)
    facts = {
        "network": diagnosis.name,
        "read": steps,
        "loss": f"{reading.loss:.4g}",
        "mode": "train" if reading.is_training else "eval",
        "batch": reading.num_samples,
        "input": ", ".join(f"{' x '.join(map(str, each.shape))} ({each.dtype})" for each in reading.inputs),
        "residual additions": len(reading.blocks),
        "layers with no shortcut around them": len(reading.layers),
        "parameters": f"{size:,} trained in {plural(len(trained), 'tensor')}",
        "the last reading took": duration(reading.duration_s),
        **diagnosis.facts,
    }
    return [(key.replace("_", " "), in_words(value)) for key, value in facts.items()]


def block_rows(diagnosis: DiagnosisRecord) -> list[DataRow]:
    """One row for each residual addition, or for each layer where there is none; the same keys in each.

    Keys: ``place``, ``name``, then of blocks ``kind``, ``shape``, ``gradient``, ``shortcut``, ``branch``, ``other``,
    ``cosine``, ``pass-through``, ``gain``, ``variance``, ``branch variance`` and, where measured, ``lesion``;
    ``finding``: ids of those that name the place.
    """
    reading = diagnosis.readings[-1]
    shapes = {layer.name: layer.shape for layer in reading.layers}
    lesions = {lesion.index: lesion.increase for lesion in diagnosis.depth.lesions} if diagnosis.depth else {}
    rows: list[DataRow] = [_block_row(block) for block in reading.blocks]
    if not rows:
        profile = depth_profile(reading)
        pairs = zip(profile.names, profile.norms, strict=True)
        rows = [{"name": name, "shape": _shape(shapes[name]), "gradient": norm} for name, norm in pairs]
    elif lesions:
        rows = [
            row | {"lesion": lesions.get(each.index, math.nan)} for row, each in zip(rows, reading.blocks, strict=True)
        ]
    found = diagnosis.judged.findings
    return [
        {"place": place, **row, "finding": ", ".join(each.id for each in found if is_named(each, row["name"]))}
        for place, row in enumerate(rows)
    ]


def _block_row(block: BlockFlowRecord) -> DataRow:
    return {
        "name": block.name,
        "kind": block.kind.replace("_", " "),
        "shape": _shape(block.shape),
        "gradient": block.grad_norm,
        "shortcut": block.shortcut_share,
        "branch": block.branch_share,
        "other": block.other_share,
        "cosine": block.cosine,
        "pass-through": block.pass_through,
        "gain": block.shortcut_gain,
        "variance": block.stream.variance if block.stream else math.nan,
        "branch variance": block.branch.variance if block.branch else math.nan,
    }


def _shape(shape: Sequence[int]) -> str:
    return " \N{MULTIPLICATION SIGN} ".join(map(str, shape[1:]))


# ---- several side by side


def write_comparison_page(diagnoses: Sequence[DiagnosisRecord], path: Path | str, *, title: str = "") -> Path:
    """Write the page of several diagnoses, whole or not at all, and return its path.

    Args:
        diagnoses: two to seven, with different names.
        path: of the file.
        title: its heading; by default the names.

    Raises:
        RequestError: for fewer or more, for names that are the same, or if the file can't be written.
    """
    names = [diagnosis.name for diagnosis in diagnoses]
    if not 2 <= len(diagnoses) <= MAX_COMPARED:
        raise RequestError(f"A comparison takes 2 to {MAX_COMPARED} diagnoses, got {len(diagnoses)}.")
    if len(set(names)) < len(names):
        raise RequestError(f"Diagnoses that are compared need different names, got {', '.join(names)}.")
    slices = {each.name: each.depth.slice for each in diagnoses if each.depth and each.depth.slice}
    surface = Figure("surface", "The loss around the weights", "Fewer than two were measured; depth='full' does.")
    figures = [
        *flow_comparison({each.name: each.readings[-1] for each in diagnoses}),
        slices_figure(slices) if len(slices) > 1 else surface,
    ]
    facts = [compared_facts(diagnosis) for diagnosis in diagnoses]
    side_by_side = [[fact, *(each[fact] for each in facts)] for fact in facts[0]]
    words = 1 + len(names)
    return write_page(
        path,
        title=title or f"Diagnoses of {', '.join(names)}",
        verdicts={diagnosis.name: diagnosis.judged for diagnosis in diagnoses},
        sections=[
            Section("Side by side", "tables", [Table(["", *names], side_by_side, words=words)]),
            Section(
                "Checks",
                "tables",
                [Table(["", *names], check_rows(diagnoses), words=words)],
                "Checks that found something, and those that the networks differ in.",
            ),
            *figure_sections(figures),
            *(Section(f"All of {each.name}", "sortable", each.name) for each in diagnoses if block_rows(each)),
            Section("Records", "records", names),
        ],
        tables={each.name: block_rows(each) for each in diagnoses},
        records=embedded(diagnoses),
    )


def compared_facts(diagnosis: DiagnosisRecord) -> dict[str, str]:
    """What is said of each network, one line for each fact."""
    reading, profile = diagnosis.readings[-1], depth_profile(diagnosis.readings[-1])
    slope, depth = slope_of(profile), diagnosis.depth or DepthRecord()
    shares = [block.branch_share for block in reading.blocks if math.isfinite(block.branch_share)]
    paths, shattering = depth.paths, depth.shattering
    return {
        "verdict": " ".join(SIGNS[diagnosis.judged.verdict]),
        "loss": f"{reading.loss:.4g}",
        "step": in_words(reading.step),
        "residual additions": in_words(len(reading.blocks)),
        "gradient at the first block or layer over the last": ratio(profile.growth)
        if is_measured(profile.growth)
        else DASH,
        "growth towards the input": f"{times(slope.factor)} per {slope.unit}, R\u00b2 {slope.fit:.2f}"
        if slope
        else DASH,
        "median share of the branch": percent(statistics.median(shares)) if shares else DASH,
        "effective depth": f"{paths.effective:.1f} of {len(paths.energies) - 1}" if paths else DASH,
        "gradient keeps its direction": f"to {shattering.half:.3g} of the way" if shattering else DASH,
    }


def check_rows(diagnoses: Sequence[DiagnosisRecord]) -> list[list[Any]]:
    """Checks that found something somewhere, the worst first; then those that the networks differ in."""
    ids: dict[str, None] = {}
    for each in (diagnosis.judged for diagnosis in diagnoses):
        ids |= dict.fromkeys([*(finding.id for finding in each.findings), *each.clean, *each.not_checked])
    rows: list[list[Any]] = [
        [check, *(check_cell(diagnosis.judged, check) for diagnosis in diagnoses)] for check in ids
    ]
    order = list(SEVERITY_SIGNS)
    rows.sort(key=lambda row: min(order.index(cell["state"]) for cell in row[1:]))
    return [row for row in rows if len({cell["state"] for cell in row[1:]}) > 1 or row[1]["state"] in order[:3]]


def check_cell(judged: VerdictRecord, check: str) -> dict[str, str]:
    """What one check says of one network; one that this version of the verdict doesn't have was not checked."""
    state, said = "not-checked", f"not checked: {judged.not_checked.get(check, 'no such check then')}"
    if check in judged.clean:
        state, said = "clean", "clean"
    for finding in judged.findings:
        if finding.id == check:
            state, said = finding.severity, f"{finding.number:.3g}{where_of(finding)}"
    return {"state": state, "sign": SEVERITY_SIGNS[state], "text": said}


# ---- the records inside a page


def embedded(diagnoses: Sequence[DiagnosisRecord]) -> dict[str, Any]:
    """All records as plain types, numbers with five digits."""
    found = []
    for diagnosis in diagnoses:
        kept = kept_readings(diagnosis.readings, MAX_NUMBERS // len(diagnoses))
        plain = {"name": diagnosis.name, "facts": diagnosis.facts, **asdict(diagnosis.judged)}
        plain |= {"num_readings": len(diagnosis.readings), "readings": [asdict(diagnosis.readings[k]) for k in kept]}
        found.append(_five_digits(plain | {"depth": asdict(diagnosis.depth) if diagnosis.depth else None}))
    return {"schema_version": PAGE_SCHEMA, "diagnoses": found}


def kept_readings(readings: Sequence[ReadingRecord], max_numbers: int) -> list[int]:
    """Which readings are written: all, or the first, the last and some between."""
    last = readings[-1]
    size = 24 * len(last.blocks) + 4 * len(last.layers) + 8 * len(last.activations) + 6 * len(last.parameters) + 50
    return spread(len(readings), max(2, max_numbers // size))


def _five_digits(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _five_digits(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_five_digits(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def read_diagnoses(path: Path | str) -> list[DiagnosisRecord]:
    """Read the diagnoses inside a page, which may be of an older version.

    Raises:
        RequestError: for another file, one that a newer version has written, or a damaged one.
    """
    try:
        html = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"Can't read {path}: {error}.") from None
    try:
        whole = read_records(html) or {"schema_version": PAGE_SCHEMA}
        if (schema := whole["schema_version"]) <= PAGE_SCHEMA and "diagnoses" in whole:
            return [_read(found) for found in whole["diagnoses"]]
    except (KeyError, TypeError, ValueError, OSError, EOFError, zlib.error) as error:
        raise RequestError(f"The records in {path} are damaged ({error}). Write the page again.") from None
    if schema > PAGE_SCHEMA:
        raise RequestError(f"{path} has schema {schema}, this reslab knows {PAGE_SCHEMA}: upgrade reslab.")
    raise RequestError(f"{path} is not a page of a diagnosis: it contains no records.")


def _read(found: dict[str, Any]) -> DiagnosisRecord:
    return DiagnosisRecord(
        found["name"],
        from_plain(VerdictRecord, found),
        from_plain(tuple[ReadingRecord, ...], found["readings"]),
        None if found["depth"] is None else from_plain(DepthRecord, found["depth"]),
        found["facts"],
    )
