"""What Keras' networks have and ours don't, folded into what both have. Exact in eval mode."""

from __future__ import annotations

import re

from reslab.weights.translation import Translation

KERAS_EPSILON, OUR_EPSILON = 1.001e-5, 1e-5


def fold_keras(translation: Translation) -> None:
    """Folds what Keras' post-activation networks have and ours don't into the norm that follows, exact in eval mode.

    ``norm(conv(x) + bias)`` is the norm with its mean less the bias; a larger epsilon is a larger variance.
    """
    tensors = translation.tensors
    for name in [name for name in tensors if is_convolution_bias(name)]:
        mean = norm_after(name.removesuffix(".bias")) + ".running_mean"
        if mean in tensors:
            tensors[mean] = tensors[mean] - tensors.pop(name)
            translation.notes[translation.sources[mean]] = "less the bias of the convolution before it"
            key = translation.sources.pop(name)
            translation.merged[key] = (mean, "adapted", "taken from the mean of the norm after it")
    fold_epsilon(translation)


def fold_epsilon(translation: Translation) -> None:
    """Adds the difference of Keras' epsilon and ours to the variances, and takes a head of another name as the head."""
    adopt_head(translation)
    for name in translation.tensors:
        if name.endswith("running_var"):
            translation.tensors[name] = translation.tensors[name] + (KERAS_EPSILON - OUR_EPSILON)
            translation.notes[translation.sources[name]] = "epsilon 1.001e-5 made 1e-5"


def adopt_head(translation: Translation) -> None:
    """Takes the only dense layer for the head, where the file has no layer ``predictions``.

    That is what users put on a network of keras.applications without its top.
    """
    dense = {key for key, value in translation.unknown.items() if key.endswith(".weight") and value.ndim == 2}
    if "fc.weight" in translation.tensors or len(dense) != 1:
        return
    layer = dense.pop().removesuffix(".weight")
    for part in ("weight", "bias"):
        if (value := translation.unknown.pop(f"{layer}.{part}", None)) is not None:
            translation.tensors[f"fc.{part}"] = value
            translation.sources[f"fc.{part}"] = f"{layer}.{part}"
            translation.notes[f"{layer}.{part}"] = "the file's only dense layer, taken for the head"


def is_convolution_bias(name: str) -> bool:
    """Whether a name of ours is the bias of a convolution, in a layout without scalar biases.

    Example:
        >>> [is_convolution_bias(f"layer1.0.{part}.bias") for part in ("conv2", "bn2", "downsample.0", "downsample.1")]
        [True, False, True, False]
    """
    return bool(re.search(r"(^|\.)(conv\d|downsample\.0)\.bias$", name))


def norm_after(conv: str) -> str:
    """Name of the norm that follows a convolution in a post-activation network.

    Example:
        >>> norm_after("conv1"), norm_after("layer1.0.conv3"), norm_after("layer1.0.downsample.0")
        ('bn1', 'layer1.0.bn3', 'layer1.0.downsample.1')
    """
    return re.sub(r"conv(\d)$", r"bn\1", re.sub(r"downsample\.0$", "downsample.1", conv))
