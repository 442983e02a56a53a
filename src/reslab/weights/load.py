"""Loads weights from elsewhere into a network, whole or not at all, with a report of every key.

Shape letters: O and I channels out and in of a convolution, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from reslab.errors import RequestError
from reslab.models.architecture import Architecture, change
from reslab.models.catalog import find_entry
from reslab.models.resnet import ResNet
from reslab.weights.card import architecture_of, card_of
from reslab.weights.files import WeightsFile, read_weights, strip_prefixes
from reslab.weights.layouts import RESLAB, Layout, Translation, layout_of, squeezed, translate, unsqueezed
from reslab.weights.recognise import Recognition, check_signature, differences, name_of, recognise, some, written_out
from reslab.weights.report import LoadReport, Row

Fit = Literal["strict", "adapt"]


@dataclass
class Plan:
    """What would be loaded, and what stands in the way.

    Args:
        translation: of the file's tensors to names of the network.
        tensors: by the network's names, ready to be copied.
        rows: one for each key that has a place.
        missing: names that the file lacks.
        unexpected: keys that the network has no place for.
        reshaped: for a name of another shape, a phrase that says so.
    """

    translation: Translation
    tensors: dict[str, Tensor] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    reshaped: dict[str, str] = field(default_factory=dict)

    @property
    def num_fitting(self) -> int:
        """How many names of the network the file has a value for."""
        return sum(row.action in ("loaded", "adapted") for row in self.rows)

    @property
    def problems(self) -> list[str]:
        """What stands in the way, a phrase for each kind."""
        lists = {
            "it lacks": self.missing,
            "it has besides": self.unexpected,
            "of another shape are": list(self.reshaped.values()),
        }
        return [f"{what} {some(names)}" for what, names in lists.items() if names]


def load_weights(
    model: nn.Module,
    path: str | Path,
    *,
    num_classes: Fit = "strict",
    in_channels: Fit = "adapt",
    ema: bool = False,
) -> LoadReport:
    """Loads a weights file into a network, in place: every key, or none.

    Keys are taken as they are where they fit, then without the prefixes that wrappers put before them, then translated
    from the layout that they show: timm's, Keras', akamaster's, kuangliu's.

    Args:
        model: any network; one of ours, or one with torchvision's names.
        path: safetensors, a torch file, or Keras' HDF5.
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
        {'loaded': 129}
    """
    for name, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if value not in ("strict", "adapt"):
            raise RequestError(f"{name} is 'strict' or 'adapt', got {value!r}.")
    return fit(model, read_weights(path, ema=ema), num_classes=num_classes, in_channels=in_channels)


def fit(model: nn.Module, file: WeightsFile, *, num_classes: Fit = "strict", in_channels: Fit = "adapt") -> LoadReport:
    """``load_weights`` of a file that has been read."""
    expected, own_prefix = strip_prefixes(model.state_dict())
    heads = [name.removeprefix(own_prefix) for name in head_names(model)]
    plans = [
        make_plan(expected, translation, heads, num_classes=num_classes, in_channels=in_channels)
        for translation in translations(file, expected)
    ]
    plan = max(plans, key=lambda plan: (plan.num_fitting, -len(plan.problems)))
    if plan.problems:
        raise RequestError(why_not(file, plan, expected, heads))
    check_choices(model, file, plan.translation.layout)
    model.load_state_dict({own_prefix + name: value for name, value in plan.tensors.items()})
    return make_report(model, file, plan)


def translations(file: WeightsFile, expected: Mapping[str, Tensor]) -> list[Translation]:
    """The ways to read the file's names, the most literal first."""
    found = [translate(file.tensors, RESLAB, prefix=file.prefix)]
    if file.prefix and any(file.prefix + name in expected for name in file.tensors):
        found.insert(0, translate({file.prefix + name: value for name, value in file.tensors.items()}, RESLAB))
    layout = layout_of(file.tensors)
    if layout is not None and layout is not RESLAB and not layout.refusal:
        found.append(translate(file.tensors, layout, prefix=file.prefix))
    return found


