"""``--data NAME`` to classes and splits: named data sets, folders, the hub."""

from __future__ import annotations

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from small_files import idx, png_bytes
from torchvision.datasets import ImageFolder

from reslab.data import DataOptions, find_source
from reslab.data.sources import SOURCES, image_files
from reslab.errors import RequestError, WorkFailed


def found(name, **options):
    return find_source(
        DataOptions(name=str(name), **{key: str(v) if key == "dir" else v for key, v in options.items()})
    )


@pytest.fixture
def parquet():
    """``parquet(folder, labels)`` writes train and test files of 8x8 images."""

    def write(folder, labels=(0, 1)):
        folder.mkdir(parents=True)
        rows = [{"bytes": png_bytes(label), "path": None} for label in labels]
        for split in ("train", "test"):
            pq.write_table(pa.table({"image": rows, "label": list(labels)}), folder / f"{split}-0.parquet")
        return folder

    return write


def write_idx(folder, *, labels=(0, 1)):
    folder.mkdir(parents=True)
    for word in ("train", "t10k"):
        (folder / f"{word}-images-idx3-ubyte").write_bytes(idx(np.zeros((len(labels), 28, 28))))
        (folder / f"{word}-labels-idx1-ubyte").write_bytes(idx(np.array(labels)))


# ---- named data sets


def test_digits_are_real_embedded_and_cut_once_for_everyone():
    source = found("digits")
    train, test = source.splits["train"], source.splits["test"]
    assert source.classes == [str(i) for i in range(10)]
    assert (train.images.shape, test.images.shape) == ((1438, 1, 8, 8), (359, 1, 8, 8))
    assert (train.images.dtype, train.images.max().item(), train.images.unique().numel()) == (torch.uint8, 255, 17)
    rows = [set(map(bytes, split.images.flatten(1).numpy())) for split in (train, test)]
    assert len(rows[0]) == 1438
    assert not rows[0] & rows[1]
    assert torch.bincount(test.targets).min() >= 34
    assert test.fingerprint() == found("digits").splits["test"].fingerprint()
    assert source.augment == "none"  # a mirrored digit is another sign
    assert source.tasks == ("classify",)


def test_digits_in_colour():
    images = found("digits", channels=3).splits["test"].images
    assert images.shape == (359, 3, 8, 8)
    assert torch.equal(images[:, 0], images[:, 2])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cifar-10", r"Unknown dataset 'cifar-10'.*'cifar10'.*hf:owner/name work too"),
        ("digit", r"Unknown dataset 'digit'.*'digits'"),
        ("fashion_mnist", r"Unknown dataset 'fashion_mnist'.*'fashion-mnist'"),
        ("imagenet", r"Unknown dataset 'imagenet'.*mnist"),
        ("no/such/folder", r"No such data folder: no/such/folder"),
        ("./photos", r"No such data folder: ./photos"),
        ("", r"Unknown dataset ''"),
        (__file__, r"is a file\. Name the folder"),
    ],
)
def test_unknown_names_are_refused_with_the_closest(name, words):
    with pytest.raises(RequestError, match=words):
        found(name)


@pytest.mark.parametrize("name", sorted(set(SOURCES) - {"digits"}))
def test_absent_data_says_where_it_was_looked_for_and_how_to_get_it(name, tmp_path):
    with pytest.raises(RequestError, match=f"{tmp_path}.*--data-dir or RESLAB_DATA.*--download"):
        found(name, dir=tmp_path)


def test_reslab_data_is_where_named_data_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("RESLAB_DATA", str(tmp_path / "there"))
    with pytest.raises(RequestError, match="there"):
        found("mnist")
    for folder in ("MNIST", "FashionMNIST"):
        write_idx(tmp_path / "there" / folder / "raw")
    source = found("mnist")
    assert (source.classes[7], source.splits["test"].images.shape, source.augment) == ("7", (2, 1, 28, 28), "crop")
    assert found("fashion-mnist").classes[9] == "Ankle boot"


def test_a_label_beyond_the_classes_is_refused(tmp_path):
    write_idx(tmp_path / "MNIST" / "raw", labels=(0, 17))
    with pytest.raises(RequestError, match="labels from 0 to 17 in the train split; expected 0 to 9"):
        found("mnist", dir=tmp_path)


