"""Additions of every form are cut where they are meant to be, and in networks that know nothing of it."""

from __future__ import annotations

import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
import torchvision
from tests.probe.subjects import Checkpointed, batch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.overrides import handle_torch_function, has_torch_function

import reslab
from reslab.errors import RequestError
from reslab.models.graph import Graph
from reslab.probe._cut import NumberedPass, survey
from reslab.probe.batch import BatchLoss
from reslab.untouched import untouched


class Form(nn.Module):
    """One block that joins its branch in a way of the test's; its weights are frozen, so that x may be written over."""

    def __init__(self, join) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.join, self.stem, self.head = join, nn.Linear(5, 4).double(), nn.Linear(4, 3).double()
        self.register_buffer("weight", torch.randn(4, 4).double())
        self.gain = nn.Parameter(torch.tensor([0.3, -1.0, 2.0, 0.7]).double())

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.join(x, torch.tanh(x @ self.weight), self.gain))


POINTS = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 3


def rebound(x: Tensor, b: Tensor, _: Tensor) -> Tensor:
    x += b
    return x


def not_rebound(x: Tensor, b: Tensor, _: Tensor) -> Tensor:
    held = x
    x += b
    return held


def onto_the_branch(x: Tensor, b: Tensor, _: Tensor) -> Tensor:
    b = b * 1  # tanh needs its result
    b += x
    return b


def taken_off_the_branch(x: Tensor, b: Tensor, _: Tensor) -> Tensor:
    b = b * 1
    b.sub_(x, alpha=2)
    return b


FORMS = {
    # name: how it is written, what the shortcut adds, what the branch adds
    "operator": (lambda x, b, g: x + b, lambda x, b, g: x, lambda x, b, g: b),
    "operator, branch first": (lambda x, b, g: b + x, lambda x, b, g: x, lambda x, b, g: b),
    "method": (lambda x, b, g: x.add(other=b), lambda x, b, g: x, lambda x, b, g: b),
    "function": (lambda x, b, g: torch.add(x, b), lambda x, b, g: x, lambda x, b, g: b),
    "keywords": (lambda x, b, g: torch.add(other=b, input=x), lambda x, b, g: x, lambda x, b, g: b),
    "overload": (lambda x, b, g: torch.ops.aten.add.Tensor(x, b), lambda x, b, g: x, lambda x, b, g: b),
    "sum": (lambda x, b, g: sum([x, b]), lambda x, b, g: x, lambda x, b, g: b),
    "alpha": (lambda x, b, g: torch.add(x, b, alpha=0.5), lambda x, b, g: x, lambda x, b, g: 0.5 * b),
    "alpha of x": (lambda x, b, g: torch.add(b, x, alpha=0.5), lambda x, b, g: 0.5 * x, lambda x, b, g: b),
    "minus": (lambda x, b, g: x - b, lambda x, b, g: x, lambda x, b, g: -b),
    "minus x": (lambda x, b, g: torch.subtract(b, x), lambda x, b, g: -x, lambda x, b, g: b),
    "addcmul": (
        lambda x, b, g: torch.addcmul(x, g, b, value=0.5),
        lambda x, b, g: x,
        lambda x, b, g: 0.5 * g * b,
    ),
    "broadcast": (
        lambda x, b, g: x + b.mean(1, keepdim=True),
        lambda x, b, g: x,
        lambda x, b, g: b.mean(1, keepdim=True).expand(-1, 4),
    ),
    "scaled": (lambda x, b, g: 0.5 * x + g * b, lambda x, b, g: 0.5 * x, lambda x, b, g: g * b),
    "in place": (rebound, lambda x, b, g: x, lambda x, b, g: b),
    "in place, not bound anew": (not_rebound, lambda x, b, g: x, lambda x, b, g: b),
    "in place on the branch": (onto_the_branch, lambda x, b, g: x, lambda x, b, g: b),
    "in place minus": (taken_off_the_branch, lambda x, b, g: -2 * x, lambda x, b, g: b),
    "in place addcmul": (
        lambda x, b, g: x.addcmul_(g, b.clone()),
        lambda x, b, g: x,
        lambda x, b, g: g * b,
    ),
}


def outcome(model: nn.Module, forward) -> list[Tensor]:
    """Loss and gradients of a pass."""
    loss = forward()
    grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return [loss.detach(), *(torch.zeros((), dtype=loss.dtype) if grad is None else grad for grad in grads)]


