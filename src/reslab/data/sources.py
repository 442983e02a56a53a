"""Where data comes from: ``--data NAME`` to class names and splits. The names are in ``SOURCES``."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from reslab.data.archives import CIFAR_LAYOUT, read_cifar, read_mnist
from reslab.data.augment.options import Geometry
from reslab.data.folder import read_folder
from reslab.data.parquet import first_line, parquet_files, read_parquet
from reslab.data.splits import ArraySplit, Split, stratified_split
from reslab.errors import RequestError, WorkFailed, unknown

DIGITS_TEST_SHARE, DIGITS_TEST_SEED = (
    0.2,
    0,
)  # scikit-learn's digits come in one piece; the cut is the same for everyone


@dataclass(frozen=True)
class Source:
    """A data set as found, before a validation split is drawn and before anything is decoded that needn't be.

    Args:
        name: what the user typed.
        path: where it was found; empty for embedded data.
        classes: names in the order of their numbers.
        splits: ``train`` and, where the source has them, ``val`` and ``test``.
        augment: what suits these images unless told otherwise: digits must not be mirrored.
        notes: what the user should know about what was found.
    """

    name: str
    path: str
    classes: list[str]
    splits: dict[str, Split]
    augment: Geometry
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Request:
    """What a reader of one source gets.

    Args:
        name: of the data set or folder.
        root: ``--data-dir``.
        channels: 1, 3, or None for what the data has.
        download: fetch it if it is absent.
    """

    name: str
    root: Path
    channels: int | None = None
    download: bool = False


def digits(request: Request) -> Source:
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels with 17 grey levels: real, embedded, no download."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    # 17 levels onto 0..255, so that all data in memory is uint8
    images = torch.from_numpy(raw.images * (255 / 16)).round().to(torch.uint8).unsqueeze(1)  # (N, H, W) -> (N, 1, H, W)
    labels = torch.from_numpy(raw.target).long()
    classes = [str(name) for name in raw.target_names]
    everything = ArraySplit(images, labels)
    train, test = stratified_split(labels, DIGITS_TEST_SHARE, seed=DIGITS_TEST_SEED, classes=classes)
    return Source(
        "digits", "", classes, {"train": everything.subset(train), "test": everything.subset(test)}, augment="none"
    )


def mnist(request: Request) -> Source:
    """MNIST, in torchvision's layout ``MNIST/raw``."""
    return idx_source(request, "MNIST", [str(i) for i in range(10)], augment="crop")


def fashion_mnist(request: Request) -> Source:
    """Fashion-MNIST, in torchvision's layout ``FashionMNIST/raw``."""
    classes = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
    return idx_source(request, "FashionMNIST", classes, augment="crop_flip")


def idx_source(request: Request, folder: str, classes: list[str], *, augment: Geometry) -> Source:
    """A data set of idx files below ``folder``."""
    raw = request.root / folder / "raw"
    if not raw.is_dir() and request.download:
        download(request, lambda datasets: getattr(datasets, folder)(str(request.root), download=True))
    if not raw.is_dir():
        raise absent(request, str(raw))
    return Source(request.name, str(raw), classes, dict(read_mnist(raw)), augment=augment)


def cifar(request: Request) -> Source:
    """CIFAR-10 or CIFAR-100: torchvision's batches, or parquet files in a folder ``NAME`` or ``NAME-*``."""
    batches = CIFAR_LAYOUT[request.name][0]
    parquet = find_parquet_folder(request)
    if not (request.root / batches).is_dir() and parquet is None and request.download:
        download(request, lambda datasets: fetch_cifar(datasets, request))
    if (request.root / batches).is_dir():
        classes, arrays = read_cifar(request.root, request.name)
        return Source(request.name, str(request.root / batches), classes, dict(arrays), augment="crop_flip")
    if parquet is None:
        raise absent(request, f"{request.root / batches} or {request.root / request.name}/*.parquet")
    classes, splits = read_parquet(parquet, channels=request.channels)
    note = () if parquet.name == request.name else (f"{request.name} is read from {parquet}",)
    return Source(request.name, str(parquet), classes, dict(splits), augment="crop_flip", notes=note)


def find_parquet_folder(request: Request) -> Path | None:
    """``root/NAME`` or else the first ``root/NAME-*`` that holds parquet files."""
    for folder in (request.root / request.name, *sorted(request.root.glob(f"{request.name}-*"))):
        if folder.is_dir() and parquet_files(folder):
            return folder
    return None


def fetch_cifar(datasets: Any, request: Request) -> None:
    """Fetches and unpacks torchvision's archive, checked by its MD5; the batches are read by us."""
    kind = datasets.CIFAR10 if request.name == "cifar10" else datasets.CIFAR100
    datasets.utils.download_and_extract_archive(kind.url, str(request.root), filename=kind.filename, md5=kind.tgz_md5)


