"""The greatest eigenvalue by power iteration, against dense Hessians in double precision."""

import copy
import math

import pytest
import torch
from tests.probe.subjects import Checkpointed
from torch import nn

from reslab.errors import RequestError
from reslab.models.catalog import create_model
from reslab.probe._landscape import Hessian, largest_curvature
from reslab.probe.batch import BatchLoss

mse, cross_entropy = nn.functional.mse_loss, nn.functional.cross_entropy


class Quadratic(nn.Module):
    """Half of w'Hw, for a given H; the inputs don't matter."""

    def __init__(self, hessian):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(len(hessian)).double())
        self.register_buffer("hessian", hessian.double())

    def forward(self, _):
        return 0.5 * self.weight @ self.hessian @ self.weight


def first(outputs, _):
    return outputs


def of_quadratic(hessian, **options):
    return largest_curvature(Quadratic(hessian), BatchLoss((torch.zeros(1), None), first), **options)


def rotated(eigenvalues):
    """A symmetric matrix with these, in no special position."""
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues)).double())[0]
    return basis @ torch.diag(torch.tensor(eigenvalues).double()) @ basis.T


def mlp_case():
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    return model, (torch.randn(10, 4).double(), torch.arange(10) % 3)


def dense(model, batch, loss_fn):
    """All of the Hessian, by torch.func, over the parameters that train."""
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    start = [model.get_parameter(name).detach() for name in names]
    sizes, twin = [weight.numel() for weight in start], copy.deepcopy(model)

    def loss(vector):
        parts = zip(names, vector.split(sizes), start, strict=True)
        weights = {name: part.view_as(weight) for name, part, weight in parts}
        return loss_fn(torch.func.functional_call(twin, weights, (batch[0],)), batch[1])

    return torch.autograd.functional.hessian(loss, torch.cat([weight.flatten() for weight in start]))


def greatest(matrix):
    values = torch.linalg.eigvalsh(matrix)
    return values[values.abs().argmax()].item()


@pytest.mark.parametrize("eigenvalues", [[9.0, 3.0, -2.0, 0.0], [-9.0, 3.0, 2.0, 1.0]])
def test_the_eigenvalue_of_a_given_hessian_with_its_sign(eigenvalues):
    record = of_quadratic(rotated(eigenvalues), tolerance=1e-8)
    assert record.largest == pytest.approx(eigenvalues[0], rel=1e-7)
    assert record.has_converged
    assert record.residual < 1e-4
    assert record.change < 1e-8
    assert 2 <= record.iterations <= 50


@pytest.mark.parametrize("sign", [1, -1])
def test_a_small_network_against_its_dense_hessian(sign):
    model, batch = mlp_case()

    def loss_fn(outputs, targets):
        return sign * cross_entropy(outputs, targets)

    expected = greatest(dense(model, batch, loss_fn))
    record = largest_curvature(model, BatchLoss(batch, loss_fn), iterations=300, tolerance=1e-9)
    assert math.copysign(1, expected) == sign
    assert record.largest == pytest.approx(expected, rel=1e-7)


def test_products_are_those_of_the_dense_hessian():
    model, batch = mlp_case()
    matrix = dense(model, batch, cross_entropy)
    hessian = Hessian(model, cross_entropy(model(batch[0]), batch[1]))
    torch.manual_seed(0)
    for _ in range(3):
        vector = torch.randn(len(matrix)).double()
        assert torch.allclose(hessian.times(vector), matrix @ vector, rtol=1e-10, atol=1e-12)


def test_frozen_and_unused_parameters():
    model, batch = mlp_case()
    model[0].weight.requires_grad_(False)
    expected = greatest(dense(model, batch, cross_entropy))
    whole = nn.ModuleDict({"used": model, "unused": nn.Linear(3, 3).double()})
    whole.forward = lambda x: model(x)
    record = largest_curvature(whole, BatchLoss(batch, cross_entropy), iterations=300, tolerance=1e-9)
    assert record.largest == pytest.approx(expected, rel=1e-7)


def test_convolutions_and_batch_norm_in_train_mode():
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(12, 3)]
    model = nn.Sequential(*layers).double()
    batch = torch.randn(6, 2, 4, 4).double(), torch.arange(6) % 3
    expected = greatest(dense(model, batch, cross_entropy))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    record = largest_curvature(model.eval(), BatchLoss(batch, cross_entropy), iterations=300, tolerance=1e-8)
    assert record.largest == pytest.approx(expected, rel=1e-6)
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_loss_along_the_vector_bends_as_much_by_finite_differences():
    torch.manual_seed(0)
    model = create_model("resnet14", 3, in_channels=1).double()
    batch = torch.randn(6, 1, 8, 8).double(), torch.arange(6) % 3
    hessian = Hessian(model, cross_entropy(model(batch[0]), batch[1]))
    weights = list(model.parameters())
    vector = torch.randn(sum(weight.numel() for weight in weights)).double()
    vector /= vector.norm()
    product = hessian.times(vector)

    def gradient():
        found = torch.autograd.grad(cross_entropy(model(batch[0]), batch[1]), weights)
        return torch.cat([part.flatten() for part in found])

    ends = []
    for step in (1e-6, -2e-6):
        with torch.no_grad():
            for weight, part in zip(weights, vector.split([w.numel() for w in weights]), strict=True):
                weight += step * part.view_as(weight)
        ends.append(gradient())
    # a few rectifiers stand nearer to their kink than the step
    assert ((ends[0] - ends[1]) / 2e-6 - product).norm() < 1e-3 * product.norm()


