from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxlr.target import Target
from onnxlr.validation.numeric import OutputShapeError, compare, is_class_scores

RNG = np.random.default_rng(7)


def session(*nodes, inputs=None, outputs=("y",), dtype=TensorProto.FLOAT, initializer=()):
    values = [helper.make_tensor_value_info(name, dtype, None) for name in inputs or ("x",)]
    results = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in outputs]
    for result in results:
        result.ClearField("type")
    graph = helper.make_graph(nodes, "graph", values, results, initializer=initializer)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return Target(threads=1).session(model.SerializeToString())


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs, outputs, **attributes)


def constant(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


IDENTITY = node("Identity", ["x"], ["y"])


def scaled(factor):
    return session(node("Mul", ["x", "factor"], ["y"]), initializer=[constant("factor", np.float32(factor))])


def feeds(*shape, count=3):
    return [{"x": RNG.standard_normal(shape, dtype=np.float32)} for _ in range(count)]


def test_a_model_equals_itself():
    (difference,) = compare(session(IDENTITY), session(IDENTITY), feeds(4, 10))
    assert (difference.max_abs, difference.relative_l2, difference.top1, difference.new_nonfinite) == (0, 0, 1, 0)
    assert difference.cosine == pytest.approx(1, abs=1e-12)
    assert difference.shape == (4, 10)


def test_one_percent_shows_as_one_percent():
    data = feeds(4, 10)
    (difference,) = compare(session(IDENTITY), scaled(1.01), data)
    assert difference.relative_l2 == pytest.approx(0.01, rel=1e-4)
    assert difference.max_abs == pytest.approx(0.01 * max(np.abs(feed["x"]).max() for feed in data), rel=1e-4)
    assert difference.cosine == pytest.approx(1, abs=1e-6)
    assert difference.top1 == 1


def test_figures_are_over_all_feeds_not_an_average_of_them():
    data = feeds(1, 10, count=2)
    data[1]["x"] *= 100
    other = session(node("Add", ["x", "c"], ["y"]), initializer=[constant("c", np.float32(1))])
    (difference,) = compare(session(IDENTITY), other, data)
    everything = np.concatenate([feed["x"] for feed in data]).astype(np.float64)
    assert difference.relative_l2 == pytest.approx(np.sqrt(20) / np.linalg.norm(everything), rel=1e-5)
    shifted = everything + 1
    expected = np.sum(everything * shifted) / np.linalg.norm(everything) / np.linalg.norm(shifted)
    assert difference.cosine == pytest.approx(expected, rel=1e-6)


def test_sign_change_is_cosine_minus_one():
    (difference,) = compare(session(IDENTITY), session(node("Neg", ["x"], ["y"])), feeds(4, 10))
    assert difference.cosine == pytest.approx(-1)
    assert difference.relative_l2 == pytest.approx(2)
    assert difference.top1 is not None
    assert difference.top1 < 0.5


def test_top1_counts_samples():
    swap = session(
        node("Mul", ["x", "sign"], ["y"]), initializer=[constant("sign", np.array([[1], [1], [1], [-1]], np.float32))]
    )
    (difference,) = compare(session(IDENTITY), swap, [{"x": np.eye(4, 5, dtype=np.float32) + 1}])
    assert difference.top1 == 0.75


@pytest.mark.parametrize(
    ("shape", "dtype", "scores"),
    [
        ((4, 10), np.float32, True),
        ((4, 10), np.float16, True),
        ((4, 10, 1, 1), np.float32, True),
        ((4, 1), np.float32, False),
        ((4,), np.float32, False),
        ((4, 3, 8, 8), np.float32, False),
        ((4, 10), np.int64, False),
    ],
)
def test_what_looks_like_class_scores(shape, dtype, scores):
    assert is_class_scores(np.zeros(shape, dtype)) is scores


def test_new_nan_is_counted_and_old_nan_is_not():
    root = session(node("Sqrt", ["x"], ["y"]))
    data = [{"x": np.array([[1, -1, 4], [1, 1, -4]], np.float32)}]
    (difference,) = compare(root, root, data)
    assert (difference.new_nonfinite, difference.relative_l2) == (0, 0)
    (difference,) = compare(session(IDENTITY), root, data)
    assert difference.new_nonfinite == 2
    assert np.isfinite([difference.max_abs, difference.relative_l2, difference.cosine]).all()


def test_zeros():
    zero = scaled(0.0)
    (difference,) = compare(zero, zero, feeds(2, 3))
    assert (difference.relative_l2, difference.cosine) == (0, 1)
    (difference,) = compare(zero, session(IDENTITY), feeds(2, 3))
    assert (difference.relative_l2, difference.cosine) == (1, 0)
    (difference,) = compare(session(IDENTITY), zero, feeds(2, 3))
    assert (difference.relative_l2, difference.cosine) == (1, 0)


def test_outputs_are_matched_by_name():
    first = session(IDENTITY, node("Neg", ["x"], ["z"]), outputs=("y", "z"))
    second = session(IDENTITY, node("Neg", ["x"], ["z"]), outputs=("z", "y"))
    differences = compare(first, second, feeds(2, 3))
    assert [difference.name for difference in differences] == ["y", "z"]
    assert [difference.max_abs for difference in differences] == [0, 0]


def test_integers_and_text():
    (difference,) = compare(
        session(node("ArgMax", ["x"], ["y"], axis=1)),
        session(node("ArgMin", ["x"], ["y"], axis=1)),
        [{"x": np.array([[1, 2, 3]], np.float32)}],
    )
    assert (difference.max_abs, difference.top1) == (2, None)
    text = session(IDENTITY, dtype=TensorProto.STRING)
    (difference,) = compare(text, text, [{"x": np.array(["a", "b"], dtype=object)}])
    assert (difference.max_abs, difference.cosine) == (0, pytest.approx(1))


def test_another_shape_is_named():
    flat = session(node("Flatten", ["x"], ["y"]))
    with pytest.raises(OutputShapeError, match="'y' has shape"):
        compare(session(IDENTITY), flat, feeds(2, 3, 4))