@pytest.mark.parametrize("side", ["shortcut", "branch"])
@pytest.mark.parametrize("form", FORMS)
def test_what_is_left_is_the_other_side(form, side):
    written, *sides = FORMS[form]
    model, expected = Form(written), Form(sides[side == "shortcut"])
    seen = survey(model, BatchLoss(POINTS, F.cross_entropy))
    (junction,) = seen.junctions
    assert junction.why_not == ""
    cut = NumberedPass(seen.calls, {junction.call: getattr(junction, side)})
    found = outcome(model, lambda: cut.run(model, BatchLoss(POINTS, F.cross_entropy)))
    wanted = outcome(expected, lambda: F.cross_entropy(expected(POINTS[0]), POINTS[1]))
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, want.expand_as(got), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("form", FORMS)
def test_a_pass_in_which_nothing_is_cut_is_the_ordinary_one(form):
    model = Form(FORMS[form][0])
    seen = survey(model, BatchLoss(POINTS, F.cross_entropy))
    found = outcome(model, lambda: NumberedPass(seen.calls, {}).run(model, BatchLoss(POINTS, F.cross_entropy)))
    wanted = outcome(model, lambda: F.cross_entropy(model(POINTS[0]), POINTS[1]))
    assert all(torch.equal(got, want) for got, want in zip(found, wanted, strict=True))
    assert seen.loss == wanted[0]


def test_an_out_argument_is_written_to():
    x, b, out = torch.ones(2, 2), torch.full((2, 2), 3.0), torch.empty(2, 2)
    with NumberedPass(("add",), {0: 0}):
        assert torch.add(x, b, out=out) is out
    assert torch.equal(out, b)
    with NumberedPass(("add",), {0: 1}):
        torch.add(x, b, out=b)
    assert torch.equal(b, x)


def test_an_activation_in_place_leaves_what_the_shortcut_shares_alone():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch, self.seen = nn.Linear(5, 5), None

        def forward(self, x: Tensor) -> Tensor:
            self.seen = x
            return torch.cat([torch.relu_(x + self.branch(x)), x], 1)

    model, points = Net(), torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    loss_fn = lambda out, _: out.sum()  # noqa: E731
    seen = survey(model, BatchLoss((points, None), loss_fn))
    (junction,) = seen.junctions
    for key in (junction.branch, junction.shortcut):
        with torch.no_grad():
            loss = NumberedPass(seen.calls, {junction.call: key}).run(model, BatchLoss((points, None), loss_fn))
        assert torch.equal(model.seen, points)
        left = points if key == junction.branch else model.branch(points)
        assert loss.item() == pytest.approx((left.relu().sum() + points.sum()).item(), rel=1e-5)


def left_over(model: nn.Module, data: tuple[Tensor, Tensor]) -> tuple[int, list[str]]:
    """How many blocks there are, and what is left of their additions in the twin's graph."""
    with untouched(model, is_training=True):
        seen = survey(model, BatchLoss(data, F.cross_entropy))
    assert [junction.why_not for junction in seen.junctions] == [""] * len(seen.junctions)
    cut = NumberedPass(seen.calls, {junction.call: junction.shortcut for junction in seen.junctions})
    with untouched(model, is_training=True):
        loss = cut.run(model, BatchLoss(data, F.cross_entropy))
        graph = Graph(loss.grad_fn, [get_gradient_edge(leaf).node for leaf in cut.seen.leaves])
    assert graph.inputs[-1], "the data reaches the loss by the branches"
    return len(seen.junctions), [addition.kind for addition in graph.additions()]


def timm_model(name: str, **options) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("timm").create_model(name, **options)


@pytest.mark.parametrize(
    ("build", "count", "side"),
    [
        *(
            (partial(torchvision.models.get_model, name, weights=None), count, 64 if name == "swin_t" else 32)
            for name, count in {
                "resnet50": 16,
                "mobilenet_v2": 10,
                "efficientnet_b0": 9,
                "regnet_y_400mf": 16,
                "convnext_tiny": 18,
                "swin_t": 24,
            }.items()
        ),
        (lambda: torchvision.models.VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=3), 6, 32),
        *(
            (partial(timm_model, name), count, 32)
            for name, count in {"resnetv2_50": 16, "nf_resnet50": 16, "convnext_atto": 12}.items()
        ),
        (partial(timm_model, "vit_tiny_patch16_224", img_size=32, depth=3), 6, 32),
    ],
)
def test_no_shortcut_is_left_in_networks_of_others(build, count, side):
    assert left_over(build(), batch(2, side)) == (count, [])


