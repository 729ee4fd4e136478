"""Small networks and data to train on: a teacher of random weights, and what a rewrite makes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from onnxlr.schemes.base import Layer
from onnxlr.schemes.registry import by_name
from onnxlr_passes.decompose import Decompose
from onnxlr_passes.sites import locate

if TYPE_CHECKING:
    import onnx


def classifier(seed: int = 0, *, batch: int | str = "n", batchnorm: bool = False) -> onnx.ModelProto:
    """Two 3x3 convolutions of 8 channels and a fully connected layer to 4 class scores, on 1x8x8 images."""
    rng = np.random.default_rng(seed)
    nodes, weights, value, into = [], [], "x", 1
    for index in (0, 1):
        kernel = rng.standard_normal((8, into, 3, 3)) * (2 / (9 * into)) ** 0.5
        weights += [
            numpy_helper.from_array(kernel.astype(np.float32), f"w{index}"),
            numpy_helper.from_array(rng.standard_normal(8).astype(np.float32) * 0.1, f"b{index}"),
        ]
        nodes.append(
            helper.make_node("Conv", [value, f"w{index}", f"b{index}"], [f"c{index}"], f"conv{index}", pads=[1] * 4)
        )
        value = f"c{index}"
        if batchnorm and index == 1:
            for name, array in (("s", np.ones(8)), ("o", np.zeros(8)), ("m", np.zeros(8)), ("v", np.ones(8))):
                weights.append(numpy_helper.from_array(array.astype(np.float32), name))
            nodes.append(helper.make_node("BatchNormalization", [value, "s", "o", "m", "v"], ["n1"], "norm"))
            value = "n1"
        nodes.append(helper.make_node("Relu", [value], [f"r{index}"], f"relu{index}"))
        value, into = f"r{index}", 8
    nodes += [
        helper.make_node("MaxPool", ["r1"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w2", "b2"], ["y"], "scores", transB=1),
    ]
    matrix = rng.standard_normal((4, 128)) * (1 / 128) ** 0.5
    weights += [
        numpy_helper.from_array(matrix.astype(np.float32), "w2"),
        numpy_helper.from_array(np.zeros(4, np.float32), "b2"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 4])],
        weights,
        doc_string="a network",
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="test")
    helper.set_model_props(model, {"kept": "yes"})
    return model


def rewritten(model: onnx.ModelProto, scheme: str, ranks: tuple[int, ...]) -> onnx.ModelProto:
    """The second convolution as a chain."""
    site = next(site for site in locate(model)[0] if site.label == "conv1")
    layer = Layer(site.kernel(), site.geometry)
    return Decompose({site.key: by_name(scheme).solver(layer).chain(ranks)})(model).model


def images(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Standard normal images x (count, 1, 8, 8)."""
    return {"x": np.random.default_rng(seed).standard_normal((count, 1, 8, 8)).astype(np.float32)}
