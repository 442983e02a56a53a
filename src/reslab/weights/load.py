"""Loads weights from elsewhere into a network, every key or none, with a report of each.

Shape letters: O and I channels out and in of a convolution, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from reslab.errors import RequestError
from reslab.layers.nd import Standardised
from reslab.models.architecture import Architecture
from reslab.models.catalog import find_entry
from reslab.models.resnet import ResNet
from reslab.weights._files import Shapes, WeightsFile, mismatches, read_weights, shapes_of, strip_prefixes
from reslab.weights._layouts import RESLAB, Entry, Translation, layout_of
from reslab.weights._recognise import Recognition, architecture_by_card, as_arguments, differences, identify
from reslab.weights.report import KeyResult, LoadReport

Fit = Literal["strict", "adapt"]


def load_weights(
    model: nn.Module, path: str | Path, *, num_classes: Fit = "strict", in_channels: Fit = "adapt", ema: bool = False
) -> LoadReport:
    """Load a weights file into a network, in place: every key, or none.

    Keys are taken as they are where they fit, then without the prefixes that wrappers put before them, then translated
    from the layout that they show: timm's, Keras', akamaster's, kuangliu's and others'.

    Args:
        model: any network; one of ours, or one with torchvision's names.
        path: safetensors, a torch file, or Keras HDF5.
        num_classes: ``"adapt"`` leaves the network's head as it is where the file has none, or one for other classes;
            ``"strict"`` refuses such a file.
        in_channels: ``"adapt"`` makes a first convolution for other images fit: to one channel by summing, to more by
            repeating with the sum kept; ``"strict"`` refuses.
        ema: take the moving average of the weights, where a checkpoint has both.

    Returns:
        What became of every key.

    Raises:
        RequestError: if the file can't be read, or doesn't fit; nothing has been changed then.

    Example:
        >>> import tempfile, safetensors.torch
        >>> from reslab.models.catalog import create_model
        >>> file = Path(tempfile.mkdtemp()) / "theirs.safetensors"
        >>> safetensors.torch.save_file(create_model("resnet20").state_dict(), file)
        >>> load_weights(create_model("resnet20"), file).counts
        {'loaded': 116}
    """
    for name, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if value not in ("strict", "adapt"):
            raise RequestError(f"{name} is 'strict' or 'adapt', got {value!r}.")
    file = read_weights(path, ema=ema)
    return load_file(model, file, adapt_head=num_classes == "adapt", adapt_channels=in_channels == "adapt")


def open_weights(
    path: str | Path,
    model: str | Architecture | None = None,
    *,
    num_classes: int | None = None,
    adapt_head: bool = False,
    ema: bool = False,
) -> tuple[nn.Module, LoadReport]:
    """Build the network that a weights file belongs to, with these weights.

    Args:
        path: see ``load_weights``.
        model: a name of the catalog or an architecture; by default the one that the file's keys and shapes show.
        num_classes: K; by default the file's.
        adapt_head: give the network a fresh head where the file has none, or one for other classes.
        ema: take the moving average of the weights.

    Returns:
        The network, in train mode as a new one is, and what became of every key.

    Raises:
        RequestError: if the file can't be read, is not of a network of ours, or doesn't fit ``model``.
    """
    network, report, _ = open_file(read_weights(path, ema=ema), model, num_classes=num_classes, adapt_head=adapt_head)
    return network, report


def open_file(
    file: WeightsFile, model: str | Architecture | None, *, num_classes: int | None, adapt_head: bool
) -> tuple[nn.Module, LoadReport, Recognition]:
    """Do ``open_weights`` with a file that has been read."""
    if isinstance(model, str):
        find_entry(model)  # an unknown name isn't the file's fault
    try:
        recognised = identify(file, model)
    except RequestError as error:
        raise RequestError(f"{file.path}: {error}") from None
    network = recognised.build(num_classes)
    report = load_file(network, file, adapt_head=adapt_head, adapt_channels=True)
    report.model, report.assumptions = recognised.title, list(recognised.assumptions)
    return network, report, recognised


def load_file(model: nn.Module, file: WeightsFile, *, adapt_head: bool, adapt_channels: bool) -> LoadReport:
    """Do ``load_weights`` with a file that has been read."""
    state = model.state_dict()
    expected, own_prefix = strip_prefixes({name: value for name, value in state.items() if isinstance(value, Tensor)})
    network = model.get_submodule(own_prefix.removesuffix("."))
    found = max(_translations(file, expected), key=lambda found: len(expected.keys() & found.entries.keys()))
    entries, layout = found.entries, found.layout
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    head = [f"{name}.{part}" for name in linear[-1:] for part in ("weight", "bias") if f"{name}.{part}" in expected]
    _adapt_head(found, expected, head, keep_own=adapt_head)
    if adapt_channels:
        _adapt_stem(found, expected, network)
    _adapt_counts_and_types(found, expected)

    there = {name if name in expected else entry.key: entry.value for name, entry in entries.items()} | found.unknown
    if shapes_of(there) != shapes_of(expected):
        raise RequestError(_why_not(file, found, shapes_of(there), shapes_of(expected), head))
    if isinstance(network, ResNet):
        _check_choices(network.architecture, file, found)
    model.load_state_dict(state | {own_prefix + name: entry.value for name, entry in entries.items()})

    own = Recognition(network.architecture, 0, 3) if isinstance(network, ResNet) else None
    title = own.title if own and own.nearest[0] else type(network).__name__
    rows = [KeyResult(entries[name].key, name, entries[name].action, entries[name].note) for name in expected]
    rows += [*found.rows, *(KeyResult(key, "", "ignored", what) for key, what in file.ignored.items())]
    report = LoadReport(str(file.path), file.kind, layout.name, title, file.entry, file.prefix, rows)
    report.notes += [f"these networks were made for {layout.input}"] if layout.input else []
    return report


def _translations(file: WeightsFile, expected: Mapping[str, Tensor]) -> list[Translation]:
    """Read the file's names in every way, the most literal first."""
    found = [RESLAB.read(file.tensors, file.prefix)]
    if file.prefix and any(file.prefix + name in expected for name in file.tensors):
        found.insert(0, RESLAB.read({file.prefix + name: value for name, value in file.tensors.items()}))
    layout = layout_of(file.tensors)
    if layout is not None and not layout.refusal:
        found.append(layout.read(file.tensors, file.prefix))
    return found


