"""A trained network on disk: ``model.safetensors``, its weights, and ``config.json``, a card that says what they are.

The names are the Hugging Face Hub's convention. The card holds the SHA-256 of the weights and is written last, so a
folder with a card is whole. Older runs have ``weights.safetensors`` and ``weights.json``; ``reslab convert`` puts the
card beside the weights, under their name, and inside them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import safetensors.torch
from pydantic import Field
from safetensors import SafetensorError
from torch import Tensor, nn

from reslab.errors import RequestError
from reslab.options import build
from reslab.records.files import encode, write_atomic
from reslab.weights._files import mismatches, read_safetensors, shapes_of

FILES = {
    # card: the chosen weights, and those after the last step
    "config.json": ("model.safetensors", "model-last.safetensors"),
    "weights.json": ("weights.safetensors", "weights-last.safetensors"),  # of older runs
}
CARD, (WEIGHTS, LAST_WEIGHTS) = next(iter(FILES.items()))
METADATA_KEY = "reslab"  # the entry of a safetensors file's metadata that holds a card

Side = Annotated[int, Field(strict=True, ge=1, le=2**14)]
Channels = Annotated[int, Field(strict=True, ge=1, le=2**10)]
Width = Annotated[int, Field(strict=True, ge=1, le=2**16)]


@dataclass(frozen=True)
class CardSizes:
    """What a card may ask for, so that a wrong one is an error instead of a full memory or a division by zero."""

    num_classes: Annotated[int, Field(strict=True, ge=1, le=10**6)] = 1
    in_channels: Channels = 1
    num_blocks: tuple[Annotated[int, Field(strict=True, ge=1, le=2**12)], ...] = ()
    widths: tuple[Width, ...] = ()
    stem_width: Width = 1
    channels: Channels = 1
    height: Side = 1
    width: Side = 1
    resize: Side | None = None
    mean: tuple[Annotated[float, Field(strict=True, ge=-1e30, le=1e30)], ...] = ()  # float32 holds these
    std: tuple[Annotated[float, Field(strict=True, ge=1e-30, le=1e30)], ...] = ()


@dataclass(frozen=True)
class BundleCard:
    """What the weights of a bundle are and where they come from: the contents of ``config.json``.

    Args:
        model: ``name``, which is a name of the catalog, ``my_pkg.nets:builder``, or empty for a network without a name;
            the choices of ``Architecture`` that differ from the name's own; ``num_classes`` and ``in_channels``.
        task: ``name``, such as ``"classify"``, and the task's own options.
        classes: names in the order of the network's outputs; empty if unknown.
        preprocess: from an image to the network's input, as ``Preprocess.to_dict`` gives it; empty if unknown.
        provenance: data, epoch, which weights were selected, score, version, run: free form.
        digests: SHA-256 by file name.
        format_version: of the card.
    """

    model: dict[str, Any]
    task: dict[str, Any]
    classes: list[str] = field(default_factory=list)
    preprocess: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    format_version: int = 1

    def to_json(self) -> str:
        return encode(asdict(self), indent=2) + "\n"


def write_bundle(
    folder: Path, card: BundleCard, weights: Mapping[str, Tensor], *, last: Mapping[str, Tensor] | None = None
) -> None:
    """Write the weights, and then the card with their digests, each file whole or not at all.

    Args:
        folder: made if it is absent.
        card: its digests are replaced by those of the files that are written.
        weights: the chosen ones.
        last: those after the last step, to be written beside them.

    Raises:
        RequestError: if the card is one that ``read_bundle`` would refuse; nothing has been written then.

    Example:
        >>> import tempfile
        >>> from reslab.models.catalog import create_model
        >>> folder, network = Path(tempfile.mkdtemp()), create_model("resnet8", 2)
        >>> card = BundleCard({"name": "resnet8", "num_classes": 2}, {"name": "classify"}, ["cat", "dog"])
        >>> write_bundle(folder, card, network.state_dict())
        >>> sorted(path.name for path in folder.iterdir()), read_bundle(folder)[0].classes
        (['config.json', 'model.safetensors'], ['cat', 'dog'])
    """
    _check_card(card, folder / CARD)
    folder.mkdir(parents=True, exist_ok=True)
    digests = {WEIGHTS: save_weights(folder / WEIGHTS, weights)}
    if last is not None:
        digests[LAST_WEIGHTS] = save_weights(folder / LAST_WEIGHTS, last)
    write_atomic(folder / CARD, replace(card, digests=digests).to_json())


def read_bundle(path: str | Path, *, weights: str = "") -> tuple[BundleCard, dict[str, Tensor]]:
    """Read a trained network: its card, and its weights on the CPU.

    Args:
        path: the folder of a bundle or run, also of an older version, or a ``.safetensors`` file with its card.
        weights: ``""`` or ``"best"`` for the chosen weights, ``"last"`` for those after the last step, or the path of
            another safetensors file.

    Raises:
        RequestError: if there is no bundle, or if card or weights are damaged; no tensor has been read then.
    """
    path = Path(path)
    card, place = _read_card(path)
    chosen, last = FILES.get(place.name, (path.name, LAST_WEIGHTS))
    named = {"best": place.with_name(chosen), "last": place.with_name(last)}
    file = {"": path if path.is_file() else named["best"], **named}.get(weights, Path(weights))
    if not file.is_file():
        raise RequestError(f"No such weights file: {file}. Expected 'best', 'last', or the path of a safetensors file.")
    expected = card.digests.get(file.name) if file.parent.resolve() == place.parent.resolve() else None
    if expected and (found := digest(file)) != expected:
        raise RequestError(
            f"{file} is damaged, or another file was put in its place: its SHA-256 begins with {found[:8]}, and"
            f" {place.name} says {expected[:8]}. Copy both files again."
        )
    return card, read_safetensors(file)


def find_card(path: Path) -> BundleCard | None:
    """Read the card of a bundle's folder or of a weights file of any kind; None if there is none, or a damaged one."""
    with suppress(RequestError):
        return _read_card(path)[0]
    return None


