"""A weights file of one layout made one of another: read, recognised, checked, written with its card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from reslab.errors import RequestError, unknown
from reslab.models.architecture import Architecture
from reslab.records.files import write_atomic
from reslab.version import __version__
from reslab.weights._files import read_weights
from reslab.weights._layouts import LAYOUTS, RESLAB, TABLES, Layout
from reslab.weights._recognise import Recognition, as_arguments
from reslab.weights.bundle import BundleCard, digest, save_weights
from reslab.weights.load import open_file
from reslab.weights.report import LoadReport

Target = Literal["reslab", "torchvision", "timm"]
TARGETS: tuple[Target, ...] = get_args(Target)
# Networks without an architecture that torchvision has too.
TORCHVISION_BASELINES = {"vgg11_bn", "vgg16_bn", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"}


@dataclass(frozen=True)
class Conversion:
    """Weights that have been read, recognised and translated, ready to be written."""

    found: Recognition
    report: LoadReport
    tensors: dict[str, Tensor]  # under the names that were asked for
    card: BundleCard

    def save(self, out: Path, *, force: bool = False) -> list[Path]:
        """Write safetensors that carry the card, and the card beside them; return both paths.

        Raises:
            RequestError: if ``out`` has another suffix, is the file that was read, or one of the two is there and
                ``force`` isn't given.
        """
        files = [out, out.with_suffix(".json")]
        if out.suffix != ".safetensors":
            raise RequestError(
                f"Weights are written as safetensors: name a file that ends with .safetensors, got {out}."
            )
        if out.exists() and out.resolve() == Path(self.report.file).resolve():
            raise RequestError(f"{out} is the file that is read. Write to another: --out FILE.safetensors.")
        if not force and (there := [str(file) for file in files if file.exists()]):
            exist = "exists" if len(there) == 1 else "exist"
            raise RequestError(f"{' and '.join(there)} {exist} already. --force overwrites, --out writes elsewhere.")
        out.parent.mkdir(parents=True, exist_ok=True)
        found = save_weights(out, self.tensors, card=self.card)
        write_atomic(files[1], replace(self.card, digests={out.name: found}).to_json())
        return files


def convert(
    path: Path,
    *,
    model: str | None = None,
    to: Target = "reslab",
    num_classes: int | None = None,
    adapt_head: bool = False,
    ema: bool = False,
) -> Conversion:
    """Read a weights file, check it against the network that it belongs to, and translate it to somebody's names.

    Args:
        path: of the file.
        model: a name of the catalog; by default the network that keys and shapes show.
        to: whose names the new file has.
        num_classes: K; by default the file's.
        adapt_head: give the network a fresh head, by seed 0, where the file has none, or one for other classes.
        ema: take the moving average of the weights.

    Raises:
        RequestError: if the file can't be read or doesn't fit, or if ``to`` has no network that computes the same.

    Example:
        >>> import tempfile, safetensors.torch
        >>> from reslab.models.catalog import create_model
        >>> file = Path(tempfile.mkdtemp()) / "ours.safetensors"
        >>> safetensors.torch.save_file(create_model("preresnet18").state_dict(), file)
        >>> sorted(convert(file, to="timm").tensors)[0]
        'head.fc.bias'
    """
    if num_classes is not None and num_classes < 1:
        raise RequestError(f"num_classes counts from 1, got {num_classes}.")
    file = read_weights(path, ema=ema)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, report, found = open_file(file, model, num_classes=num_classes, adapt_head=adapt_head)
    tensors, notes = to_layout(network.state_dict(), to, found.network)
    report.notes += notes

    name, choices = found.nearest
    if isinstance(found.network, Architecture) and not name:
        choices = asdict(found.network)
    sizes = {"num_classes": num_classes or found.num_classes, "in_channels": found.in_channels}
    source = {"file": file.path.name, "sha256": digest(file.path), "kind": file.kind}
    source |= {"layout": report.layout, "entry": file.entry}
    provenance: dict[str, Any] = {"layout": to, "source": source, "assumptions": report.assumptions}
    provenance |= {"notes": report.notes, "reslab": __version__}
    card = BundleCard({"name": name, **choices, **sizes}, {"name": "classify"}, provenance=provenance)
    return Conversion(found, report, tensors, card)


def to_layout(
    state: Mapping[str, Tensor], target: Target, network: Architecture | str
) -> tuple[dict[str, Tensor], list[str]]:
    """Translate a state_dict of ours to the names of another library; say where that has the names but no such network.

    The RequestError for a network that the library can't compute names the choices that stand in the way.
    """
    if target not in TARGETS:
        raise unknown("layout", target, TARGETS)
    if target == "reslab":
        return dict(state), []
    if isinstance(network, str):
        if target != "torchvision":
            raise RequestError(
                f"{target} has other names for the parts of {network} than torchvision and reslab. Write it under"
                " torchvision's names: layout 'torchvision'."
            )
        layout, lacking = RESLAB, [] if network in TORCHVISION_BASELINES else ["a form for small images"]
    else:
        layout, lacking = _layout_for(target, network), _peculiarities(target, network)
    note = f"the names are {target}'s, but {target} itself builds no such network: it has {', '.join(lacking)}"
    return layout.write(state), [note] if lacking else []


def _layout_for(target: str, network: Architecture) -> Layout:
    """Find the layout of the library's networks that compute the same; the error names what the nearest ones lack."""
    candidates = []
    for family in TABLES["family"]:
        if family["library"] == target:
            choices = TABLES["usual"] | family["choices"]
            wrong = {key: values for key, values in choices.items() if values and getattr(network, key) not in values}
            candidates.append((wrong, family))
    # Order and connection tell families apart; the nearest is one that agrees in them.
    wrong, family = min(candidates, key=lambda pair: (bool({"order", "connection"} & pair[0].keys()), len(pair[0])))
    if wrong:
        have = " and ".join(as_arguments({key: getattr(network, key) for key in wrong}))
        want = " and ".join(f"{key} {' or '.join(map(repr, values))}" for key, values in wrong.items())
        raise RequestError(
            f"{target} has no network that computes the same: this one has {have}, those of {family['title']} have"
            f" {want}. Write it under our own names: layout 'reslab'."
        )
    return LAYOUTS[family["layout"]]


def _peculiarities(target: str, network: Architecture) -> list[str]:
    """List what a library that has the names doesn't build by itself."""
    found = {
        f"{len(network.widths)} stages where those have 4": len(network.widths) != 4,
        "a 3x3 stem without max-pool": network.stem == "small",
        f"shortcut={network.shortcut!r}": network.shortcut in ("zero_pad", "zero_pad_both", "projection_all", "none"),
        "group norm, which torchvision takes as norm_layer": network.norm == "group" and target == "torchvision",
    }
    return [what for what, is_so in found.items() if is_so]
