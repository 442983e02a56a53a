"""What no probe can look into is refused, by name."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reslab.errors import RequestError


def check_model(model: nn.Module) -> None:
    """Refuses what can't be read, by name."""
    if not isinstance(model, nn.Module):
        raise RequestError(f"Expected a torch.nn.Module, got a {type(model).__name__}.")
    if isinstance(model, torch.jit.ScriptModule):
        raise RequestError("A scripted model hides its operations. Give the model that it was made from.")
    parameters = list(model.parameters())
    tensors = [*parameters, *model.buffers()]
    if any(tensor.is_meta for tensor in tensors):
        raise RequestError("The model is on the meta device: it has shapes but no values. Load its weights first.")
    if any(tensor.is_quantized for tensor in tensors):
        raise RequestError("The model is quantised: it has no gradients. Give the model that it was made from.")
    if any(tensor.is_inference() for tensor in tensors):
        raise RequestError("The model was made under inference_mode: its weights can't have gradients.")
    if not any(parameter.requires_grad for parameter in parameters):
        raise RequestError("Nothing in the model asks for a gradient: requires_grad_(True) on what is to be trained.")


def check_batch(batch: object) -> None:
    """Refuses what is no pair."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        found = f"{len(batch)} items" if isinstance(batch, tuple | list) else f"a {type(batch).__name__}"
        raise RequestError(f"A batch is a pair of inputs and targets, got {found}.")


def check_loss(loss: object) -> Tensor:
    """Refuses what is no scalar; a tensor of one element is one."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"{loss!r:.40}, no tensor"
        raise RequestError(f"loss_fn gave {found}; expected a scalar tensor, such as a mean over the batch.")
    return loss
