"""Pools."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Final

import torch
from torch.nn import functional

from onnxlr.training.executor.windows import Window, padded, read_window

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from onnxlr.training.executor.call import Call, Operator


def max_pool(call: Call) -> Tensor:
    """MaxPool; the indices of the maxima are not given."""
    node, value = call.node, call[0]
    if len(node.outputs) > 1 and node.outputs[1]:
        raise node.refusal("indices of the maxima are not given here")
    window = _window(call)
    pool = {3: functional.max_pool1d, 4: functional.max_pool2d, 5: functional.max_pool3d}[value.ndim]
    lowest = float("-inf") if value.is_floating_point() else float(torch.iinfo(value.dtype).min)
    rim = [(b, e + more) for (b, e), more in zip(window.pads, _overhang(call, window), strict=True)]
    if value.is_floating_point():
        return pool(padded(value, rim, lowest), window.kernel, window.strides, 0, window.dilations)
    exact = padded(value, rim, lowest).to(torch.float64)  # torch pools no integers; these fit
    return pool(exact, window.kernel, window.strides, 0, window.dilations).to(value.dtype)


def average_pool(call: Call) -> Tensor:
    """AveragePool; pads count where ``count_include_pad`` says so, what ceil_mode hangs over never does."""
    window, overhang, value = _window(call), _overhang(call, _window(call)), call[0]
    rim = [(b, e + more) for (b, e), more in zip(window.pads, overhang, strict=True)]
    total = _sums(padded(value, rim), window)
    inside = torch.ones_like(value[:1, :1])
    if call.node.integer("count_include_pad", 0):
        inside = padded(inside, window.pads, 1.0)
        rim = [(0, more) for more in overhang]
    return total / _sums(padded(inside, rim), window)


def global_average_pool(call: Call) -> Tensor:
    """GlobalAveragePool."""
    return call[0].mean(dim=tuple(range(2, call[0].ndim)), keepdim=True)


def global_max_pool(call: Call) -> Tensor:
    """GlobalMaxPool."""
    return call[0].amax(dim=tuple(range(2, call[0].ndim)), keepdim=True)


def _window(call: Call) -> Window:
    kernel = call.node.integers("kernel_shape")
    if kernel is None or not 3 <= call[0].ndim <= 5:
        raise call.node.refusal(f"{call[0].ndim - 2} spatial axes")
    return read_window(call.node, kernel, call[0].shape[2:])


def _overhang(call: Call, window: Window) -> list[int]:
    """Return how far the last window of each axis reaches beyond the pads, with ``ceil_mode``."""
    if not call.node.integer("ceil_mode", 0):
        return [0] * len(window.kernel)
    out = []
    for size, reach, stride, (begin, end) in zip(
        call[0].shape[2:], window.reach, window.strides, window.pads, strict=True
    ):
        count = -(-(size + begin + end - reach) // stride) + 1
        if (count - 1) * stride >= size + begin:  # no window begins in the pads at the end
            count -= 1
        out.append(max((count - 1) * stride + reach - size - begin - end, 0))
    return out


def _sums(value: Tensor, window: Window) -> Tensor:
    """Return the sum over every window."""
    if set(window.dilations) == {1}:
        pool = {3: functional.avg_pool1d, 4: functional.avg_pool2d, 5: functional.avg_pool3d}[value.ndim]
        return pool(value, window.kernel, window.strides) * prod(window.kernel)
    function = {3: functional.conv1d, 4: functional.conv2d, 5: functional.conv3d}[value.ndim]
    single = value.reshape(-1, 1, *value.shape[2:])
    ones = torch.ones((1, 1, *window.kernel), dtype=value.dtype)
    summed = function(single, ones, None, window.strides, 0, window.dilations)
    return summed.reshape(*value.shape[:2], *summed.shape[2:])


TABLE: Final[Mapping[str, Operator]] = {
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool,
    "GlobalMaxPool": global_max_pool,
}
