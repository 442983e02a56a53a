"""Keras' HDF5 weights as tensors in torch's axis order: ``.weights.h5``, the older ``.h5``, and ``.keras`` archives.

Shape letters: O and I channels out and in, H and W the kernel's sides, D features, K classes.
"""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from reslab.errors import RequestError

if TYPE_CHECKING:
    import h5py

# Keras' names of variables in torch, and the variables of each kind of layer in the order in which Keras numbers them.
TORCH_NAMES = {"kernel": "weight", "gamma": "weight", "beta": "bias"}
TORCH_NAMES |= {"moving_mean": "running_mean", "moving_variance": "running_var"}
VARIABLES = {kind: ["weight", "bias"] for kind in ("conv1d", "conv2d", "conv3d", "dense")}
VARIABLES["batch_normalization"] = ["weight", "bias", "running_mean", "running_var"]
# Blocks per stage of keras.applications' networks, by their number of convolutions.
BLOCKS_BY_CONVS = {53: (3, 4, 6, 3), 104: (3, 4, 23, 3), 155: (3, 8, 36, 3)}
# How many times its size on disk a dataset may take in memory, once it is larger than the second number.
MAX_EXPANSION, SMALL_BYTES = 1000, 2**20


def read_keras(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors by ``LAYER.PARAMETER``, both in torch's manner, such as ``conv1_conv.weight`` (O, I, H, W).

    In files that Keras wrote before it stored the layers' names, they follow from the order, for the networks of
    keras.applications only.

    Returns:
        The tensors, and what else is in the file: its name and what it is.

    Raises:
        RequestError: if h5py is absent, the file is cut off, two layers share a name, or a dataset refers to other
            files or is far larger than its size on disk.
    """
    try:
        import h5py
    except ImportError:
        raise RequestError(f"{path} is Keras HDF5; reading it needs h5py: pip install 'reslab[keras]'.") from None
    tensors: dict[str, Tensor] = {}
    ignored: dict[str, str] = {}
    datasets: dict[str, Any] = {}

    def collect(place: str, value: object) -> None:  # which doesn't follow links to other files
        if isinstance(value, h5py.Dataset):
            datasets[place] = value

    try:
        source: Path | io.BytesIO = path
        if zipfile.is_zipfile(path):  # a .keras archive
            with zipfile.ZipFile(path) as archive:
                source = io.BytesIO(archive.read("model.weights.h5"))
        with h5py.File(source, "r") as file:
            file.visititems(collect)
            for place, dataset in datasets.items():
                name = _torch_name(place, file)
                if name is None:
                    ignored[place] = f"dataset {dataset.shape}"
                elif name in tensors:
                    raise RequestError(f"{path} has two layers whose variable is called {name}: rename one in Keras.")
                else:
                    tensors[name] = _read_dataset(path, dataset)
    except RequestError:
        raise
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, zipfile.BadZipFile) as error:
        raise RequestError(
            f"{path} is not a valid HDF5 file ({error}): it is cut off or damaged. Fetch or copy it again."
        ) from None
    return _with_names(tensors), ignored


def _torch_name(place: str, file: h5py.File) -> str | None:
    """Name a dataset ``LAYER.PARAMETER`` by its place; None for what is not a layer's parameter.

    Keras 3 writes ``layers/conv2d_1/vars/0``, since 2024 with the layer's name as an attribute of ``vars``. Before,
    and with ``save(".h5")``, it is ``[model_weights/]conv1_conv/conv1_conv/kernel:0``.
    """
    parts = re.split(r"[/\\]", place)
    if any(part.startswith(("optimizer", "seed_generator", "metrics")) for part in parts):
        return None
    if len(parts) >= 3 and parts[-2] == "vars":
        names = VARIABLES.get(re.sub(r"_\d+$", "", parts[-3]), [])
        layer = file[place.rpartition("/")[0]].attrs.get("name", parts[-3])
        return f"{layer}.{names[int(parts[-1])]}" if int(parts[-1]) < len(names) else None
    variable = parts[-1].partition(":")[0]
    return f"{parts[-2]}.{TORCH_NAMES.get(variable, variable)}" if len(parts) > 1 and parts[-2] else None


def _read_dataset(path: Path, dataset: Any) -> Tensor:
    stored = dataset.id.get_storage_size()
    if dataset.external or dataset.is_virtual or dataset.nbytes > max(SMALL_BYTES, MAX_EXPANSION * stored):
        raise RequestError(
            f"{path}: the dataset {dataset.name} refers to other files or claims more than it stores; no weights do so."
        )
    value = torch.from_numpy(dataset[()])
    if value.ndim < 2:
        return value.clone()
    *space, inner, outer = range(value.ndim)
    return value.permute(outer, inner, *space).contiguous()  # (H, W, I, O) -> (O, I, H, W), (D, K) -> (K, D)


def _with_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give layers that are called ``conv2d_7`` the names of keras.applications, by their number among their kind."""
    layers = {name.rpartition(".")[0] for name in tensors}
    if "conv2d" not in layers or any(layer.startswith("conv1_conv") for layer in layers):
        return tensors
    counts = {kind: sum(bool(re.fullmatch(rf"{kind}(_\d+)?", layer)) for layer in layers) for kind in VARIABLES}
    convs, norms = counts["conv2d"], counts["batch_normalization"]
    blocks = BLOCKS_BY_CONVS.get(convs, ())
    if norms not in (convs, 3 * sum(blocks) + 1) or counts["dense"] > 1:
        raise RequestError(
            f"The file doesn't say what its layers are called, and {convs} convolutions with {norms} batch norms and"
            f" {counts['dense']} dense layers are none of keras.applications' ResNets. Save it again with Keras 3.10"
            " or later, which writes the names."
        )
    names = layer_names(blocks, preactivation=norms != convs)
    return {names[name.rpartition(".")[0]] + "." + name.rpartition(".")[2]: value for name, value in tensors.items()}


def layer_names(blocks: tuple[int, ...], *, preactivation: bool) -> dict[str, str]:
    """List the names of keras.applications' layers by kind and number, in the order in which Keras saves them.

    Reference:
        keras/src/applications/resnet.py; a projection is listed before the last convolution of its block.
    """
    convs, norms = ["conv1_conv"], [] if preactivation else ["conv1_bn"]
    for stage, count in enumerate(blocks, start=2):
        for block in range(1, count + 1):
            order = ("1", "2", "0", "3") if block == 1 else ("1", "2", "3")
            convs += [f"conv{stage}_block{block}_{number}_conv" for number in order]
            order = ("preact", "1", "2") if preactivation else order
            norms += [f"conv{stage}_block{block}_{number}_bn" for number in order]
    norms += ["post_bn"] if preactivation else []
    kinds = {"conv2d": convs, "batch_normalization": norms, "dense": ["predictions"]}
    return {f"{kind}_{i}" if i else kind: name for kind, names in kinds.items() for i, name in enumerate(names)}
