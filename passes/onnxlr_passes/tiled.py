"""A convolution by tiles, written as nodes: take inputs, multiply, give outputs, put the tiles side by side.

Taking is depthwise, one convolution a point and axis; the products are one convolution with a group for every point.
Both stay in the layout that runtimes keep convolutions in. Giving is one small matrix an axis.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import onnx
from onnx import helper

from onnxlr_passes.extents import fixed_sizes
from onnxlr_passes.scopes import DEFAULT_DOMAINS
from onnxlr_passes.tile import untiled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from onnxlr_passes.geometry import Geometry
    from onnxlr_passes.sites import Site
    from onnxlr_passes.tile import Tile

OPSET, SLICE = 5, 10
"""From which opset on Reshape takes the shape as an input, which all else needs, and Slice what it cuts."""

PRECISE = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE})
"""Types whose rounding the sums of a tile do not make much worse."""


def tileable(model: onnx.ModelProto, sites: Sequence[Site]) -> frozenset[str]:
    """Return the keys of the sites that can be computed by tiles, as far as the model has a say in it.

    The spatial size of what they see must be fixed in the model, and their type be no shorter than single precision.
    """
    opsets = [entry.version for entry in model.opset_import if entry.domain in DEFAULT_DOMAINS]
    if min(opsets, default=0) < OPSET:
        return frozenset()
    able = {site.key: site.geometry for site in sites if site.dtype in PRECISE and untiled(site.geometry) is None}
    return frozenset(fixed_sizes(model, able)) if able else frozenset()


class Names(Protocol):
    """Where new names and constants come from."""

    def value(self, wanted: str) -> str:
        """Return a name for a value that no other has."""
        ...

    def node(self, wanted: str) -> str:
        """Return a name for a node that no other has."""
        ...

    def numbers(self, wanted: str, array: NDArray[np.float64]) -> str:
        """Return the name of a constant in the layer's type."""
        ...

    def integers(self, wanted: str, values: Sequence[int]) -> str:
        """Return the name of a constant of 64-bit integers."""
        ...


