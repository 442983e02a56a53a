"""Where data comes from: from a name, a folder or the hub to class names and splits. The names are in ``SOURCES``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from reslab.data._formats import CIFAR_LAYOUT, first_line, parquet_files, read_cifar, read_mnist, read_parquet
from reslab.data._images import EXTENSIONS
from reslab.data.options import DataOptions, Geometry
from reslab.data.splits import ArraySplit, EncodedSplit, Split, stratified_split
from reslab.errors import RequestError, WorkFailed, unknown

# scikit-learn's digits come in one piece; the cut is the same for everyone
DIGITS_TEST_FRACTION, DIGITS_TEST_SEED = 0.2, 0
SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


@dataclass(frozen=True)
class Source:
    """A data set as found, before a validation split is drawn and before anything is decoded that needn't be.

    Args:
        name: what the user typed.
        path: where it was found; empty for embedded data.
        classes: names in the order of their numbers.
        splits: ``train`` and, where the source has them, ``val`` and ``test``.
        augment: what suits these images unless the user chooses: digits must not be mirrored.
        notes: what the user should know about what was found.
        tasks: names of the tasks that its targets can serve.
    """

    name: str
    path: str
    classes: list[str]
    splits: Mapping[str, Split]
    augment: Geometry
    notes: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ("classify",)


def find_source(options: DataOptions) -> Source:
    """Find and read a data set.

    Args:
        options: ``name`` is one of ``SOURCES``, a folder of photographs or parquet files, or ``hf:owner/name``;
            ``dir``, ``channels`` and ``download`` count too.

    Raises:
        RequestError: for an unknown name or absent data, with what was expected where.
    """
    name = options.name
    if name in SOURCES:
        source = SOURCES[name](options)
        _check_labels(source)
        # encoded images are converted when they are decoded
        splits = {
            key: split.with_channels(options.channels) if isinstance(split, ArraySplit) and options.channels else split
            for key, split in source.splits.items()
        }
        return replace(source, splits=splits)
    if name.startswith("hf:"):
        return _hub(options)
    if name and Path(name).is_dir():  # an empty name would be the working folder
        return _folder(options)
    if Path(name).is_file():
        raise RequestError(f"The data {name} is a file. Name the folder of photographs or parquet files.")
    if os.sep in name or name.startswith("."):
        raise RequestError(f"No such data folder: {name}. It exists neither as a folder nor as a known data set.")
    raise unknown("dataset", name, SOURCES, hint="A folder's path and hf:owner/name work too.")


def _check_labels(source: Source) -> None:
    """Refuse a label that is no class's number: a damaged or mixed-up file."""
    for name, split in source.splits.items():
        assert isinstance(split.targets, torch.Tensor)
        lowest, highest = (int(value) for value in torch.aminmax(split.targets))
        if lowest < 0 or highest >= len(source.classes):
            raise RequestError(
                f"{source.path} has labels from {lowest} to {highest} in the {name} split; expected 0 to"
                f" {len(source.classes) - 1}. Download it again."
            )


# ---- named data sets


def _digits(options: DataOptions) -> Source:
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels with 17 grey levels: real, embedded, no download."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    # 17 levels onto 0..255, so that all data in memory is uint8
    images = torch.from_numpy(raw.images * (255 / 16)).round().to(torch.uint8).unsqueeze(1)  # (N, H, W) -> (N, 1, H, W)
    labels = torch.from_numpy(raw.target).long()
    classes = [str(name) for name in raw.target_names]
    parts = stratified_split(labels, DIGITS_TEST_FRACTION, seed=DIGITS_TEST_SEED, classes=classes)
    train, test = (ArraySplit(images, labels).subset(part) for part in parts)
    return Source("digits", "", classes, {"train": train, "test": test}, augment="none")


def _mnist(options: DataOptions) -> Source:
    """MNIST, in torchvision's layout ``MNIST/raw``."""
    return _idx_source(options, "MNIST", [str(i) for i in range(10)], augment="crop")


def _fashion_mnist(options: DataOptions) -> Source:
    """Fashion-MNIST, in torchvision's layout ``FashionMNIST/raw``."""
    classes = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
    return _idx_source(options, "FashionMNIST", classes, augment="crop_flip")


def _idx_source(options: DataOptions, folder: str, classes: list[str], *, augment: Geometry) -> Source:
    root = _root(options)
    raw = root / folder / "raw"
    if not raw.is_dir() and options.download:
        _download(options, lambda datasets: getattr(datasets, folder)(str(root), download=True))
    if not raw.is_dir():
        raise _absent(options, str(raw))
    return Source(options.name, str(raw), classes, read_mnist(raw), augment=augment)


def _cifar(options: DataOptions) -> Source:
    """CIFAR-10 or CIFAR-100: torchvision's batches, or parquet files in a folder ``NAME`` or ``NAME-*``."""
    name, root = options.name, _root(options)
    batches = root / CIFAR_LAYOUT[name][0]
    folders = (root / name, *sorted(root.glob(f"{name}-*")))
    parquet = next((folder for folder in folders if folder.is_dir() and parquet_files(folder)), None)
    if not batches.is_dir() and parquet is None and options.download:
        _download(options, lambda datasets: _fetch_cifar(datasets, options))
    if batches.is_dir():
        classes, arrays = read_cifar(root, name)
        return Source(name, str(batches), classes, arrays, augment="crop_flip")
    if parquet is None:
        raise _absent(options, f"{batches} or {root / name}/*.parquet")
    classes, splits = read_parquet(parquet, channels=options.channels or 3)
    note = () if parquet.name == name else (f"{name} is read from {parquet}",)
    return Source(name, str(parquet), classes, splits, augment="crop_flip", notes=note)


