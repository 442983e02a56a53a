from __future__ import annotations

import pytest
import torch

from reslab.probe._norms import FEW, RUN, dot, norms_of, sample_norms, square

SIZES = [0, 1, 7, RUN, 5 * RUN, FEW + 1, FEW + RUN]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_norms_are_those_of_double_precision_however_small_or_large(dtype, scale):
    torch.manual_seed(0)
    tensors = [(torch.randn(size, dtype=torch.float64) * scale).to(dtype) for size in SIZES]
    expected = [tensor.double().norm().item() for tensor in tensors]
    assert norms_of(tensors) == pytest.approx(expected, rel=1e-6)
    assert [square(tensor).item() for tensor in tensors] == pytest.approx([norm**2 for norm in expected], rel=1e-6)


def test_what_is_not_finite_stays_so():
    assert norms_of([torch.tensor([float("inf"), 1.0]), torch.zeros(3)]) == [float("inf"), 0.0]
    assert norms_of([]) == []
    assert norms_of([torch.full((FEW + RUN,), float("nan"))])[0] != 0


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_layout_makes_no_difference(layout):
    torch.manual_seed(0)
    values = torch.randn(4, 8, 16, 16)
    other = values.roll(1, 0)
    turned = values.to(memory_format=layout)
    assert square(turned).item() == pytest.approx(values.double().square().sum().item(), rel=1e-6)
    assert dot(turned, other).item() == pytest.approx((values.double() * other).sum().item(), rel=1e-4)
    assert sample_norms(turned).tolist() == pytest.approx(values.double().flatten(1).norm(dim=1).tolist(), rel=1e-6)
    assert square(turned[:, ::2]).item() == pytest.approx(values[:, ::2].double().square().sum().item(), rel=1e-6)
