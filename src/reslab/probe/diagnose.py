"""``diagnose``: what is wrong with a network, in one call, for any ``nn.Module``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reslab.errors import RequestError
from reslab.probe.checks import check_batch, check_model
from reslab.probe.depth import measure_depth
from reslab.probe.eager import eagerly
from reslab.probe.inputs import call, mapped
from reslab.probe.reading import Batch, LossFn, read
from reslab.probe.untouched import untouched
from reslab.probe.verdict.evidence import Evidence
from reslab.probe.verdict.judge import judge
from reslab.records import (
    BlockFlowRecord,
    DepthRecord,
    FindingRecord,
    LossRecord,
    ReadingRecord,
    VerdictRecord,
    encode,
)
from reslab.report.verdict import verdict_lines, verdict_sentence
from reslab.version import __version__

if TYPE_CHECKING:
    from reslab.report import DiagnosisRecord, Figure


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
        """Worst first."""
        return self.judged.findings

    @property
    def not_checked(self) -> dict[str, str]:
        """Rule to why it couldn't say."""
        return self.judged.not_checked

    @property
    def blocks(self) -> tuple[BlockFlowRecord, ...]:
        """Residual additions of the last reading, in order of execution."""
        return self.readings[-1].blocks

    def chart(self, name: str) -> Figure:
        """One figure; it shows itself in a notebook, and its ``save`` writes PNG, SVG, JSON or its numbers as CSV.

        Args:
            name: ``flow``, ``split``, ``signal``, ``units``, ``updates``, ``paths``, ``shattering``, ``lesions``,
                ``jacobian``, ``surface``, ``heatmap`` or ``spine``.

        Raises:
            RequestError: for another name.
        """
        from reslab.report import diagnosis_figure  # altair is only needed here

        return diagnosis_figure(name, self.record)

    def save(self, path: Path | str) -> Path:
        """Writes everything as one HTML page, which opens without a network, and returns its path."""
        from reslab.report import write_diagnosis_page

        return write_diagnosis_page(self.record, path)

    @property
    def record(self) -> DiagnosisRecord:
        """What figures and pages are made of."""
        from reslab.report import DiagnosisRecord

        return DiagnosisRecord(self.name, self.judged, self.readings, self.depth, self.facts)

    def __repr__(self) -> str:
        return f"<Diagnosis of {self.name}, {self.verdict}: {verdict_sentence(self.judged)}>"

    def __str__(self) -> str:
        return "\n".join(line for line, _ in verdict_lines(self.name, self.judged))

    def to_dict(self) -> dict[str, Any]:
        """All of it, in plain types."""
        return {
            "name": self.name,
            "facts": self.facts,
            **asdict(self.judged),
            "readings": [asdict(reading) for reading in self.readings],
            "depth": None if self.depth is None else asdict(self.depth),
            "losses": [asdict(record) for record in self.losses],
        }

    def to_json(self) -> str:
        """All of it, as one JSON object."""
        return encode(self.to_dict(), indent=2)


def diagnose(
    model: nn.Module,
    batch: Batch,
    loss_fn: LossFn,
    *,
    depth: Literal["quick", "full"] = "quick",
    twin: bool = False,
    step: int | None = None,
) -> Diagnosis:
    """Runs one batch forward and backward, looks at what happens, and says what is wrong.

    The model is left as it was, bit for bit: parameters, buffers, gradients, mode, hooks, and the random numbers too.
    It is read as it trains: a model in eval mode in train mode for that time, a compiled one uncompiled.

    Args:
        model: any.
        batch: inputs and targets, on the model's device: a tensor, a tuple of arguments or a dict of keywords for the
            model, and what ``loss_fn`` takes besides its outputs.
        loss_fn: outputs and targets to a scalar, such as ``torch.nn.functional.cross_entropy``.
        depth: ``full`` also measures paths, shattering, Jacobians, lesions, noise, and the loss around the weights; it
            takes some hundred passes.
        twin: also runs the same weights with all shortcuts cut, for the pictures.
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
    check_batch(batch)
    if depth not in ("quick", "full"):
        raise RequestError(f"depth is quick or full, got {depth!r}.")
    step = batches_seen(model) if step is None else step
    with torch.inference_mode(False), untouched(model), eagerly():
        eval_loss = loss_in_eval_mode(model, batch, loss_fn) if step else None
        with torch.enable_grad():
            reading = read(model if model.training else model.train(), batch, loss_fn, step=step)
    reading, measured = replace(reading, eval_loss=eval_loss), None
    if depth == "full" or twin:
        with untouched(model):
            model.train()
            measured = measure_depth(
                model, batch, loss_fn, is_full=depth == "full", twin=twin, is_trained=step >= SETTLED
            )
    return Diagnosis(
        (reading,),
        judge(Evidence((reading,), depth=measured)),
        measured,
        name=name_of(model),
        facts=facts_of(model, loss_fn=loss_fn),
    )


def name_of(model: nn.Module) -> str:
    """Of its class; of the one inside, for a compiled or wrapped one."""
    inside = getattr(model, "_orig_mod", getattr(model, "module", model))
    return type(inside).__name__


def facts_of(model: nn.Module, *, loss_fn: LossFn | None = None) -> dict[str, Any]:
    """What a reader of the page wants to know besides."""
    parameters = list(model.parameters())
    facts: dict[str, Any] = {
        "parameters": sum(parameter.numel() for parameter in parameters),
        "device": str(parameters[0].device),
        "dtype": str(parameters[0].dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "reslab": __version__,
    }
    if loss_fn is not None:
        facts["loss function"] = getattr(loss_fn, "__qualname__", type(loss_fn).__name__)
    return facts


SETTLED = 20
"""Batches from which a batch norm's stored statistics are worth something, with the usual momentum of a tenth."""


def batches_seen(model: nn.Module) -> int:
    """What its batch norms have counted; 0 without any, and for a few batches, as of a trial run."""
    counts = [module.num_batches_tracked for module in model.modules() if isinstance(module, _BatchNorm)]
    seen = max((int(count) for count in counts if count is not None), default=0)
    return seen if seen >= SETTLED else 0


@torch.no_grad()
def loss_in_eval_mode(model: nn.Module, batch: Batch, loss_fn: LossFn) -> float:
    """Of the same batch; with the statistics that batch norms have stored."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    inputs, targets = batch
    loss = loss_fn(call(model, mapped(inputs, Tensor.clone)), targets)
    for module, was_training in modes:
        module.training = was_training
    return float(loss)