def head_names(model: nn.Module) -> list[str]:
    """Names of the classifier's parameters: those of the last linear layer."""
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return [f"{name}.{part}" for name, module in layers[-1:] for part, _ in module.named_parameters()]


# ---- one key after the other


def make_plan(
    expected: Mapping[str, Tensor], translation: Translation, heads: list[str], *, num_classes: Fit, in_channels: Fit
) -> Plan:
    """Finds a value for every name of the network, and a name for every key of the file."""
    plan = Plan(translation)
    stem = next((name for name, value in expected.items() if value.ndim > 2), "")
    for name, target in expected.items():
        value = translation.tensors.get(name)
        if value is None:
            without_value(plan, name, target, is_head=name in heads and num_classes == "adapt")
        elif value.shape == target.shape:
            take(plan, name, value, target)
        elif name in heads:
            take_head(plan, name, value, target, adapt=num_classes == "adapt")
        elif name == stem and in_channels == "adapt" and differs_in_channels_only(value, target):
            standardised = name.removesuffix("weight") + "gain" in expected
            take(plan, name, *adapt_channels(value, target, standardised=standardised))
        else:
            plan.reshaped[name] = reshaped(name, value, target)
    without_place(plan, expected, ignore_head=not heads and num_classes == "adapt")
    return plan


def take(plan: Plan, name: str, value: Tensor, target: Tensor, note: str = "") -> None:
    """One value as it is, or as it was made to fit."""
    key = plan.translation.sources[name]
    notes = [text for text in (plan.translation.notes.get(key, ""), note) if text]
    if value.dtype != target.dtype:
        notes.append(f"{value.dtype} made {target.dtype}".replace("torch.", ""))
    plan.tensors[name] = value
    plan.rows.append(Row(plan.translation.prefix + key, name, "adapted" if notes else "loaded", "; ".join(notes)))


def without_value(plan: Plan, name: str, target: Tensor, *, is_head: bool) -> None:
    """A name that the file lacks."""
    if name.endswith("num_batches_tracked"):
        plan.tensors[name] = torch.zeros_like(target)
        plan.rows.append(Row("", name, "filled", "0: the file doesn't say how many batches there were"))
    elif is_head:
        plan.tensors[name] = target
        plan.rows.append(Row("", name, "kept", "the file has no head"))
    else:
        plan.missing.append(name)


def take_head(plan: Plan, name: str, value: Tensor, target: Tensor, *, adapt: bool) -> None:
    """A head of another shape: a 1x1 convolution for a linear layer, or the other way round, or of other classes."""
    for change in (squeezed, unsqueezed):
        if value.ndim != target.ndim and change(value).shape == target.shape:
            take(plan, name, change(value), target, f"{tuple(value.shape)} made {tuple(target.shape)}")
            return
    key = plan.translation.prefix + plan.translation.sources[name]
    if adapt and value.shape[1:] == target.shape[1:]:
        plan.tensors[name] = target
        plan.rows.append(Row(key, name, "kept", f"{value.shape[0]} classes in the file, {target.shape[0]} here"))
    else:
        plan.reshaped[name] = reshaped(name, value, target)


def without_place(plan: Plan, expected: Mapping[str, Tensor], *, ignore_head: bool) -> None:
    """Keys that have no place in the network."""
    prefix, sources = plan.translation.prefix, plan.translation.sources
    for name, key in sources.items():
        if name in expected:
            continue
        if name.endswith("num_batches_tracked"):
            plan.rows.append(Row(prefix + key, "", "ignored", "the network counts no batches"))
        elif ignore_head and name.startswith("fc."):
            plan.rows.append(Row(prefix + key, "", "ignored", "the network has no head"))
        else:
            plan.unexpected.append(prefix + key)
    plan.unexpected += [prefix + key for key in plan.translation.unknown]
    plan.rows += [Row(prefix + key, *place) for key, place in plan.translation.merged.items()]


def reshaped(name: str, value: Tensor, target: Tensor) -> str:
    """The two shapes in words."""
    return f"{name} {tuple(value.shape)} instead of {tuple(target.shape)}"


