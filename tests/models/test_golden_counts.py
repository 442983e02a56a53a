"""Parameter counts of the papers' networks, counted on the meta device: no values, no memory."""

import pytest
import torch

from reslab.models.catalog import create_model, find_builder
from reslab.models.resnet import CIFAR_DEPTHS, IMAGENET_DEPTHS

OPTION_A = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962, 1202: 19_421_274}
OPTION_B = {20: 272_474, 32: 466_906, 44: 661_338, 56: 855_770, 110: 1_730_714, 1202: 19_424_026}
IMAGENET = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032, 101: 44_549_160, 152: 60_192_808}


def count(name: str, **options) -> int:
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


@pytest.mark.parametrize("depth", IMAGENET)
def test_imagenet_counts(depth):
    assert count(f"resnet{depth}") == IMAGENET[depth]


@pytest.mark.parametrize("depth", IMAGENET)
def test_imagenet_counts_with_option_a_equal_the_twins(depth):
    assert count(f"resnet{depth}", shortcut="zero_pad") == count(f"plain{depth}") < IMAGENET[depth]


@pytest.mark.parametrize("depth", IMAGENET)
def test_a_small_stem_saves_only_its_smaller_kernel(depth):
    assert IMAGENET[depth] - count(f"resnet{depth}_small") == 64 * 3 * (7 * 7 - 3 * 3)


def test_the_head_follows_the_classes():
    assert count("resnet20", num_classes=100) - count("resnet20", num_classes=10) == 90 * (64 + 1)
    assert count("resnet50", num_classes=10) == IMAGENET[50] - 990 * (2048 + 1)


def test_meta_networks_have_no_values():
    with torch.device("meta"):
        net = find_builder("resnet20")()
    assert {parameter.device.type for parameter in net.parameters()} == {"meta"}
