"""MNIST's idx files, CIFAR's pickles and parquet folders: whole, damaged and malicious."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_files import idx, png_bytes
from torchvision.datasets import CIFAR10, MNIST

from reslab.data._formats import parquet_files, read_cifar, read_idx, read_mnist, read_parquet
from reslab.errors import RequestError


def write_mnist(root: Path, *, compressed: bool = False) -> Path:
    folder, random = root / "MNIST" / "raw", np.random.default_rng(0)
    folder.mkdir(parents=True)
    for word, count in (("train", 6), ("t10k", 3)):
        files = {
            f"{word}-images-idx3-ubyte": random.integers(0, 256, (count, 28, 28)),
            f"{word}-labels-idx1-ubyte": np.arange(count) % 10,
        }
        for name, array in files.items():
            content = idx(array)
            (folder / (name + ".gz" * compressed)).write_bytes(gzip.compress(content) if compressed else content)
    return folder


def test_idx_files_are_read_as_torchvision_reads_them(tmp_path):
    splits = read_mnist(write_mnist(tmp_path))
    for name, train in (("train", True), ("test", False)):
        theirs = MNIST(str(tmp_path), train=train)
        assert np.array_equal(splits[name].images.squeeze(1), theirs.data)
        assert splits[name].targets.tolist() == theirs.targets.tolist()


def test_gzipped_idx_files_are_read_too(tmp_path):
    plain, packed = (read_mnist(write_mnist(tmp_path / word, compressed=word == "b")) for word in ("a", "b"))
    assert plain["test"].fingerprint() == packed["test"].fingerprint()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not a valid idx file of bytes"),
        (b"\0\0\x0d\x01" + bytes(8), "is not a valid idx file"),
        (b"\0\0\x08\x03\0\0\0\x01", "is not a valid idx file"),
        (idx(np.zeros((2, 3, 3)))[:-1], "has 17 of 18 bytes"),
        (idx(np.zeros((2, 3, 3))) + b"\0", "has 19 of 18 bytes"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path, content, words):
    (tmp_path / "data-ubyte").write_bytes(content)
    with pytest.raises(RequestError, match=rf"data-ubyte {words}.*Download it again"):
        read_idx(tmp_path / "data-ubyte")


@pytest.mark.parametrize("damage", [lambda content: content[:-12], lambda content: b"no gzip", lambda content: b""])
def test_damaged_gzip_files_are_named(tmp_path, damage):
    path = tmp_path / "data-ubyte.gz"
    path.write_bytes(damage(gzip.compress(idx(np.arange(200)))))
    with pytest.raises(RequestError, match=r"data-ubyte(\.gz)?[ :].*Download it again"):
        read_idx(tmp_path / "data-ubyte")


def test_images_and_labels_must_be_as_many(tmp_path):
    folder = write_mnist(tmp_path)
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(5)))
    with pytest.raises(RequestError, match=r"images of shape \(6, 1?,? ?28, 28\) and labels of shape \(5,\) for train"):
        read_mnist(folder)


def test_an_absent_idx_file_is_named(tmp_path):
    with pytest.raises(RequestError, match=r"train-images-idx3-ubyte is missing.*--download"):
        read_mnist(tmp_path)


def python2_pickle(data: bytes, shape: tuple[int, int], labels: list[int], label_key: str) -> bytes:
    """A batch as Python 2 pickled CIFAR's: byte strings, and an array through numpy.core.multiarray."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<I", len(value)) + value

    def tuple_of(*items: bytes) -> bytes:
        return b"(" + b"".join(items) + b"t"

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    dtype = b"cnumpy\ndtype\n" + tuple_of(text(b"u1"), number(0), number(1)) + b"R"
    dtype += tuple_of(number(3), text(b"|"), b"N", b"N", b"N", number(-1), number(-1), number(0)) + b"b"
    array = b"cnumpy.core.multiarray\n_reconstruct\n"
    array += tuple_of(b"cnumpy\nndarray\n", tuple_of(number(0)), text(b"b")) + b"R"
    array += tuple_of(number(1), tuple_of(*map(number, shape)), dtype, b"\x89", text(data)) + b"b"
    entries = text(b"data") + array + text(label_key.encode()) + b"(" + b"".join(map(number, labels)) + b"l"
    return b"\x80\x02" + b"}(" + entries + b"u."