# ---- what is made to fit


def _adapt_head(found: Translation, expected: Mapping[str, Tensor], head: list[str], *, keep_own: bool) -> None:
    """Reshape a head that is a 1x1 convolution; keep the network's own where the file has none that fits."""
    entries = found.entries
    for name in head:
        old, new = entries[name].value.shape if name in entries else (), expected[name].shape
        if old != new and old[:2] == new[:2] and {*old[2:], *new[2:]} == {1}:  # (K, D, 1, 1) and (K, D)
            entries[name].change(entries[name].value.reshape(new), f"{tuple(old)} made {tuple(new)}")
    if not keep_own:
        return
    there, own = shapes_of(found.tensors), shapes_of(expected)
    if any(there.get(name) != own[name] for name in head):
        for name in head:
            note = f"{there[name]} in the file, {own[name]} here" if name in there else "the file has no such head"
            entries[name] = Entry(entries[name].key if name in there else "", expected[name], note, "kept")
    if not head:
        _ignore(found, [name for name in entries if name.startswith("fc.")], "the network has no head")


def _adapt_stem(found: Translation, expected: Mapping[str, Tensor], network: nn.Module) -> None:
    """Make a first convolution fit other images: (O, I, *) -> (O, I', *).

    To one channel by summing: a grey image then gives what it gave as I equal channels. To others by repeating, scaled
    by I / I', so that activations keep their scale.
    """
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    name, stem = next((pair for pair in network.named_modules() if isinstance(pair[1], kinds)), ("", network))
    entry, target = found.entries.get(f"{name}.weight"), expected.get(f"{name}.weight")
    if entry is None or target is None:
        return
    old, new = entry.value.shape, target.shape
    if old == new or (old[:1], old[2:]) != (new[:1], new[2:]) or not old[1]:
        return
    if new[1] == 1:
        value, note = entry.value.sum(dim=1, keepdim=True), f"{old[1]} channels summed to 1"
    else:
        value = entry.value[:, torch.arange(new[1]) % old[1]] * (old[1] / new[1])
        note = f"{old[1]} channels repeated to {new[1]}, scaled"
    if isinstance(stem, Standardised):
        note += "; the network standardises the result, so activations are not the same"
    entry.change(value, note)


def _adapt_counts_and_types(found: Translation, expected: Mapping[str, Tensor]) -> None:
    """Fill in counts of batches that old files lack, ignore those that the network lacks, and note other types."""
    entries, counts = found.entries, "num_batches_tracked"
    for name, target in expected.items():
        if name not in entries and name.endswith(counts):
            note = "0: the file doesn't say how many batches there were"
            entries[name] = Entry("", torch.zeros_like(target), note, "filled")
        elif name in entries and (old := entries[name].value.dtype) != target.dtype:
            entries[name].change(entries[name].value, f"{old} made {target.dtype}".replace("torch.", ""))
    uncounted = [name for name in entries if name.endswith(counts) and name not in expected]
    _ignore(found, uncounted, "the network counts no batches")


def _ignore(found: Translation, names: list[str], why: str) -> None:
    found.rows += [KeyResult(found.entries.pop(name).key, "", "ignored", why) for name in names]


# ---- what is refused


def _why_not(file: WeightsFile, found: Translation, there: Shapes, wanted: Shapes, head: list[str]) -> str:
    """Say why the file can't be loaded, and what to do."""
    problems = "; ".join(mismatches(there, wanted))
    unfilled = {name for name in wanted if there.get(name) != wanted[name]}
    if there.keys() <= wanted.keys() and unfilled <= set(head):
        return (
            f"{file.path} fits except for the head: {problems}. num_classes='adapt' (on the command line --adapt-head)"
            " loads the rest and keeps the network's own head."
        )
    num_fitting = sum(name in wanted.keys() - unfilled and entry.key != "" for name, entry in found.entries.items())
    what = f"{file.path} doesn't fit: {num_fitting} of the network's {len(wanted)} keys fit; {problems}."
    if there.keys() <= wanted.keys() and all(".downsample." in name for name in unfilled):
        what += (
            " The network has projections (option B), the file has none: its shortcuts are option A, without weights."
        )
    try:
        right = identify(file)
        return f"{what} The file holds {right.title}: reslab.{right.call} builds that."
    except RequestError as error:
        return f"{what} The file is not of a network of ours. {error}"


def _check_choices(have: Architecture, file: WeightsFile, found: Translation) -> None:
    """Refuse weights whose keys all fit, but that belong to a network which computes something else."""
    wanted, reason = dict(found.layout.implies), found.layout.reason
    if (described := architecture_by_card(file.path, shapes_of(found.tensors))) is not None:
        wanted, reason = differences(described, have), "the file's card says so"
    wrong = {key: value for key, value in wanted.items() if getattr(have, key) != value}
    if wrong:
        right, own = as_arguments(wrong), as_arguments({key: getattr(have, key) for key in wrong})
        raise RequestError(
            f"{file.path}: every key fits, but these weights are for {' and '.join(right)} and the network has"
            f" {' and '.join(own)}: it would compute something else ({reason}). Build the network with"
            f" {', '.join(right)}."
        )
