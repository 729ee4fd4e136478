"""Whole models over evaluation data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxlr.calibration import DataOptions
from onnxlr.errors import UsageError
from onnxlr.evaluation import EvaluationData, Evaluator, Judge, choose_metric, drop, open_evaluation
from onnxlr.evaluation import evaluate as module
from onnxlr.evaluation.metrics import built_in
from onnxlr.target import Target, graph_inputs

if TYPE_CHECKING:
    from pathlib import Path

Array = np.ndarray[Any, Any]
TARGET = Target(threads=1)


def linear(weight: Array) -> onnx.ModelProto:
    """``y`` = ``x`` weight."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", weight.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", weight.shape[1]])],
        [numpy_helper.from_array(weight.astype(np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


ORIGINAL = linear(np.eye(3))
OTHER = linear(np.eye(3)[[1, 0, 2]])  # swaps the classes 0 and 1


def data(folder: Path, model: onnx.ModelProto, *, labelled: bool = True) -> EvaluationData:
    x = np.random.default_rng(0).standard_normal((100, 3)).astype(np.float32)
    arrays = {"x": x, "labels": x.argmax(axis=1)} if labelled else {"x": x}
    np.savez(folder / "d.npz", **arrays)
    return open_evaluation(folder / "d.npz", graph_inputs(model), {}, DataOptions())


def test_a_model_is_scored_against_labels_and_against_the_original(tmp_path: Path) -> None:
    samples = data(tmp_path, ORIGINAL)
    metric = choose_metric(None, ORIGINAL, None, TARGET, samples, 1.0)
    assert metric.name == "top1"
    evaluator = Evaluator(Judge(metric, ORIGINAL, None, TARGET), samples)
    assert evaluator.original.value == 1.0
    assert evaluator.original.agreement == 1.0
    assert evaluator.original.kl == pytest.approx(0.0, abs=1e-9)
    scored = evaluator.score(OTHER)
    truth = np.load(tmp_path / "d.npz")["labels"]
    assert scored.value == pytest.approx(np.mean(truth == 2))
    assert scored.agreement == pytest.approx(scored.value)
    assert scored.kl is not None
    assert scored.kl > 0.1
    assert drop(evaluator.original, scored).value == pytest.approx(1 - scored.value)
    assert scored.samples == 100


def test_large_outputs_of_the_original_are_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Judge(built_in("agreement", 1.0), ORIGINAL, None, TARGET)
    kept = Evaluator(judge, data(tmp_path, ORIGINAL, labelled=False)).score(OTHER)
    monkeypatch.setattr(module, "KEEP_BYTES", 500)
    again = Evaluator(judge, data(tmp_path, ORIGINAL, labelled=False)).score(OTHER)
    assert (kept.value, kept.kl) == (again.value, again.kl)


def test_a_callable_is_given_everything_at_once(tmp_path: Path) -> None:
    seen = []

    def mine(outputs: Array, labels: Array) -> float:
        seen.append(outputs.shape)
        return float((outputs.argmax(axis=1) == labels).mean())

    samples = data(tmp_path, ORIGINAL)
    metric = choose_metric(mine, ORIGINAL, None, TARGET, samples, 1.0)
    evaluator = Evaluator(Judge(metric, ORIGINAL, None, TARGET), samples)
    assert metric.name == "mine"
    assert evaluator.original.value == 1.0
    assert seen[0] == (100, 3)


def test_a_metric_of_labels_without_labels_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="top1 needs labels"):
        Evaluator(Judge(built_in("top1", 1.0), ORIGINAL, None, TARGET), data(tmp_path, ORIGINAL, labelled=False))
