"""Parameter counts of the papers' networks, counted on the meta device: no values, no memory."""

import pytest
import torch

from reslab.models.catalog import create_model
from reslab.models.families import CIFAR_DEPTHS, IMAGENET_DEPTHS, imagenet

OPTION_A = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962, 1202: 19_421_274}
OPTION_B = {20: 272_474, 32: 466_906, 44: 661_338, 56: 855_770, 110: 1_730_714, 1202: 19_424_026}
IMAGENET = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032, 101: 44_549_160, 152: 60_192_808, 200: 64_673_832}


def count(name, **options) -> int:
    with torch.device("meta"):
        net = create_model(name, **options)
    return sum(parameter.numel() for parameter in net.parameters())


def test_the_tables_in_the_source_are_the_published_ones():
    assert CIFAR_DEPTHS == OPTION_A
    assert {depth: row[2] for depth, row in IMAGENET_DEPTHS.items()} == IMAGENET


@pytest.mark.parametrize("depth", OPTION_A)
def test_cifar_counts_and_their_plain_twins(depth):
    assert count(f"resnet{depth}") == OPTION_A[depth]
    assert count(f"plain{depth}") == OPTION_A[depth]
    assert count(f"resnet{depth}", shortcut="zero_pad_both") == OPTION_A[depth]


@pytest.mark.parametrize("depth", OPTION_B)
def test_cifar_counts_with_projections(depth):
    assert count(f"resnet{depth}", shortcut="projection") == OPTION_B[depth]


@pytest.mark.parametrize("num_blocks", [1, 2, 5, 9])
def test_projections_add_what_the_paper_says(num_blocks):
    depth = 6 * num_blocks + 2
    plain = count(f"plain{depth}")
    changing = (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)  # 1x1 convolution and a norm, where the maps shrink
    per_block = sum(width * width + 2 * width for width in (16, 32, 64))
    assert count(f"resnet{depth}", shortcut="projection") == plain + changing
    unchanged = num_blocks * per_block - sum(width * width + 2 * width for width in (32, 64))
    assert count(f"resnet{depth}", shortcut="projection_all") == plain + changing + unchanged


IN_CATALOG = [depth for depth in IMAGENET if depth != 200]

PUBLISHED = {
    # name: parameters as a paper or the original library states them, in millions, and where
    "resnet164": (1.7, "Zagoruyko and Komodakis 2016, Table 4"),
    "preresnet110": (1.7, "Zagoruyko and Komodakis 2016, Table 4"),
    "preresnet164": (1.7, "Zagoruyko and Komodakis 2016, Table 4"),
    "resnet1001": (10.2, "Zagoruyko and Komodakis 2016, Table 4, counts no norms"),
    "preresnet1001": (10.2, "Zagoruyko and Komodakis 2016, Table 4, counts no norms"),
    "wide_resnet16_4": (2.7, "Zagoruyko and Komodakis 2016, Table 3 by its rule"),
    "wide_resnet40_4": (8.9, "Zagoruyko and Komodakis 2016, Table 4"),
    "wide_resnet28_10": (36.5, "Zagoruyko and Komodakis 2016, Table 4"),
    "resnext29_8x64d": (34.4, "Xie et al. 2016, Table 7"),
    "resnext29_16x64d": (68.1, "Xie et al. 2016, Table 7"),
    "resnext50_32x4d": (25.0, "Xie et al. 2016, Table 1"),
    "wide_resnet50_2": (68.9, "Zagoruyko and Komodakis 2016, Table 8"),
    "seresnet50": (28.1, "Hu et al. 2017, sec. 4"),
    "nf_resnet50": (25.6, "timm 1.0.31"),
    "ecaresnet50t": (25.6, "timm 1.0.31"),
    "resnet50d": (25.6, "timm 1.0.31"),
    "seresnet101": (49.3, "timm 1.0.31"),
    "seresnet152": (66.8, "timm 1.0.31"),
    "seresnext50_32x4d": (27.6, "timm 1.0.31"),
    "resnext101_32x8d": (88.8, "torchvision 0.29"),
    "resnext101_64x4d": (83.5, "torchvision 0.29"),
    "wide_resnet101_2": (126.9, "torchvision 0.29"),
    "vgg11_bn": (132.9, "torchvision 0.29"),
    "vgg16_bn": (138.4, "torchvision 0.29"),
    "mobilenet_v3_large": (5.5, "torchvision 0.29"),
    "mobilenet_v2": (3.5, "torchvision 0.29"),
    "mobilenet_v3_small": (2.5, "torchvision 0.29"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts(name):
    millions, _ = PUBLISHED[name]
    assert count(name) / 1e6 == pytest.approx(millions, abs=0.13 if "1001" in name else 0.06)


@pytest.mark.parametrize("depth", IMAGENET)
def test_imagenet_counts(depth):
    assert count(imagenet(depth)) == IMAGENET[depth]


def test_pre_activation_moves_norms_and_drops_those_of_projections():
    for name in ("resnet20", "resnet56", "resnet110"):
        assert count(f"pre{name}") == count(name)  # option A: as many norms, each before its convolution
    assert count(imagenet(200)) - count("preresnet200") == 2 * (256 + 512 + 1024 + 2048)
    assert count("resnet164") - count("preresnet164") == 2 * (64 + 128 + 256)


@pytest.mark.parametrize("depth", IN_CATALOG)
def test_imagenet_counts_with_option_a_equal_the_twins(depth):
    assert count(f"resnet{depth}", shortcut="zero_pad") == count(f"plain{depth}") < IMAGENET[depth]


@pytest.mark.parametrize("depth", IN_CATALOG)
def test_a_small_stem_saves_only_its_smaller_kernel(depth):
    assert IMAGENET[depth] - count(f"resnet{depth}_small") == 64 * 3 * (7 * 7 - 3 * 3)


def test_the_head_follows_the_classes():
    assert count("resnet20", num_classes=100) - count("resnet20", num_classes=10) == 90 * (64 + 1)
    assert count("resnet50", num_classes=10) == IMAGENET[50] - 990 * (2048 + 1)
