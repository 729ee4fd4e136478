"""Models of one convolution with a batch normalization behind it."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

BATCH_NORM = {"scale", "shift", "mean", "var"}


def weights(dtype: object = np.float32, channels: int = 4) -> dict[str, np.ndarray]:
    """Random weights and moments of the two nodes, by name."""
    rng = np.random.default_rng(7)
    arrays = {
        "w": rng.standard_normal((channels, 3, 3, 3)),
        "b": rng.standard_normal(channels),
        "scale": rng.uniform(0.5, 2, channels),
        "shift": rng.standard_normal(channels),
        "mean": rng.standard_normal(channels),
        "var": rng.uniform(0.1, 3, channels),
    }
    return {name: array.astype(dtype) for name, array in arrays.items()}


def conv_norm(
    opset: int = 17,
    *,
    conv: dict[str, object] | None = None,
    norm: dict[str, object] | None = None,
    bias: bool = True,
    dtype: object = np.float32,
    norm_outputs: tuple[str, ...] = ("n",),
    extra: tuple[onnx.NodeProto, ...] = (),
    outputs: tuple[str, ...] = ("y",),
    ir_version: int = 8,
) -> onnx.ModelProto:
    """From ``x`` through Conv, BatchNormalization and Relu to ``y``, and through ``extra`` to the other outputs."""
    arrays = weights(dtype)
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"] if bias else ["x", "w"], ["c"], "conv", "kept", **(conv or {})),
        helper.make_node(
            "BatchNormalization", ["c", "scale", "shift", "mean", "var"], norm_outputs, "norm", **(norm or {})
        ),
        helper.make_node("Relu", ["n"], ["y"], name="act"),
        *extra,
    ]
    nodes[0].metadata_props.add(key="layer", value="1")
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))  # type: ignore[call-overload]
    if not bias:
        del arrays["b"]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", kind, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info(name, kind, shape(name)) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
        value_info=[helper.make_tensor_value_info(name, kind, shape(name)) for name in ("c", "n")],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("my.domain", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version)


def shape(name: str) -> list[int | str]:
    """The declared shape of a value."""
    return {"also_w": [4, 3, 3, 3], "also_scale": [4], "n/folded_weight": ["n", 3, 8, 8]}.get(name, ["n", 4, "h", "w"])


def image(dtype: object = np.float32) -> np.ndarray:
    """The input ``x``."""
    return np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(dtype)


def run(model: onnx.ModelProto, **feeds: np.ndarray) -> np.ndarray:
    """The first output on ONNX Runtime, by default of ``image()``."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    output = session.run(None, {"x": image(), **feeds})[0]
    assert isinstance(output, np.ndarray)
    return output


def relative(new: np.ndarray, old: np.ndarray) -> float:
    """The distance of the two, relative to the norm of the old."""
    old64 = old.astype(np.float64)
    return float(np.linalg.norm(new.astype(np.float64) - old64) / np.linalg.norm(old64))


def ops(model: onnx.ModelProto) -> list[str]:
    """The operators of the graph, in order."""
    return [node.op_type for node in model.graph.node]


def uses(name: str) -> onnx.NodeProto:
    """A node that reads the value as well."""
    return helper.make_node("Abs", [name], [f"also_{name}"], name=f"also_{name}")
