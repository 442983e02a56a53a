"""A folder of photographs as torchvision's ImageFolder reads it, and every way in which it can be wrong."""

from __future__ import annotations

import pytest
from torchvision.datasets import ImageFolder

from reslab.data.folder import read_folder
from reslab.errors import RequestError


def test_classes_and_files_are_sorted_as_torchvision_sorts_them(make_folder):
    root = make_folder({"1": 2, "10": 12, "2": 1, "Zebra": 1, "ant": 1})
    theirs = ImageFolder(str(root))
    classes, splits = read_folder(root, channels=None)
    assert classes == theirs.classes == ["1", "10", "2", "Zebra", "ant"]
    assert list(zip(map(str, splits["train"].items), splits["train"].labels.tolist(), strict=True)) == theirs.samples


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_splits_go_by_their_folders(make_folder, val):
    classes, splits = read_folder(
        make_folder({"train/a": 3, "train/b": 2, f"{val}/a": 1, f"{val}/b": 1, "test/a": 1, "test/b": 2}), channels=1
    )
    assert classes == ["a", "b"]
    assert {name: split.labels.tolist() for name, split in splits.items()} == {
        "train": [0, 0, 0, 1, 1],
        "val": [0, 1],
        "test": [0, 1, 1],
    }
    assert splits["train"].channels == 1


def test_one_root_is_the_training_split_in_colour(make_folder):
    classes, splits = read_folder(make_folder({"a": 1, "b": 1}), channels=None)
    assert (classes, list(splits), splits["train"].channels) == (["a", "b"], ["train"], 3)


def test_hidden_folders_other_files_and_upper_case_endings(make_folder):
    root = make_folder({"a": 1, "b/deeper": 2, ".cache": 1})
    (root / "a" / "notes.txt").write_text("no image")
    (root / "readme.md").write_text("no class")
    (root / "a" / "0.png").rename(root / "a" / "0.PNG")
    classes, splits = read_folder(root, channels=None)
    assert classes == ["a", "b"]
    assert [path.name for path in splits["train"].items] == ["0.PNG", "0.png", "1.png"]


def test_an_empty_class_is_named(make_folder):
    root = make_folder({"train/a": 1, "train/b": 0})
    with pytest.raises(RequestError, match=r"class folder .*train/b holds no image .*Fill it or remove it"):
        read_folder(root, channels=None)


def test_a_folder_of_loose_images_has_no_classes(make_folder):
    with pytest.raises(RequestError, match=r"holds no class folders.*such as photos/cat/1\.jpg"):
        read_folder(make_folder({"": 3}), channels=None)


@pytest.mark.parametrize(
    ("val", "words"),
    [
        (["a"], r"val lacks b\."),
        (["a", "b", "c"], r"val has in addition c\."),
        (["a", "c"], r"val lacks b and has in addition c\."),
    ],
)
def test_differing_classes_are_named(make_folder, val, words):
    root = make_folder({"train/a": 1, "train/b": 1, **{f"val/{name}": 1 for name in val}})
    with pytest.raises(RequestError, match=words):
        read_folder(root, channels=None)


def test_splits_without_a_training_split_are_refused(make_folder):
    with pytest.raises(RequestError, match=r"has val/, test/ but no train/ folder|has val, test/ but no train/ folder"):
        read_folder(make_folder({"val/a": 1, "test/a": 1}), channels=None)
