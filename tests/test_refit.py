"""Rewriting with calibration data, end to end: better than weights only, same bytes twice, and no layer too odd."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxlr
from onnxlr.errors import OnnxlrError
from tests.passes.one_conv import run

Array = np.ndarray[Any, np.dtype[Any]]
node = helper.make_node
PADS = {"pads": [1] * 4}


def weight(name: str, *shape: int, seed: int = 0) -> onnx.TensorProto:
    values = np.random.default_rng([seed, len(name), *shape]).standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    return numpy_helper.from_array(values.astype(np.float32), name)


def model_of(
    nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto], *sizes: int, out: int | None = None
) -> onnx.ModelProto:
    """From ``x`` (N, *sizes) to ``y``."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *sizes])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * (out or len(sizes) + 1))
    graph = helper.make_graph(nodes, "net", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def residual() -> onnx.ModelProto:
    nodes = [
        node("Conv", ["x", "w0", "b0"], ["c0"], "stem", **PADS),
        node("Relu", ["c0"], ["r0"]),
        node("Conv", ["r0", "w1", "b1"], ["c1"], "first", **PADS),
        node("Relu", ["c1"], ["r1"]),
        node("Conv", ["r1", "w2", "b2"], ["c2"], "second", **PADS),
        node("Add", ["c2", "r0"], ["s"]),
        node("Relu", ["s"], ["y"]),
    ]
    weights = [weight("w0", 12, 6, 3, 3), weight("w1", 12, 12, 3, 3, seed=1), weight("w2", 12, 12, 3, 3, seed=2)]
    return model_of(nodes, [*weights, *(weight(f"b{i}", 12, seed=i) for i in range(3))], 6, 8, 8)


def correlated(count: int, seed: int) -> Array:
    """Images of few directions and a mean, as real ones are."""
    mix = np.random.default_rng(5).standard_normal((6, 2))
    rng = np.random.default_rng(seed)
    smooth = rng.standard_normal((count, 2, 4, 4)).repeat(2, axis=2).repeat(2, axis=3)
    noise = 0.1 * rng.standard_normal((count, 6, 8, 8))
    return (np.einsum("cd,ndhw->nchw", mix, smooth) + noise + 0.5).astype(np.float32)


def feeds(x: Array) -> list[dict[str, Array]]:
    return [{"x": one[None]} for one in x]


def off(model: onnx.ModelProto, other: onnx.ModelProto, x: Array) -> float:
    (y,), (z,) = run(model, x=x), run(other, x=x)
    return float(np.linalg.norm(y - z) / np.linalg.norm(y))


def test_fitted_to_data_the_output_is_closer_and_the_bytes_are_the_same() -> None:
    model, data, unseen = residual(), feeds(correlated(64, 0)), correlated(32, 1)
    blind = onnxlr.rewrite(model, scheme="basis", rank=3, validate=False)
    fitted = [onnxlr.rewrite(model, plan=blind.plan, data=data, validate=False) for _ in range(2)]
    first, again = (one.model.SerializeToString(deterministic=True) for one in fitted)
    assert first == again
    assert off(model, fitted[0].model, unseen) < 0.7 * off(model, blind.model, unseen)
    chosen = onnxlr.rewrite(model, scheme="basis", keep_macs=0.5, data=data, validate=False)
    replayed = onnxlr.rewrite(model, plan=chosen.plan, data=data, validate=False)
    assert replayed.model.SerializeToString(deterministic=True) == chosen.model.SerializeToString(deterministic=True)


def test_data_of_a_wrong_shape_is_one_line() -> None:
    with pytest.raises(OnnxlrError) as caught:
        onnxlr.rewrite(residual(), rank=3, data=feeds(correlated(8, 0)[:, :5]), validate=False)
    assert "\n" not in caught.value.message


def branched() -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    then = helper.make_graph(
        [node("Conv", ["x", "w2"], ["t"], "inner", **PADS)], "then", [], [value("t", TensorProto.FLOAT, None)]
    )
    other = helper.make_graph([node("Identity", ["x"], ["e"])], "else", [], [value("e", TensorProto.FLOAT, None)])
    nodes = [
        node("ReduceSum", ["x"], ["sum"], keepdims=0),
        node("Greater", ["sum", "zero"], ["positive"]),
        node("If", ["positive"], ["h"], "branch", then_branch=then, else_branch=other),
        node("Conv", ["h", "w"], ["y"], "outer", **PADS),
    ]
    zero = numpy_helper.from_array(np.array(0, np.float32), "zero")
    return model_of(nodes, [weight("w", 6, 6, 3, 3), weight("w2", 6, 6, 3, 3, seed=1), zero], 6, 8, 8)


def shared_constant() -> onnx.ModelProto:
    nodes = [node("Constant", [], ["w"], value=weight("", 6, 6, 3, 3))]
    for i, (before, after) in enumerate((("x", "a"), ("a", "b"), ("b", "y"))):
        nodes.append(node("Conv", [before, "w"], [after], f"conv{i}", **PADS))
    return model_of(nodes, [], 6, 8, 8)


CONV = node("Conv", ["x", "w"], ["m"], "conv", **PADS)
KERNEL = weight("w", 6, 6, 3, 3)
ODD = {
    "if body": branched(),
    "shared constant": shared_constant(),
    "broadcast add": model_of(
        [CONV, node("GlobalAveragePool", ["x"], ["p"]), node("Add", ["m", "p"], ["y"])], [KERNEL], 6, 8, 8
    ),
    "constant add": model_of([CONV, node("Add", ["m", "b"], ["y"])], [KERNEL, weight("b", 1, 6, 8, 8)], 6, 8, 8),
    "matmul": model_of([node("MatMul", ["x", "w"], ["y"], "map")], [weight("w", 8, 12)], 6, 8, 8),
}


@pytest.mark.parametrize("name", ODD)
def test_layers_of_every_standing_are_fitted(name: str) -> None:
    x = correlated(40, 2)
    found = onnxlr.rewrite(ODD[name], scheme="basis", rank=4, data=feeds(x), simplify=False, validate=False)
    assert found.summary.layers
    assert off(ODD[name], found.model, x) < 0.9
    unfitted = [row.node for row in found.summary.layers if row.output_error is None]
    assert unfitted == (["inner"] if name == "if body" else [])
