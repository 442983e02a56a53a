"""What a run leaves behind: JSON lines, torn and damaged files, atomic writes, the run record."""

import json
import math
import os
from dataclasses import asdict

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reslab.records import EpochRecord, Evaluation, RunFolder, RunRecord, Score, StepRecord
from reslab.records.files import NON_FINITE, RecordWriter, decode, encode, read_lines, write_atomic
from reslab.records.folder import find_runs
from reslab.records.training import SCHEMA_VERSION

ANY_FLOAT = st.floats(allow_nan=True, allow_infinity=True)
COUNT = st.integers(0, 10**12)
STEPS = st.builds(StepRecord, COUNT, COUNT, ANY_FLOAT, ANY_FLOAT, ANY_FLOAT, st.none() | ANY_FLOAT, st.booleans())
SCORES = st.dictionaries(st.sampled_from(["train_loss", "train_error", "val_loss", "val_miou"]), ANY_FLOAT)
EPOCHS = st.builds(EpochRecord, COUNT, COUNT, *(ANY_FLOAT,) * 3, st.none() | ANY_FLOAT, SCORES)


def step(number: int, loss: float = 1.0) -> StepRecord:
    return StepRecord(step=number, epoch=0, lr=0.1, loss=loss, grad_norm=2.0)


def write(path, *items) -> None:
    writer = RecordWriter(path)
    writer.write(*items)
    writer.close()


def run_record() -> RunRecord:
    return RunRecord(
        model={"name": "resnet20", "num_parameters": 269_722, "shortcut": "zero_pad"},
        data={"name": "digits", "classes": ["null", "één", "二"], "mean": [0.1, 0.2]},
        protocol={"selection": "validation"},
        deviations=["no warm-up"],
        versions={"torch": "2.11"},
        machine={"num_cores": 2},
        seed=2**63 - 1,
        status="done",
        started="2025-01-01T00:00:00Z",
        duration_s=12.5,
        last=Evaluation(3, {"train_loss": math.inf, "train_error": 0.5, "val_error": 0.25}),
    )


def same(left, right) -> bool:
    """Equal field by field, NaN equal to NaN; repr also tells 1 from 1.0 and 0.0 from -0.0."""
    return type(left) is type(right) and repr(left) == repr(right)


def identity(record) -> int:
    """What a later record replaces: the same epoch, or the same step."""
    return record.epoch if isinstance(record, EpochRecord) else record.step


def read_steps(path) -> list[StepRecord]:
    return read_lines(path, StepRecord, key=identity)


@settings(deadline=None, max_examples=50, database=None)
@given(data=st.data(), strategy=st.sampled_from([STEPS, EPOCHS]))
def test_records_go_round_through_json_lines(tmp_path_factory, data, strategy):
    items = data.draw(st.lists(strategy, min_size=1, max_size=8))
    path = tmp_path_factory.mktemp("records") / "items.jsonl"
    write(path, *items)
    latest = {identity(item): item for item in items}
    expected = [latest[key] for key in sorted(latest)]
    found = read_lines(path, type(items[0]), key=identity)
    assert len(found) == len(expected)
    assert all(same(left, right) for left, right in zip(found, expected, strict=True))


def strictly_json(text: str):
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | ANY_FLOAT | st.text().filter(lambda text: text not in NON_FINITE),
    lambda inner: (
        st.lists(inner.filter(lambda item: not isinstance(item, float) or math.isfinite(item)), max_size=3)
        | st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=100, database=None)
@given(st.dictionaries(st.text(), JSON_VALUES, min_size=1, max_size=3))
@example({"loss": math.nan, "inner": {"low": -math.inf, "high": [{"inf": math.inf}]}})
def test_encode_is_strict_json_and_decode_its_inverse(value):
    text = encode(value)
    strictly_json(text)
    assert "\n" not in text
    assert repr(decode(text)) == repr(value)


