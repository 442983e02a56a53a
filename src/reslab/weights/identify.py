"""The network that a weights file belongs to: by its card, by keys, shapes and layout, or by the name it is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from reslab.errors import RequestError
from reslab.models.architecture import Architecture, change
from reslab.models.catalog import find_entry
from reslab.weights.card import architecture_of, card_of
from reslab.weights.files import WeightsFile
from reslab.weights.layouts import RESLAB, layout_of
from reslab.weights.names import Recognition, differences, name_of
from reslab.weights.recognise import check_signature, recognise
from reslab.weights.shapes import some
from reslab.weights.translation import Layout, translate


def identify(file: WeightsFile) -> Recognition:
    """The network that the file's weights are of.

    Raises:
        RequestError: if it is none of ours.
    """
    try:
        return identify_content(file)
    except RequestError as error:
        raise RequestError(f"{file.path}: {error}") from None


def identify_content(file: WeightsFile) -> Recognition:
    """``identify``, whose errors don't repeat the file's name."""
    layout = readable_layout(file)
    translation = translate(file.tensors, layout)
    if translation.unknown:
        raise RequestError(
            f"Its layout is that of {layout.title}, but no network of ours has a place for"
            f" {len(translation.unknown)} of its keys: {some(translation.unknown)}."
        )
    described = described_by_card(file, translation.tensors)
    if described is not None:
        classes = described.num_classes if "fc.weight" in translation.tensors else 0
        return Recognition(*name_of(described), described, classes, described.in_channels)
    found = recognise(translation.tensors, layout.implies)
    return replace(found, assumptions=(layout.reason, *found.assumptions)) if layout.reason else found


def identify_as(file: WeightsFile, model: str | Architecture) -> Recognition:
    """The network that was asked for, with the file's classes and image channels, and with what its layout implies."""
    try:
        layout = readable_layout(file)
    except RequestError as error:
        raise RequestError(f"{file.path}: {error}") from None
    tensors = translate(file.tensors, layout).tensors
    entry = find_entry(model) if isinstance(model, str) else model
    kernels = [value.shape for value in tensors.values() if value.ndim > 2]
    heads = [value.shape for name, value in tensors.items() if value.ndim == 2 and name.endswith("weight")]
    classes, channels = heads[-1][0] if heads else 0, kernels[0][1] if kernels else 3
    if not isinstance(entry, Architecture):
        return Recognition(str(model), {}, None, classes, channels)
    architecture = change(entry, in_channels=channels, num_classes=classes or entry.num_classes, **layout.implies)
    name, changes = name_of(architecture)
    reasons = (layout.reason,) if differences(architecture, entry) else ()
    return Recognition(name, changes, architecture, classes, channels, reasons)


def readable_layout(file: WeightsFile) -> Layout:
    """The layout of the file's keys; where they show none, they are taken as ours.

    Raises:
        RequestError: for a layout whose networks compute what none of ours does.
    """
    layout = layout_of(file.tensors) or RESLAB
    if layout.refusal:
        raise RequestError(f"Its layout is that of {layout.title}, and {layout.refusal}.")
    return layout


def described_by_card(file: WeightsFile, tensors: Mapping[str, Tensor]) -> Architecture | None:
    """What the file's card says the network is; None without a card, or where it is the card of other weights."""
    card = card_of(file)
    described = architecture_of(card) if card else None
    if described is None:
        return None
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    head = shapes.get("fc.weight", ())
    channels = next((shape[1] for shape in shapes.values() if len(shape) > 2), described.in_channels)
    classes = head[0] if head else described.num_classes
    try:
        described = replace(described, num_classes=classes, in_channels=channels)
        check_signature(shapes, described)
    except RequestError:
        return None
    return described
