"""The block gradient probe against plain autograd."""

import pytest
import torch
from torch import nn

from reslab.errors import RequestError
from reslab.models.catalog import create_model
from reslab.probe.gradients import BlockGradients, readings


def small_net():
    torch.manual_seed(0)
    return create_model("resnet14", 3, in_channels=1).double().eval()  # eval: each sample's loss is its own


def batch(num=4):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(num, 1, 8, 8, generator=generator).double(), torch.arange(num) % 3


def per_sample_norms(model, name):
    """By autograd, a sample at a time: |d loss_n / d output|."""
    images, labels = batch()
    norms = []
    for image, label in zip(images, labels, strict=True):
        kept = {}
        handle = model.get_submodule(name).register_forward_hook(lambda m, i, out, kept=kept: kept.update(out=out))
        loss = nn.functional.cross_entropy(model(image[None]), label[None])
        handle.remove()
        norms.append(torch.autograd.grad(loss, kept["out"])[0].norm())
    return torch.stack(norms)


def read(model, *, grad_scale=1.0, parts=1):
    names = [name for name, _ in model.blocks()]
    probe = BlockGradients(names)
    images, labels = batch()
    with probe.attach(model):
        for x, y in zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True):
            (nn.functional.cross_entropy(model(x), y) * len(x) / len(images) * grad_scale).backward()
        return probe.read(0, grad_scale=grad_scale)


def test_it_is_the_rms_of_the_per_sample_norms():
    model = small_net()
    for record in read(model):
        expected = per_sample_norms(model, record.block).square().mean().sqrt()
        assert record.grad_norm == pytest.approx(expected.item(), rel=1e-10)


def test_blocks_come_in_execution_order():
    records = read(small_net())
    assert [record.block for record in records] == [
        "layer1.0",
        "layer1.1",
        "layer2.0",
        "layer2.1",
        "layer3.0",
        "layer3.1",
    ]
    assert [record.index for record in records] == list(range(6))


@pytest.mark.parametrize(("grad_scale", "parts"), [(1024.0, 1), (1.0, 2), (8.0, 4)])
def test_loss_scaling_and_accumulation_are_undone(grad_scale, parts):
    plain = [record.grad_norm for record in read(small_net())]
    assert [r.grad_norm for r in read(small_net(), grad_scale=grad_scale, parts=parts)] == pytest.approx(plain)


def test_gradients_and_buffers_are_those_without_the_probe():
    images, labels = batch()
    nets = [small_net().train(), small_net().train()]
    probe = BlockGradients([name for name, _ in nets[0].blocks()])
    with probe.attach(nets[0]):
        nn.functional.cross_entropy(nets[0](images), labels).backward()
    nn.functional.cross_entropy(nets[1](images), labels).backward()
    for ours, theirs in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
    for ours, theirs in zip(nets[0].buffers(), nets[1].buffers(), strict=True):
        assert torch.equal(ours, theirs)


def test_no_hook_stays_behind_even_after_an_error():
    model = small_net()
    probe = BlockGradients(["layer1.0"])
    with pytest.raises(RuntimeError, match="boom"), probe.attach(model):
        raise RuntimeError("boom")
    assert all(not module._forward_hooks for module in model.modules())


def test_it_reads_only_when_told_to():
    model = small_net()
    probe = BlockGradients(["layer1.0"], when=lambda step: step == 1)
    images, labels = batch()
    found = []
    with probe.attach(model):
        for step in range(3):
            nn.functional.cross_entropy(model(images), labels).backward()
            found.append([record.step for record in probe.read(step)])
    assert found == [[], [1], []]


def test_it_works_on_a_torchvision_resnet_with_its_in_place_additions():
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.resnet18(num_classes=3)
    probe = BlockGradients(["layer1.0", "layer4.1"])
    with probe.attach(model):
        model(torch.randn(2, 3, 32, 32)).sum().backward()
        assert all(record.grad_norm > 0 for record in probe.read(0))


@pytest.mark.parametrize("total", [1, 7, 20, 999])
def test_readings_include_the_first_and_the_last_step(total):
    when = readings(total)
    steps = [step for step in range(total) if when(step)]
    assert steps[0] == 0
    assert steps[-1] == total - 1
    assert len(steps) <= 42


def test_a_left_out_step_is_noticed():
    model = small_net()
    probe = BlockGradients(["layer1.0"])
    images, labels = batch()
    with probe.attach(model):
        nn.functional.cross_entropy(model(images), labels).backward()
        probe.read(0)
        with pytest.raises(RequestError, match=r"read\(10\) came where read\(1\) was due"):
            probe.read(10)


def test_a_resumed_run_reads_only_the_steps_it_would_have_read():
    model = small_net()
    probe = BlockGradients(["layer1.0"], when=lambda step: step in (0, 6))
    images, labels = batch()
    found = []
    with probe.attach(model):
        for step in (5, 6):  # goes on at step 5
            nn.functional.cross_entropy(model(images), labels).backward()
            found += [record.step for record in probe.read(step)]
    assert found == [6]


def test_recomputed_blocks_have_the_same_gradients():
    torch.manual_seed(0)
    saving = create_model("resnet14", 3, in_channels=1, checkpoint_blocks=True).double().eval()
    for ours, theirs in zip(read(saving), read(small_net()), strict=True):
        assert ours.block == theirs.block
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-12)


def test_samples_are_counted_at_the_input_where_blocks_have_streams_in_front():
    torch.manual_seed(0)
    model = create_model("resnet14", 3, in_channels=1, connection="hyper").double().eval()
    images, labels = batch()
    kept = {}
    handle = model.layer1[0].register_forward_hook(lambda module, args, out: kept.update(out=out))
    total = 0.0
    for image, label in zip(images, labels, strict=True):
        loss = nn.functional.cross_entropy(model(image[None]), label[None])
        total += torch.autograd.grad(loss, kept["out"])[0].square().sum().item()
    handle.remove()
    record = next(record for record in read(model) if record.block == "layer1.0")
    assert record.grad_norm == pytest.approx((total / len(images)) ** 0.5, rel=1e-10)
