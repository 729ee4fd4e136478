"""Normalisations, and Dropout, which does nothing here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch.nn import functional

from onnxlr.training.executor.windows import padded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from onnxlr.training.executor.call import Call, Operator


def batch_normalization(call: Call) -> Tensor:
    """BatchNormalization: by its running statistics, which a training call updates (in place) and does not use."""
    node = call.node
    if node.integer("training_mode", 0) or (len(node.outputs) > 1 and any(node.outputs[1:])):
        raise node.refusal("it is in training mode; export the model for inference")
    momentum = 1.0 - node.number("momentum", 0.9)
    epsilon = node.number("epsilon", 1e-5)
    return functional.batch_norm(call[0], call[3], call[4], call[1], call[2], call.training, momentum, epsilon)


def instance_normalization(call: Call) -> Tensor:
    """InstanceNormalization."""
    epsilon = call.node.number("epsilon", 1e-5)
    return functional.instance_norm(call[0], weight=call[1], bias=call[2], eps=epsilon)


def layer_normalization(call: Call) -> Tensor:
    """LayerNormalization over all axes from ``axis`` on; only its first output."""
    if len(call.node.outputs) > 1 and any(call.node.outputs[1:]):
        raise call.node.refusal("mean and deviation are not given here")
    axis = call.node.integer("axis", -1) % call[0].ndim
    axes = tuple(range(axis, call[0].ndim))
    centred = call[0] - call[0].mean(axes, keepdim=True)
    deviation = (centred.square().mean(axes, keepdim=True) + call.node.number("epsilon", 1e-5)).sqrt()
    scaled = centred / deviation * call[1]
    added = call.get(2)
    return scaled if added is None else scaled + added


def group_normalization(call: Call) -> Tensor:
    """GroupNormalization; its scale is per channel from opset 21, per group before."""
    groups, channels = call.node.integer("num_groups", 1), call[0].shape[1]
    scale, bias = call[1], call[2]
    if call.node.opset < 21:
        scale, bias = (one.repeat_interleave(channels // groups) for one in (scale, bias))
    return functional.group_norm(call[0], groups, scale, bias, call.node.number("epsilon", 1e-5))


def local_response(call: Call) -> Tensor:
    """LRN across channels."""
    node, value = call.node, call[0]
    size = node.integer("size", 1)
    squares = value.square().movedim(1, -1)
    rim = [((size - 1) // 2, size // 2)]
    sums = padded(squares, rim).unfold(-1, size, 1).sum(-1).movedim(-1, 1)
    scale = node.number("bias", 1.0) + node.number("alpha", 1e-4) / size * sums
    return value / scale.pow(node.number("beta", 0.75))


def lp_normalization(call: Call) -> Tensor:
    """LpNormalization."""
    return functional.normalize(
        call[0], p=float(call.node.integer("p", 2)), dim=call.node.integer("axis", -1), eps=1e-30
    )


def dropout(call: Call) -> tuple[Tensor, Tensor]:
    """Dropout, off: the graph is one for inference."""
    return call[0], torch.ones_like(call[0], dtype=torch.bool)


TABLE: Final[Mapping[str, Operator]] = {
    "BatchNormalization": batch_normalization,
    "InstanceNormalization": instance_normalization,
    "LayerNormalization": layer_normalization,
    "GroupNormalization": group_normalization,
    "LRN": local_response,
    "LpNormalization": lp_normalization,
    "Dropout": dropout,
}
