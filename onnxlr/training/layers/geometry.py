"""Between torch's convolutions and geometries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from onnxlr_passes.geometry import Geometry

if TYPE_CHECKING:
    from collections.abc import Callable

AnyConv = nn.Conv1d | nn.Conv2d | nn.Conv3d
Sizes = int | tuple[int, ...]


def make_geometry(
    dims: int, kernel_size: Sizes, stride: Sizes, padding: Sizes | str, dilation: Sizes, groups: int
) -> Geometry:
    """Return the geometry that torch's arguments mean, over ``dims`` spatial axes.

    Raises
    ------
    ValueError
        For ``padding="same"`` with an even reach, which pads more at the end: give the layer a Pad of its own.
    """
    kernel, strides, dilations = (_each(value, dims) for value in (kernel_size, stride, dilation))
    if padding == "valid":
        padding = 0
    elif isinstance(padding, str):
        reach = [d * (k - 1) for k, d in zip(kernel, dilations, strict=True)]
        if any(total % 2 for total in reach):
            raise ValueError(f"padding={padding!r} with a kernel of {kernel} pads more at the end: pad before instead")
        padding = tuple(total // 2 for total in reach)
    pads = tuple((amount, amount) for amount in _each(padding, dims))
    return Geometry(kernel, strides, dilations, pads, groups)


def geometry_of(conv: AnyConv) -> Geometry:
    """Return the geometry of a convolution.

    Raises
    ------
    ValueError
        When it pads by anything but zeros.
    """
    if conv.padding_mode != "zeros":
        raise ValueError(f"padding_mode={conv.padding_mode!r}: only zeros can be padded inside of a chain")
    dims = conv.weight.ndim - 2
    return make_geometry(dims, conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups)


def make_conv(weight_shape: tuple[int, ...], geometry: Geometry, *, bias: bool) -> AnyConv:
    """Return a convolution of that weight's shape; its values are torch's own initialisation.

    Raises
    ------
    ValueError
        When begin and end pads differ, which torch's layers do not have.
    """
    if any(begin != end for begin, end in geometry.pads):
        raise ValueError(f"pads {geometry.pads} differ at begin and end: pad before instead")
    return _kind(geometry.rank)(
        weight_shape[1] * geometry.group,
        weight_shape[0],
        geometry.kernel,
        geometry.strides,
        tuple(begin for begin, _ in geometry.pads),
        geometry.dilations,
        geometry.group,
        bias=bias,
    )


def freeze(conv: AnyConv) -> None:
    """Turn the weight of a convolution into a buffer: no optimizer is ever given it."""
    weight = conv.weight.detach().clone()
    del conv.weight
    conv.register_buffer("weight", weight)


def set_weight(conv: AnyConv, values: torch.Tensor) -> None:
    """Set the weight of a convolution, parameter or buffer."""
    with torch.no_grad():
        conv.weight.copy_(values)


def _kind(dims: int) -> Callable[..., AnyConv]:
    kinds: dict[int, Callable[..., AnyConv]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
    return kinds[dims]


def _each(value: Sizes, dims: int) -> tuple[int, ...]:
    sizes = (value,) * dims if isinstance(value, int) else tuple(value)
    if len(sizes) == 1:
        sizes *= dims
    if len(sizes) != dims:
        raise ValueError(f"{value} is not one number for each of {dims} axes")
    return sizes
