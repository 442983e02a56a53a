from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from PIL import Image
from small_files import noise_image

MakeFolder = Callable[..., Path]


@pytest.fixture
def noise() -> Callable[..., Image.Image]:
    """``noise(seed, width=8, height=8, mode="RGB")``."""
    return noise_image


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """``make_folder({"train/cat": 3}, side=8)``: that many PNGs in each folder, different from each other."""

    def make(counts: Mapping[str, int], *, side: int = 8, root: str = "photos") -> Path:
        seed = 0
        for folder, count in counts.items():
            place = tmp_path / root / folder
            place.mkdir(parents=True)
            for number in range(count):
                seed += 1
                noise_image(seed, width=side, height=side).save(place / f"{number}.png")
        return tmp_path / root

    return make


@pytest.fixture
def real_data() -> Path:
    """``$RESLAB_DATA``, or a skip that says why."""
    folder = os.environ.get("RESLAB_DATA")
    if not folder:
        pytest.skip("needs real data: set RESLAB_DATA to the folder that holds cifar10/, MNIST/, ...")
    return Path(folder)
