"""A folder of photographs in ImageFolder layout: a folder a class, in ``train/ val/ [test/]`` or in one root."""

from __future__ import annotations

from pathlib import Path

import torch

from reslab.data.images import EXTENSIONS
from reslab.data.splits import EncodedSplit
from reslab.errors import RequestError

SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


def read_folder(root: Path, *, channels: int | None) -> tuple[list[str], dict[str, EncodedSplit]]:
    """Class names and splits of an image folder.

    Classes are sorted as torchvision's ImageFolder sorts them (``1 10 2``, not ``1 2 10``), and must be the same in
    every split: a class that is missing in one would shift the others' numbers.

    Raises:
        RequestError: if there are no class folders, a class is empty, or classes differ between splits.
    """
    folders = {split: root / name for split, names in SPLIT_FOLDERS.items() for name in names if (root / name).is_dir()}
    if folders and "train" not in folders:
        raise RequestError(f"{root} has {', '.join(p.name for p in folders.values())}/ but no train/ folder.")
    folders = folders or {"train": root}
    classes = class_folders(folders["train"])
    for split, folder in folders.items():
        check_same_classes(classes, class_folders(folder), folders["train"], folder if split != "train" else None)
    return classes, {split: read_split(folder, classes, channels=channels or 3) for split, folder in folders.items()}


def class_folders(folder: Path) -> list[str]:
    """Sorted names of the folders in ``folder``; hidden ones don't count."""
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise RequestError(
            f"{folder} holds no class folders. Expected one folder a class with its images inside, such as"
            f" {folder.name}/cat/1.jpg."
        )
    return classes


def check_same_classes(train: list[str], other: list[str], train_folder: Path, folder: Path | None) -> None:
    """Refuses splits whose classes differ, and says which do."""
    if folder is None or train == other:
        return
    missing, extra = sorted(set(train) - set(other)), sorted(set(other) - set(train))
    parts = [f"{name} {', '.join(items)}" for name, items in (("lacks", missing), ("has in addition", extra)) if items]
    raise RequestError(f"Classes differ: against {train_folder}, {folder} {' and '.join(parts)}. Make them equal.")


def read_split(folder: Path, classes: list[str], *, channels: int) -> EncodedSplit:
    """All images below the class folders, by sorted path."""
    paths: list[Path] = []
    labels: list[int] = []
    for index, name in enumerate(classes):
        found = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file())
        if not found:
            raise RequestError(
                f"The class folder {folder / name} holds no image ({' '.join(EXTENSIONS)}). Fill it or remove it."
            )
        paths += found
        labels += [index] * len(found)
    return EncodedSplit(paths, [str(path) for path in paths], torch.tensor(labels, dtype=torch.int64), channels)
