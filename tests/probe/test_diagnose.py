"""Each rule finds its illness in a network that has it, and says nothing of one that hasn't."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import reslab
from reslab.errors import RequestError
from reslab.probe.diagnosis import Diagnosis, diagnose
from reslab.probe.evidence import Line, flow_profile, line_through
from reslab.probe.rules import RULES


def images(num: int = 16, side: int = 32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num, 3, side, side, generator=generator), torch.arange(num) % 10


def of(model: nn.Module, batch: tuple[Tensor, Tensor] | None = None) -> Diagnosis:
    return diagnose(model, batch or images(), F.cross_entropy)


def ids(diagnosis: Diagnosis) -> list[str]:
    return [finding.id for finding in diagnosis.findings]


def perceptron(activation: nn.Module, depth: int, *, gain: float = 1.0) -> nn.Module:
    layers = [layer for _ in range(depth) for layer in (nn.Linear(64, 64), activation)]
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 64), activation, *layers, nn.Linear(64, 10))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(gain)
    return model


class Detached(nn.Module):
    """Its first layer learns nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3072, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x.flatten(1)).relu().detach())


class Joined(nn.Module):
    """Blocks whose shortcut and branch are scaled."""

    def __init__(self, shortcut: float, branch: float) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(3072, 32), nn.Linear(32, 10)
        self.blocks = nn.ModuleList([nn.Linear(32, 32) for _ in range(6)])
        self.shortcut, self.branch = shortcut, branch

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.flatten(1))
        for block in self.blocks:
            x = self.shortcut * x + self.branch * block(x.relu())
        return self.head(x)


