"""Every network goes through torch.compile, torch.export, ONNX and DDP with equal output."""

import io
import os
import warnings

import pytest
import torch
from tests.models.shrunk import ENTRIES, SHRUNK, build, covering, images_for, settle_norms
from torch import nn
from torch.nn.parallel import DistributedDataParallel

QUICK = ("resnet20", "preresnet50_bit", "mhc_resnet56")
COVER = [*covering(SHRUNK), "vgg11_bn_cifar", "mobilenet_v2_cifar", "mobilenet_v3_small_cifar"]
# With RESLAB_SWEEP set, what takes seconds a network is done for every one of them: half an hour.
SLOW = [name for name in (ENTRIES if os.environ.get("RESLAB_SWEEP") else COVER) if name not in QUICK]
QUICK_AND_SLOW = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


def randomised(name: str) -> nn.Module:
    """Settled, and without the zeros that would hide a branch or a head."""
    net = build(name)
    for parameter in net.parameters():
        if parameter.count_nonzero() == 0:
            nn.init.normal_(parameter, std=0.1)
    return settle_norms(net, images_for(name))


@pytest.mark.parametrize("name", ENTRIES)
@torch.no_grad()
def test_torch_export_takes_any_batch(name):
    net = randomised(name)
    program = torch.export.export(net, (images_for(name, batch=2),), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    images = images_for(name, batch=5)
    torch.testing.assert_close(program.module()(images), net(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", QUICK_AND_SLOW)
@torch.no_grad()
def test_onnx_takes_any_batch(name):
    onnxruntime = pytest.importorskip("onnxruntime")
    net = randomised(name)
    images = images_for(name, batch=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, about its dependencies
        program = torch.onnx.export(
            net, (images,), dynamo=True, verbose=False, dynamic_shapes=({0: torch.export.Dim.AUTO},)
        )
    file = io.BytesIO()
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    images = images_for(name, batch=3)
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    expected = net(images)
    tolerance = 3e-3 if name.startswith(("plain", "vgg")) else 1e-4  # plain networks amplify rounding
    atol = tolerance * expected.abs().max().item()
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("name", QUICK_AND_SLOW)
def test_a_compiled_network_gives_the_same_logits_and_gradients(name):
    """Without code generation, which takes a minute a network: what is traced, and its backward pass."""
    net = randomised(name).double().train()
    for part in net.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    images = images_for(name, batch=3).double()
    expected = net(images)
    gradients = torch.autograd.grad(expected.square().sum(), list(net.parameters()))
    torch.compiler.reset()
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    found = compiled(images)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
    for ours, theirs in zip(torch.autograd.grad(found.square().sum(), list(net.parameters())), gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6 * theirs.abs().max().item() + 1e-12)


@pytest.mark.slow
def test_generated_code_gives_the_same_logits():
    net = randomised("resnet20")
    images = images_for("resnet20")
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(net)(images), net(images), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def process_group(tmp_path_factory):
    store = tmp_path_factory.mktemp("ddp") / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "name", ["resnet20", "fixup_resnet20", "hyper_resnet56", "preresnet50_bit", "mobilenet_v2_cifar"]
)
def test_ddp_gives_the_same_gradients(name, process_group):
    net = randomised(name)
    for part in net.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    images = images_for(name)
    net.train()(images).square().sum().backward()
    expected = {key: parameter.grad.clone() for key, parameter in net.named_parameters()}
    net.zero_grad()
    wrapped = DistributedDataParallel(net)
    wrapped(images).square().sum().backward()
    for key, parameter in net.named_parameters():
        scale = expected[key].abs().max().item()
        torch.testing.assert_close(parameter.grad, expected[key], rtol=1e-3, atol=1e-4 * scale + 1e-7, msg=key)
