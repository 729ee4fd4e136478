"""Patches times kernel is what ONNX's Conv answers there; a sample's positions do not depend on its batch."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from onnxlr.calibration.positions import draw, patches, values
from onnxlr_passes.geometry import Geometry

CASES = [
    (Geometry((3, 2), (2, 1), (1, 2), ((1, 0), (2, 1)), 2), (7, 8)),
    (Geometry((3,), (2,), (2,), ((3, 1),)), (9,)),
    (Geometry((2, 3, 1), (1, 2, 1), (1, 1, 1), ((1, 0), (0, 2), (0, 0))), (4, 5, 3)),
    (Geometry((3, 4), (2, 3), (1, 1), ((0, 0), (0, 0)), 1, "SAME_UPPER"), (8, 7)),
    (Geometry((3, 4), (2, 3), (1, 1), ((0, 0), (0, 0)), 1, "SAME_LOWER"), (8, 7)),
]


def conv(x: np.ndarray, weight: np.ndarray, geometry: Geometry) -> np.ndarray:
    pads = {"pads": [b for b, _ in geometry.pads] + [e for _, e in geometry.pads]}
    if geometry.auto_pad != "NOTSET":
        pads = {"auto_pad": geometry.auto_pad}
    node = helper.make_node(
        "Conv", ["x", "w"], ["y"], strides=geometry.strides, dilations=geometry.dilations, group=geometry.group, **pads
    )
    info = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, None) for name in "xwy"]
    graph = helper.make_graph([node], "one", info[:2], info[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    return np.asarray(ReferenceEvaluator(model).run(None, {"x": x, "w": weight})[0])


@pytest.mark.parametrize(("geometry", "size"), CASES)
@pytest.mark.parametrize("each", [4, 10**6])
def test_patches_give_what_conv_gives(geometry: Geometry, size: tuple[int, ...], each: int) -> None:
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal((3, 4, *size)), geometry.group
    weight = rng.standard_normal((6, 4 // g, *geometry.kernel))
    where = draw(0, 3, geometry.output_size(size), each, 0)
    rows = patches(x, geometry, where)
    found = np.einsum("gnd,gtd->ngt", rows, weight.reshape(g, 6 // g, -1)).reshape(-1, 6)
    expected = values(conv(x, weight, geometry), where)
    assert np.allclose(found, expected, atol=1e-12)
    assert not np.allclose(found * 1.01, expected, atol=1e-12)


def test_a_sample_has_the_same_positions_in_any_batch() -> None:
    whole = draw(0, 6, (9, 7), 5, seed=3)
    assert np.array_equal(whole[2:5], draw(2, 3, (9, 7), 5, seed=3))
    assert not np.array_equal(whole, draw(0, 6, (9, 7), 5, seed=4))
    assert all(len({tuple(p) for p in one}) == 5 for one in whole)
