"""Slices of the loss, against parabolas known in closed form and against plain forward passes."""

import copy
import math

import pytest
import torch
from tests.probe.subjects import assert_untouched, state_of
from torch import nn

from reslab.errors import RequestError
from reslab.models.catalog import create_model
from reslab.probe._landscape import direction, loss_slice, positions_of
from reslab.probe.batch import BatchLoss

mse, cross_entropy = nn.functional.mse_loss, nn.functional.cross_entropy


def linear_case():
    """A linear layer, its batch, and the direction that a slice with seed 3 goes along."""
    torch.manual_seed(0)
    model = nn.Linear(5, 4).double()
    batch = torch.randn(7, 5).double(), torch.randn(7, 4).double()
    return model, batch, direction(model, torch.Generator().manual_seed(3))[0]


def conv_case(*, rate=0.0):
    torch.manual_seed(1)
    norm = nn.BatchNorm2d(6, eps=1e-30)  # an eps of weight would see the scale of the filters
    layers = [nn.Conv2d(3, 6, 3), norm, nn.ReLU(inplace=True), nn.Dropout(rate), nn.Flatten(), nn.Linear(96, 4)]
    return nn.Sequential(*layers).double(), (torch.randn(5, 3, 6, 6).double(), torch.arange(5) % 4)


def test_the_slice_of_a_squared_loss_is_its_parabola():
    model, (x, y), direction = linear_case()
    record = loss_slice(model, BatchLoss((x, y), mse), span=2.0, num_points=9, seed=3, name="line")
    rest, move = (model(x) - y).detach(), x @ direction.T
    constant, linear, square = rest.square().mean(), 2 * (rest * move).mean(), move.square().mean()
    expected = [(constant + linear * t + square * t * t).item() for t in record.positions]
    assert record.losses == pytest.approx(expected, rel=1e-12)
    assert (record.name, record.norms, record.seed) == ("line", "batch", 3)


def test_each_filter_is_moved_by_its_own_norm():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(24, 4))
    with torch.no_grad():
        model[0].weight[2] = 0.0
    conv, bias, gain, shift, linear, last = direction(model, torch.Generator().manual_seed(0))
    assert bias is gain is shift is last is None
    assert conv.flatten(1).norm(dim=1).tolist() == pytest.approx(model[0].weight.flatten(1).norm(dim=1).tolist())
    assert linear.norm(dim=1).tolist() == pytest.approx(model[3].weight.norm(dim=1).tolist())
    assert conv[2].count_nonzero() == 0
    cosine = nn.functional.cosine_similarity(conv.flatten(1), model[0].weight.flatten(1), dim=1)
    assert cosine.abs().max() < 0.99  # it isn't the weight itself


def test_the_scale_of_filters_before_a_batch_norm_does_not_matter():
    model, batch = conv_case()
    before = loss_slice(model, BatchLoss(batch, cross_entropy), num_points=11)
    with torch.no_grad():
        model[0].weight *= 10
        model[0].bias *= 10
    after = loss_slice(model, BatchLoss(batch, cross_entropy), num_points=11)
    assert after.losses == pytest.approx(before.losses, rel=1e-9)
    assert max(before.losses) > 1.05 * min(before.losses)


@pytest.mark.parametrize("norms", ["batch", "frozen"])
def test_the_centre_is_the_plain_loss_and_the_model_stays(norms):
    torch.manual_seed(2)
    model = create_model("resnet14", 3, in_channels=1)
    batch = torch.randn(6, 1, 8, 8), torch.arange(6) % 3
    twin = copy.deepcopy(model).train(norms == "batch")
    expected = cross_entropy(twin(batch[0]), batch[1]).item()
    cross_entropy(model.eval()(batch[0]), batch[1]).backward()
    before, kept = state_of(model), batch[0].clone()
    line = loss_slice(model, BatchLoss(batch, cross_entropy), num_points=5, norms=norms)
    assert line.losses[2] == expected
    assert_untouched(model, before)
    assert torch.equal(batch[0], kept)


def test_both_treatments_of_norms_differ():
    model, batch = conv_case()
    batched, frozen = (
        loss_slice(model, BatchLoss(batch, cross_entropy), num_points=3, norms=n) for n in ("batch", "frozen")
    )
    assert batched.losses[1] != frozen.losses[1]


def test_dropout_draws_the_same_at_every_point():
    model, batch = conv_case(rate=0.5)
    first, again = (loss_slice(model, BatchLoss(batch, cross_entropy), span=1e-9, num_points=5) for _ in range(2))
    assert first == again
    assert first.losses == pytest.approx([first.losses[2]] * 5, rel=1e-6)  # a new draw would differ by far more
    other = loss_slice(model, BatchLoss(batch, cross_entropy), span=1e-9, num_points=5, seed=1)
    assert abs(other.losses[2] - first.losses[2]) > 1e-3


