"""Operators that move elements to another shape."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from onnxlr.training.executor.call import Call, Operator


def identity(call: Call) -> Tensor:
    """Identity."""
    return call[0]


def shape(call: Call) -> Tensor:
    """Shape, or a slice of it."""
    sizes = call[0].shape[call.node.integer("start", 0) :]
    if "end" in call.node.attributes:
        sizes = call[0].shape[call.node.integer("start", 0) : call.node.integer("end", 0)]
    return torch.tensor(sizes, dtype=torch.int64)


def size(call: Call) -> Tensor:
    """Size."""
    return torch.tensor(call[0].numel(), dtype=torch.int64)


def reshape(call: Call) -> Tensor:
    """Reshape: 0 keeps a size unless ``allowzero``, -1 takes what is left."""
    wanted = call.integers(1)
    if wanted is None:
        raise call.node.refusal("it has no shape")
    if not call.node.integer("allowzero", 0):
        wanted = [call[0].shape[axis] if length == 0 else length for axis, length in enumerate(wanted)]
    return call[0].reshape(wanted)


def flatten(call: Call) -> Tensor:
    """Flatten to a matrix."""
    axis = call.node.integer("axis", 1)
    axis = axis + call[0].ndim if axis < 0 else axis
    return call[0].reshape(prod(call[0].shape[:axis]), prod(call[0].shape[axis:]))


def transpose(call: Call) -> Tensor:
    """Transpose; by default all axes are reversed."""
    order = call.node.integers("perm")
    return call[0].permute(order or tuple(reversed(range(call[0].ndim))))


def squeeze(call: Call) -> Tensor:
    """Squeeze."""
    axes = call.axes(1)
    if axes is None:
        return call[0].squeeze()
    gone = {axis % call[0].ndim for axis in axes}
    return call[0].reshape([length for axis, length in enumerate(call[0].shape) if axis not in gone])


def unsqueeze(call: Call) -> Tensor:
    """Unsqueeze."""
    axes = call.axes(1) or []
    rank = call[0].ndim + len(axes)
    new = {axis % rank for axis in axes}
    sizes = iter(call[0].shape)
    return call[0].reshape([1 if axis in new else next(sizes) for axis in range(rank)])


def expand(call: Call) -> Tensor:
    """Expand, which broadcasts both ways."""
    return call[0].expand(np.broadcast_shapes(call[0].shape, tuple(call.integers(1) or [])))


def tile(call: Call) -> Tensor:
    """Tile."""
    return call[0].repeat(call.integers(1) or [])


def depth_to_space(call: Call) -> Tensor:
    """DepthToSpace in either order."""
    block, (n, c, h, w) = call.node.integer("blocksize", 1), call[0].shape
    if call.node.text("mode", "DCR") == "CRD":
        moved = call[0].reshape(n, -1, block, block, h, w).permute(0, 1, 4, 2, 5, 3)
    else:
        moved = call[0].reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return moved.reshape(n, c // block**2, h * block, w * block)


def space_to_depth(call: Call) -> Tensor:
    """SpaceToDepth in either order."""
    block, (n, c, h, w) = call.node.integer("blocksize", 1), call[0].shape
    order = (0, 1, 3, 5, 2, 4) if call.node.text("mode", "DCR") == "CRD" else (0, 3, 5, 1, 2, 4)
    moved = call[0].reshape(n, c, h // block, block, w // block, block).permute(order)
    return moved.reshape(n, c * block**2, h // block, w // block)


TABLE: Final[Mapping[str, Operator]] = {
    "Identity": identity,
    "Shape": shape,
    "Size": size,
    "Reshape": reshape,
    "Flatten": flatten,
    "Transpose": transpose,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Expand": expand,
    "Tile": tile,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
}
