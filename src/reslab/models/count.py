"""What one image costs in a network, counted from the operations that are executed."""

from __future__ import annotations

import contextlib
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from reslab.errors import RequestError

aten = torch.ops.aten

PRODUCTS_WITH_A_VECTOR: dict[Any, Callable[..., int]] = {
    # FLOP of those that torch.utils.flop_counter leaves out; 1 MAC = 2 FLOP
    aten.mv: lambda matrix, *_, **__: 2 * matrix.numel(),
    aten.addmv: lambda _, matrix, *__, **___: 2 * matrix.numel(),
    aten.dot: lambda vector, *_, **__: 2 * vector.numel(),
}


@dataclass(frozen=True)
class ModuleOperations:
    """What one module costs, modules inside it included.

    Args:
        num_parameters: its parameters, each counted once.
        macs: multiplications with addition, in convolutions and matrix products.
        activations: elements that convolutions and matrix products put out.
    """

    num_parameters: int
    macs: int
    activations: int


@dataclass(frozen=True)
class Operations:
    """What one image costs in a network in eval mode.

    Args:
        num_parameters: parameters of the network, each counted once, executed or not.
        macs: multiplications with addition, in convolutions and matrix products; 1 MAC = 2 FLOP.
        activations: elements that convolutions and matrix products put out.
        by_module: the same for each module with a convolution or a matrix product in it, in the order of execution,
            outer modules before inner ones. A module's numbers include those of the modules inside it.
    """

    num_parameters: int
    macs: int
    activations: int
    by_module: dict[str, ModuleOperations]


def count_operations(model: nn.Module, image_shape: Sequence[int]) -> Operations:
    """Counts what one image costs in ``model``: by running it on the meta device, where nothing is computed.

    Every convolution and matrix product that is executed is counted, whichever function or module calls for it, so
    attention counts with its two products, a shared layer as often as it runs, and a stage that is left out not at all.
    Biases, norms, activations, pools and additions don't count. A module that needs values, for a decision say, is run
    on the CPU with its own values and an image of zeros.

    The model is left as it was: mode, values, buffers, gradients; so are torch's and Python's random numbers.

    Args:
        model: any module that takes a batch of images alone.
        image_shape: of one image without the batch: (C, H, W), or (C, L), or (C, T, H, W).

    Raises:
        RequestError: if the shape isn't one, or the model fails on such an image.

    Example:
        >>> operations = count_operations(nn.Sequential(nn.Conv2d(3, 8, kernel_size=3), nn.ReLU()), (3, 10, 10))
        >>> operations.macs == 8 * 8 * 8 * 3 * 3 * 3, operations.activations == 8 * 8 * 8
        (True, True)
        >>> list(operations.by_module)
        ['0']

    Reference:
        Activations: Radosavovic et al. 2020, arXiv:2003.13678, sec. 4, "Complexity analysis".
        MACs of an operation: half of what the formulas of ``torch.utils.flop_counter`` give.

    Deviates:
        Radosavovic et al. count the output of convolutions alone; here that of matrix products counts too, as a linear
        layer is a 1x1 convolution, and attention would otherwise be free.
    """
    shape = tuple(image_shape)
    if not shape or not all(isinstance(size, int) and size > 0 for size in shape):
        raise RequestError(f"image_shape is that of one image without the batch, such as (3, 32, 32), got {shape}.")
    try:
        counter = run_and_count(model, shape, device="meta")
    except Exception:  # whatever it is: if it is not the fault of the meta device, it comes again
        try:
            counter = run_and_count(model, shape, device="cpu")
        except Exception as error:
            raise RequestError(
                f"The model fails on an image of shape {shape}: {error}. It is called with one argument, a batch of"
                " shape (1, *image_shape)."
            ) from error
    modules = dict(model.named_modules())
    by_module = {
        name: ModuleOperations(count_parameters(modules[name]), counter.macs[name], counter.activations[name])
        for name in counter.macs
    }
    total = by_module.pop("", ModuleOperations(count_parameters(model), 0, 0))
    return Operations(total.num_parameters, total.macs, total.activations, by_module)


