"""``--data NAME`` to classes and splits: named data sets, folders, the hub."""

from __future__ import annotations

import io
import pickle
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from reslab.data.sources import SOURCES, find_source
from reslab.errors import RequestError, WorkFailed


@pytest.fixture
def parquet(noise):
    """``parquet(folder, labels)`` writes train and test files of 8x8 images."""

    def write(folder, labels=(0, 1)):
        folder.mkdir(parents=True)
        rows = []
        for label in labels:
            buffer = io.BytesIO()
            noise(label).save(buffer, "PNG")
            rows.append({"bytes": buffer.getvalue(), "path": None})
        for split in ("train", "test"):
            pq.write_table(pa.table({"image": rows, "label": list(labels)}), folder / f"{split}-0.parquet")
        return folder

    return write


def write_idx(folder, *, labels=(0, 1)):
    folder.mkdir(parents=True)
    for word in ("train", "t10k"):
        for kind, shape in (("images-idx3", (len(labels), 28, 28)), ("labels-idx1", (len(labels),))):
            head = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape)
            body = bytes(labels) if len(shape) == 1 else bytes(int(np.prod(shape)))
            (folder / f"{word}-{kind}-ubyte").write_bytes(head + body)


def test_digits_are_real_embedded_and_cut_once_for_everyone():
    source = find_source("digits")
    train, test = source.splits["train"], source.splits["test"]
    assert source.classes == [str(i) for i in range(10)]
    assert (train.images.shape, test.images.shape) == ((1438, 1, 8, 8), (359, 1, 8, 8))
    assert (train.images.dtype, train.images.max().item(), train.images.unique().numel()) == (torch.uint8, 255, 17)
    rows = [set(map(bytes, split.images.flatten(1).numpy())) for split in (train, test)]
    assert len(rows[0]) == 1438
    assert not rows[0] & rows[1]
    assert torch.bincount(test.labels).min() >= 34
    assert test.fingerprint() == find_source("digits").splits["test"].fingerprint()
    assert source.augment == "none"  # a mirrored digit is another sign


def test_digits_in_colour():
    images = find_source("digits", channels=3).splits["test"].images
    assert images.shape == (359, 3, 8, 8)
    assert torch.equal(images[:, 0], images[:, 2])


@pytest.mark.parametrize(
    ("name", "close"),
    [("cifar-10", "'cifar10'"), ("digit", "'digits'"), ("fashion_mnist", "'fashion-mnist'"), ("imagenet", "mnist")],
)
def test_an_unknown_name_gets_the_closest(name, close):
    with pytest.raises(RequestError, match=rf"Unknown dataset '{name}'.*{close}.*hf:owner/name work too"):
        find_source(name)


@pytest.mark.parametrize("name", ["no/such/folder", "./photos", "../photos"])
def test_an_absent_folder_is_named(name):
    with pytest.raises(RequestError, match=f"No such data folder: {name}"):
        find_source(name)


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(RequestError, match=f"The data folder {tmp_path} is empty"):
        find_source(str(tmp_path))


@pytest.mark.parametrize("name", sorted(set(SOURCES) - {"digits"}))
def test_absent_data_says_where_it_was_looked_for_and_how_to_get_it(name, tmp_path):
    with pytest.raises(RequestError, match=f"{tmp_path}.*--data-dir or RESLAB_DATA.*--download"):
        find_source(name, data_dir=tmp_path)


def test_reslab_data_is_where_named_data_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("RESLAB_DATA", str(tmp_path / "there"))
    with pytest.raises(RequestError, match="there"):
        find_source("mnist")
    write_idx(tmp_path / "there" / "MNIST" / "raw")
    source = find_source("mnist")
    assert (source.classes[7], source.splits["test"].images.shape, source.augment) == ("7", (2, 1, 28, 28), "crop")


def test_fashion_mnist_has_names(tmp_path):
    write_idx(tmp_path / "FashionMNIST" / "raw")
    assert find_source("fashion-mnist", data_dir=tmp_path).classes[9] == "Ankle boot"


def test_a_label_beyond_the_classes_is_refused(tmp_path):
    write_idx(tmp_path / "MNIST" / "raw", labels=(0, 17))
    with pytest.raises(RequestError, match="labels from 0 to 17 in the train split; expected 0 to 9"):
        find_source("mnist", data_dir=tmp_path)


def test_cifar100_is_found_in_a_folder_that_only_begins_so(tmp_path, parquet):
    folder = parquet(tmp_path / "cifar100-subset", labels=range(3))
    source = find_source("cifar100", data_dir=tmp_path)
    assert source.path == str(folder)
    assert source.notes == (f"cifar100 is read from {folder}",)
    assert source.classes == ["0", "1", "2"]


def test_a_folder_of_that_very_name_comes_first(tmp_path, parquet):
    folder = parquet(tmp_path / "cifar10")
    parquet(tmp_path / "cifar10-other")
    source = find_source("cifar10", data_dir=tmp_path)
    assert (source.path, source.notes, source.augment) == (str(folder), (), "crop_flip")