def save_weights(path: Path, weights: Mapping[str, Tensor], *, card: BundleCard | None = None) -> str:
    """Write a state_dict as safetensors, whole or not at all, with a card inside if given; return its SHA-256."""
    plain = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    metadata = {"format": "pt"} | ({METADATA_KEY: card.to_json()} if card else {})  # transformers asks for "format"
    write_atomic(path, content := safetensors.torch.save(plain, metadata=metadata))
    return hashlib.sha256(content).hexdigest()


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_state(model: nn.Module, weights: Mapping[str, Tensor], *, where: str) -> None:
    """Load weights whose names are the model's own; every one must fit.

    Args:
        model: changed in place.
        weights: as ``read_bundle`` or ``read_safetensors`` gives them.
        where: they come from, for the error.

    Raises:
        RequestError: if names are missing, unexpected or of another shape; nothing has been changed then.
    """
    if problems := mismatches(shapes_of(weights), shapes_of(model.state_dict())):
        raise RequestError(f"{where} doesn't fit the network: {'; '.join(problems)}. Was it trained as another model?")
    model.load_state_dict(dict(weights))


# ---- cards


def _read_card(path: Path) -> tuple[BundleCard, Path]:
    """Read the card of a folder or file; return also where it was found."""
    if path.is_dir():
        places = [path / name for name in FILES]
    elif path.is_file():
        beside = next((card for card, names in FILES.items() if path.name in names), f"{path.stem}.json")
        places = [path.with_name(beside), path]
    else:
        raise RequestError(f"No such run, bundle or weights file: {path}.")
    problem = None
    for place in places:
        try:
            if place == path:
                with safetensors.safe_open(path, framework="pt") as file:
                    return _parse_card((file.metadata() or {})[METADATA_KEY], place), place
            return _parse_card(place.read_bytes(), place), place
        except (OSError, SafetensorError, KeyError):  # there is none
            continue
        except RequestError as error:
            problem = problem or error
    if problem is None and path.is_dir():
        problem = RequestError(
            f"{path} contains no trained network: it has no {CARD}. `reslab train` writes one when a run ends; an"
            " unfinished run is resumed by --resume."
        )
    raise problem or RequestError(
        f"{path} has no card: there is no {places[0].name} beside it. `reslab convert {path}` recognises the network"
        " and writes one."
    )


def _parse_card(text: str | bytes, place: Path) -> BundleCard:
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{place} is damaged: it is not valid JSON ({error}). Copy it again.") from None
    model = raw.get("model") if isinstance(raw, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("name"), str):
        raise RequestError(f"{place} is not a card of reslab: it has no 'model' with a 'name'.")
    card = build(BundleCard, raw if "format_version" in raw else _from_older(raw), where=str(place))
    if card.format_version != 1:
        raise RequestError(f"{place} has format_version {card.format_version}, expected 1. Update reslab to read it.")
    _check_card(card, place)
    return card


def _from_older(raw: dict[str, Any]) -> dict[str, Any]:
    """Read a card from before ``format_version``, in which the task was a string and every choice was listed."""
    rest = dict(raw)
    preprocess = rest.pop("preprocess", {})
    channels = preprocess.get("channels") if isinstance(preprocess, dict) else None
    model = {"in_channels": channels} | rest.pop("model") | {"num_classes": rest.pop("num_classes", None)}
    model.pop("weights", None)  # what training started from
    return {
        "model": {key: value for key, value in model.items() if value not in (None, "auto", 0.0)},  # 0.0 is False too
        "task": {"name": rest.pop("task", "classify")},
        "classes": rest.pop("classes", []),
        "preprocess": preprocess,
        "provenance": rest,
    }


def _check_card(card: BundleCard, place: Path) -> None:
    """Refuse wrong sizes before anything is built by them."""
    sizes = {**card.preprocess, **card.model}
    mend = "Correct the card, or copy the bundle again."
    try:
        build(CardSizes, sizes, where=str(place))
    except RequestError as error:
        raise RequestError(f"{error} {mend}") from None
    for name in ("mean", "std"):
        if {name, "channels"} <= sizes.keys() and len(sizes[name]) != sizes["channels"]:
            raise RequestError(
                f"{place}: {name} has {len(sizes[name])} values, but channels is {sizes['channels']}. {mend}"
            )