def _fetch_cifar(datasets: Any, options: DataOptions) -> None:
    """Fetch and unpack torchvision's archive, checked by its MD5; the batches are read by us."""
    kind = datasets.CIFAR10 if options.name == "cifar10" else datasets.CIFAR100
    root = str(_root(options))
    datasets.utils.download_and_extract_archive(kind.url, root, filename=kind.filename, md5=kind.tgz_md5)


SOURCES: dict[str, Callable[[DataOptions], Source]] = {
    "digits": _digits,
    "mnist": _mnist,
    "fashion-mnist": _fashion_mnist,
    "cifar10": _cifar,
    "cifar100": _cifar,
}


def _root(options: DataOptions) -> Path:
    return Path(options.dir or os.environ.get("RESLAB_DATA") or "data")


def _download(options: DataOptions, fetch: Callable[[Any], object]) -> None:
    """Call ``fetch`` with ``torchvision.datasets``; a failure becomes one sentence.

    Raises:
        WorkFailed: if the network or the server failed, or what came is damaged.
    """
    import torchvision

    try:
        fetch(torchvision.datasets)
    except (RuntimeError, OSError) as error:  # torchvision's for a wrong hash, urllib's for the network
        raise WorkFailed(f"Can't download {options.name} to {_root(options)}: {first_line(error)}") from None


def _absent(options: DataOptions, expected: str) -> RequestError:
    return RequestError(
        f"No {options.name} below {_root(options)}: expected {expected}."
        " Point --data-dir or RESLAB_DATA at the folder that holds it, or add --download."
    )


# ---- folders and the hub


def _hub(options: DataOptions) -> Source:
    """``hf:owner/name``: the parquet files of a data set on the Hugging Face hub. Needs the extra ``reslab[hub]``."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise RequestError("hf:owner/name needs the extra: pip install 'reslab[hub]'.") from None
    owner_and_name = options.name.removeprefix("hf:")
    for revision in ("main", "refs/convert/parquet"):  # the second is the hub's own conversion
        try:
            found = Path(
                snapshot_download(owner_and_name, repo_type="dataset", revision=revision, allow_patterns=["*.parquet"])
            )
        except Exception as error:  # the hub's client raises a dozen kinds of its own and of its transport
            raise RequestError(f"Can't fetch {options.name}: {first_line(error)}") from None
        if parquet_files(found):
            return replace(_folder(replace(options, name=str(found))), name=options.name)
    raise RequestError(f"{options.name} has no parquet files on the hub.")


def _folder(options: DataOptions) -> Source:
    """A folder of parquet files or of photographs."""
    root = Path(options.name)
    if not any(root.iterdir()):
        raise RequestError(f"The data folder {root} is empty.")
    read = read_parquet if parquet_files(root) else read_folder
    classes, splits = read(root, channels=options.channels or 3)
    # for photographs; `prepare` takes crop_flip instead where the images turn out to be small
    return Source(str(root), str(root.resolve()), classes, splits, augment="resized_crop_flip")


def read_folder(root: Path, *, channels: int) -> tuple[list[str], dict[str, EncodedSplit]]:
    """Read class names and splits of an image folder: one folder per class, in ``train/ val/ [test/]`` or in one root.

    Classes are sorted as torchvision's ImageFolder sorts them (``1 10 2``, not ``1 2 10``), and must be the same in
    every split: a class that is missing in one would shift the others' numbers.

    Raises:
        RequestError: if there are no class folders, a class is empty, or classes differ between splits.
    """
    folders = {split: root / name for split, names in SPLIT_FOLDERS.items() for name in names if (root / name).is_dir()}
    if folders and "train" not in folders:
        raise RequestError(f"{root} has {', '.join(f'{p.name}/' for p in folders.values())} but no train/ folder.")
    folders = folders or {"train": root}
    classes = _class_folders(folders["train"])
    for folder in folders.values():
        _check_same_classes(classes, _class_folders(folder), folders["train"], folder)
    return classes, {split: _read_classes(folder, classes, channels=channels) for split, folder in folders.items()}


def _class_folders(folder: Path) -> list[str]:
    """Sorted names of the folders in ``folder``; hidden ones don't count."""
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise RequestError(
            f"{folder} contains no class folders. Expected one folder per class with its images inside, such as"
            f" {folder.name}/cat/1.jpg."
        )
    return classes


def _check_same_classes(train: list[str], other: list[str], train_folder: Path, folder: Path) -> None:
    missing, extra = sorted(set(train) - set(other)), sorted(set(other) - set(train))
    parts = [f"{name} {', '.join(items)}" for name, items in (("lacks", missing), ("has in addition", extra)) if items]
    if parts:
        raise RequestError(f"Classes differ: against {train_folder}, {folder} {' and '.join(parts)}. Make them equal.")


def _read_classes(folder: Path, classes: list[str], *, channels: int) -> EncodedSplit:
    """All images below the class folders, by sorted path."""
    paths: list[Path] = []
    labels: list[int] = []
    for index, name in enumerate(classes):
        found = _images_below(folder / name)
        if not found:
            raise RequestError(
                f"The class folder {folder / name} contains no images ({' '.join(EXTENSIONS)}). Fill it or remove it."
            )
        paths += found
        labels += [index] * len(found)
    return EncodedSplit(paths, [str(path) for path in paths], torch.tensor(labels, dtype=torch.int64), channels)


def _images_below(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file())


def image_files(paths: Iterable[Path]) -> list[Path]:
    """Return files as they are, absent ones too, and folders as the images below them, by sorted path.

    Raises:
        RequestError: for a folder without images.
    """
    found: list[Path] = []
    for path in paths:
        images = _images_below(path) if path.is_dir() else [path]
        if not images:
            raise RequestError(f"{path} contains no images ({' '.join(EXTENSIONS)}).")
        found += images
    return found