def test_cifar_is_found_as_parquet_in_a_folder_of_its_name_or_one_that_begins_so(tmp_path, parquet):
    longer = parquet(tmp_path / "cifar100-subset", labels=range(3))
    source = found("cifar100", dir=tmp_path)
    assert (source.path, source.notes) == (str(longer), (f"cifar100 is read from {longer}",))
    assert source.classes == ["0", "1", "2"]
    exact = parquet(tmp_path / "cifar100")
    source = found("cifar100", dir=tmp_path)
    assert (source.path, source.notes, source.augment) == (str(exact), (), "crop_flip")


def test_torchvisions_batches_come_before_parquet(tmp_path, parquet):
    parquet(tmp_path / "cifar100")
    batches = tmp_path / "cifar-100-python"
    batches.mkdir()
    for name in ("train", "test"):
        content = {"data": np.zeros((1, 3072), np.uint8), "fine_labels": [0]}
        (batches / name).write_bytes(pickle.dumps(content, protocol=2))
    (batches / "meta").write_bytes(pickle.dumps({"fine_label_names": ["apple"]}, protocol=2))
    assert found("cifar100", dir=tmp_path).path == str(batches)
    assert found("cifar100", dir=tmp_path, channels=1).splits["test"].images.shape == (1, 1, 32, 32)


# ---- downloads and the hub

ARCHIVE = "torchvision.datasets.utils.download_and_extract_archive"


def test_download_of_mnist_goes_through_torchvision(tmp_path, monkeypatch):
    def fake(root, *, download):
        assert download
        write_idx(tmp_path / "MNIST" / "raw")

    monkeypatch.setattr("torchvision.datasets.MNIST", fake)
    assert len(found("mnist", dir=tmp_path, download=True).splits["train"]) == 2


def test_download_of_cifar_is_torchvisions_archive_checked_by_its_hash(tmp_path, monkeypatch, parquet):
    asked = {}
    monkeypatch.setattr(ARCHIVE, lambda url, root, **options: asked.update(url=url, root=root, **options))
    with pytest.raises(RequestError, match="cifar-10-batches-py"):  # the fake brought nothing
        found("cifar10", dir=tmp_path, download=True)
    assert asked["url"].endswith(asked["filename"])
    assert (asked["root"], len(asked["md5"])) == (str(tmp_path), 32)
    monkeypatch.setattr(ARCHIVE, lambda *a, **k: pytest.fail("present data is not downloaded"))
    parquet(tmp_path / "cifar10")
    found("cifar10", dir=tmp_path, download=True)


def test_a_failed_download_is_one_sentence(tmp_path, monkeypatch):
    def fake(*arguments, **options):
        raise RuntimeError("Error downloading")

    for target in ("torchvision.datasets.MNIST", ARCHIVE):
        monkeypatch.setattr(target, fake)
    for name in ("mnist", "cifar10"):
        with pytest.raises(WorkFailed, match=f"Can't download {name}.*Error downloading"):
            found(name, dir=tmp_path, download=True)


def test_the_hub_falls_back_to_its_own_conversion_to_parquet(tmp_path, monkeypatch, parquet):
    asked = []

    def fake(name, *, repo_type, revision, allow_patterns):
        asked.append((name, repo_type, revision))
        (tmp_path / "empty").mkdir(exist_ok=True)
        return str(tmp_path / "empty" if revision == "main" else parquet(tmp_path / "converted"))

    monkeypatch.setattr("huggingface_hub.snapshot_download", fake)
    source = found("hf:someone/birds")
    assert asked == [("someone/birds", "dataset", "main"), ("someone/birds", "dataset", "refs/convert/parquet")]
    assert (source.name, source.classes) == ("hf:someone/birds", ["0", "1"])


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (ConnectionError("no network\nsecond line"), "Can't fetch hf:someone/birds: no network"),
        (ConnectionError(), "Can't fetch hf:someone/birds: ConnectionError"),
        (None, "hf:someone/birds has no parquet files on the hub."),
    ],
)
def test_what_the_hub_lacks_is_one_sentence(tmp_path, monkeypatch, answer, sentence):
    def fake(*arguments, **options):
        if answer:
            raise answer
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fake)
    with pytest.raises(RequestError) as caught:
        found("hf:someone/birds")
    assert str(caught.value) == sentence