def test_what_is_drawn_depends_on_the_seed_alone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2)).double()
    batch = torch.randn(8, 3).double(), torch.arange(8) % 2
    records = []
    for _ in range(2):
        records.append(largest_curvature(model, BatchLoss(batch, cross_entropy), iterations=200, tolerance=1e-6))
        torch.rand(7)  # the next call finds other random numbers
    assert records[0] == records[1]
    other = largest_curvature(model, BatchLoss(batch, cross_entropy), iterations=200, tolerance=1e-6, seed=1)
    assert abs(other.largest / records[0].largest - 1) > 0.01  # another dropout, another Hessian


def test_opposite_eigenvalues_of_the_same_size_are_not_taken_for_an_answer():
    record = of_quadratic(torch.diag(torch.tensor([4.0, -4.0, 1.0])), iterations=200)
    assert record.change < 1e-3  # the estimate stays; it is none of the eigenvalues
    assert record.residual > 0.05
    assert not record.has_converged


def test_no_curvature():
    assert of_quadratic(torch.zeros(3, 3)).largest == 0
    flat = largest_curvature(nn.Linear(3, 1), BatchLoss((torch.ones(2, 3), None), lambda out, _: out.sum()))
    assert (flat.largest, flat.has_converged) == (0.0, True)


def test_a_curvature_that_is_not_finite_is_noted():
    record = of_quadratic(torch.full((2, 2), math.nan))
    assert math.isnan(record.largest)
    assert not record.has_converged
    assert record.iterations == 1


def test_too_few_iterations_are_said_to_be_too_few():
    record = of_quadratic(rotated([9.0, 8.9, 8.8, 1.0]), iterations=2, tolerance=1e-6)
    assert record.iterations == 2
    assert not record.has_converged


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.project, self.attention = nn.Linear(4, 4), nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        x = self.project(x)
        return self.attention(x, x, x, need_weights=False)[0].mean(1)


def test_fused_attention():
    torch.manual_seed(0)
    model = Attending().double()
    batch = torch.randn(3, 5, 4).double(), torch.arange(3)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = greatest(dense(model, batch, cross_entropy))
    record = largest_curvature(model, BatchLoss(batch, cross_entropy), iterations=300, tolerance=1e-8)
    assert record.largest == pytest.approx(expected, rel=1e-6)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        context.save_for_backward(x)
        return x * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, gradient):
        return 2 * gradient * context.saved_tensors[0]


class Twice(Once):
    @staticmethod
    def backward(context, gradient):
        return 2 * gradient * context.saved_tensors[0]


class Applying(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.linear, self.function = nn.Linear(3, 2), function

    def forward(self, x):
        return self.function(self.linear(x))


def test_an_operation_without_a_second_derivative_is_named():
    model, batch = Applying(nn.functional.hardsigmoid), (torch.randn(4, 3), torch.zeros(4, 2))
    with pytest.raises(RequestError, match="aten::hardsigmoid_backward can't be differentiated twice"):
        largest_curvature(model, BatchLoss(batch, mse))


@pytest.mark.parametrize("loss_fn", [mse, lambda out, _: out.sum()])  # of the second, torch gives zeros and no error
def test_a_custom_function_that_is_marked_so_is_named(loss_fn):
    batch = torch.randn(4, 3), torch.zeros(4, 2)
    with pytest.raises(RequestError, match="Once can't be differentiated twice"):
        largest_curvature(Applying(Once.apply), BatchLoss(batch, loss_fn))


def test_a_custom_function_that_is_not_marked_is_measured():
    torch.manual_seed(0)
    x = torch.randn(4, 3)
    found = largest_curvature(Applying(Twice.apply), BatchLoss((x, None), lambda out, _: out.sum()), tolerance=1e-7)
    rows = torch.cat([x, torch.ones(4, 1)], dim=1)
    assert found.largest == pytest.approx(greatest(2 * rows.T @ rows), rel=1e-4)


def test_checkpointing():
    model, (x, y) = mlp_case()
    expected = largest_curvature(model, BatchLoss((x, y), cross_entropy)).largest

    assert largest_curvature(Checkpointed(model), BatchLoss((x, y), cross_entropy)).largest == pytest.approx(
        expected, rel=1e-9
    )
    with pytest.raises(RequestError, match="use_reentrant=False"):
        largest_curvature(Checkpointed(model, use_reentrant=True), BatchLoss((x, y), cross_entropy))


def test_other_errors_are_the_users_own():
    def fails(*_):
        raise RuntimeError("the user's own")

    with pytest.raises(RuntimeError, match="the user's own"):
        largest_curvature(nn.Linear(3, 1), BatchLoss((torch.ones(2, 3), None), fails))


@pytest.mark.parametrize("options", [{"iterations": 1}, {"tolerance": 0.0}, {"tolerance": 1.0}])
def test_arguments_out_of_range_are_refused(options):
    with pytest.raises(RequestError, match="2 or more"):
        largest_curvature(nn.Linear(3, 1), BatchLoss((torch.ones(2, 3), None), first), **options)


def test_no_scalar_no_graph_no_parameter():
    model, batch = nn.Linear(3, 2), (torch.ones(2, 3), torch.zeros(2, 2))
    with pytest.raises(RequestError, match="expected a scalar"):
        largest_curvature(model, BatchLoss(batch, lambda out, y: out))
    with pytest.raises(RequestError, match="no graph"):
        largest_curvature(model, BatchLoss(batch, lambda out, y: out.detach().sum()))
    with pytest.raises(RequestError, match="requires_grad"):
        largest_curvature(nn.ReLU(), BatchLoss(batch, mse))