def differs_in_channels_only(value: Tensor, target: Tensor) -> bool:
    """Whether (O, I, *) and (O, I', *) agree in all but I."""
    return value.ndim == target.ndim and value.shape[0] == target.shape[0] and value.shape[2:] == target.shape[2:]


def adapt_channels(value: Tensor, target: Tensor, *, standardised: bool) -> tuple[Tensor, Tensor, str]:
    """A first convolution for other images: (O, I, *) -> (O, I', *).

    To one channel by summing: a grey image then gives what it gave as I equal channels. To others by repeating, scaled
    by I / I', so that activations keep their scale.
    """
    before, after = value.shape[1], target.shape[1]
    if after == 1:
        made, note = value.sum(dim=1, keepdim=True), f"{before} channels summed to 1"
    else:
        repeated = torch.arange(after) % before
        made, note = value[:, repeated] * (before / after), f"{before} channels repeated to {after}, scaled"
    if standardised:
        note += "; the network standardises the result, so activations are not the same"
    return made, target, note


# ---- what is said


def make_report(model: nn.Module, file: WeightsFile, plan: Plan) -> LoadReport:
    """Of a plan that was carried out."""
    layout = plan.translation.layout
    name, changes = name_of(model.architecture) if isinstance(model, ResNet) else ("", {})
    title = Recognition(name, changes, None, 0, 0).title if name else type(model).__name__
    ignored = [Row(key, "", "ignored", what) for key, what in file.ignored.items()]
    return LoadReport(
        file=str(file.path),
        kind=file.kind,
        layout=layout.name,
        model=title,
        entry=file.entry,
        prefix=file.prefix,
        rows=[*plan.rows, *ignored],
        notes=[f"these networks were made for {layout.input}"] if layout.input else [],
    )


def why_not(file: WeightsFile, plan: Plan, expected: Mapping[str, Tensor], heads: list[str]) -> str:
    """Why the file can't be loaded, and what to do."""
    layout = layout_of(file.tensors)
    if layout is not None and layout.refusal:
        return f"{file.path} has the layout of {layout.title}: {layout.refusal}."
    if set(plan.missing) | set(plan.reshaped) <= set(heads) and not plan.unexpected:
        return head_only(file, plan)
    found = try_to_recognise(file)
    start = f"{file.path} doesn't fit the network: {plan.num_fitting} of its {len(expected)} keys fit"
    problems = "; ".join(plan.problems)
    if not plan.unexpected and plan.missing and all(".downsample." in name for name in plan.missing):
        mend = f": reslab.{found.call}" if found else " with shortcut='zero_pad' or 'zero_pad_both'"
        return (
            f"{start}; {problems}. The network has projections (option B) and the file has none: its shortcuts are"
            f" option A, without parameters. Build the network that they belong to{mend}."
        )
    if found is None:
        return f"{start}; {problems}. Build the network that the file was saved from."
    return f"{start}; {problems}. The file holds {found.title}: reslab.{found.call} builds that."


def head_only(file: WeightsFile, plan: Plan) -> str:
    """Everything fits but the head."""
    what = f"of another shape: {some(plan.reshaped.values())}" if plan.reshaped else "missing in the file"
    return (
        f"{file.path} fits but for the head, which is {what}. num_classes='adapt' (on the command line --adapt-head)"
        " loads the rest and keeps the network's own head."
    )


def check_choices(model: nn.Module, file: WeightsFile, layout: Layout) -> None:
    """Refuses weights whose keys all fit, but that belong to a network which computes something else.

    Raises:
        RequestError: naming the choice and the mend.
    """
    if not isinstance(model, ResNet):
        return
    wanted, reason = dict(layout.implies), layout.reason
    card = card_of(file)
    described = architecture_of(card) if card else None
    if described is not None:
        wanted, reason = differences(described, model.architecture), "the file's card says so"
    wrong = {key: value for key, value in wanted.items() if getattr(model.architecture, key) != value}
    if wrong:
        have = {key: getattr(model.architecture, key) for key in wrong}
        raise RequestError(
            f"{file.path}: every key fits, but these weights are for {' and '.join(written_out(wrong))}, and the network"
            f" has {' and '.join(written_out(have))}, so it would compute something else ({reason}). Build it with"
            f" {', '.join(written_out(wrong))}."
        )


