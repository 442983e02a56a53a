"""What one image costs in a network, counted from the operations that are executed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from reslab.errors import RequestError
from reslab.untouched import same_modes, same_random_numbers, uncompiled

aten = torch.ops.aten

PRODUCTS_WITH_A_VECTOR: dict[Any, Any] = {
    # FLOP of operations that torch.utils.flop_counter leaves out, from the shapes of their arguments; 1 MAC = 2 FLOP
    aten.mv: lambda matrix, *_, **__: 2 * prod(matrix),
    aten.addmv: lambda _, matrix, *__, **___: 2 * prod(matrix),
    aten.dot: lambda vector, *_, **__: 2 * prod(vector),
}


@dataclass(frozen=True)
class Operations:
    """What one image costs in a network in eval mode, or in one module of it with the modules inside.

    Args:
        num_parameters: parameters, each counted once, executed or not.
        macs: multiplications with addition, in convolutions and matrix products; 1 MAC = 2 FLOP.
        activations: elements that convolutions and matrix products put out.
        by_module: of a network: the same for each module in which a convolution or a matrix product was executed, in
            the order of definition, outer modules before inner ones.
    """

    num_parameters: int
    macs: int
    activations: int
    by_module: dict[str, Operations] = field(default_factory=dict)


def count_operations(model: nn.Module, image_shape: Sequence[int]) -> Operations:
    """Count what one image costs in ``model``: by running it on the meta device, where nothing is computed.

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
        return run_and_count(model, shape, device="meta")
    except Exception:  # whatever it is: if the meta device isn't the reason, it comes again
        try:
            return run_and_count(model, shape, device="cpu")
        except Exception as error:
            raise RequestError(
                f"The model fails on an image of shape {shape}: {error}. It is called with one argument, a batch of"
                " shape (1, *image_shape)."
            ) from error


def run_and_count(model: nn.Module, image_shape: tuple[int, ...], *, device: str) -> Operations:
    """Run the model once in eval mode, on copies of its values, and count."""
    model = getattr(model, "_orig_mod", model)  # compiled: as it was written
    size_of_output = dict.fromkeys([*flop_registry, *PRODUCTS_WITH_A_VECTOR], output_size)
    flop = FlopCounterMode(display=False, custom_mapping=PRODUCTS_WITH_A_VECTOR)
    activations = FlopCounterMode(display=False, custom_mapping=size_of_output)
    with torch.no_grad(), undisturbed(model), flop, activations:
        torch.func.functional_call(model, values_on(model, device), (image_like(model, image_shape, device),))
    root, counts = type(model).__name__, (flop.get_flop_counts(), activations.get_flop_counts())
    found: dict[str, Operations] = {}
    for name, module in model.named_modules(remove_duplicate=False):  # torch may count a shared one by any name
        of_flop, of_activations = (sum(count.get(f"{root}.{name}" if name else root, {}).values()) for count in counts)
        if of_activations or not name:
            num_parameters = sum(parameter.numel() for parameter in module.parameters())
            found[name] = Operations(num_parameters, of_flop // 2, of_activations)
    whole = found.pop("")
    return Operations(whole.num_parameters, whole.macs, whole.activations, found)


def output_size(*_: Any, out_shape: Any, **__: Any) -> int:
    """Elements that an operation puts out; fused attention gives more than its result."""
    return prod(out_shape if isinstance(out_shape, torch.Size) else out_shape[0])


def values_on(model: nn.Module, device: str) -> dict[str, Tensor]:
    """Copies of all parameters and buffers, since a forward pass may write into them; on "meta" without values."""

    def copy(value: Tensor) -> Tensor:
        if device == "meta" or value.is_meta:
            return torch.zeros_like(value, device=device)
        return value.detach().to(device, copy=True)

    return {name: copy(value) for name, value in (*model.named_parameters(), *model.named_buffers())}


def image_like(model: nn.Module, image_shape: Sequence[int], device: str) -> Tensor:
    """A batch of one image of zeros, of the model's precision."""
    dtypes = [value.dtype for value in (*model.parameters(), *model.buffers()) if value.is_floating_point()]
    return torch.zeros((1, *image_shape), dtype=dtypes[0] if dtypes else None, device=device)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Eval mode; attention and recurrent layers as the products that they are made of, on every device alike."""
    fast, onednn = torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled
    with ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        stack.callback(setattr, torch.backends.mkldnn, "enabled", onednn)
        torch.backends.mha.set_fastpath_enabled(False)
        torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
        for context in (sdpa_kernel(SDPBackend.MATH), same_random_numbers(), same_modes(model), uncompiled()):
            stack.enter_context(context)
        for module in model.modules():
            module.training = False
        yield