def test_a_class_called_nan_stays_a_name():
    record = run_record()
    record.data["classes"] = ["NaN", "Infinity"]
    assert RunRecord.from_json(record.to_json()).data["classes"] == ["NaN", "Infinity"]


def test_each_record_is_one_line_on_disk_at_once(tmp_path):
    path = tmp_path / "steps.jsonl"
    writer = RecordWriter(path)
    writer.write(step(0), step(1, loss=math.nan))
    lines = path.read_text().splitlines()  # before close: a kill now would lose nothing
    writer.close()
    assert [strictly_json(line)["step"] for line in lines] == [0, 1]
    assert strictly_json(lines[1])["loss"] == "NaN"


def test_an_absent_file_has_no_records(tmp_path):
    assert read_steps(tmp_path / "steps.jsonl") == []


@pytest.mark.parametrize("torn", range(1, 20, 3))
def test_a_torn_last_line_is_dropped_and_cut_on_reopening(tmp_path, torn):
    path = tmp_path / "steps.jsonl"
    write(path, step(0), step(1))
    whole = path.read_bytes()
    path.write_bytes(whole[:-torn])
    assert [record.step for record in read_steps(path)] == [0]
    assert path.read_bytes() == whole[:-torn], "reading must not change the file"
    write(path, step(1), step(2))
    assert [record.step for record in read_steps(path)] == [0, 1, 2]
    assert path.read_bytes().startswith(whole)


def test_a_file_that_is_all_torn_becomes_empty(tmp_path):
    path = tmp_path / "steps.jsonl"
    path.write_bytes(b'{"step": 0, "ep')
    assert read_steps(path) == []
    RecordWriter(path).close()
    assert path.read_bytes() == b""


def test_a_line_torn_inside_a_letter_is_dropped(tmp_path):
    path = tmp_path / "steps.jsonl"
    write(path, step(0))
    with path.open("ab") as file:
        file.write('{"step": "ü'.encode()[:-1])
    assert [record.step for record in read_steps(path)] == [0]


@pytest.mark.parametrize(
    "damage", ["{", "", "null", "[1, 2]", '"text"', '{"step": 1}', "\x00\x00\x00", '{"step": 1, "step"'], ids=repr
)
def test_a_damaged_line_in_the_middle_is_named(tmp_path, damage):
    path = tmp_path / "steps.jsonl"
    write(path, step(0), step(1), step(2))
    lines = path.read_text().split("\n")
    lines[1] = damage
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"steps\.jsonl, line 2, is damaged") as caught:
        read_steps(path)
    assert str(path) in str(caught.value)


def test_bytes_that_are_not_utf8_are_named_too(tmp_path):
    path = tmp_path / "steps.jsonl"
    write(path, step(0), step(1))
    path.write_bytes(path.read_bytes().replace(b'"step": 0', b'"\xff\xfep": 0'))
    with pytest.raises(ValueError, match="line 1, is damaged"):
        read_steps(path)


def test_of_two_records_for_one_step_the_later_counts(tmp_path):
    path = tmp_path / "steps.jsonl"
    write(path, step(0), step(1), step(2, loss=9.0))
    write(path, step(1, loss=5.0), step(2, loss=6.0), step(3))  # resumed from a checkpoint after step 0
    found = read_steps(path)
    assert [(record.step, record.loss) for record in found] == [(0, 1.0), (1, 5.0), (2, 6.0), (3, 1.0)]


def test_scores_are_keys_of_their_own_on_disk(tmp_path):
    write(tmp_path / "epochs.jsonl", EpochRecord(0, 10, 0.1, 100.0, 1.0, scores={"train_loss": 1.0, "val_miou": 0.5}))
    line = json.loads((tmp_path / "epochs.jsonl").read_text())
    assert (line["train_loss"], line["val_miou"], "scores" in line) == (1.0, 0.5, False)