def test_networks_with_the_same_shapes_go_the_same_way():
    torch.manual_seed(0)
    plain, residual = create_model("plain14", 3), create_model("resnet14", 3)
    residual.load_state_dict(plain.state_dict())
    ways = [direction(model, torch.Generator().manual_seed(5)) for model in (plain, residual)]
    moved = [(a, b) for a, b in zip(*ways, strict=True) if a is not None]
    assert len(moved) == 14
    assert all(torch.equal(a, b) for a, b in moved)


def test_frozen_weights_stay_and_do_not_change_the_way_of_others():
    model, batch = conv_case()
    free = direction(model, torch.Generator().manual_seed(0))
    model[0].weight.requires_grad_(False)
    held = direction(model, torch.Generator().manual_seed(0))
    assert held[0] is None
    assert torch.equal(held[4], free[4])
    seen = []
    model.register_forward_pre_hook(lambda module, _: seen.append(module[0].weight.clone()))
    loss_slice(model, BatchLoss(batch, cross_entropy), num_points=3)
    assert len(seen) == 3
    assert all(torch.equal(weight, model[0].weight) for weight in seen)


def test_shared_weights_are_moved_once():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    found = direction(model, torch.Generator().manual_seed(0))
    assert len(found) == 1
    x = torch.eye(3)
    weight = (model[0].weight + found[0]).detach()
    record = loss_slice(model, BatchLoss((x, torch.zeros(3, 3)), mse), num_points=3)
    assert record.losses[2] == pytest.approx((weight @ weight).square().mean().item(), rel=1e-5)


def test_a_loss_that_is_not_finite_is_noted():
    model, (x, y), _ = linear_case()
    start = model.weight.detach().clone()

    def only_here(out, _):
        return out.sum() * 0 + (0.0 if torch.equal(model.weight, start) else math.nan)

    record = loss_slice(model, BatchLoss((x, y), only_here), num_points=3)
    assert record.losses[1] == 0
    assert math.isnan(record.losses[0])
    assert math.isnan(record.losses[2])
    assert (
        loss_slice(model, BatchLoss((x, y), lambda out, _: out.sum() * 0 + math.inf), num_points=3).losses
        == (math.inf,) * 3
    )


def test_each_point_begins_with_the_same_buffers():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 2)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return self.linear(x) * 0 + self.calls

    model = Counting()
    assert loss_slice(model, BatchLoss((torch.ones(1, 2), None), lambda out, _: out.mean()), num_points=3).losses == (
        1,
        1,
        1,
    )
    assert model.calls == 0


def test_half_precision_moves_too():
    model = nn.Linear(5, 4).bfloat16()
    record = loss_slice(
        model, BatchLoss((torch.ones(2, 5).bfloat16(), torch.zeros(2, 4).bfloat16()), mse), num_points=3
    )
    assert all(map(math.isfinite, record.losses))
    assert record.losses[0] != record.losses[1]


def test_a_training_model_keeps_the_layers_that_it_holds_in_eval_mode():
    model, batch = conv_case()
    model[1].eval()
    expected = cross_entropy(model(batch[0]), batch[1]).item()
    assert loss_slice(model, BatchLoss(batch, cross_entropy), num_points=3).losses[1] == expected


def test_positions_are_symmetric_about_an_exact_zero():
    for span, count in ((1.0, 51), (0.3, 7), (2.5, 25)):
        row = positions_of(span, count)
        assert len(row) == count
        assert row[count // 2] == 0
        assert [-at for at in reversed(row)] == list(row)
        assert row[-1] == span


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_points": 50}, "num_points is odd"),
        ({"num_points": 1}, "num_points is odd"),
        ({"span": 0.0}, "span is a distance"),
        ({"span": math.inf}, "span is a distance"),
        ({"norms": "eval"}, "'batch' or 'frozen', got 'eval'"),
    ],
)
def test_arguments_out_of_range_are_refused(changes, words):
    model, batch, _ = linear_case()
    with pytest.raises(RequestError, match=words):
        loss_slice(model, BatchLoss(batch, mse), **changes)


def test_what_can_not_be_moved_is_refused():
    model, batch, _ = linear_case()
    with pytest.raises(RequestError, match="expected a scalar"):
        loss_slice(model, BatchLoss(batch, lambda out, y: out - y))
    with pytest.raises(RequestError, match="nothing to move"):
        loss_slice(nn.BatchNorm1d(5), BatchLoss((batch[0].float(), batch[0].float()), mse))
    with pytest.raises(RequestError, match="requires_grad"):
        loss_slice(model.requires_grad_(False), BatchLoss(batch, mse))