# ---- folders


def test_a_folder_of_parquet(tmp_path, parquet):
    table = found(parquet(tmp_path / "table"))
    assert (table.classes, table.augment, sorted(table.splits)) == (["0", "1"], "resized_crop_flip", ["test", "train"])


def test_classes_and_files_are_sorted_as_torchvision_sorts_them(make_folder):
    root = make_folder({"1": 2, "10": 12, "2": 1, "Zebra": 1, "ant": 1})
    theirs, source = ImageFolder(str(root)), found(root)
    train = source.splits["train"]
    assert source.classes == theirs.classes == ["1", "10", "2", "Zebra", "ant"]
    assert list(zip(map(str, train.items), train.targets.tolist(), strict=True)) == theirs.samples
    assert (list(source.splits), train.channels, source.augment) == (["train"], 3, "resized_crop_flip")


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_splits_are_named_by_their_folders(make_folder, val):
    counts = {"train/a": 3, "train/b": 2, f"{val}/a": 1, f"{val}/b": 1, "test/a": 1, "test/b": 2}
    splits = found(make_folder(counts), channels=1).splits
    targets = {name: split.targets.tolist() for name, split in splits.items()}
    assert targets == {"train": [0, 0, 0, 1, 1], "val": [0, 1], "test": [0, 1, 1]}
    assert splits["train"].channels == 1


def test_hidden_folders_other_files_and_upper_case_endings(make_folder):
    root = make_folder({"a": 1, "b/deeper": 2, ".cache": 1})
    (root / "a" / "notes.txt").write_text("no image")
    (root / "readme.md").write_text("no class")
    (root / "a" / "0.png").rename(root / "a" / "0.PNG")
    source = found(root)
    assert source.classes == ["a", "b"]
    assert [path.name for path in source.splits["train"].items] == ["0.PNG", "0.png", "1.png"]


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"train/a": 1, "train/b": 0}, r"class folder .*train/b contains no images .*Fill it or remove it"),
        ({"": 3}, r"contains no class folders.*such as photos/cat/1\.jpg"),
        ({"train/a": 1, "train/b": 1, "val/a": 1}, r"val lacks b\."),
        ({"train/a": 1, "val/a": 1, "val/b": 1}, r"val has in addition b\."),
        ({"train/a": 1, "train/b": 1, "val/a": 1, "val/c": 1}, r"val lacks b and has in addition c\."),
        ({"val/a": 1, "test/a": 1}, r"has val/, test/ but no train/ folder"),
        ({}, r"The data folder .*photos is empty"),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(make_folder, counts, words):
    root = make_folder(counts)
    root.mkdir(exist_ok=True)
    with pytest.raises(RequestError, match=words):
        found(root)


def test_image_files_are_those_named_and_those_below_folders(make_folder, tmp_path):
    root = make_folder({"b": 1, "a/deep": 2})
    (root / "notes.txt").write_text("no image")
    absent = tmp_path / "absent.png"
    below = [root / "a/deep/0.png", root / "a/deep/1.png", root / "b/0.png"]
    assert image_files([absent, root]) == [absent, *below]
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match=r"empty contains no images \(\.jpg"):
        image_files([tmp_path / "empty"])


# ---- real data


def test_real_mnist(real_data):
    source = found("mnist", dir=real_data)
    assert source.splits["train"].images.shape == (60_000, 1, 28, 28)
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert torch.bincount(source.splits["test"].targets).tolist() == counts


def test_real_cifar100_subset(real_data):
    source = found("cifar100", dir=real_data)
    assert (len(source.classes), source.classes[0], source.classes[99]) == (100, "apple", "worm")
    assert torch.bincount(source.splits["train"].targets).tolist() == [100] * 100
    assert torch.bincount(source.splits["test"].targets).tolist() == [20] * 100
    assert source.splits["test"].open(0).size == (32, 32)


def test_real_photographs(real_data):
    source = found(real_data / "hymenoptera")
    assert source.classes == ["ants", "bees"]
    assert {name: len(split) for name, split in source.splits.items()} == {"train": 64, "val": 44}
