"""Output sizes as ONNX defines them, and what of a geometry one convolution of a chain takes over."""

from __future__ import annotations

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, shape_inference

from onnxlr_passes.geometry import Geometry


def inferred(geometry: Geometry, size: tuple[int, ...]) -> tuple[int, ...]:
    """Ask ONNX's shape inference."""
    attributes: dict[str, object] = {
        "strides": geometry.strides,
        "dilations": geometry.dilations,
        "kernel_shape": geometry.kernel,
    }
    if geometry.auto_pad == "NOTSET":
        attributes["pads"] = tuple(b for b, _ in geometry.pads) + tuple(e for _, e in geometry.pads)
    else:
        attributes["auto_pad"] = geometry.auto_pad
    node = helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
    inputs = [("x", (1, 1, *size)), ("w", (1, 1, *geometry.kernel))]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs]
    graph = helper.make_graph([node], "g", values, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    model: onnx.ModelProto = shape_inference.infer_shapes(helper.make_model(graph), strict_mode=True)
    return tuple(dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim[2:])


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_output_size_is_that_of_shape_inference(data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, 3))
    draw = [(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 3), st.integers(0, 3))] * rank
    kernel, strides, dilations, begins, ends = (tuple(data.draw(s) for s in of) for of in zip(*draw, strict=True))
    mode = data.draw(st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER"]))
    pads = tuple(zip(begins, ends, strict=True)) if mode == "NOTSET" else ((0, 0),) * rank
    geometry = Geometry(kernel, strides, dilations, pads, auto_pad=mode)
    size = tuple(d * (k - 1) + 1 + data.draw(st.integers(0, 6)) for k, d in zip(kernel, dilations, strict=True))
    assert geometry.output_size(size) == inferred(geometry, size)
    assert geometry.fits(size)


def test_a_kernel_that_does_not_fit_is_an_error() -> None:
    geometry = Geometry((3,), (1,), (2,), ((1, 1),))
    with pytest.raises(ValueError, match="a kernel reaching 5 does not fit an input of 2"):
        geometry.output_size((2,))
    assert not geometry.fits((2,))
    assert geometry.fits((3,))
    assert geometry.output_size((3,)) == (1,)


def test_every_axis_must_fit() -> None:
    geometry = Geometry.plain((1, 3))
    assert geometry.fits((1, 3))
    assert not geometry.fits((3, 2))
    assert Geometry((9,), (1,), (1,), ((0, 0),), auto_pad="SAME_LOWER").fits((1,))


def test_axes_must_agree() -> None:
    with pytest.raises(ValueError, match="geometry axes disagree"):
        Geometry((3, 3), (1,), (1, 1), ((0, 0), (0, 0)))


FULL = Geometry((3, 5), (2, 3), (1, 2), ((0, 1), (2, 3)), group=4)


def test_an_axis_is_moved_by_one_convolution_only() -> None:
    assert FULL.only(0) == Geometry((3, 1), (2, 1), (1, 1), ((0, 1), (0, 0)), group=4)
    assert FULL.only(1, group=1) == Geometry((1, 5), (1, 3), (1, 2), ((0, 0), (2, 3)))
    assert FULL.only(0, 1) == FULL
    assert FULL.only() == Geometry.plain((1, 1), group=4)


def test_pads_of_the_runtime_stay_where_something_moves() -> None:
    same = Geometry((3, 1), (1, 1), (1, 1), ((0, 0), (0, 0)), auto_pad="SAME_UPPER")
    assert same.only(0).auto_pad == "SAME_UPPER"
    assert same.only(1).auto_pad == "NOTSET"


def test_taps() -> None:
    assert (FULL.taps, FULL.rank, Geometry.plain(()).taps) == (15, 2, 1)