@pytest.mark.parametrize("connection", ["add", "rezero", "unit_variance", "exclusive_gate", "shortcut_dropout"])
@pytest.mark.parametrize("name", ["resnet8", "preresnet20"])
def test_no_shortcut_is_left_in_ours(name, connection):
    model = reslab.create_model(name, 3, connection=connection)
    assert left_over(model, batch()) == (len(list(model.blocks())), [])


def test_the_second_pass_follows_the_first_in_eval_mode_and_without_gradients():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)  # has a fast path for that
    model = nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Flatten(), nn.Linear(48, 3))
    data = torch.randn(4, 3, 16), torch.arange(4) % 3
    with untouched(model, is_training=False):
        seen = survey(model, BatchLoss(data, F.cross_entropy))
    with untouched(model, is_training=False), torch.no_grad():
        loss = NumberedPass(seen.calls, {}, last=len(seen.calls) - 1).run(model, BatchLoss(data, F.cross_entropy))
    assert loss.item() == pytest.approx(seen.loss, rel=1e-6)
    assert len(seen.junctions) == 4


def fused(x: Tensor, weight: Tensor) -> Tensor:
    if has_torch_function((x, weight)):
        return handle_torch_function(fused, (x, weight), x, weight)
    return x + x @ weight


class Hidden(nn.Module):
    def __init__(self, block) -> None:
        super().__init__()
        self.block, self.weight = block, nn.Parameter(torch.eye(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x, self.weight)


def out_of_sight(x: Tensor, weight: Tensor) -> Tensor:
    with torch._C.DisableTorchFunction():
        return x + x @ weight


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (fused, "its addition is a part of what fused does"),
        (out_of_sight, "its addition is not seen"),
        (lambda x, weight: torch.addcmul(weight[0], x, x @ weight), "addcmul multiplies its shortcut by its branch"),
    ],
)
def test_what_cannot_be_cut_says_why(block, reason):
    (junction,) = survey(Hidden(block), BatchLoss((torch.randn(3, 4), torch.arange(3)), F.cross_entropy)).junctions
    assert reason in junction.why_not


class Fickle(nn.Module):
    """Another function in each pass; the last one that it calls is missing in the second."""

    def __init__(self, *functions) -> None:
        super().__init__()
        self.functions, self.passes, self.weight = functions, 0, nn.Parameter(torch.eye(4))

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return self.functions[self.passes - 1](x, self.weight)


@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        (lambda x, w: x + torch.tanh(x @ w), lambda x, w: x + torch.relu(x @ w), "was tanh at first, and then relu"),
        (lambda x, w: x + x @ w, lambda x, w: x, "and then the end"),
    ],
)
def test_a_pass_that_is_not_like_the_first_is_refused(first, second, sentence):
    model, data, loss_fn = Fickle(first, second), (torch.randn(3, 4), None), lambda out, _: out
    seen = survey(model, BatchLoss(data, lambda out, _: out.sum()))
    (junction,) = seen.junctions
    with pytest.raises(RequestError, match=sentence):
        NumberedPass(seen.calls, {junction.call: junction.branch}).run(model, BatchLoss(data, loss_fn))


def test_names_and_forks_are_those_of_the_blocks():
    model = reslab.create_model("resnet8", 3)
    junctions = survey(model, BatchLoss(batch(), F.cross_entropy)).junctions
    assert [junction.name for junction in junctions] == [name for name, _ in model.blocks()]
    assert all(junction.fork[0] < junction.call for junction in junctions)


def test_the_fork_may_be_the_input_itself():
    model = Hidden(lambda x, weight: x + x @ weight)
    (junction,) = survey(model, BatchLoss((torch.randn(3, 4), torch.arange(3)), F.cross_entropy)).junctions
    assert junction.fork == (0, ~0)


def test_checkpointed_blocks_are_found_and_lined_up():
    model = Checkpointed(reslab.create_model("resnet8", 3))
    with untouched(model, is_training=False):
        seen = survey(model, BatchLoss(batch(), F.cross_entropy))
    assert len(seen.junctions) == 3
    with untouched(model, is_training=False), torch.no_grad():
        loss = NumberedPass(seen.calls, {seen.junctions[-1].call: 0}).run(model, BatchLoss(batch(), F.cross_entropy))
    assert loss.item() != seen.loss