class Logs(nn.Module):
    """Takes the logarithm of what may be negative."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3072, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1)).log()


def with_bias(value: float) -> nn.Module:
    model = reslab.create_model("plain8", norm="none")
    nn.init.constant_(model.layer2[0].conv1.bias, value)
    return model


SICK = {
    "GRAD_EXP_GROWTH": lambda: reslab.create_model("plain56"),
    "GRAD_VANISH": lambda: perceptron(nn.Sigmoid(), 10),
    "ACT_EXPLODE": lambda: reslab.create_model("resnet56", norm="none"),
    "ACT_COLLAPSE": lambda: Joined(0.1, 0.1),
    "SATURATED": lambda: perceptron(nn.Tanh(), 2, gain=30),
    "SOFTMAX_TWICE": lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 10), nn.Softmax(dim=1)),
    "NO_GRAD": Detached,
    "NONFINITE": Logs,
    "SHORTCUT_BLOCKED": lambda: Joined(0.01, 1.0),
    "BRANCH_DOMINATES": lambda: Joined(1.0, 20.0),
    "ZERO_INIT": lambda: reslab.create_model("resnet56", zero_init_residual=True),
}


@pytest.mark.parametrize("rule", SICK)
def test_an_illness_is_found(rule):
    torch.manual_seed(0)
    diagnosis = of(SICK[rule]())
    assert rule in ids(diagnosis)
    finding = next(finding for finding in diagnosis.findings if finding.id == rule)
    assert 1 <= len(finding.actions) <= 3
    assert finding.sentence.endswith(".")
    assert finding.would_change
    words = {"critical": "sick", "warning": "warning", "info": "healthy"}
    assert diagnosis.verdict == words[diagnosis.findings[0].severity]


def test_inputs_as_they_come_from_a_file():
    batch, labels = images()
    assert "INPUT_SCALE" in ids(of(reslab.create_model("resnet20"), ((batch * 64 + 128).clamp(0, 255), labels)))


def test_logits_that_are_too_large():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    nn.init.normal_(model[1].weight, std=1.0)
    assert "LOSS_RANGE" in ids(of(model))


def test_rectifiers_that_are_never_active():
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.Flatten(), nn.LazyLinear(10))
    model(images()[0])
    nn.init.constant_(model[0].bias, -50)
    (finding,) = [finding for finding in of(model).findings if finding.id == "DEAD_RELU"]
    assert (finding.where, finding.number) == ("1", 1.0)


def test_frozen_weights_are_named():
    model = torchvision.models.resnet18(num_classes=10).requires_grad_(False)
    model.fc.requires_grad_(True)
    (finding,) = [finding for finding in of(model).findings if finding.id == "NO_GRAD"]
    assert "frozen" in finding.sentence
    assert finding.where == "conv1.weight"


HEALTHY = {
    **{
        name: lambda name=name: reslab.create_model(name)
        for name in (
            "plain20",
            "resnet20",
            "resnet56",
            "resnet110",
            "preresnet110",
            "wide_resnet16_4",
            "fixup_resnet56",
        )
    },
    **{
        name: lambda name=name: torchvision.models.get_model(name, num_classes=10)
        for name in ("resnet18", "resnet50", "mobilenet_v2", "regnet_x_400mf", "regnet_y_400mf", "convnext_tiny")
    },
}


@pytest.mark.parametrize("name", HEALTHY)
def test_the_healthy_are_called_healthy(name):
    torch.manual_seed(0)
    diagnosis = of(HEALTHY[name](), images(side=64 if name not in reslab.list_models() else 32))
    assert diagnosis.verdict == "healthy", [finding.sentence for finding in diagnosis.findings]


def test_every_rule_says_found_clean_or_why_not():
    diagnosis = of(nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)))
    said = [*ids(diagnosis), *diagnosis.judged.clean, *diagnosis.not_checked]
    assert sorted(said) == sorted(rule.id for rule in RULES)
    assert all(diagnosis.not_checked.values())


def test_a_diagnosis_is_one_line_in_a_list_and_the_verdict_in_words_when_printed():
    diagnosis = of(reslab.create_model("plain56", 10))
    assert repr(diagnosis).startswith("<Diagnosis of ResNet, sick: 1 problem: GRAD_EXP_GROWTH at layer1.0.conv1; ")
    told = str(diagnosis)
    for part in ("ResNet: sick\n", "critical  GRAD_EXP_GROWTH at layer1.0.conv1\n", "\nclean: ", "\nnot checked: "):
        assert part in told
    assert all(finding.sentence in told and finding.actions[0] in told for finding in diagnosis.findings)


def test_json_has_it_all():
    diagnosis = of(reslab.create_model("resnet20"))
    found = json.loads(diagnosis.to_json())
    assert found["verdict"] == diagnosis.verdict
    assert [block["name"] for block in found["readings"][0]["blocks"]] == [block.name for block in diagnosis.blocks]


def test_a_model_in_eval_mode_is_read_as_it_trains_and_stays_in_eval_mode():
    model = reslab.create_model("resnet20").eval()
    diagnosis = of(model)
    assert diagnosis.readings[0].is_training
    assert not model.training


def test_a_compiled_model_is_read_uncompiled():
    model = reslab.create_model("resnet8")
    compiled = torch.compile(model, backend="eager")
    assert [block.name for block in of(compiled).blocks] == [name for name, _ in model.blocks()]


@pytest.mark.parametrize(
    ("model", "batch", "message"),
    [
        (lambda: torch.jit.trace(nn.Linear(3, 3), torch.ones(1, 3)), None, "scripted"),
        (lambda: nn.Linear(3, 3, device="meta"), None, "meta device"),
        (lambda: nn.Linear(3, 3).requires_grad_(False), None, "asks for a gradient"),
        (lambda: F.relu, None, r"Expected a torch.nn.Module, got a"),
        (lambda: nn.Linear(3, 3), torch.ones(2, 3), "pair of inputs and targets, got a Tensor"),
        (lambda: nn.Linear(3, 3), (torch.ones(2, 3),), "got 1 items"),
    ],
)
@pytest.mark.filterwarnings("ignore:.torch.jit.trace:FutureWarning")
def test_what_cannot_be_read_is_refused(model, batch, message):
    batch = (torch.ones(2, 3), torch.zeros(2).long()) if batch is None else batch
    with pytest.raises(RequestError, match=message):
        diagnose(model(), batch, F.cross_entropy)


def test_a_model_made_under_inference_mode_is_refused():
    with torch.inference_mode():
        model = nn.Linear(3, 3)
    with pytest.raises(RequestError, match="inference_mode"):
        diagnose(model, (torch.ones(2, 3), torch.zeros(2).long()), F.cross_entropy)


def test_a_batch_made_under_inference_mode_is_read():
    with torch.inference_mode():
        batch, labels = torch.randn(4, 3), torch.zeros(4).long()
    assert diagnose(nn.Linear(3, 3), (batch, labels), F.cross_entropy).readings[0].num_samples == 4


def test_it_works_where_gradients_are_off():
    with torch.no_grad():
        assert of(reslab.create_model("resnet8")).blocks


@pytest.mark.parametrize(("blocks", "growth"), [(9, 0.07), (27, 0.025), (54, 0.011)])
def test_the_growth_of_residual_networks_falls_with_their_depth(blocks, growth):
    """Where the threshold of ``GRAD_EXP_GROWTH`` comes from: plain networks keep theirs."""
    torch.manual_seed(0)
    residual = flow_profile(of(reslab.create_model(f"resnet{6 * blocks // 3 + 2}")).readings[0])
    plain = flow_profile(of(reslab.create_model(f"plain{6 * blocks // 3 + 2}")).readings[0])
    assert -residual.line.slope == pytest.approx(growth, abs=0.02)
    assert -plain.line.slope == pytest.approx(0.15, abs=0.02)


@pytest.mark.parametrize(
    ("values", "line"),
    [([0.0, 2.0, 4.0], Line(2.0, 1.0)), ([5.0, 5.0], Line(0.0, 1.0)), ([0.0, 1.0, 0.0], Line(0.0, 0.0))],
)
def test_a_line_through_values(values, line):
    found = line_through(values)
    assert math.isclose(found.slope, line.slope)
    assert math.isclose(found.fit, line.fit)