def try_to_recognise(file: WeightsFile) -> Recognition | None:
    """What the file holds, if it can be told."""
    try:
        return recognise_file(file)
    except RequestError:
        return None


# ---- without a network


def recognise_file(file: WeightsFile) -> Recognition:
    """The network that a file's weights are of: by its card, or else by names, shapes and layout.

    Raises:
        RequestError: if it is none of ours.
    """
    layout = layout_of(file.tensors) or RESLAB
    if layout.refusal:
        raise RequestError(f"{file.path} has the layout of {layout.title}: {layout.refusal}.")
    translation = translate(file.tensors, layout)
    if translation.unknown:
        raise RequestError(
            f"{file.path} has the layout of {layout.title}, and {len(translation.unknown)} keys that no network of ours"
            f" has a place for: {some(translation.unknown)}."
        )
    try:
        found = recognise(translation.tensors, layout.implies)
    except RequestError as error:
        raise RequestError(f"{file.path}: {error}") from None
    return by_card(found, file, translation) or with_reason(found, layout)


def with_reason(found: Recognition, layout: Layout) -> Recognition:
    """Says what the layout implied."""
    return replace(found, assumptions=(layout.reason, *found.assumptions)) if layout.reason else found


def by_card(found: Recognition, file: WeightsFile, translation: Translation) -> Recognition | None:
    """The network that the file's card describes, if the weights fit it: nothing is assumed then."""
    card = card_of(file)
    described = architecture_of(card) if card else None
    if described is None or found.architecture is None:
        return None
    described = replace(described, num_classes=found.architecture.num_classes, in_channels=found.in_channels)
    try:
        check_signature({name: tuple(value.shape) for name, value in translation.tensors.items()}, described)
    except RequestError:  # a card of other weights
        return None
    name, changes = name_of(described)
    return Recognition(name, changes, described, found.num_classes, found.in_channels)


def open_weights(
    path: str | Path,
    model: str | Architecture | None = None,
    *,
    num_classes: int | None = None,
    adapt_head: bool = False,
    ema: bool = False,
) -> tuple[nn.Module, LoadReport]:
    """The network that a weights file belongs to, with these weights.

    Args:
        path: see ``load_weights``.
        model: a name of the catalog or an architecture; by default the one that the file's keys and shapes show.
        num_classes: K; by default the file's.
        adapt_head: give the network a fresh head where the file has none, or one for other classes.
        ema: take the moving average of the weights.

    Returns:
        The network, in train mode as a new one is, and what became of every key.

    Raises:
        RequestError: if the file can't be read, is of no network of ours, or doesn't fit ``model``.
    """
    file = read_weights(path, ema=ema)
    found = recognise_file(file) if model is None else named(file, model)
    network = found.build(num_classes)
    report = fit(network, file, num_classes="adapt" if adapt_head else "strict")
    report.model, report.assumptions = found.title, list(found.assumptions)
    return network, report


def named(file: WeightsFile, model: str | Architecture) -> Recognition:
    """The network that was asked for, with the file's classes and image channels, and what its layout implies."""
    layout = layout_of(file.tensors) or RESLAB
    tensors = translate(file.tensors, layout).tensors
    entry = find_entry(model) if isinstance(model, str) else model
    kernels = [value.shape for value in tensors.values() if value.ndim > 2]
    heads = [value.shape for name, value in tensors.items() if value.ndim == 2 and name.endswith("weight")]
    classes, channels = heads[-1][0] if heads else 0, kernels[0][1] if kernels else 3
    if not isinstance(entry, Architecture):
        assert isinstance(model, str)
        return Recognition(model, {}, None, classes, channels)
    architecture = change(entry, in_channels=channels, **layout.implies)
    name, changes = name_of(architecture)
    reasons = (layout.reason,) if differences(architecture, entry) else ()
    return Recognition(name, changes, architecture, classes, channels, reasons)
