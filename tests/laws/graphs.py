"""One layer as an ONNX model, rewritten by the real passes, and what can be counted and run on the result."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper, shape_inference

from onnxlr_passes.decompose import Decompose

if TYPE_CHECKING:
    from onnxlr.schemes.base import Layer
    from onnxlr_passes.chain import Chain


def layer_model(layer: Layer, x: np.ndarray, bias: np.ndarray | None) -> onnx.ModelProto:
    """A Conv (a Gemm where there are no axes) over inputs shaped like ``x``."""
    geometry = layer.geometry
    constants = [numpy_helper.from_array(layer.weight.astype(np.float32), "w")]
    if bias is not None:
        constants.append(numpy_helper.from_array(bias.astype(np.float32), "b"))
    inputs = ["x", *(tensor.name for tensor in constants)]
    if geometry.rank == 0:
        node = helper.make_node("Gemm", inputs, ["y"], "layer", transB=1)
    else:
        pads = [begin for begin, _ in geometry.pads] + [end for _, end in geometry.pads]
        node = helper.make_node(
            "Conv", inputs, ["y"], "layer", strides=geometry.strides, dilations=geometry.dilations, pads=pads,
            group=geometry.group,
        )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "one_layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return shape_inference.infer_shapes(model, strict_mode=True)  # the shape of the output


def rewritten(model: onnx.ModelProto, chain: Chain) -> onnx.ModelProto:
    """Put the chain in the place of the layer."""
    model = Decompose({"y": chain})(model).model
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """Run on ONNX Runtime, single-threaded, as it is."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x.astype(np.float32)})[0])


def count_macs(model: onnx.ModelProto) -> int:
    """Count multiply-adds off the graph alone: weights' shapes, and what ONNX's inference says of the outputs."""
    graph = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        shapes[value.name] = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    total = 0
    for node in graph.node:
        if node.op_type == "Conv":
            total += prod(shapes[node.output[0]]) * prod(shapes[node.input[1]][1:])
        elif node.op_type in {"Gemm", "MatMul"}:
            total += prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
        else:
            assert node.op_type in {"Concat", "Relu", "Reshape", "Slice", "Transpose"}, node.op_type
    return total