def write_cifar10(root: Path, *, python2: bool) -> np.ndarray:
    """Five batches of two images and a test batch; returns the training images."""
    folder, random = root / "cifar-10-batches-py", np.random.default_rng(0)
    folder.mkdir(parents=True)
    pixels = random.integers(0, 256, (12, 3072), dtype=np.uint8)
    for index, file in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        part, labels = pixels[2 * index : 2 * index + 2], [index, 9 - index]
        content = (
            python2_pickle(part.tobytes(), part.shape, labels, "labels")
            if python2
            else pickle.dumps({"data": part, "labels": labels}, protocol=2)
        )
        (folder / file).write_bytes(content)
    names = [f"name{i}" for i in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}, protocol=2))
    return pixels[:10]


@pytest.mark.parametrize("python2", [False, True])
def test_cifar_batches(tmp_path, python2):
    pixels = write_cifar10(tmp_path, python2=python2)
    classes, splits = read_cifar(tmp_path, "cifar10")
    assert classes[3] == "name3"
    assert np.array_equal(splits["train"].images.numpy(), pixels.reshape(-1, 3, 32, 32))
    assert splits["train"].targets.tolist() == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]
    assert splits["test"].targets.tolist() == [5, 4]


def test_cifar_batches_are_read_as_torchvision_reads_them(tmp_path, monkeypatch):
    write_cifar10(tmp_path, python2=True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *arguments: True)
    theirs = CIFAR10(str(tmp_path))
    ours = read_cifar(tmp_path, "cifar10")[1]["train"]
    assert np.array_equal(ours.images.permute(0, 2, 3, 1), theirs.data)  # (N, C, H, W) -> (N, H, W, C)
    assert ours.targets.tolist() == theirs.targets


def test_cifar100_has_fine_labels(tmp_path):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for file in ("train", "test"):
        batch = {"data": np.zeros((1, 3072), np.uint8), "fine_labels": [42], "coarse_labels": [7]}
        (folder / file).write_bytes(pickle.dumps(batch, protocol=2))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": ["leopard"]}, protocol=2))
    classes, splits = read_cifar(tmp_path, "cifar100")
    assert (classes, splits["train"].targets.tolist()) == (["leopard"], [42])


class Malicious:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("file", ["data_batch_1", "batches.meta"])
def test_a_pickle_that_would_run_a_command_is_refused_and_runs_nothing(tmp_path, file, protocol):
    write_cifar10(tmp_path, python2=False)
    proof = tmp_path / "it-ran"
    batch = {"data": np.zeros((1, 3072), np.uint8), "labels": [0], "x": Malicious(f"touch {proof}")}
    (tmp_path / "cifar-10-batches-py" / file).write_bytes(pickle.dumps(batch, protocol=protocol))
    with pytest.raises(RequestError, match=rf"Can't read .*{file}: it asks for (posix|nt)\.system"):
        read_cifar(tmp_path, "cifar10")
    assert not proof.exists()


@pytest.mark.parametrize("name", ["builtins.eval", "numpy.load", "_codecs.decode", "reslab.cli.main.main"])
def test_no_other_global_is_given_out(tmp_path, name):
    write_cifar10(tmp_path, python2=False)
    module, _, attribute = name.rpartition(".")
    (tmp_path / "cifar-10-batches-py" / "data_batch_2").write_bytes(f"c{module}\n{attribute}\n.".encode())
    with pytest.raises(RequestError, match=f"it asks for {name}"):
        read_cifar(tmp_path, "cifar10")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "Can't read"),
        (pickle.dumps({"data": 1}, protocol=2)[:-3], "Can't read"),
        (pickle.dumps([1], protocol=2), "holds a list instead of a CIFAR batch"),
        (pickle.dumps({"data": 1}, protocol=2), "lacks 'labels'"),
        (pickle.dumps({"data": np.zeros(5, np.uint8), "labels": [0]}, protocol=2), "data_batch_3"),
        (pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [0, 1]}, protocol=2), "data_batch_3"),
        (pickle.dumps({"data": "text", "labels": ["a"]}, protocol=2), "data_batch_3"),
    ],
)
def test_damaged_batches_are_named(tmp_path, content, words):
    write_cifar10(tmp_path, python2=False)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(content)
    with pytest.raises(RequestError, match=rf"{words}.*Download it again"):
        read_cifar(tmp_path, "cifar10")


def test_an_absent_batch_is_named(tmp_path):
    write_cifar10(tmp_path, python2=False)
    (tmp_path / "cifar-10-batches-py" / "test_batch").unlink()
    with pytest.raises(RequestError, match=r"test_batch is missing.*--download"):
        read_cifar(tmp_path, "cifar10")


# ---- parquet


