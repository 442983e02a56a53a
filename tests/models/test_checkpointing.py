"""Checkpointing changes memory and time, and nothing else."""

import pytest
import torch
from tests.models.shrunk import SHRUNK, build, images_for
from torch import nn

from reslab.layers.connections import CONNECTIONS
from reslab.models.catalog import create_model
from reslab.models.resnet import without_running_statistics


def step(name: str, *, checkpoint: bool, **changes) -> tuple[torch.Tensor, dict[str, torch.Tensor], dict]:
    """Logits, gradients and state after one training step's forward and backward pass."""
    net = build(name, checkpoint_blocks=checkpoint, **changes).double().train()
    images = images_for(name).double()
    torch.manual_seed(7)
    logits = net(images)
    logits.square().sum().backward()
    return logits.detach(), {key: p.grad for key, p in net.named_parameters()}, net.state_dict()


@pytest.mark.parametrize("name", SHRUNK)
def test_logits_gradients_and_running_statistics_are_equal(name):
    changes = {} if SHRUNK[name].shortcut == "none" else {"drop_path": 0.5}
    kept, recomputed = step(name, checkpoint=False, **changes), step(name, checkpoint=True, **changes)
    assert torch.equal(kept[0], recomputed[0])
    for ours, theirs in zip(recomputed[1:], kept[1:], strict=True):
        assert list(ours) == list(theirs)
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key], value, rtol=1e-10, atol=1e-12, msg=key)


@pytest.mark.parametrize("connection", CONNECTIONS)
def test_every_connection_is_recomputed_alike(connection):
    torch.manual_seed(0)
    plain = create_model("resnet14", connection=connection).double().train()
    torch.manual_seed(0)
    saving = create_model("resnet14", connection=connection, checkpoint_blocks=True).double().train()
    images = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    for net in (plain, saving):
        torch.manual_seed(1)
        net(images).square().sum().backward()
    for (key, ours), theirs in zip(saving.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-12, msg=key)


def test_blocks_run_twice_in_training_and_once_without_gradients():
    net = build("resnet20", checkpoint_blocks=True)
    calls = []
    net.layer1[0].conv1.register_forward_hook(lambda *_: calls.append(1))
    net(images_for("resnet20")).sum().backward()
    assert len(calls) == 2
    with torch.no_grad():
        net(images_for("resnet20"))
    assert len(calls) == 3


def test_fewer_activations_are_kept():
    def saved(checkpoint: bool) -> int:
        net = create_model("resnet56", checkpoint_blocks=checkpoint)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            net(torch.zeros(2, 3, 32, 32))
        return sum(sizes)

    assert saved(True) < 0.4 * saved(False)


def test_running_statistics_come_back_after_an_error():
    norm = nn.BatchNorm2d(3).train()

    def fail() -> None:
        with without_running_statistics(norm):
            norm(torch.randn(2, 3, 4, 4))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert norm.momentum == 0.1
    assert norm.num_batches_tracked == 0
    assert torch.equal(norm.running_var, torch.ones(3))
