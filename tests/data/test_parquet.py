"""Parquet folders in the Hugging Face layout, and every way in which they can be wrong."""

from __future__ import annotations

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reslab.data.parquet import parquet_files, read_parquet
from reslab.errors import RequestError


@pytest.fixture
def png(noise):
    """``png(seed)`` -> the bytes of a PNG of 8x8."""

    def make(seed: int) -> bytes:
        buffer = io.BytesIO()
        noise(seed).save(buffer, "PNG")
        return buffer.getvalue()

    return make


@pytest.fixture
def write(tmp_path, png):
    """``write("train-0.parquet", labels=[0, 1])``; other columns instead by ``columns``, class names by ``names``."""

    def make(file: str, *, labels=(0, 1), names=None, columns=None, metadata=None):
        path = tmp_path / "set" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if columns is None:
            images = [{"bytes": png(row), "path": f"{row}.png"} for row in range(len(labels))]
            columns = {"image": images, "label": list(labels)}
        table = pa.table(columns)
        if names is not None:
            metadata = json.dumps({"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}})
        if metadata is not None:
            table = table.replace_schema_metadata({"huggingface": metadata})
        pq.write_table(table, path)
        return tmp_path / "set"

    return make


def test_class_names_come_from_the_metadata(write):
    folder = write("train-00000-of-00001.parquet", labels=[1, 0, 1], names=["zebra", "ant"])
    classes, splits = read_parquet(folder, channels=None)
    assert classes == ["zebra", "ant"]
    assert splits["train"].labels.tolist() == [1, 0, 1]
    assert splits["train"].open(0).size == (8, 8)
    assert splits["train"].names[2] == "set/train row 2 (2.png)"


@pytest.mark.parametrize("metadata", [None, "{}", "no json", "[1]", '{"info": null}'])
def test_numbers_without_names_are_their_own_names(write, metadata):
    classes, splits = read_parquet(write("train.parquet", labels=[2, 0], metadata=metadata), channels=None)
    assert classes == ["0", "1", "2"]
    assert splits["train"].labels.tolist() == [2, 0]


def test_text_labels_are_sorted(write):
    classes, splits = read_parquet(write("train.parquet", labels=["bee", "ant", "bee"]), channels=None)
    assert (classes, splits["train"].labels.tolist()) == (["ant", "bee"], [1, 0, 1])


def test_other_column_names_and_plain_bytes(write, png):
    folder = write("train.parquet", columns={"img": [png(0), png(1)], "fine_label": [0, 1], "coarse_label": [0, 0]})
    classes, splits = read_parquet(folder, channels=1)
    assert (classes, splits["train"].open(1).mode) == (["0", "1"], "L")


def test_shards_are_joined_in_order(write):
    write("train-00001-of-00002.parquet", labels=[1, 1])
    folder = write("train-00000-of-00002.parquet", labels=[0])
    assert read_parquet(folder, channels=None)[1]["train"].labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize("word", ["validation", "valid", "val", "dev"])
def test_splits_go_by_file_names(write, word):
    write("train-0.parquet")
    write(f"{word}-0.parquet", labels=[1])
    _, splits = read_parquet(write("test-0.parquet", labels=[0]), channels=None)
    assert {name: len(split) for name, split in splits.items()} == {"train": 2, "val": 1, "test": 1}


@pytest.mark.parametrize(
    "files",
    [
        ["cifar_train.parquet", "cifar_test.parquet"],
        ["default/train/0000.parquet", "default/test/0000.parquet"],
        ["default/partial-train/0000.parquet", "default/partial-test/0000.parquet"],
        ["other.parquet", "test.parquet"],
    ],
)
def test_a_test_split_is_never_taken_for_training(write, files):
    for file in files:
        folder = write(file)
    found = parquet_files(folder)
    assert {split: [path.relative_to(folder).as_posix() for path in paths] for split, paths in found.items()} == {
        "train": [files[0]],
        "test": [files[1]],
    }


def test_the_folders_own_name_is_no_split(write, tmp_path):
    write("0000.parquet").rename(tmp_path / "test-data")
    assert list(parquet_files(tmp_path / "test-data")) == ["train"]


def test_only_a_test_split_is_refused(write):
    with pytest.raises(RequestError, match=r"parquet files for test but none named train-\*\.parquet"):
        read_parquet(write("test.parquet"), channels=None)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"pixels": [b""], "label": [0]}, r"have the columns pixels, label; expected one called image or img"),
        ({"image": [b""], "kind": [0]}, r"have the columns image, kind; expected one called label or fine_label"),
        ({"image": [b"", b""], "label": [0, None]}, r"set/train row 1 has the label None; expected one of the 1 class"),
        ({"image": [b"", None], "label": [0, 1]}, r"set/train row 1 holds no image bytes but NoneType"),
        ({"image": [b"", b""], "label": [0, -1]}, r"set/train row 1 has the label -1"),
        ({"image": [b""], "label": [0.5]}, r"column 'label' is of type double; expected whole numbers or text"),
        ({"image": [b""], "label": [[0]]}, r"column 'label' is of type list"),
        ({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}, r"train files in .*set have no rows"),
    ],
)
def test_wrong_columns_and_rows_are_named(write, columns, words):
    with pytest.raises(RequestError, match=words):
        read_parquet(write("train.parquet", columns=columns), channels=None)


def test_a_label_beyond_the_names_is_refused(write):
    with pytest.raises(RequestError, match=r"row 1 \(1\.png\) has the label 2; expected one of the 2 classes"):
        read_parquet(write("train.parquet", labels=[0, 2], names=["a", "b"]), channels=None)


def test_a_label_that_only_the_test_split_has_is_refused(write):
    write("train.parquet", labels=["a", "b"])
    with pytest.raises(RequestError, match=r"set/test row 0 \(0\.png\) has the label 'c'"):
        read_parquet(write("test.parquet", labels=["c"]), channels=None)


def test_a_test_split_without_the_column_is_refused(write):
    write("train.parquet")
    with pytest.raises(RequestError, match=r"set/test lacks the column 'label'"):
        read_parquet(write("test.parquet", columns={"image": [b""], "lable": [0]}), channels=None)


def test_shards_with_other_columns_are_refused(write):
    write("train-0.parquet")
    with pytest.raises(RequestError, match=r"train files in .* have different columns"):
        read_parquet(write("train-1.parquet", columns={"image": [b""], "label": ["a"]}), channels=None)


@pytest.mark.parametrize("content", [b"", b"garbage" * 100, b"PAR1garbagePAR1"])
def test_a_file_that_is_no_parquet_is_named(tmp_path, content):
    (tmp_path / "train-0.parquet").write_bytes(content)
    with pytest.raises(RequestError, match=r"Can't read .*train-0\.parquet as parquet: "):
        read_parquet(tmp_path, channels=None)