def download(request: Request, fetch: Callable[[Any], object]) -> None:
    """Calls ``fetch`` with ``torchvision.datasets``; a failure is one sentence.

    Raises:
        WorkFailed: if the network or the server failed, or what came is damaged.
    """
    import torchvision

    try:
        fetch(torchvision.datasets)
    except (RuntimeError, OSError) as error:  # torchvision's for a wrong hash, urllib's for the network
        raise WorkFailed(f"Can't download {request.name} to {request.root}: {first_line(error)}") from None


def absent(request: Request, expected: str) -> RequestError:
    """The error for a data set that isn't there."""
    return RequestError(
        f"No {request.name} below {request.root}: expected {expected}."
        " Point --data-dir or RESLAB_DATA at the folder that holds it, or add --download."
    )


def hub(request: Request) -> Source:
    """``hf:owner/name``: the parquet files of a data set on the Hugging Face hub. Needs the extra ``reslab[hub]``."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise RequestError("hf:owner/name needs the extra: pip install 'reslab[hub]'.") from None
    owner_and_name = request.name.removeprefix("hf:")
    for revision in ("main", "refs/convert/parquet"):  # the second is the hub's own conversion
        try:
            found = Path(
                snapshot_download(owner_and_name, repo_type="dataset", revision=revision, allow_patterns=["*.parquet"])
            )
        except Exception as error:  # the hub's client raises a dozen kinds of its own and of its transport
            raise RequestError(f"Can't fetch {request.name}: {first_line(error)}") from None
        if parquet_files(found):
            return replace(folder_source(replace(request, name=str(found))), name=request.name)
    raise RequestError(f"{request.name} has no parquet files on the hub.")


SOURCES: dict[str, Callable[[Request], Source]] = {
    "digits": digits,
    "mnist": mnist,
    "fashion-mnist": fashion_mnist,
    "cifar10": cifar,
    "cifar100": cifar,
}


def folder_source(request: Request) -> Source:
    """A folder of parquet files or of photographs."""
    root = Path(request.name)
    if not any(root.iterdir()):
        raise RequestError(f"The data folder {root} is empty.")
    read = read_parquet if parquet_files(root) else read_folder
    classes, splits = read(root, channels=request.channels)
    # for photographs; `prepare` takes crop_flip instead where the images turn out to be small
    return Source(str(root), str(root.resolve()), classes, dict(splits), augment="resized_crop_flip")


def check_labels(source: Source) -> None:
    """Refuses a label that is no class's number: a damaged or mixed-up file."""
    for name, split in source.splits.items():
        lowest, highest = (int(value) for value in torch.aminmax(split.labels))
        if lowest < 0 or highest >= len(source.classes):
            raise RequestError(
                f"{source.path} has labels from {lowest} to {highest} in the {name} split; expected 0 to"
                f" {len(source.classes) - 1}. Download it again."
            )


def as_asked(split: Split, channels: int | None) -> Split:
    """With the channels that were asked for; encoded images are converted when they are decoded."""
    return split.with_channels(channels) if isinstance(split, ArraySplit) and channels else split


def _find_source(
    name: str, *, data_dir: Path | None = None, channels: int | None = None, download: bool = False
) -> Source:
    """Finds and reads a data set.

    Args:
        name: a name of ``SOURCES``, a folder of photographs or parquet files, or ``hf:owner/name``.
        data_dir: where named data sets lie; by default ``$RESLAB_DATA``, or else ``data``.
        channels: 1 or 3; None for what the data has.
        download: fetch a named data set that is absent.

    Raises:
        RequestError: for an unknown name or absent data, with what was expected where.
    """
    root = data_dir or Path(os.environ.get("RESLAB_DATA") or "data")
    request = Request(name, root, channels, download)
    if name in SOURCES:
        source = SOURCES[name](request)
        check_labels(source)
        return replace(source, splits={key: as_asked(split, channels) for key, split in source.splits.items()})
    if name.startswith("hf:"):
        return hub(request)
    if name and Path(name).is_dir():  # an empty name would be the working folder
        return folder_source(request)
    if Path(name).is_file():
        raise RequestError(f"The data {name} is a file. Name the folder of photographs or parquet files.")
    if os.sep in name or name.startswith("."):
        raise RequestError(f"No such data folder: {name}. It exists neither as a folder nor as a known data set.")
    raise unknown("dataset", name, SOURCES, hint="A folder's path and hf:owner/name work too.")


def find_source(options, **old):
    if isinstance(options, str):
        return _find_source(options, **old)
    return _find_source(
        options.name,
        data_dir=Path(options.dir) if options.dir else None,
        channels=options.channels or None,
        download=options.download,
    )
