"""Shortcuts: shapes, values, odd sizes, errors."""

import pytest
import torch
from torch import nn

from reslab.errors import RequestError
from reslab.layers.shortcut import NoShortcut, Projection, ZeroPad, make_shortcut
from reslab.layers.spec import SHORTCUT_KINDS


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("side", [1, 7, 8])
def test_zero_pad_last_is_slicing_then_zeros(stride, side):
    x = torch.randn(2, 3, side, side + 1)
    out = ZeroPad(3, 8, stride=stride)(x)
    assert torch.equal(out[:, :3], x[:, :, ::stride, ::stride])
    assert torch.equal(out[:, 3:], torch.zeros_like(out[:, 3:]))
    assert out.shape == (2, 8, -(-side // stride), -(-(side + 1) // stride))


@pytest.mark.parametrize("out_channels", [4, 7, 8])
def test_zero_pad_both_puts_half_before_and_half_after(out_channels):
    x = torch.randn(2, 4, 5, 5)
    out = ZeroPad(4, out_channels, stride=2, layout="both")(x)
    before = (out_channels - 4) // 2
    expected = torch.zeros(2, out_channels, 3, 3)
    expected[:, before : before + 4] = x[:, :, ::2, ::2]
    assert torch.equal(out, expected)


def test_zero_pad_matches_the_widespread_cifar_code():
    """Option A of akamaster/pytorch_resnet_cifar10, resnet.py, class BasicBlock."""
    x, planes = torch.randn(2, 16, 32, 32), 32
    expected = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, planes // 4, planes // 4), "constant", 0)
    assert torch.equal(make_shortcut("zero_pad_both", 16, 32, stride=2)(x), expected)


def test_zero_pad_cannot_lose_channels():
    with pytest.raises(RequestError, match="8 in, 4 out"):
        ZeroPad(8, 4)


def test_zero_pad_gradient_reaches_only_the_kept_pixels():
    x = torch.randn(1, 2, 4, 4, requires_grad=True)
    ZeroPad(2, 4, stride=2)(x).sum().backward()
    expected = torch.zeros(1, 2, 4, 4)
    expected[:, :, ::2, ::2] = 1
    assert torch.equal(x.grad, expected)


def test_zero_pad_has_no_state_and_prints_itself():
    shortcut = ZeroPad(4, 9, stride=2, layout="both")
    assert not shortcut.state_dict()
    assert repr(shortcut) == "ZeroPad(stride=2, before=2, after=3)"


@pytest.mark.parametrize("side", [7, 8])
def test_projection_is_a_matrix_at_every_kept_pixel(side):
    torch.manual_seed(0)
    projection = Projection(3, 6, stride=2).double().eval()
    x = torch.randn(2, 3, side, side, dtype=torch.float64)
    matrix = projection[0].weight[:, :, 0, 0]
    expected = torch.einsum("oc,nchw->nohw", matrix, x[:, :, ::2, ::2]) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(projection(x), expected)
    assert set(projection.state_dict()) >= {"0.weight", "1.weight", "1.running_mean"}
    assert projection[0].bias is None


@pytest.mark.parametrize(
    ("kind", "same", "changed"),
    [
        ("zero_pad", nn.Identity, ZeroPad),
        ("zero_pad_both", nn.Identity, ZeroPad),
        ("projection", nn.Identity, Projection),
        ("projection_all", Projection, Projection),
        ("none", NoShortcut, NoShortcut),
    ],
)
def test_each_kind_gives_its_class(kind, same, changed):
    assert type(make_shortcut(kind, 4, 4, stride=1)) is same
    assert type(make_shortcut(kind, 4, 4, stride=2)) is changed
    assert type(make_shortcut(kind, 4, 8, stride=1)) is changed


def test_the_layouts_of_option_a_are_those_of_their_kinds():
    made = [make_shortcut(kind, 4, 8, stride=2) for kind in ("zero_pad", "zero_pad_both")]
    assert [(pad.before, pad.after, pad.stride) for pad in made] == [(0, 4, 2), (2, 2, 2)]


@pytest.mark.parametrize("kind", [kind for kind in SHORTCUT_KINDS if kind not in ("none", "identity")])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 5), (1, 1)])
def test_shapes_fit_the_branch_of_the_block(kind, height, width):
    x = torch.randn(2, 4, height, width)
    branch = nn.Conv2d(4, 6, kernel_size=3, stride=2, padding=1)(x)
    assert make_shortcut(kind, 4, 6, stride=2).eval()(x).shape == branch.shape


def test_identity_is_the_input_itself_and_none_is_nothing():
    x = torch.randn(1, 2, 3, 3)
    assert make_shortcut("identity", 2, 2, stride=1)(x) is x
    assert make_shortcut("none", 2, 5, stride=2)(x) is None


@pytest.mark.parametrize(("in_channels", "out_channels", "stride"), [(2, 4, 1), (2, 2, 2), (4, 2, 1)])
def test_identity_refuses_changed_dimensions_and_says_what_to_use(in_channels, out_channels, stride):
    with pytest.raises(RequestError, match=rf"{in_channels} -> {out_channels} .*stride {stride}.*'zero_pad'"):
        make_shortcut("identity", in_channels, out_channels, stride=stride)


@pytest.mark.parametrize("stride", [1, 2])
def test_unknown_kinds_get_their_closest_match(stride):
    with pytest.raises(RequestError, match=r"Unknown shortcut 'projektion'. Did you mean 'projection'"):
        make_shortcut("projektion", 4, 4, stride=stride)
