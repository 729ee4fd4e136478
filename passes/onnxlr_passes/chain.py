"""A chain: the sequence of plain convolutions that stands in for one. Schemes make it, the rewrite pass writes it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnxlr_passes.geometry import Geometry
    from onnxlr_passes.tile import Tile

    Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """One convolution, without bias.

    ``weight`` has shape (out channels, in channels / group, *kernel), float64. A weight made by :func:`blank` takes no
    memory: a chain of those answers every question about cost. ``suffix`` ends the names of what is written for it.
    ``tile`` says that it is computed a tile of outputs at a time, which changes how it is written and nothing else.
    """

    suffix: str
    weight: Array
    geometry: Geometry
    tile: Tile | None = None

    def __post_init__(self) -> None:
        if self.weight.shape[2:] != self.geometry.kernel:
            raise ValueError(f"{self.suffix}: weight {self.weight.shape} is not a kernel of {self.geometry.kernel}")
        if self.weight.shape[0] % self.geometry.group:
            raise ValueError(f"{self.suffix}: {self.weight.shape[0]} channels in {self.geometry.group} groups")
        if self.tile is not None:
            self.tile.axes(self.geometry)  # which says why it cannot be

    @property
    def out_channels(self) -> int:
        """Channels this stage gives."""
        return self.weight.shape[0]

    @property
    def in_channels(self) -> int:
        """Channels this stage takes."""
        return self.weight.shape[1] * self.geometry.group

    @property
    def parameters(self) -> int:
        """Weights as they are written."""
        return self.weight.size if self.tile is None else self.tile.parameters(self.weight.shape, self.geometry)

    def macs(self, size: tuple[int, ...]) -> int:
        """Multiply-adds for one sample of spatial size ``size``."""
        if self.tile is not None:
            return self.tile.macs(self.weight.shape, self.geometry, size)
        return self.weight.size * prod(self.geometry.output_size(size))


Step = tuple[Stage, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """Steps run one after the other; the stages of one step share its input and are concatenated by channel.

    The bias (shape (T,), float64) belongs to the last convolution: one before a zero-padded convolution would be
    wrong at the borders.
    """

    steps: tuple[Step, ...]
    bias: Array | None = None

    def __post_init__(self) -> None:
        if not self.steps or not all(self.steps) or len(self.steps[-1]) != 1:
            raise ValueError("a chain has at least one step, no empty ones, and ends in a single convolution")
        if len(self.stages) > 1 and any(stage.tile is not None for stage in self.stages):
            raise ValueError("a convolution by tiles stands alone")
        for before, after in zip(self.steps, self.steps[1:], strict=False):
            given = sum(stage.out_channels for stage in before)
            if any(stage.in_channels != given for stage in after):
                raise ValueError(f"{given} channels given, {[stage.in_channels for stage in after]} taken")

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Every convolution, in the order it is written."""
        return tuple(stage for step in self.steps for stage in step)

    @property
    def parameters(self) -> int:
        """Weights, without the bias."""
        return sum(stage.parameters for stage in self.stages)

    def macs(self, size: tuple[int, ...]) -> int:
        """Multiply-adds for one sample of spatial size ``size`` (for a linear map: one row, ``size`` is ())."""
        total = 0
        for step in self.steps:
            total += sum(stage.macs(size) for stage in step)
            size = step[0].geometry.output_size(size)
        return total

    def with_bias(self, bias: Array | None) -> Chain:
        """Return the same convolutions with another bias on the last one."""
        return replace(self, bias=bias)

    def untiled(self) -> Chain:
        """Return the chain computed without tiles, which asks nothing of the model it is written into."""
        steps = tuple(tuple(replace(stage, tile=None) for stage in step) for step in self.steps)
        return replace(self, steps=steps)

    def contract(self, geometry: Geometry) -> Array:
        """Return the dense kernel the chain computes, shape (T, S / group, *kernel) of ``geometry``.

        Raises
        ------
        ValueError
            When the chain does not move over the input as ``geometry`` does.
        """
        _check_movement(self, geometry)
        kernel, group = _joined(self.steps[0], geometry)
        for step in self.steps[1:]:
            after, after_group = _joined(step, geometry)
            kernel, group = _compose(kernel, group, after, after_group)
        if group != geometry.group:
            kernel = _regroup(kernel, group, geometry.group)
        # A step of parallel stages is embedded already, so it is padded as the layer is.
        padded = [step[0].geometry.pads if len(step) == 1 else geometry.pads for step in self.steps]
        pads = tuple(
            (sum(p[axis][0] for p in padded), sum(p[axis][1] for p in padded)) for axis in range(geometry.rank)
        )
        return _embed(kernel, pads, geometry)


def blank(*shape: int) -> Array:
    """Return a weight of the given shape that takes no memory."""
    return np.broadcast_to(np.float64(0.0), shape)


