"""``diagnose``: what is wrong with a network, in one call, for any ``nn.Module``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from reslab.errors import RequestError
from reslab.probe._reading import read
from reslab.probe.batch import BatchLoss, LossFn, LossOf, ModelCall, check_model
from reslab.probe.depth import measure_depth
from reslab.probe.evidence import Evidence
from reslab.probe.rules import judge
from reslab.records import ReadingRecord
from reslab.records.depth import DepthRecord
from reslab.records.diagnosis import BlockFlowRecord, FindingRecord, LossRecord, VerdictRecord
from reslab.records.files import encode
from reslab.report.verdict import verdict_lines, verdict_sentence
from reslab.untouched import same_modes, untouched
from reslab.version import __version__

if TYPE_CHECKING:
    from reslab.report import Figure
    from reslab.report.diagnosis_page import DiagnosisRecord

MIN_BATCHES_SEEN = 20
"""Batches from which a batch norm's stored statistics are worth something, with the usual momentum of a tenth."""


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """What was seen, and what it means; printed, it is the verdict in words.

    Args:
        readings: in order of step.
        judged: what the rules say of them.
        depth: what else was measured, if it was asked for.
        losses: of each step that was watched.
        name: of the network.
        facts: name to value, for the card of the page: versions, loss, device.
    """

    readings: tuple[ReadingRecord, ...]
    judged: VerdictRecord
    depth: DepthRecord | None = None
    losses: tuple[LossRecord, ...] = ()
    name: str = "the network"
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """``healthy``, ``warning`` or ``sick``."""
        return self.judged.verdict

    @property
    def findings(self) -> tuple[FindingRecord, ...]:
        """What the rules found, worst first."""
        return self.judged.findings

    @property
    def not_checked(self) -> dict[str, str]:
        """Each rule that could not be checked, and why."""
        return self.judged.not_checked

    @property
    def blocks(self) -> tuple[BlockFlowRecord, ...]:
        """Residual additions of the last reading, in order of execution."""
        return self.readings[-1].blocks

    def chart(self, name: str) -> Figure:
        """Draw one figure; it shows itself in a notebook, and its ``save`` writes PNG, SVG, JSON or numbers as CSV.

        Args:
            name: ``flow``, ``split``, ``signal``, ``units``, ``updates``, ``paths``, ``shattering``, ``lesions``,
                ``jacobian``, ``surface``, ``heatmap`` or ``spine``.

        Raises:
            RequestError: for another name.
        """
        from reslab.report.diagnosis_page import diagnosis_figure  # altair is only needed here

        return diagnosis_figure(name, self.record)

    def save(self, path: Path | str) -> Path:
        """Write everything as one HTML page, which opens without a network, and return its path."""
        from reslab.report import write_diagnosis_page

        return write_diagnosis_page(self.record, path)

    @property
    def record(self) -> DiagnosisRecord:
        """What figures and pages are made of."""
        from reslab.report.diagnosis_page import DiagnosisRecord

        return DiagnosisRecord(self.name, self.judged, self.readings, self.depth, self.facts)

    def __repr__(self) -> str:
        return f"<Diagnosis of {self.name}, {self.verdict}: {verdict_sentence(self.judged)}>"

    def __str__(self) -> str:
        return "\n".join(line for line, _ in verdict_lines(self.name, self.judged))

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, in plain types."""
        return {
            "name": self.name,
            "facts": self.facts,
            **asdict(self.judged),
            "readings": [asdict(reading) for reading in self.readings],
            "depth": None if self.depth is None else asdict(self.depth),
            "losses": [asdict(record) for record in self.losses],
        }

    def to_json(self) -> str:
        """Return all of it, as one JSON object."""
        return encode(self.to_dict(), indent=2)


def diagnose(
    model: nn.Module,
    batch: tuple[Any, Any],
    loss_fn: LossFn,
    *,
    depth: Literal["quick", "full"] = "quick",
    twin: bool = False,
    step: int | None = None,
) -> Diagnosis:
    """Run one batch forward and backward, look at what happens, and say what is wrong.

    The model is left as it was, bit for bit: parameters, buffers, gradients, mode, hooks, and the random numbers too.
    It is read as it trains: a model in eval mode in train mode for that time, a compiled one uncompiled.

    Args:
        model: any.
        batch: inputs and targets, on the model's device: a tensor, a tuple of arguments or a dict of keywords for the
            model, and what ``loss_fn`` takes besides its outputs.
        loss_fn: outputs and targets to a scalar, such as ``torch.nn.functional.cross_entropy``.
        depth: ``full`` also measures paths, shattering, Jacobians, lesions, noise, and the loss around the weights; it
            takes some hundred passes.
        twin: also run the same weights with all shortcuts cut, for the pictures.
        step: how many steps it was trained for; some things are by design before the first one only. By default what
            its batch norms have counted, or 0.

    Raises:
        RequestError: if the model can't be read, with the reason; the model is as it was.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.Softmax(dim=1))
        >>> batch = torch.randn(8, 4), torch.zeros(8, dtype=torch.long)
        >>> [finding.id for finding in diagnose(model, batch, nn.functional.cross_entropy).findings]
        ['SOFTMAX_TWICE']
    """
    check_model(model)
    return diagnose_step(model, BatchLoss(batch, loss_fn), depth=depth, twin=twin, step=step)


def diagnose_step(
    model: nn.Module,
    loss_of: LossOf,
    *,
    depth: Literal["quick", "full"] = "quick",
    twin: bool = False,
    step: int | None = None,
) -> Diagnosis:
    """Diagnose a training step whose batch is no pair of inputs and targets, such as a task's; else as ``diagnose``.

    What needs samples of their own, such as the noise of the gradient, is listed as not measured.

    Args:
        model: any.
        loss_of: runs the model on the batch and returns the loss.
        depth: as for ``diagnose``.
        twin: as for ``diagnose``.
        step: as for ``diagnose``.

    Raises:
        RequestError: as ``diagnose`` does.
    """
    check_model(model)
    if depth not in ("quick", "full"):
        raise RequestError(f"depth is quick or full, got {depth!r}.")
    step = batches_seen(model) if step is None else step
    with untouched(model, is_training=True):
        eval_loss = loss_in_eval_mode(model, loss_of) if step else None
        with torch.enable_grad():
            reading = replace(read(model, loss_of, step=step), eval_loss=eval_loss)
    measured = None
    if depth == "full" or twin:
        is_trained = step >= MIN_BATCHES_SEEN
        measured = measure_depth(model, loss_of, is_full=depth == "full", twin=twin, is_trained=is_trained)
    judged = judge(Evidence((reading,), depth=measured))
    return Diagnosis((reading,), judged, measured, name=name_of(model), facts=facts_of(model, loss_of=loss_of))


def name_of(model: nn.Module) -> str:
    """Return the name of its class; of the one inside, for a compiled or wrapped one."""
    inside = getattr(model, "_orig_mod", getattr(model, "module", model))
    return type(inside).__name__


def facts_of(model: nn.Module, *, loss_of: LossOf | None = None) -> dict[str, Any]:
    """Return what a reader of the page wants to know besides."""
    parameters = list(model.parameters())
    facts: dict[str, Any] = {
        "parameters": sum(parameter.numel() for parameter in parameters),
        "device": str(parameters[0].device),
        "dtype": str(parameters[0].dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "reslab": __version__,
    }
    if loss_of is not None:
        loss_fn = loss_of.loss_fn if isinstance(loss_of, BatchLoss) else loss_of
        facts["loss function"] = getattr(loss_fn, "__qualname__", type(loss_fn).__name__)
    return facts


def batches_seen(model: nn.Module) -> int:
    """What its batch norms have counted; 0 without any, and for a few batches, as of a trial run."""
    counts = [module.num_batches_tracked for module in model.modules() if isinstance(module, _BatchNorm)]
    seen = max((int(count) for count in counts if count is not None), default=0)
    return seen if seen >= MIN_BATCHES_SEEN else 0


@torch.no_grad()
def loss_in_eval_mode(model: nn.Module, loss_of: LossOf) -> float:
    """The loss of the same batch with the statistics that batch norms have stored."""
    with same_modes(model), ModelCall().hooked(model):
        model.eval()
        return float(loss_of(model))
