"""Loads weights from elsewhere into a network, whole or not at all, with a report of every key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from reslab.errors import RequestError
from reslab.layers.nd import Standardised
from reslab.models.architecture import Architecture
from reslab.models.resnet import ResNet
from reslab.weights.files import WeightsFile, read_weights, strip_prefixes
from reslab.weights.identify import described_by_card, identify, identify_as, identify_content
from reslab.weights.layouts import RESLAB, layout_of
from reslab.weights.names import Recognition, differences, name_of, written_out
from reslab.weights.plan import Place, Plan, make_plan
from reslab.weights.report import LoadReport, Row
from reslab.weights.shapes import some
from reslab.weights.translation import Translation, translate

Fit = Literal["strict", "adapt"]


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
        {'loaded': 116}
    """
    for name, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if value not in ("strict", "adapt"):
            raise RequestError(f"{name} is 'strict' or 'adapt', got {value!r}.")
    return fit(model, read_weights(path, ema=ema), num_classes=num_classes, in_channels=in_channels)


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
    found = identify(file) if model is None else identify_as(file, model)
    return open_as(file, found, num_classes=num_classes, adapt_head=adapt_head)


def open_as(
    file: WeightsFile, found: Recognition, *, num_classes: int | None = None, adapt_head: bool = False
) -> tuple[nn.Module, LoadReport]:
    """``open_weights`` of a file that has been read and recognised."""
    network = found.build(num_classes)
    report = fit(network, file, num_classes="adapt" if adapt_head else "strict")
    report.model, report.assumptions = found.title, list(found.assumptions)
    return network, report


def fit(model: nn.Module, file: WeightsFile, *, num_classes: Fit = "strict", in_channels: Fit = "adapt") -> LoadReport:
    """``load_weights`` of a file that has been read."""
    state = model.state_dict()
    expected, own_prefix = strip_prefixes({name: value for name, value in state.items() if isinstance(value, Tensor)})
    inner = model.get_submodule(own_prefix.removesuffix("."))
    place = Place(
        expected,
        heads=head_names(inner),
        adapt_head=num_classes == "adapt",
        adapt_channels=in_channels == "adapt",
        standardised=is_standardised(inner),
    )
    plans = [make_plan(place, translation) for translation in translations(file, expected)]
    plan = max(plans, key=lambda plan: (plan.num_fitting, -len(plan.problems)))
    if plan.problems:
        raise RequestError(why_not(file, plan, place))
    check_choices(inner, file, plan.translation)
    model.load_state_dict(state | {own_prefix + name: value for name, value in plan.tensors.items()})
    return make_report(inner, file, plan)


def translations(file: WeightsFile, expected: Mapping[str, Tensor]) -> list[Translation]:
    """The ways to read the file's names, the most literal first."""
    found = [translate(file.tensors, RESLAB, prefix=file.prefix)]
    if file.prefix and any(file.prefix + name in expected for name in file.tensors):
        found.insert(0, translate({file.prefix + name: value for name, value in file.tensors.items()}, RESLAB))
    layout = layout_of(file.tensors)
    if layout is not None and layout is not RESLAB and not layout.refusal:
        found.append(translate(file.tensors, layout, prefix=file.prefix))
    return found


def head_names(model: nn.Module) -> tuple[str, ...]:
    """Names of the classifier's parameters: those of the last linear layer."""
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return tuple(f"{name}.{part}" for name, module in layers[-1:] for part, _ in module.named_parameters())


def is_standardised(model: nn.Module) -> bool:
    """Whether the first convolution standardises its weight."""
    convs = [module for module in model.modules() if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d))]
    return bool(convs) and isinstance(convs[0], Standardised)


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


def why_not(file: WeightsFile, plan: Plan, place: Place) -> str:
    """Why the file can't be loaded, and what to do."""
    if set(plan.missing) | set(plan.reshaped) <= set(place.heads) and not plan.unexpected:
        return head_only(file, plan)
    try:
        found = identify_content(file)
        holds = f"The file holds {found.title}: reslab.{found.call} builds that."
    except RequestError as error:
        holds = f"The file is of no network of ours. {error}"
    fitting = f"of the network's {len(place.expected)} keys it has {plan.num_fitting} that fit"
    start = f"{file.path} doesn't fit: {fitting}; {'; '.join(plan.problems)}."
    if not plan.unexpected and plan.missing and all(".downsample." in name for name in plan.missing):
        start += (
            " The network has projections (option B), the file has none: its shortcuts are option A, which has no"
            " parameters."
        )
    return f"{start} {holds}"


def head_only(file: WeightsFile, plan: Plan) -> str:
    """Everything fits but the head."""
    what = f"of another shape: {some(plan.reshaped.values())}" if plan.reshaped else "missing in the file"
    return (
        f"{file.path} fits but for the head, which is {what}. num_classes='adapt' (on the command line --adapt-head)"
        " loads the rest and keeps the network's own head."
    )


def check_choices(model: nn.Module, file: WeightsFile, translation: Translation) -> None:
    """Refuses weights whose keys all fit, but that belong to a network which computes something else.

    Raises:
        RequestError: naming the choice and the mend.
    """
    if not isinstance(model, ResNet):
        return
    have = model.architecture
    wanted, reason = dict(translation.layout.implies), translation.layout.reason
    if (described := described_by_card(file, translation.tensors)) is not None:
        wanted, reason = differences(described, have), "the file's card says so"
    wrong = {key: value for key, value in wanted.items() if getattr(have, key) != value}
    if wrong:
        instead = written_out({key: getattr(have, key) for key in wrong})
        raise RequestError(
            f"{file.path}: every key fits, but these weights are for {' and '.join(written_out(wrong))} and the network"
            f" has {' and '.join(instead)}: it would compute something else ({reason}). Build the network with"
            f" {', '.join(written_out(wrong))}."
        )
