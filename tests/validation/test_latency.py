from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxlr.cost.timing import TimingOptions
from onnxlr.errors import ModelError, UsageError
from onnxlr.model_io import load
from onnxlr.target import Target
from onnxlr.validation.latency import bench

QUICK = TimingOptions(budget_s=0.05, warmup_s=0.0, burst_ms=0.0, min_rounds=5)
TARGET = Target(threads=1)


def model_of(products=1, name="x", dims=("n", 128), dtype=TensorProto.FLOAT):
    nodes = [
        helper.make_node("MatMul", [name if i == 0 else f"t{i}", "w"], [f"t{i + 1}"], name=f"product{i}")
        for i in range(products)
    ]
    eye = numpy_helper.from_array(np.eye(128, dtype=helper.tensor_dtype_to_np_dtype(dtype)), "w")
    source = helper.make_tensor_value_info(name, dtype, dims)
    result = helper.make_tensor_value_info(f"t{products}", dtype, dims)
    graph = helper.make_graph(nodes, "graph", [source], [result], [eye])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_result_says_all_and_is_json(tmp_path):
    for products, name in ((8, "slow.onnx"), (1, "fast.onnx")):
        onnx.save(model_of(products), tmp_path / name)
    target = Target(threads=1, shapes=(("x", (64, 128)),))
    result = bench([load(tmp_path / "slow.onnx"), load(tmp_path / "fast.onnx")], target, seed=4, options=QUICK)
    slow, fast = result.models
    assert slow.speedup is None
    assert fast.speedup is not None
    assert fast.speedup.ratio > 2
    assert fast.speedup.low <= fast.speedup.ratio <= fast.speedup.high
    data = json.loads(json.dumps(asdict(result)))
    assert data["shapes"] == {"x": [64, 128]}
    assert data["seed"] == 4
    assert data["target"]["onnxruntime"]
    assert data["models"][1]["model"] == str(tmp_path / "fast.onnx")
    assert data["models"][1]["sha256"] == hashlib.sha256((tmp_path / "fast.onnx").read_bytes()).hexdigest()
    assert data["models"][1]["size"] == (tmp_path / "fast.onnx").stat().st_size
    assert len(data["models"][0]["timing"]["rounds_ms"]) == len(data["models"][1]["timing"]["rounds_ms"])


def test_one_model_has_no_speedup():
    (only,) = bench([load(model_of())], TARGET, options=QUICK).models
    assert only.speedup is None
    assert only.model == "model 1 in memory"


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (model_of(name="z"), "takes 'z'"),
        (model_of(dtype=TensorProto.DOUBLE), "float64"),
        (model_of(dims=(7, 128)), r"takes inputs x 7x128; .* x \d+x128; give both"),
    ],
)
def test_models_with_other_inputs_are_refused(other, says):
    with pytest.raises(ModelError, match=says):
        bench([load(model_of()), load(other)], TARGET, options=QUICK)


def test_nothing_to_time():
    with pytest.raises(UsageError, match="no model"):
        bench([], TARGET)
