"""Our own optimisers against their formulas, written a second time."""

import pytest
import torch
from torch import nn

from reslab.errors import RequestError
from reslab.models.catalog import create_model
from reslab.training._optimizers import Lamb, Muon, orthogonalise
from reslab.training.optim import inner_layers, lamb, muon


def gradients(number, shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(number)]


def by_hand(weight, steps, *, lr, decay, betas=(0.9, 0.999), eps=1e-6, clip=1.0):
    """You et al. 2019, Algorithm 2, one tensor."""
    mean, square = torch.zeros_like(weight), torch.zeros_like(weight)
    for count, gradient in enumerate(steps, 1):
        gradient = gradient / max(1.0, float(gradient.norm()) / clip)
        mean = betas[0] * mean + (1 - betas[0]) * gradient
        square = betas[1] * square + (1 - betas[1]) * gradient**2
        step = (mean / (1 - betas[0] ** count)) / ((square / (1 - betas[1] ** count)).sqrt() + eps) + decay * weight
        ratio = float(weight.norm() / step.norm()) if decay else 1.0
        weight = weight - lr * ratio * step
    return weight


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_lamb_follows_its_algorithm(decay):
    steps = gradients(5, (4, 3))
    start = gradients(1, (4, 3), seed=1)[0]
    parameter = nn.Parameter(start.clone())
    optimizer = Lamb([parameter], lr=0.01, weight_decay=decay)
    for gradient in steps:
        parameter.grad = gradient.clone()
        optimizer.step()
    torch.testing.assert_close(parameter.data, by_hand(start, steps, lr=0.01, decay=decay))


def test_lamb_clips_all_parameters_together():
    one, two = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    alone = nn.Parameter(torch.zeros(2))
    together, single = Lamb([one, two], lr=1.0, weight_decay=0, eps=1.0), Lamb([alone], lr=1.0, weight_decay=0, eps=1.0)
    one.grad, two.grad, alone.grad = torch.full((2,), 3.0), torch.full((2,), 4.0), torch.full((2,), 3.0)
    together.step()
    single.step()
    assert not torch.allclose(one.data, alone.data)


@pytest.mark.parametrize("shape", [(16, 144), (64, 40), (10, 3)])
def test_orthogonalising_brings_singular_values_near_one_and_keeps_the_directions(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonalise(matrix.unsqueeze(0))[0] / max(1.0, shape[0] / shape[1]) ** 0.5
    values = torch.linalg.svdvals(found)
    assert 0.3 < values.min() <= values.max() < 1.3
    inside = left.mT @ found @ right.mT  # diagonal, if the directions are the matrix's own
    assert (inside - inside.diag().diag()).abs().max() < 0.02


def test_matrices_of_one_shape_are_orthogonalised_as_if_alone():
    matrices = torch.randn(3, 8, 20, generator=torch.Generator().manual_seed(0))
    together = orthogonalise(matrices)
    for index in range(3):
        torch.testing.assert_close(together[index : index + 1], orthogonalise(matrices[index : index + 1]))


def test_muon_steps_along_the_orthogonalised_momentum_and_decays_beside_it():
    steps, start = [g.float() for g in gradients(3, (4, 3, 3, 3))], torch.ones(4, 3, 3, 3)
    parameter = nn.Parameter(start.clone())
    group = {"params": [parameter], "orthogonal": True, "weight_decay": 0.1}
    optimizer = Muon([group], lr=0.05, momentum=0.6)
    total, weight = torch.zeros_like(start), start
    for gradient in steps:
        parameter.grad = gradient.clone()
        optimizer.step()
        total = 0.6 * total + gradient
        update = orthogonalise((gradient + 0.6 * total).reshape(1, 4, 27)).view(4, 3, 3, 3)
        weight = weight - 0.05 * (update + 0.1 * weight)
    torch.testing.assert_close(parameter.data, weight)


def test_a_fixed_norm_is_that_of_a_matrix_with_orthogonal_rows():
    start = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    parameter = nn.Parameter(start.clone())
    optimizer = Muon([{"params": [parameter], "orthogonal": True}], lr=0.1, momentum=0.0, fixed_norm=True)
    gradient = gradients(1, (4, 3, 3, 3))[0].float()
    for rate in (0.1, 0.0):  # a schedule may end at 0
        optimizer.param_groups[0]["lr"], parameter.grad = rate, gradient.clone()
        before = parameter.detach() * 2 / parameter.detach().norm()
        optimizer.step()
        update = orthogonalise(gradient.reshape(1, 4, 27)).view(4, 3, 3, 3)
        torch.testing.assert_close(parameter.data, before - rate * update)
    assert float(parameter.detach().norm()) == pytest.approx(2.0)


def test_a_fixed_norm_is_refused_where_no_norm_follows():
    with pytest.raises(RequestError, match="this network has no norms"):
        muon(create_model("resnet8", norm="none"), fixed_norm=True)


def test_what_is_not_orthogonal_gets_nesterovs_sgd():
    ours, theirs = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(5))
    optimizer = Muon([{"params": [ours], "weight_decay": 0.1}], lr=0.3, momentum=0.9)
    other = torch.optim.SGD([theirs], lr=0.3, momentum=0.9, nesterov=True, weight_decay=0.1)
    for gradient in gradients(4, (5,)):
        ours.grad, theirs.grad = gradient.float(), gradient.float()
        optimizer.step()
        other.step()
    torch.testing.assert_close(ours.data, theirs.data)


def test_muon_takes_the_inside_of_a_network_and_sgd_its_ends():
    model = create_model("resnet8")
    optimizer = muon(model, lr=0.05, side_lr=0.4, norm_lr=2.0, momentum=0.6, side_momentum=0.8)
    orthogonal = {id(p) for group in optimizer.param_groups if group["orthogonal"] for p in group["params"]}
    assert orthogonal == {id(p) for n, p in model.named_parameters() if p.ndim == 4 and n != "conv1.weight"}
    rates = {id(p): group["lr_scale"] * 0.05 for group in optimizer.param_groups for p in group["params"]}
    assert rates[id(model.conv1.weight)] == pytest.approx(0.4)
    assert rates[id(model.bn1.weight)] == pytest.approx(0.8)
    assert rates[id(model.layer1[0].conv1.weight)] == pytest.approx(0.05)
    assert {group["momentum"] for group in optimizer.param_groups if group["orthogonal"]} == {0.6}
    assert {group["momentum"] for group in optimizer.param_groups if not group["orthogonal"]} == {0.8}
    assert len(inner_layers(model)) == 6


@pytest.mark.parametrize("make", [lamb, muon])
def test_a_step_is_skipped_where_the_device_found_infinity(make):
    model = create_model("resnet8")
    optimizer = make(model)
    before = [p.detach().clone() for p in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    optimizer.found_inf = torch.ones(())
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("make", [lamb, muon])
def test_state_survives_saving(make):
    model = create_model("resnet8")
    optimizer, again = make(model), make(model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    again.load_state_dict(optimizer.state_dict())
    assert len(again.state_dict()["state"]) == len(list(model.parameters()))
