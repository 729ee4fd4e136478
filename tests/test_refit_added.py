"""Fitted to data, a layer keeps what it adds that is no bias: a shortcut in a Gemm, a table, a computed bias."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxlr
from onnxlr.build import build, build_alone
from onnxlr.planning.plan import Choice
from tests.passes.one_conv import run
from tests.test_allocate import looked_at
from tests.test_refit import PADS, node, weight

Array = np.ndarray[Any, np.dtype[Any]]
ROWS, WIDTH = 16, 32


def network(*last: onnx.NodeProto, extra: tuple[onnx.TensorProto, ...] = ()) -> onnx.ModelProto:
    """Two linear layers on x (ROWS, WIDTH); what the second gives is small beside x."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [ROWS, WIDTH]) for name in "xy")
    second = numpy_helper.from_array(0.3 * numpy_helper.to_array(weight("w2", WIDTH, WIDTH, seed=2)), "w2")
    nodes = [node("MatMul", ["x", "w1"], ["a"], "first"), node("Relu", ["a"], ["r"], "relu"), *last]
    graph = helper.make_graph(nodes, "net", [x], [y], [weight("w1", WIDTH, WIDTH, seed=1), second, *extra])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


TABLE = weight("c", ROWS, WIDTH, seed=3)
FITTED = {
    "shortcut that is made one node": network(
        node("MatMul", ["r", "w2"], ["m"], "second"), node("Add", ["m", "x"], ["y"], "add")
    ),
    "shortcut": network(node("Gemm", ["r", "w2", "x"], ["y"], "second")),
    "shortcut, scaled product": network(node("Gemm", ["r", "w2", "x"], ["y"], "second", alpha=2.0, transB=1)),
    "shortcut before a ReLU": network(node("Gemm", ["r", "w2", "x"], ["s"], "second"), node("Relu", ["s"], ["y"])),
    "shortcut around what is rewritten": network(node("Gemm", ["r", "w2", "a"], ["y"], "second")),
    "one number a row": network(
        node("ReduceMean", ["x"], ["p"], axes=[1]), node("Gemm", ["r", "w2", "p"], ["y"], "second")
    ),
    "bias": network(node("Gemm", ["r", "w2", "b"], ["y"], "second"), extra=(weight("b", 1, WIDTH),)),
}
BLIND = {
    "scaled shortcut": network(node("Gemm", ["r", "w2", "x"], ["y"], "second", beta=0.5)),
    "table": network(node("Gemm", ["r", "w2", "c"], ["y"], "second"), extra=(TABLE,)),
    "table before a ReLU": network(
        node("Gemm", ["r", "w2", "c"], ["s"], "second"), node("Relu", ["s"], ["y"]), extra=(TABLE,)
    ),
}
SPARSE = network(node("Gemm", ["r", "w2", "c"], ["y"], "second"))
SPARSE.graph.sparse_initializer.append(
    helper.make_sparse_tensor(
        helper.make_tensor("c", TensorProto.FLOAT, [3], [1.0, -2.0, 3.0]),
        helper.make_tensor("", TensorProto.INT64, [3], [0, 70, 300]),
        [ROWS, WIDTH],
    )
)
BLIND["sparse table"] = SPARSE


def samples(seed: int) -> list[dict[str, Array]]:
    """Rows of few directions and a mean."""
    mix = np.random.default_rng(5).standard_normal((6, WIDTH))
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((24, ROWS, 6)) @ mix + 0.3 * rng.standard_normal((24, ROWS, WIDTH)) + 0.5
    return [{"x": one.astype(np.float32)} for one in rows]


def off(model: onnx.ModelProto, other: onnx.ModelProto) -> float:
    """Relative error on samples that nothing was fitted to."""
    pairs = [(run(model, **feed)[0], run(other, **feed)[0]) for feed in samples(1)[:4]]
    return float(np.sqrt(sum(np.square(y - z).sum() for y, z in pairs) / sum(np.square(y).sum() for y, _ in pairs)))


def rewritten(model: onnx.ModelProto, *, data: bool) -> onnxlr.Rewrite:
    given = samples(0) if data else None
    return onnxlr.rewrite(model, scheme="basis", rank=10, data=given, validate=False)


@pytest.mark.parametrize("name", FITTED)
def test_a_layer_is_fitted_beside_what_it_adds(name: str) -> None:
    model = FITTED[name]
    blind, fitted = (rewritten(model, data=data) for data in (False, True))
    rows = {row.node: row.output_error for row in fitted.summary.layers}
    assert len(rows) == 2
    assert None not in rows.values()
    assert off(model, fitted.model) < 0.8 * off(model, blind.model)


@pytest.mark.parametrize("name", BLIND)
def test_what_cannot_be_told_apart_from_the_layer_stays_and_is_said(name: str) -> None:
    model = BLIND[name]
    blind, fitted = (rewritten(model, data=data) for data in (False, True))
    assert {row.node: row.output_error is None for row in fitted.summary.layers} == {"first": False, "second": True}
    assert off(model, fitted.model) < 1.02 * off(model, blind.model)
    said = [note for note in fitted.summary.notes if "weights alone" in note]
    assert said == ["from their weights alone, for they add what is not one constant a channel: second"]


def test_a_bias_computed_for_every_sample_stays() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 6, 6])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 6, 6])
    nodes = [
        node("Conv", ["x", "w"], ["c"], "first", **PADS),
        node("ReduceMean", ["x"], ["bias"], axes=[0, 2, 3], keepdims=0),
        node("Conv", ["c", "v", "bias"], ["y"], "second", **PADS),
    ]
    graph = helper.make_graph(nodes, "net", [x], [y], [weight("w", 8, 8, 3, 3), weight("v", 8, 8, 3, 3, seed=1)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    rng = np.random.default_rng(0)
    images = rng.random((48, 1, 8, 6, 6)) + 5 * rng.standard_normal((48, 1, 8, 1, 1))
    data = [{"x": image.astype(np.float32)} for image in images]
    errors = []
    for given in (None, data):
        found = onnxlr.rewrite(model, scheme="basis", rank=7, data=given, validate=False).model
        pairs = [(run(model, **feed)[0], run(found, **feed)[0]) for feed in data[:8]]
        errors.append(sum(np.square(a - b).sum() for a, b in pairs))
        assert "bias" in found.graph.node[-1].input
    assert errors[1] < 1.02 * errors[0]


@pytest.mark.parametrize("name", [*FITTED, *BLIND])
def test_layers_fitted_alone_keep_it_too(name: str) -> None:
    model = (FITTED | BLIND)[name]
    prepared, target, calibration = looked_at(model, samples(0))
    choices = [Choice(one.site.key, one.site.label, "basis", (10,)) for one in prepared.workloads]
    assert len(choices) == 2
    alone = build_alone(prepared, None, calibration, choices)
    blind = build(prepared, None, target, None, choices, lambda _: None).proto
    assert off(model, alone) < 1.02 * off(model, blind)