def _check_movement(chain: Chain, geometry: Geometry) -> None:
    """Strides multiply to the layer's, along every path, and each axis has its kernel in one place, as in the layer."""
    for axis in range(geometry.rank):
        stride, extent = 1, 1
        for step in chain.steps:
            if len({stage.geometry.strides[axis] for stage in step}) != 1:
                raise ValueError(f"parallel stages with different strides on axis {axis}")
            stride *= step[0].geometry.strides[axis]
            widest = max(stage.geometry.kernel[axis] for stage in step)
            if widest > 1 and extent > 1:
                raise ValueError(f"two stages with a kernel on axis {axis}")
            extent = max(extent, widest)
            for one in (stage.geometry for stage in step):
                wide = one.kernel[axis] > 1
                moves = wide or one.strides[axis] > 1
                if wide and one.dilations[axis] != geometry.dilations[axis]:
                    raise ValueError(f"axis {axis}: a stage is dilated by {one.dilations[axis]}, the layer {geometry}")
                if moves and one.auto_pad != geometry.auto_pad:
                    raise ValueError(f"axis {axis}: a stage has auto_pad {one.auto_pad}, the layer {geometry}")
        if stride != geometry.strides[axis] or extent not in {1, geometry.kernel[axis]}:
            raise ValueError(f"axis {axis}: chain moves by {stride} over {extent}, the layer over {geometry}")


def _joined(step: Step, geometry: Geometry) -> tuple[Array, int]:
    """Return the kernel of a step, parallel stages embedded in the layer's window and stacked by output channel."""
    if len(step) == 1:
        return step[0].weight, step[0].geometry.group
    groups = {stage.geometry.group for stage in step}
    if groups != {1}:
        raise ValueError("parallel stages take part in one group only")
    return np.concatenate([_embed(stage.weight, stage.geometry.pads, geometry) for stage in step]), 1


def _embed(kernel: Array, pads: tuple[tuple[int, int], ...], geometry: Geometry) -> Array:
    """Place a kernel where its pads say it lies in the layer's window, with zeros around it."""
    if kernel.shape[2:] == geometry.kernel and pads == geometry.pads:
        return np.ascontiguousarray(kernel)
    window: list[slice] = [slice(None), slice(None)]
    for axis in range(geometry.rank):
        extent, dilation = kernel.shape[2 + axis], geometry.dilations[axis]
        before, after = (whole - own for whole, own in zip(geometry.pads[axis], pads[axis], strict=True))
        first = before // dilation
        if first < 0 or before != first * dilation or after != (geometry.kernel[axis] - extent - first) * dilation:
            raise ValueError(
                f"a kernel of {kernel.shape[2:]} padded by {pads} does not lie in the window of {geometry}"
            )
        window.append(slice(first, first + extent))
    out = np.zeros(kernel.shape[:2] + geometry.kernel)
    out[tuple(window)] = kernel
    return out


def _regroup(kernel: Array, group: int, coarser: int) -> Array:
    """Write a kernel of ``group`` groups as one of ``coarser`` groups, with explicit zeros."""
    if group % coarser:
        raise ValueError(f"{group} groups cannot be seen as {coarser}")
    ratio = group // coarser
    out_channels, per_group = kernel.shape[:2]
    blocks = kernel.reshape(coarser, ratio, out_channels // group, per_group, *kernel.shape[2:])
    out = np.zeros((coarser, ratio, out_channels // group, ratio, per_group, *kernel.shape[2:]))
    for i in range(ratio):
        out[:, i, :, i] = blocks[:, i]
    return out.reshape(out_channels, ratio * per_group, *kernel.shape[2:])


def _compose(first: Array, first_group: int, second: Array, second_group: int) -> tuple[Array, int]:
    """Compose two kernels that share no spatial axis: a sum over the channels between, a product over the taps."""
    middle = first.shape[0]
    if second_group == middle and second.shape[0] == middle:  # depthwise: scales each channel by its own taps
        return first * second, first_group
    group = min(first_group, second_group)
    if first_group % group or second_group % group:
        raise ValueError(f"{first_group} and {second_group} groups do not nest")
    first = _regroup(first, first_group, group)
    second = _regroup(second, second_group, group)
    spatial = np.broadcast_shapes(first.shape[2:], second.shape[2:])
    taps = prod(spatial)
    inner = middle // group
    f = np.broadcast_to(first, first.shape[:2] + spatial).reshape(group, inner, first.shape[1], taps)
    s = np.broadcast_to(second, second.shape[:2] + spatial).reshape(group, -1, inner, taps)
    out = np.matmul(s.transpose(0, 3, 1, 2), f.transpose(0, 3, 1, 2))  # (group, taps, T / group, S / group)
    return out.transpose(0, 2, 3, 1).reshape(second.shape[0], first.shape[1], *spatial), group
