"""Photographs per second and core, from files to normalised batches: reslab beside torchvision's ImageFolder with PIL.

Both read the same JPEGs, draw RandomResizedCrop(224), mirror half of the crops, and make normalised float batches of 32
in one process and one thread; a second is one of CPU time. The photographs are the ants and bees of hymenoptera, as
they are (about 500 x 375, as ImageNet's are on average) and enlarged to a longer side of 1024 (the web) and 4032 pixels
(a phone), with grain added so that a file is about as long as a real one of that size; kib has the mean length.
grey_levels and psnr_db say how far our crops are from those of photographs decoded whole, over one box per photograph.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2 import functional as TF

from measure import interleave, parse_flags, ratios, report, summary
from reslab.data import Data, DataOptions, Preprocess, find_source
from reslab.data._images import Photo, draw_resized_crop, open_image
from reslab.data._thumbnails import Thumbnails, open_thumbnails
from reslab.data.splits import EncodedSplit

BAR = 1.5
BATCH = 32
SIZE = (224, 224)
PREPROCESS = Preprocess(*SIZE, 3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize=256)
GRAIN = 5.0  # grey levels
SIDES = {"as they are": None, "longer side 1024": 1024, "longer side 4032": 4032}
NUM_PHOTOS = {None: 64, 1024: 64, 4032: 16}


def theirs(folder: Path, *, passes: int) -> Callable[[], float]:
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(PREPROCESS.mean, PREPROCESS.std),
        ]
    )
    loader = DataLoader(ImageFolder(str(folder), transform), batch_size=BATCH, shuffle=True)
    return lambda: rate(images for _ in range(passes) for images, _ in loader)


def ours(data: Data, *, passes: int) -> Callable[[], float]:
    loader = data.loader(data.train, batch_size=BATCH, training=True)
    return lambda: rate(images for epoch in range(passes) for images, _ in loader.batches(epoch))


def rate(batches: Iterator[torch.Tensor]) -> float:
    """Images per second of CPU time."""
    start, number = time.process_time(), 0
    for images in batches:
        assert images.shape[1:] == (3, *SIZE)
        assert images.dtype == torch.float32
        number += len(images)
    return number / (time.process_time() - start)


def enlarge(source: Path, target: Path, side: int | None) -> None:
    """Some of the photographs below ``source``, in their class folders, with their longer side at ``side`` pixels."""
    paths, random = sorted(source.rglob("*.jpg")), np.random.default_rng(0)
    for path in paths[:: len(paths) // NUM_PHOTOS[side]]:
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        if side is None:
            place.write_bytes(path.read_bytes())
            continue
        image = open_image(path, channels=3, name=str(path))
        scale = side / max(image.size)
        large = np.array(
            image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        )
        noise = random.standard_normal(large.shape[:2], np.float32)[:, :, None] * GRAIN
        Image.fromarray((large + noise).clip(0, 255).astype(np.uint8)).save(place, quality=90, subsampling=2)


def closeness(split: EncodedSplit, thumbnails: Thumbnails | None) -> dict[str, Any]:
    """Mean grey levels and decibels between our crops and those of photographs decoded whole."""
    differences, errors = [], []
    torch.manual_seed(0)
    for number, item in enumerate(split.items):
        photo = thumbnails.find(number) if thumbnails is not None else None
        photo = photo or Photo(item, channels=3, name=split.names[number])
        top, left, height, width = box = draw_resized_crop(photo.height, photo.width)
        image = TF.pil_to_tensor(split.open(number))
        whole = TF.resize(image[:, top : top + height, left : left + width], list(SIZE), antialias=True)
        difference = photo.crop(box, SIZE).double() - whole
        differences.append(float(difference.abs().mean()))
        errors.append(float(difference.square().mean()))
    error = sum(errors) / len(errors)
    decibels = float(10 * np.log10(255**2 / error)) if error else "equal"
    return {"grey_levels": sum(differences) / len(differences), "psnr_db": decibels}


def measure_size(label: str, folder: Path, *, rounds: int, passes: int) -> list[dict[str, Any]]:
    """Three rows: torchvision, ours, and ours out of thumbnails."""
    options = DataOptions(name=str(folder), augment="resized_crop_flip")
    source = find_source(options)
    split = source.splits["train"]
    assert isinstance(split, EncodedSplit)
    kept = open_thumbnails(split, folder.parent / "thumbnails", side=256, limit_mib=1024)
    data = Data(source, split, None, None, PREPROCESS, options)
    sides = {
        "torchvision ImageFolder + PIL": theirs(folder, passes=passes),
        "reslab": ours(data, passes=passes),
        "reslab, thumbnails of 256": ours(replace(data, thumbnails=kept), passes=passes),
    }
    found = interleave(sides, rounds=rounds)
    apart = [{"grey_levels": "", "psnr_db": ""}, closeness(split, None), closeness(split, kept)]
    kib = sum(path.stat().st_size for path in split.items if isinstance(path, Path)) / len(split) / 1024
    rows = []
    for (name, values), distance in zip(found.items(), apart, strict=True):
        pair = ratios(values, found["torchvision ImageFolder + PIL"])
        rows.append({
            "photographs": label, "kib": kib, "pipeline": name, "images_per_s": summary(values)["median"],
            "ratio": pair["median"], "ratio_min": pair["min"], "ratio_max": pair["max"], "n": pair["n"],
            **distance,
        })  # fmt: skip
    return rows


def main() -> None:
    flags = parse_flags(__doc__)
    source = Path(flags.data_dir or os.environ.get("RESLAB_DATA", "data")) / "hymenoptera" / "train"
    if not source.is_dir():
        print(f"photos is not measured: there are no photographs in {source}. Set RESLAB_DATA or --data-dir.")
        return
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for label, side in SIDES.items():
            folder = Path(place) / str(side)
            enlarge(source, folder, side)
            passes = 1 if side == 4032 else 2
            rows += measure_size(label, folder, rounds=3 if flags.quick else 9, passes=passes)
    native = rows[1]
    verdict = {
        "what": "reslab over torchvision's ImageFolder + PIL, photographs as they are",
        "measured": native["ratio"],
        "bar": f">= {BAR}",
        "met": native["ratio"] >= BAR,
    }
    report("photos", rows, verdicts=[verdict], flags=flags)


if __name__ == "__main__":
    main()