def test_epochs_of_older_versions_are_read(tmp_path):
    old = {
        "epoch": 0,
        "step": 10,
        "lr": 0.1,
        "train_loss": 1.5,
        "train_error": 0.4,
        "val_loss": None,
        "val_error": None,
    }
    (tmp_path / "epochs.jsonl").write_text(json.dumps(old | {"images_per_s": 90.0, "duration_s": 2.0}) + "\n")
    [record] = RunFolder(tmp_path).read_epochs()
    assert record == EpochRecord(0, 10, 0.1, 90.0, 2.0, scores={"train_loss": 1.5, "train_error": 0.4})


def test_keys_of_a_newer_version_are_passed_over(tmp_path):
    path = tmp_path / "steps.jsonl"
    path.write_text(encode(asdict(step(0)) | {"from_the_future": 1}) + "\n")
    assert read_steps(path) == [step(0)]


@pytest.mark.parametrize("content", ["text: ü", b"\x00\xff", "", b""])
def test_write_atomic_writes_and_replaces(tmp_path, content):
    path = tmp_path / "run.json"
    path.write_text("old and longer than the new content")
    write_atomic(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert os.listdir(tmp_path) == ["run.json"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["OSError", "KeyboardInterrupt"])
def test_write_atomic_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch, failing, error):
    path = tmp_path / "run.json"
    path.write_text("old")

    def fail(*_):
        raise error

    if failing == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(type(path), "replace", fail)
    for file in (path, tmp_path / "absent.json"):
        with pytest.raises(type(error)):
            write_atomic(file, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["run.json"]


def test_run_record_goes_round():
    record = run_record()
    assert RunRecord.from_json(record.to_json()) == record
    record.best = Evaluation(1, {"train_loss": 0.1, "train_error": 0.0, "test_error": 0.07})
    record.score = Score("miou", better="higher")
    record.failure = {"reason": "loss is NaN", "loss": -math.inf}
    again = RunRecord.from_json(record.to_json())
    assert again == record
    assert isinstance(again.best, Evaluation)
    assert again.failure["loss"] == -math.inf


def test_run_record_is_strict_json_with_readable_letters():
    text = run_record().to_json()
    raw = strictly_json(text)
    assert raw["schema_version"] == SCHEMA_VERSION
    assert raw["last"]["train_loss"] == "Infinity"
    assert "二" in text


def test_a_newer_schema_is_refused():
    text = encode(json.loads(run_record().to_json()) | {"schema_version": SCHEMA_VERSION + 1})
    with pytest.raises(ValueError, match=rf"schema {SCHEMA_VERSION + 1}.*upgrade reslab"):
        RunRecord.from_json(text)


def test_a_run_folder_reads_what_was_written(tmp_path):
    folder = RunFolder(tmp_path / "r20")
    folder.root.mkdir()
    assert not folder.holds_run()
    write_atomic(folder.run, run_record().to_json())
    write(folder.steps, step(0))
    write(folder.epochs, EpochRecord(0, 1, 0.1, 100.0, 1.0))
    assert folder.holds_run()
    assert folder.read_run() == run_record()
    assert (len(folder.read_steps()), len(folder.read_epochs())) == (1, 1)
    assert folder.name == "r20"


def test_find_runs_lists_folders_with_a_run_record_by_name(tmp_path):
    for name in ("b", "a", "empty"):
        (tmp_path / name).mkdir()
    for name in ("b", "a"):
        write_atomic(tmp_path / name / "run.json", run_record().to_json())
    (tmp_path / "file.txt").write_text("not a run")
    assert [run.name for run in find_runs(tmp_path)] == ["a", "b"]
    assert list(find_runs(tmp_path / "absent")) == []


@pytest.mark.parametrize("better", ["lower", "higher"])
def test_a_score_knows_which_way_is_better(better):
    score = Score("dice", better=better)
    low_wins = better == "lower"
    assert score.is_better(0.1, than=0.2) is low_wins
    assert score.is_better(0.2, than=0.1) is not low_wins
    assert not score.is_better(0.1, than=0.1)
    assert score.is_better(0.1, than=math.nan)
    assert not score.is_better(math.nan, than=0.1)
