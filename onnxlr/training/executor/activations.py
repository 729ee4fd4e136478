"""Activations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from onnxlr.training.executor.call import Call, Operator


def relu(call: Call) -> Tensor:
    """Relu."""
    return torch.relu(call[0])


def leaky_relu(call: Call) -> Tensor:
    """LeakyRelu."""
    return functional.leaky_relu(call[0], call.node.number("alpha", 0.01))


def prelu(call: Call) -> Tensor:
    """PRelu, the slope broadcast as numpy does; a vector as long as the channel axis is per channel (old exporters)."""
    value, slope = call[0], call[1]
    if slope.ndim == 1 and value.ndim > 2 and slope.shape[0] == value.shape[1] and slope.shape[0] != value.shape[-1]:
        slope = slope.reshape(-1, *(1,) * (value.ndim - 2))
    return torch.where(value < 0, value * slope, value)


def thresholded_relu(call: Call) -> Tensor:
    """ThresholdedRelu."""
    return torch.where(call[0] > call.node.number("alpha", 1.0), call[0], torch.zeros_like(call[0]))


def elu(call: Call) -> Tensor:
    """Elu."""
    return functional.elu(call[0], call.node.number("alpha", 1.0))


def selu(call: Call) -> Tensor:
    """Selu."""
    alpha, gamma = call.node.number("alpha", 1.6732632423543772), call.node.number("gamma", 1.0507009873554805)
    return gamma * functional.elu(call[0], alpha)


def celu(call: Call) -> Tensor:
    """Celu."""
    return functional.celu(call[0], call.node.number("alpha", 1.0))


def gelu(call: Call) -> Tensor:
    """Gelu."""
    return functional.gelu(call[0], approximate=call.node.text("approximate", "none"))


def softplus(call: Call) -> Tensor:
    """Softplus."""
    return functional.softplus(call[0])


def softsign(call: Call) -> Tensor:
    """Softsign."""
    return functional.softsign(call[0])


def sigmoid(call: Call) -> Tensor:
    """Sigmoid."""
    return torch.sigmoid(call[0])


def hard_sigmoid(call: Call) -> Tensor:
    """HardSigmoid."""
    return (call.node.number("alpha", 0.2) * call[0] + call.node.number("beta", 0.5)).clamp(0.0, 1.0)


def hard_swish(call: Call) -> Tensor:
    """HardSwish."""
    return functional.hardswish(call[0])


def mish(call: Call) -> Tensor:
    """Mish."""
    return functional.mish(call[0])


def swish(call: Call) -> Tensor:
    """Swish."""
    return call[0] * torch.sigmoid(call.node.number("alpha", 1.0) * call[0])


def tanh(call: Call) -> Tensor:
    """Tanh."""
    return torch.tanh(call[0])


def clip(call: Call) -> Tensor:
    """Clip; the bounds are attributes before opset 11."""
    low, high = call.get(1), call.get(2)
    if call.node.opset < 11:
        attributes = call.node.attributes
        low = call[0].new_tensor(call.node.number("min", 0.0)) if "min" in attributes else None
        high = call[0].new_tensor(call.node.number("max", 0.0)) if "max" in attributes else None
    value = call[0] if low is None else torch.maximum(call[0], low)
    return value if high is None else torch.minimum(value, high)


def softmax(call: Call) -> Tensor:
    """Softmax; before opset 13 over all axes from ``axis`` on."""
    value, axis, shape = _rows(call)
    return torch.softmax(value, axis).reshape(shape)


def log_softmax(call: Call) -> Tensor:
    """LogSoftmax; before opset 13 over all axes from ``axis`` on."""
    value, axis, shape = _rows(call)
    return torch.log_softmax(value, axis).reshape(shape)


def _rows(call: Call) -> tuple[Tensor, int, torch.Size]:
    value = call[0]
    if call.node.opset >= 13:
        return value, call.node.integer("axis", -1), value.shape
    axis = call.node.integer("axis", 1) % max(value.ndim, 1)
    return value.flatten(axis), axis, value.shape


TABLE: Final[Mapping[str, Operator]] = {
    "Relu": relu,
    "LeakyRelu": leaky_relu,
    "PRelu": prelu,
    "ThresholdedRelu": thresholded_relu,
    "Elu": elu,
    "Selu": selu,
    "Celu": celu,
    "Gelu": gelu,
    "Softplus": softplus,
    "Softsign": softsign,
    "Sigmoid": sigmoid,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": hard_swish,
    "Mish": mish,
    "Swish": swish,
    "Tanh": tanh,
    "Clip": clip,
    "Softmax": softmax,
    "LogSoftmax": log_softmax,
}