def test_torchvisions_batches_come_before_parquet(tmp_path, parquet):
    parquet(tmp_path / "cifar100")
    batches = tmp_path / "cifar-100-python"
    batches.mkdir()
    for name in ("train", "test"):
        content = {"data": np.zeros((1, 3072), np.uint8), "fine_labels": [0]}
        (batches / name).write_bytes(pickle.dumps(content, protocol=2))
    (batches / "meta").write_bytes(pickle.dumps({"fine_label_names": ["apple"]}, protocol=2))
    assert find_source("cifar100", data_dir=tmp_path).path == str(batches)
    assert find_source("cifar100", data_dir=tmp_path, channels=1).splits["test"].images.shape == (1, 1, 32, 32)


def test_a_folder_of_photographs_and_one_of_parquet(make_folder, tmp_path, parquet):
    photos = find_source(str(make_folder({"a": 1, "b": 1})))
    assert (photos.classes, photos.augment) == (["a", "b"], "resized_crop_flip")
    table = find_source(str(parquet(tmp_path / "table")))
    assert (table.classes, table.augment, sorted(table.splits)) == (["0", "1"], "resized_crop_flip", ["test", "train"])


def test_download_of_mnist_goes_through_torchvision(tmp_path, monkeypatch):
    def fake(root, *, download):
        assert download
        write_idx(tmp_path / "MNIST" / "raw")

    monkeypatch.setattr("torchvision.datasets.MNIST", fake)
    assert len(find_source("mnist", data_dir=tmp_path, download=True).splits["train"]) == 2


def test_download_of_cifar_is_torchvisions_archive_checked_by_its_hash(tmp_path, monkeypatch):
    asked = {}

    def fake(url, root, *, filename, md5):
        asked.update(url=url, root=root, filename=filename, md5=md5)

    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", fake)
    with pytest.raises(RequestError, match="cifar-10-batches-py"):  # the fake brought nothing
        find_source("cifar10", data_dir=tmp_path, download=True)
    assert asked["url"].endswith(asked["filename"])
    assert (asked["root"], len(asked["md5"])) == (str(tmp_path), 32)


def test_present_data_is_not_downloaded(tmp_path, monkeypatch, parquet):
    monkeypatch.setattr(
        "torchvision.datasets.utils.download_and_extract_archive", lambda *a, **k: pytest.fail("called")
    )
    parquet(tmp_path / "cifar10")
    find_source("cifar10", data_dir=tmp_path, download=True)


def test_a_failed_download_is_one_sentence(tmp_path, monkeypatch):
    def fake(*arguments, **options):
        raise RuntimeError("Error downloading")

    monkeypatch.setattr("torchvision.datasets.MNIST", fake)
    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", fake)
    for name in ("mnist", "cifar10"):
        with pytest.raises(WorkFailed, match=f"Can't download {name}.*Error downloading"):
            find_source(name, data_dir=tmp_path, download=True)


def test_the_hub_falls_back_to_its_own_conversion_to_parquet(tmp_path, monkeypatch, parquet):
    asked = []

    def fake(name, *, repo_type, revision, allow_patterns):
        asked.append((name, repo_type, revision))
        (tmp_path / "empty").mkdir(exist_ok=True)
        return str(tmp_path / "empty" if revision == "main" else parquet(tmp_path / "converted"))

    monkeypatch.setattr("huggingface_hub.snapshot_download", fake)
    source = find_source("hf:someone/birds")
    assert asked == [("someone/birds", "dataset", "main"), ("someone/birds", "dataset", "refs/convert/parquet")]
    assert (source.name, source.classes) == ("hf:someone/birds", ["0", "1"])


@pytest.mark.parametrize("reason", ["no network\nsecond line", ""])
def test_what_the_hub_says_is_passed_on_in_one_line(monkeypatch, reason):
    def fake(*arguments, **options):
        raise ConnectionError(reason)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fake)
    with pytest.raises(RequestError) as caught:
        find_source("hf:someone/birds")
    assert str(caught.value) == f"Can't fetch hf:someone/birds: {'no network' if reason else 'ConnectionError'}"


def test_a_hub_data_set_without_parquet_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: str(tmp_path))
    with pytest.raises(RequestError, match="hf:someone/birds has no parquet files on the hub"):
        find_source("hf:someone/birds")


# ---- real data


def test_real_mnist(real_data):
    source = find_source("mnist", data_dir=real_data)
    assert source.splits["train"].images.shape == (60_000, 1, 28, 28)
    assert torch.bincount(source.splits["test"].labels).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip


def test_real_cifar100_subset(real_data):
    source = find_source("cifar100", data_dir=real_data)
    assert (len(source.classes), source.classes[0], source.classes[99]) == (100, "apple", "worm")
    assert torch.bincount(source.splits["train"].labels).tolist() == [100] * 100
    assert torch.bincount(source.splits["test"].labels).tolist() == [20] * 100
    assert source.splits["test"].open(0).size == (32, 32)


def test_real_photographs(real_data):
    source = find_source(str(real_data / "hymenoptera"))
    assert source.classes == ["ants", "bees"]
    assert {name: len(split) for name, split in source.splits.items()} == {"train": 64, "val": 44}
