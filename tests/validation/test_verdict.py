from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxlr.errors import ModelError, UsageError
from onnxlr.model_io import load
from onnxlr.target import Target, seeded_feeds
from onnxlr.validation.verdict import Limits, Verdict, validate

TARGET = Target(threads=1)


def model_of(factor=1.0, *, names=("x", "y"), dtype=TensorProto.FLOAT, dims=("n", 10), out=("n", 10), op="Mul"):
    """y = x * factor (or another ``op`` of the two)."""
    source, result = names
    factor_type = helper.tensor_dtype_to_np_dtype(dtype)
    graph = helper.make_graph(
        [helper.make_node(op, [source, "factor"], [result])],
        "graph",
        [helper.make_tensor_value_info(source, dtype, dims)],
        [helper.make_tensor_value_info(result, dtype, out)],
        [numpy_helper.from_array(np.asarray(factor, factor_type), "factor")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


DEFAULT = Limits()


def judge(new, limits=DEFAULT, reference=None) -> Verdict:
    reference = model_of() if reference is None else reference
    feeds = seeded_feeds(reference, {}, count=3)
    return validate(load(reference), load(new), TARGET, feeds, limits=limits)


def test_the_same_model_passes():
    verdict = judge(model_of())
    assert verdict.passed
    assert (verdict.reasons, verdict.feeds, len(verdict.outputs)) == ((), 3, 1)


def test_limits_have_teeth():
    assert judge(model_of(1.01)).passed
    strict = judge(model_of(1.01), Limits(max_error=0.009))
    assert not strict.passed
    assert strict.reasons == ("output 'y': relative error 0.01 is above 0.009",)
    assert judge(model_of(1.01), Limits(max_error=0.011)).passed


def test_a_broken_model_fails_by_default():
    verdict = judge(model_of(-1.0))
    assert verdict.reasons == ("output 'y': cosine -1.0000 is below 0.9",)
    assert judge(model_of(-1.0), Limits(min_cosine=-1.0)).passed
    assert not judge(model_of(0.0)).passed


def test_new_nan_fails():
    verdict = judge(model_of(np.array([np.nan] + [1.0] * 9)))
    assert verdict.reasons[0] == "output 'y': 3 values are NaN or infinite, not so in the reference"


def test_nan_everywhere_in_both_is_no_new_failure():
    assert judge(model_of(np.nan), reference=model_of(np.nan)).passed


@pytest.mark.parametrize(
    ("new", "says"),
    [
        (model_of(names=("input", "y")), "the inputs are input, the reference's x"),
        (model_of(names=("x", "z")), "the outputs are z, the reference's y"),
        (model_of(dtype=TensorProto.DOUBLE), r"input 'x' is a tensor(double), the reference's a tensor(float)"),
        (model_of(dims=("n", 11), out=("n", 11)), "input 'x' has shape ['n', 11], the reference's ['n', 10]"),
        (model_of(dims=(2, 5, 10), out=(2, 5, 10)), "input 'x' has shape [2, 5, 10], the reference's ['n', 10]"),
    ],
)
def test_other_signatures_fail_with_a_reason(new, says):
    verdict = judge(new)
    assert not verdict.passed
    assert says in verdict.reasons
    assert verdict.outputs == ()


def test_free_sizes_differ_from_nothing():
    assert judge(model_of(dims=("batch", 10), out=("batch", "classes"))).passed


def test_another_shape_at_run_time_fails_with_a_reason():
    twice = model_of(np.ones((2, 1)), out=("m", 10))
    verdict = judge(twice, reference=model_of(out=("m", 10)))
    assert not verdict.passed
    assert verdict.reasons == ("output 'y' has shape (2, 10), the reference's has (1, 10)",)


def test_a_model_that_does_not_load_is_named():
    bad = model_of()
    bad.graph.node[0].domain = "nobody"
    bad.opset_import.append(helper.make_opsetid("nobody", 1))
    with pytest.raises(ModelError, match="the new model: ONNX Runtime"):
        judge(bad)


@pytest.mark.parametrize("limits", [{"min_cosine": 1.1}, {"min_cosine": float("nan")}, {"max_error": -1.0}])
def test_limits_out_of_range(limits):
    with pytest.raises(UsageError):
        Limits(**limits)