@pytest.fixture
def write(tmp_path):
    """``write("train-0.parquet", labels=[0, 1])``; other columns instead by ``columns``, class names by ``names``."""

    def make(file: str, *, labels=(0, 1), names=None, columns=None, metadata=None):
        path = tmp_path / "set" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if columns is None:
            images = [{"bytes": png_bytes(row), "path": f"{row}.png"} for row in range(len(labels))]
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
    classes, splits = read_parquet(folder, channels=3)
    assert classes == ["zebra", "ant"]
    assert splits["train"].targets.tolist() == [1, 0, 1]
    assert splits["train"].open(0).size == (8, 8)
    assert splits["train"].names[2] == "set/train row 2 (2.png)"


@pytest.mark.parametrize("metadata", [None, "{}", "no json", "[1]", '{"info": null}'])
def test_numbers_without_names_are_their_own_names(write, metadata):
    classes, splits = read_parquet(write("train.parquet", labels=[2, 0], metadata=metadata), channels=3)
    assert classes == ["0", "1", "2"]
    assert splits["train"].targets.tolist() == [2, 0]


def test_text_labels_are_sorted(write):
    classes, splits = read_parquet(write("train.parquet", labels=["bee", "ant", "bee"]), channels=3)
    assert (classes, splits["train"].targets.tolist()) == (["ant", "bee"], [1, 0, 1])


def test_other_column_names_and_plain_bytes(write):
    columns = {"img": [png_bytes(0), png_bytes(1)], "fine_label": [0, 1], "coarse_label": [0, 0]}
    folder = write("train.parquet", columns=columns)
    classes, splits = read_parquet(folder, channels=1)
    assert (classes, splits["train"].open(1).mode) == (["0", "1"], "L")


def test_shards_are_joined_in_order(write):
    write("train-00001-of-00002.parquet", labels=[1, 1])
    folder = write("train-00000-of-00002.parquet", labels=[0])
    assert read_parquet(folder, channels=3)[1]["train"].targets.tolist() == [0, 1, 1]


@pytest.mark.parametrize("word", ["validation", "valid", "val", "dev"])
def test_splits_go_by_file_names(write, word):
    write("train-0.parquet")
    write(f"{word}-0.parquet", labels=[1])
    _, splits = read_parquet(write("test-0.parquet", labels=[0]), channels=3)
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
        read_parquet(write("test.parquet"), channels=3)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"pixels": [b""], "label": [0]}, r"have the columns pixels, label; expected one called image or img"),
        ({"image": [b""], "kind": [0]}, r"have the columns image, kind; expected one called label or fine_label"),
        ({"image": [b"", b""], "label": [0, None]}, r"set/train row 1 has the label None; expected one of the 1 class"),
        ({"image": [b"", None], "label": [0, 1]}, r"set/train row 1 has no image bytes but NoneType"),
        ({"image": [b"", b""], "label": [0, -1]}, r"set/train row 1 has the label -1"),
        ({"image": [b""], "label": [0.5]}, r"column 'label' is of type double; expected whole numbers or text"),
        ({"image": [b""], "label": [[0]]}, r"column 'label' is of type list"),
        ({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}, r"train files in .*set have no rows"),
    ],
)
def test_wrong_columns_and_rows_are_named(write, columns, words):
    with pytest.raises(RequestError, match=words):
        read_parquet(write("train.parquet", columns=columns), channels=3)


def test_a_label_beyond_the_names_is_refused(write):
    with pytest.raises(RequestError, match=r"row 1 \(1\.png\) has the label 2; expected one of the 2 classes"):
        read_parquet(write("train.parquet", labels=[0, 2], names=["a", "b"]), channels=3)


def test_a_label_that_only_the_test_split_has_is_refused(write):
    write("train.parquet", labels=["a", "b"])
    with pytest.raises(RequestError, match=r"set/test row 0 \(0\.png\) has the label 'c'"):
        read_parquet(write("test.parquet", labels=["c"]), channels=3)


def test_a_test_split_without_the_column_is_refused(write):
    write("train.parquet")
    with pytest.raises(RequestError, match=r"set/test lacks the column 'label'"):
        read_parquet(write("test.parquet", columns={"image": [b""], "lable": [0]}), channels=3)


def test_shards_with_other_columns_are_refused(write):
    write("train-0.parquet")
    with pytest.raises(RequestError, match=r"train files in .* have different columns"):
        read_parquet(write("train-1.parquet", columns={"image": [b""], "label": ["a"]}), channels=3)


@pytest.mark.parametrize("content", [b"", b"garbage" * 100, b"PAR1garbagePAR1"])
def test_a_file_that_is_no_parquet_is_named(tmp_path, content):
    (tmp_path / "train-0.parquet").write_bytes(content)
    with pytest.raises(RequestError, match=r"Can't read .*train-0\.parquet as parquet: "):
        read_parquet(tmp_path, channels=3)
