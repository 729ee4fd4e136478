"""Convolutions over one, two or three spatial axes, and transposed ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from torch.nn import functional

from onnxlr.training.executor.windows import padded, read_window

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from onnxlr.training.executor.call import Call, Operator


def conv(call: Call) -> Tensor:
    """Conv."""
    value, weight = call[0], call[1]
    function = {3: functional.conv1d, 4: functional.conv2d, 5: functional.conv3d}.get(weight.ndim)
    if function is None or value.ndim != weight.ndim:
        raise call.node.refusal(f"{weight.ndim - 2} spatial axes")
    window = read_window(call.node, weight.shape[2:], value.shape[2:])
    pads = window.begins
    if not window.symmetric:
        value, pads = padded(value, window.pads), (0,) * len(pads)
    group = call.node.integer("group", 1)
    return function(value, weight, call.get(2), window.strides, pads, window.dilations, group)


def conv_transpose(call: Call) -> Tensor:
    """ConvTranspose: pads crop what the plain transposed convolution gives."""
    node, value, weight = call.node, call[0], call[1]
    function = {
        3: functional.conv_transpose1d, 4: functional.conv_transpose2d, 5: functional.conv_transpose3d,
    }.get(weight.ndim)  # fmt: skip
    if function is None:
        raise node.refusal(f"{weight.ndim - 2} spatial axes")
    n = weight.ndim - 2
    strides, dilations = node.integers("strides") or (1,) * n, node.integers("dilations") or (1,) * n
    extra = node.integers("output_padding") or (0,) * n
    flat = node.integers("pads") or (0,) * (2 * n)
    wanted, mode = node.integers("output_shape"), node.text("auto_pad", "NOTSET")
    if mode in {"SAME_UPPER", "SAME_LOWER"} and wanted is None:
        wanted = tuple(size * s for size, s in zip(value.shape[2:], strides, strict=True))
    group = node.integer("group", 1)
    full = function(value, weight, call.get(2), strides, (0,) * n, (0,) * n, group, dilations)
    bias = call.get(2)
    pads = []
    for axis in range(n):
        size = full.shape[2 + axis] + extra[axis]
        begin, end = flat[axis], flat[n + axis]
        if wanted is not None:
            total = size - wanted[-n:][axis]
            small = total // 2
            begin, end = (small, total - small) if mode == "SAME_UPPER" else (total - small, small)
        pads.append((-begin, extra[axis] - end))
    if bias is not None and any(end > 0 for _, end in pads):  # the rim that output_padding adds has the bias too
        plain = function(value, weight, None, strides, (0,) * n, (0,) * n, group, dilations)
        return padded(plain, pads) + bias.reshape(-1, *(1,) * n)
    return padded(full, pads)


TABLE: Final[Mapping[str, Operator]] = {"Conv": conv, "ConvTranspose": conv_transpose}
