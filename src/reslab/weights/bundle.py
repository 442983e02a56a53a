"""shim"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import safetensors.torch

from reslab.errors import RequestError
from reslab.models.weights import misfits
from reslab.records import encode, write_atomic


@dataclass(frozen=True)
class BundleCard:
    model: dict
    task: dict
    classes: list
    preprocess: dict
    provenance: dict = field(default_factory=dict)
    digests: dict = field(default_factory=dict)
    format_version: int = 1


def write_bundle(folder, card, weights, last=None):
    write_atomic(folder / "model.safetensors", safetensors.torch.save({k: v.contiguous() for k, v in weights.items()}))
    if last is not None:
        write_atomic(
            folder / "model-last.safetensors", safetensors.torch.save({k: v.contiguous() for k, v in last.items()})
        )
    write_atomic(folder / "config.json", encode(asdict(card), indent=2))


def read_bundle(path, weights=""):
    root = path if path.is_dir() else path.parent
    if not (root / "config.json").exists() and not (root / "weights.json").exists():
        raise RequestError(f"{root} is not a run: it has no run.json. `reslab train --out FOLDER` makes one.")
    if (root / "config.json").exists():
        try:
            card = BundleCard(**json.loads((root / "config.json").read_text()))
        except (ValueError, TypeError) as error:
            raise RequestError(f"{root}/config.json is damaged: {error}") from None
    else:
        old = json.loads((root / "weights.json").read_text())
        model = {k: v for k, v in old["model"].items() if v != "auto" and k != "weights"}
        card = BundleCard(
            {**model, "num_classes": old["num_classes"]}, {"name": old["task"]}, old["classes"], old["preprocess"]
        )
    names = {
        "": ["model.safetensors", "weights.safetensors"],
        "best": ["model.safetensors", "weights.safetensors"],
        "last": ["model-last.safetensors", "weights-last.safetensors"],
    }
    file = next((root / n for n in names.get(weights, [weights]) if (root / n).exists()), Path(weights))
    return card, safetensors.torch.load_file(file)


def load_state(model, tensors, where):
    if problems := misfits(model.state_dict(), tensors):
        raise RequestError(
            f"{where} doesn't fit the network: {'; '.join(problems)}. Were they trained with another model?"
        )
    model.load_state_dict(tensors)
