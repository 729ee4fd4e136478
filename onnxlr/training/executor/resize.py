"""Resize and Upsample: every axis is a product with a matrix of interpolation weights, exact for every rule of ONNX."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from onnxlr.training.executor.call import Call, Node, Operator


def resize(call: Call) -> Tensor:
    """Resize by scales or to sizes, nearest, linear or cubic."""
    node, value = call.node, call[0]
    for name in ("antialias", "exclude_outside"):
        if node.integer(name, 0):
            raise node.refusal(f"{name} is not covered")
    if node.text("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        raise node.refusal("tf_crop_and_resize is not covered")
    if node.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise node.refusal("keep_aspect_ratio_policy is not covered")
    axes = node.integers("axes") or tuple(range(value.ndim))
    scales, sizes = _numbers(call.get(1 if node.opset < 11 else 2)), call.integers(3)
    for i, axis in enumerate(axes):
        length = value.shape[axis]
        scale = scales[i] if scales else (sizes or value.shape)[i] / length
        wanted = sizes[i] if sizes and not scales else math.floor(length * scale)
        if wanted != length or scale != 1.0:
            matrix = _weights(node, length, wanted, scale).to(value.dtype)
            value = (value.movedim(axis, -1) @ matrix.T).movedim(-1, axis)
    return value


def _numbers(value: Tensor | None) -> list[float]:
    return [] if value is None else [float(entry) for entry in value.reshape(-1).tolist()]


def _weights(node: Node, length: int, wanted: int, scale: float) -> Tensor:
    """Return the matrix (wanted, length) of one axis."""
    mode = node.text("mode", "nearest")
    matrix = torch.zeros(wanted, length, dtype=torch.float64)
    for place in range(wanted):
        at = _source(node, place, length, wanted, scale)
        if mode == "nearest":
            taps = [(_nearest(node, at), 1.0)]
        elif mode in {"linear", "bilinear", "trilinear"}:
            low = math.floor(at)
            taps = [(low, low + 1 - at), (low + 1, at - low)]
        elif mode == "cubic":
            low = math.floor(at)
            taps = [(low + k, _cubic(at - low - k, node.number("cubic_coeff_a", -0.75))) for k in range(-1, 3)]
        else:
            raise node.refusal(f"mode {mode} is not covered")
        for tap, weight in taps:
            matrix[place, min(max(tap, 0), length - 1)] += weight
    return matrix


def _source(node: Node, place: int, length: int, wanted: int, scale: float) -> float:
    """Return the coordinate in the input that an output place looks at."""
    old = node.opset < 11 or node.op == "Upsample"
    mode = "asymmetric" if old else node.text("coordinate_transformation_mode", "half_pixel")
    if mode == "asymmetric":
        return place / scale
    if mode == "align_corners":
        return place * (length - 1) / (scale * length - 1) if wanted > 1 else 0.0
    if mode == "pytorch_half_pixel" and wanted == 1:
        return 0.0
    if mode == "half_pixel_symmetric":
        adjusted = wanted / (scale * length)
        return length / 2 * (1 - adjusted) + (place + 0.5) / scale - 0.5
    if mode in {"half_pixel", "pytorch_half_pixel"}:
        return (place + 0.5) / scale - 0.5
    raise node.refusal(f"coordinate_transformation_mode {mode} is not covered")


def _nearest(node: Node, at: float) -> int:
    old = node.opset < 11 or node.op == "Upsample"
    rule = "floor" if old else node.text("nearest_mode", "round_prefer_floor")
    rules = {
        "round_prefer_floor": math.ceil(at - 0.5),
        "round_prefer_ceil": math.floor(at + 0.5),
        "floor": math.floor(at),
        "ceil": math.ceil(at),
    }
    if rule not in rules:
        raise node.refusal(f"nearest_mode {rule} is not covered")
    return rules[rule]


def _cubic(distance: float, a: float) -> float:
    """Return Keys' kernel."""
    x = abs(distance)
    if x <= 1.0:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2.0 else 0.0


TABLE: Final[Mapping[str, Operator]] = {"Resize": resize, "Upsample": resize}
