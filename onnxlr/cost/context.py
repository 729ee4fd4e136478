"""A small model that shows a layer, or a chain in its place, the neighbours it has in a real network.

ONNX Runtime keeps a blocked layout from one convolution to the next and fuses the activation behind it. A convolution
alone would pay for two changes of layout that the whole model does not, and a chain that leaves the blocked layout
would not pay for it. So each is timed between a 1x1 convolution, which leaves its result in the runtime's own layout,
and a Relu with a global pooling, which takes it from there. The neighbours cost the same beside the layer and beside
every chain, and cancel in differences.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxlr_passes.chain import Chain
from onnxlr_passes.decompose import Decompose
from onnxlr_passes.geometry import Geometry
from onnxlr_passes.tiled import conv_attributes

if TYPE_CHECKING:
    from onnxlr.cost.placement import Placement

Array = np.ndarray[Any, Any]

_LAYER = "layer"  # the output that names the site
_OPSET, _IR = 17, 8
_SOURCE_CHANNELS = 16  # of the model's input: few, so that the neighbour costs little
_IMAGE_CHANNELS = 4  # a layer with no more inputs than this reads the network's input itself
_PATTERN = 1 << 16


def layer_model(placement: Placement) -> onnx.ModelProto:
    """Return the layer as it is, between its neighbours."""
    return _model(placement, with_layer=True)


def context_model(placement: Placement) -> onnx.ModelProto | None:
    """Return the neighbours alone, to be taken off what the others cost; None where a layer has none."""
    return None if placement.op != "Conv" else _model(placement, with_layer=False)


def chain_model(layer: onnx.ModelProto, chain: Chain) -> onnx.ModelProto:
    """Return the model of :func:`layer_model` with ``chain`` in the layer's place, written by the rewrite itself.

    Weights are replaced by numbers of the size trained ones have: neither zeros nor subnormal, which would change the
    timing.
    """
    filled = Chain(
        tuple(
            tuple(replace(stage, weight=_numbers(stage.weight.shape, np.float64)) for stage in step)
            for step in chain.steps
        )
    )
    return Decompose({_LAYER: filled})(layer).model


@dataclass(slots=True, eq=False)
class _Builder:
    """Collects nodes and weights of one element type."""

    dtype: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def weight(self, name: str, *shape: int) -> str:
        numbers = _numbers(shape, helper.tensor_dtype_to_np_dtype(self.dtype))
        self.weights.append(numpy_helper.from_array(numbers, name))
        return name

    def conv(self, value: str, out: str, channels: tuple[int, int], geometry: Geometry) -> str:
        into, given = channels
        names = [value, self.weight(f"{out}_w", given, into // geometry.group, *geometry.kernel)]
        node = helper.make_node("Conv", [*names, self.weight(f"{out}_b", given)], [out])
        node.attribute.extend(conv_attributes(geometry))
        self.nodes.append(node)
        return out

    def model(self, shape_in: tuple[int, ...], shape_out: tuple[int, ...]) -> onnx.ModelProto:
        ends = [
            helper.make_tensor_value_info(name, self.dtype, shape)
            for name, shape in (("x", shape_in), (self.nodes[-1].output[0], shape_out))
        ]
        graph = helper.make_graph(self.nodes, "context", ends[:1], ends[1:], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)


def _model(placement: Placement, *, with_layer: bool) -> onnx.ModelProto:
    made = _Builder(placement.dtype)
    into, given, rank = placement.in_channels, placement.out_channels, len(placement.size)
    if placement.op != "Conv":
        return _linear(made, placement)
    source = into if into <= _IMAGE_CHANNELS else min(into, _SOURCE_CHANNELS)
    value = "x"
    if into > _IMAGE_CHANNELS:
        value = made.conv(value, "before", (source, into), Geometry.plain((1,) * rank))
    if with_layer:
        value = made.conv(value, _LAYER, (into, given), placement.geometry)
    made.nodes.append(helper.make_node("Relu", [value], ["active"]))
    made.nodes.append(helper.make_node("GlobalAveragePool", ["active"], ["pooled"]))
    channels = given if with_layer else into
    return made.model((placement.batch, source, *placement.size), (placement.batch, channels, *(1,) * rank))


def _linear(made: _Builder, placement: Placement) -> onnx.ModelProto:
    into, given = placement.in_channels, placement.out_channels
    if placement.op == "Gemm":
        weights = [made.weight("w", given, into), made.weight("b", given)]
        made.nodes.append(helper.make_node("Gemm", ["x", *weights], [_LAYER], transB=1))
    else:
        made.nodes.append(helper.make_node("MatMul", ["x", made.weight("w", into, given)], [_LAYER]))
    return made.model((placement.batch, into), (placement.batch, given))


def _numbers(shape: tuple[int, ...], dtype: Any) -> Array:
    """Return seeded normal numbers, repeated to fill ``shape``, that keep the scale of what passes through."""
    pattern = np.random.default_rng(0).standard_normal(_PATTERN) / np.sqrt(max(1, int(np.prod(shape[1:]))))
    return np.resize(pattern.astype(dtype), shape)