def count_parameters(model: nn.Module) -> int:
    """Elements of all parameters, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def run_and_count(model: nn.Module, image_shape: tuple[int, ...], *, device: str) -> Counter:
    """Runs the model once, on other values than its own, and gives what was counted."""
    values = {name: elsewhere(parameter, device) for name, parameter in model.named_parameters()}
    values |= {name: elsewhere(buffer, device) for name, buffer in model.named_buffers()}
    dtype = next((value.dtype for value in values.values() if value.is_floating_point()), torch.get_default_dtype())
    image = torch.zeros((1, *image_shape), dtype=dtype, device=device)
    counter = Counter({module: name for name, module in model.named_modules()})
    with torch.no_grad(), eval_mode(model), same_random_numbers(), nothing_fused(), told_of_modules(counter), counter:
        torch.func.functional_call(model, values, (image,))
    return counter


def elsewhere(value: Tensor, device: str) -> Tensor:
    """A copy of a parameter or buffer on the device: the forward pass may write into buffers."""
    if value.is_meta:
        return torch.zeros_like(value, device=device)
    return torch.empty_like(value, device=device) if device == "meta" else value.detach().to(device, copy=True)


class Counter(TorchDispatchMode):
    """Sees every operation that is executed, and adds it up for each module that is running.

    Args:
        names: name of each module, the empty one for the whole.
    """

    def __init__(self, names: dict[nn.Module, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names = names
        self.running: list[str] = []
        self.macs: defaultdict[str, int] = defaultdict(int)
        self.activations: defaultdict[str, int] = defaultdict(int)

    def start(self, module: nn.Module, inputs: Any) -> None:
        """A module begins to run."""
        self.running.append(self.names[module])

    def end(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """A module has run, or failed."""
        self.running.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Runs one operation and counts it, if it is a convolution or a matrix product."""
        kwargs = kwargs or {}
        if func._overloadpacket in flop_registry:
            out = func(*args, **kwargs)
            self.add(flop_registry[func._overloadpacket](*args, **kwargs, out_val=out) // 2, out)
        elif func._overloadpacket in PRODUCTS_WITH_A_VECTOR:
            out = func(*args, **kwargs)
            self.add(PRODUCTS_WITH_A_VECTOR[func._overloadpacket](*args, **kwargs) // 2, out)
        else:
            with self:  # in inference mode composite operations, such as a linear layer, arrive in one piece
                out = func.decompose(*args, **kwargs)
            if out is NotImplemented:
                out = func(*args, **kwargs)
        return out

    def add(self, macs: int, out: Any) -> None:
        """Books an operation on every module that is running, once each."""
        first = out[0] if isinstance(out, tuple) else out  # fused attention gives more than its result
        for name in dict.fromkeys(["", *self.running]):
            self.macs[name] += macs
            self.activations[name] += prod(first.shape)


@contextlib.contextmanager
def told_of_modules(counter: Counter) -> Iterator[None]:
    """Tells the counter when a module starts and ends, by hooks that are gone afterwards."""
    with contextlib.ExitStack() as hooks:
        for module in counter.names:
            hooks.callback(module.register_forward_pre_hook(counter.start, prepend=True).remove)
            hooks.callback(module.register_forward_hook(counter.end, always_call=True).remove)
        yield


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode by the flags alone: an overridden ``train`` may do more, such as merging weights."""
    flags = {module: module.training for module in model.modules()}
    try:
        for module in flags:
            module.training = False
        yield
    finally:
        for module, training in flags.items():
            module.training = training


@contextlib.contextmanager
def same_random_numbers() -> Iterator[None]:
    """Random numbers afterwards are those that would have come without."""
    state = random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(state)


@contextlib.contextmanager
def nothing_fused() -> Iterator[None]:
    """Attention and recurrent layers as the products that they are made of, on every device alike."""
    fast, onednn = torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled
    torch.backends.mha.set_fastpath_enabled(False)
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.backends.mkldnn.enabled = onednn