@dataclass(frozen=True, slots=True)
class Tiled:
    """What is written: a kernel (T, S, *kernel) by ``tile``, for spatial inputs of ``size``.

    ``bias`` is numbers (T,), the name of a value, or None; ``opset`` is that of the model.
    """

    weight: NDArray[np.float64]
    geometry: Geometry
    tile: Tile
    size: tuple[int, ...]
    bias: NDArray[np.float64] | str | None
    opset: int

    def nodes(self, value: str, output: str, base: str, names: Names) -> tuple[onnx.NodeProto, ...]:
        """Return the nodes from ``value`` to ``output``; ``base`` begins what is new, and is the last node's name."""
        writer = _Writer(base, names)
        products = self._products(self._taken(value, writer), writer)
        self._given(products, output, writer)
        return tuple(writer.made)

    def _taken(self, value: str, writer: _Writer) -> str:
        """Take the inputs of every tile, at every point."""
        channels = self.weight.shape[1]
        taken = [(value, "take")]
        for take in self.tile.takes(self.geometry):
            kernels = [np.broadcast_to(row.reshape(one.kernel), (channels, 1, *one.kernel)) for row, one in take]
            weights = [writer.names.numbers(f"{writer.base}_take_weight", kernel) for kernel in kernels]
            taken = [
                (writer.conv([each, weight], f"{name}_{row}", one.with_group(channels)), f"{name}_{row}")
                for each, name in taken
                for row, (weight, (_, one)) in enumerate(zip(weights, take, strict=True))
            ]
        return writer.node("Concat", [each for each, _ in taken], "taken", [helper.make_attribute("axis", 1)])

    def _products(self, taken: str, writer: _Writer) -> str:
        weight = self.tile.transform(self.weight, self.geometry)
        points, t = weight.shape[:2]
        kernel = writer.names.numbers(f"{writer.base}_weight", weight.reshape(points * t, *weight.shape[2:]))
        inputs = [taken, kernel]
        at = self.tile.constant(self.geometry)
        if isinstance(self.bias, str):
            around = [np.zeros(at * t), np.zeros((points - 1 - at) * t)]
            zeros = [writer.names.numbers(f"{writer.base}_zeros", part) for part in around]
            parts = [zeros[0], self.bias, zeros[1]]
            inputs.append(writer.node("Concat", parts, "bias", [helper.make_attribute("axis", 0)]))
        elif self.bias is not None:
            bias = np.zeros((points, t))
            bias[at] = self.bias
            inputs.append(writer.names.numbers(f"{writer.base}_bias", bias.reshape(-1)))
        return writer.conv(inputs, "products", self.tile.products(self.geometry))

    def _given(self, products: str, output: str, writer: _Writer) -> None:
        """Make every tile's outputs, put the tiles side by side, and cut off what the last ones have too much."""
        grid, tile = self.tile.grid(self.geometry, self.size), self.tile.outputs
        rank, t = len(grid), self.weight.shape[0]
        wanted = self.geometry.output_size(self.size)
        whole = tuple(n * m for n, m in zip(grid, tile, strict=True))
        given, made = products, [0]
        for at, give in enumerate(self.tile.gives(self.geometry)):
            flat = writer.shaped(given, f"points{at}", [*made, give.shape[1], -1])
            matrix = writer.names.numbers(f"{writer.base}_give", give)
            given = writer.node("MatMul", [matrix, flat], f"given{at}", [])
            made.append(len(give))
        woven = self._woven(given, grid, writer)
        if whole == wanted:
            writer.shaped(woven, "", [0, t, *whole], output)
            return
        joined = writer.shaped(woven, "joined", [0, t, *whole])
        cut = {"starts": [0] * rank, "ends": list(wanted), "axes": list(range(2, 2 + rank))}
        if self.opset < SLICE:
            writer.node("Slice", [joined], "", [helper.make_attribute(*one) for one in cut.items()], output)
            return
        limits = [writer.names.integers(f"{writer.base}_{name}", values) for name, values in cut.items()]
        writer.node("Slice", [joined, *limits], "", [], output)

    def _woven(self, value: str, grid: tuple[int, ...], writer: _Writer) -> str:
        """Put the outputs of every tile in their places, axis by axis: runtimes are quick at moving a single one."""
        tile, spatial = self.tile.outputs, list(grid)
        left = [m for m in tile if m > 1]
        for at in reversed([at for at, m in enumerate(tile) if m > 1]):
            apart = writer.shaped(value, f"tiles{at}", [0, *left, self.weight.shape[0], *spatial])
            order = list(range(2 + len(left) + len(grid)))
            order.insert(1 + len(left) + at + 1, order.pop(len(left)))  # from before the channels to behind its axis
            value = writer.node("Transpose", [apart], f"woven{at}", [helper.make_attribute("perm", order)])
            left.pop()
            spatial[at] *= tile[at]
        return value


@dataclass(slots=True, eq=False)
class _Writer:
    """Collects nodes whose names begin with ``base``."""

    base: str
    names: Names
    made: list[onnx.NodeProto] = field(default_factory=list)

    def node(
        self, op: str, inputs: list[str], suffix: str, attributes: list[onnx.AttributeProto], output: str | None = None
    ) -> str:
        """Add a node; its output has a name of its own unless that is given."""
        name = f"{self.base}_{suffix}" if suffix else self.base
        given = self.names.value(name) if output is None else output
        made = helper.make_node(op, inputs, [given], self.names.node(name))
        made.attribute.extend(attributes)
        self.made.append(made)
        return given

    def conv(self, inputs: list[str], suffix: str, geometry: Geometry) -> str:
        return self.node("Conv", inputs, suffix, conv_attributes(geometry))

    def shaped(self, value: str, suffix: str, shape: list[int], output: str | None = None) -> str:
        wanted = self.names.integers(f"{self.base}_{suffix or 'joined'}_shape", shape)
        return self.node("Reshape", [value, wanted], suffix, [], output)


def conv_attributes(geometry: Geometry) -> list[onnx.AttributeProto]:
    """Return the attributes of a Conv."""
    made = [
        helper.make_attribute("kernel_shape", list(geometry.kernel)),
        helper.make_attribute("strides", list(geometry.strides)),
        helper.make_attribute("dilations", list(geometry.dilations)),
        helper.make_attribute("group", geometry.group),
    ]
    if geometry.auto_pad == "NOTSET":
        pads = [begin for begin, _ in geometry.pads] + [end for _, end in geometry.pads]
        return [*made, helper.make_attribute("pads", pads)]
    return [*made, helper.make_attribute("auto_pad", geometry.auto_pad)]
