"""Tiles: the algebra is exact, the nodes compute the convolution, and what cannot be tiled is said to be so."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from onnxlr_passes.base import PassError
from onnxlr_passes.chain import Chain, Stage
from onnxlr_passes.decompose import Decompose
from onnxlr_passes.geometry import Geometry
from onnxlr_passes.sites import locate
from onnxlr_passes.tile import Axis, Tile
from onnxlr_passes.tiled import tileable
from tests.laws.graphs import count_macs
from tests.passes.one_conv import assert_same, conv, model_of, noise, run, tensor

quick = settings(max_examples=40, deadline=None, derandomize=True, database=None)

EXACT = 1e-12  # float64, relative to the largest output
SINGLE = 3e-5  # float32 with the widest tiles, relative to the largest output


def tiled(model: onnx.ModelProto, *outputs: int, bias: np.ndarray | None = None) -> onnx.ModelProto:
    """The model with every convolution by tiles."""
    chains = {
        site.key: Chain(((Stage("tile", site.kernel(), site.geometry, Tile(outputs)),),), bias)
        for site in locate(model)[0]
    }
    changed = Decompose(chains)(model).model
    onnx.checker.check_model(changed, full_check=True)
    return changed


def pairs() -> list[tuple[int, int]]:
    """Outputs and taps of every axis there is."""
    return [(m, r) for m in range(2, 6) for r in range(2, 6) if m + r - 1 <= 6]


@pytest.mark.parametrize(("outputs", "taps"), pairs())
def test_a_tile_of_one_axis_is_the_filter_itself(outputs: int, taps: int) -> None:
    axis = Axis(outputs, taps)
    rng = np.random.default_rng(taps)
    inputs, kernel = rng.standard_normal(axis.points), rng.standard_normal(taps)
    expected = np.correlate(inputs, kernel, "valid")
    products = (axis.transform() @ kernel) * (axis.take() @ inputs)
    assert np.abs(axis.give() @ products - expected).max() <= EXACT * np.abs(expected).max()
    products[0] *= 1 + 1e-6
    assert np.abs(axis.give() @ products - expected).max() > EXACT * np.abs(expected).max(), "every product counts"


@pytest.mark.parametrize(("outputs", "taps"), pairs())
def test_what_takes_inputs_has_no_fractions_that_rounding_would_touch(outputs: int, taps: int) -> None:
    take = Axis(outputs, taps).take()
    assert np.array_equal(take, np.round(take))


@pytest.mark.parametrize(("outputs", "taps"), [(1, 3), (4, 1), (4, 4), (6, 3), (2, 6)])
def test_there_is_no_tile_of_more_points_than_precision_allows(outputs: int, taps: int) -> None:
    with pytest.raises(ValueError, match="no tile"):
        Axis(outputs, taps)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[onnx.ModelProto, tuple[int, ...], tuple[int, ...]]:
    """A model of one convolution, the shape it sees and a tile that it can have."""
    rank = draw(st.integers(1, 2))
    kernel = tuple(draw(st.integers(1, 5)) for _ in range(rank))
    tile = tuple(draw(st.sampled_from([1, *(m for m in (2, 3, 4) if k > 1 and m + k <= 7)])) for k in kernel)
    if max(tile) == 1:
        kernel, tile = (3, *kernel[1:]), (4, *tile[1:])
    pads = [draw(st.integers(0, 3)) for _ in range(2 * rank)]
    size = tuple(k + draw(st.integers(0, 9)) for k in kernel)
    t, s = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    constants = [tensor("w", t, s, *kernel), tensor("b", t, seed=2)]
    biased = draw(st.booleans())
    shape = (draw(st.integers(1, 3)), s, *size)
    node = conv("w", "b" if biased else "", pads=pads)
    return model_of([node], constants[: 1 + biased], shape), shape, tile


@quick
@given(drawn=convolutions())
def test_the_nodes_compute_the_convolution_at_the_price_that_was_named(
    drawn: tuple[onnx.ModelProto, tuple[int, ...], tuple[int, ...]],
) -> None:
    model, shape, tile = drawn
    changed = tiled(model, *tile)
    assert_same(changed, model, SINGLE, x=noise(*shape))
    (site,) = locate(model)[0]
    stage = Stage("tile", site.kernel(), site.geometry, Tile(tile))
    assert Chain(((stage,),)).macs(shape[2:]) * shape[0] == count_macs(changed)
    weights = {one.name: int(np.prod(one.dims)) for one in changed.graph.initializer}
    assert stage.parameters == weights["y/lr0_tile_weight"]


@pytest.mark.parametrize(("pad", "numbers"), [(0, 29), (1, 22), (2, 22)])
def test_zeros_of_what_takes_are_left_out_as_far_as_pads_allow(pad: int, numbers: int) -> None:
    geometry = Geometry((3, 1), (1, 1), (1, 1), ((pad, pad), (0, 0)))
    (take,) = Tile((4, 1)).takes(geometry)
    assert sum(row.size for row, _ in take) == numbers
    assert min(min(where.pads[0]) for _, where in take) >= 0
    assert len({where.output_size((17, 5)) for _, where in take}) == 1


def test_the_tolerance_would_show_a_wrong_product() -> None:
    model = model_of([conv(pads=[1, 1, 1, 1])], [tensor("w", 6, 4, 3, 3), tensor("b", 6)])
    changed = tiled(model, 4, 4)
    weight = next(one for one in changed.graph.initializer if one.name == "y/lr0_tile_weight")
    wrong = onnx.numpy_helper.to_array(weight).copy()
    wrong[0, 0] *= 1.01
    weight.CopyFrom(onnx.numpy_helper.from_array(wrong, weight.name))
    with pytest.raises(AssertionError):
        assert_same(changed, model, SINGLE, x=noise(2, 4, 9, 8))


def test_a_bias_of_the_chain_takes_the_place_of_the_layers_own() -> None:
    model = model_of([conv(pads=[1, 1, 1, 1])], [tensor("w", 6, 4, 3, 3), tensor("b", 6)])
    changed = tiled(model, 4, 1, bias=np.arange(6.0))
    assert "b" not in {one.name for one in changed.graph.initializer}
    x = noise(2, 4, 9, 8)
    expected = run(model, x=x)[0] + (np.arange(6.0) - onnx.numpy_helper.to_array(tensor("b", 6))).reshape(6, 1, 1)
    assert np.abs(run(changed, x=x)[0] - expected).max() <= SINGLE * np.abs(expected).max()


def test_a_bias_that_is_fed_is_still_fed() -> None:
    model = model_of([conv(pads=[1, 1, 1, 1])], [tensor("w", 6, 4, 3, 3)])
    model.graph.input.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, [6]))
    assert_same(tiled(model, 2, 2), model, SINGLE, x=noise(2, 4, 9, 8), b=noise(6, seed=3))


@pytest.mark.parametrize("tile", [(4, 1), (2, 4)])
def test_the_batch_may_be_free(tile: tuple[int, int]) -> None:
    model = model_of([conv(pads=[1, 1, 1, 1])], [tensor("w", 6, 4, 3, 3), tensor("b", 6)], ["n", 4, 9, 8])
    changed = tiled(model, *tile)
    for batch in (1, 3):
        assert_same(changed, model, SINGLE, x=noise(batch, 4, 9, 8))


@pytest.mark.parametrize("opset", [7, 9, 10, 13])
def test_old_opsets_cut_in_their_own_way(opset: int) -> None:
    model = model_of([conv(pads=[1, 1, 1, 1])], [tensor("w", 6, 4, 3, 3), tensor("b", 6)], opset=opset)
    changed = tiled(model, 4, 2)
    assert changed.graph.node[-1].op_type == "Slice"
    assert_same(changed, model, SINGLE, x=noise(2, 4, 9, 8))


def test_equal_constants_of_several_layers_are_written_once() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], "one", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["h", "v"], ["y"], "two", pads=[1, 1, 1, 1]),
    ]
    model = model_of(nodes, [tensor("w", 4, 4, 3, 3), tensor("v", 4, 4, 3, 3, seed=2)])
    changed = tiled(model, 4, 1)
    assert_same(changed, model, SINGLE, x=noise(2, 4, 9, 8))
    own = {one.name for one in changed.graph.initializer if one.name.startswith("y/")}
    assert own == {"y/lr0_tile_weight"}


UNTILEABLE = {
    "free size": model_of([conv()], [tensor("w", 6, 4, 3, 3), tensor("b", 6)], ["n", 4, "h", 8]),
    "half precision": model_of(
        [conv()],
        [tensor("w", 6, 4, 3, 3, dtype=TensorProto.FLOAT16), tensor("b", 6, dtype=TensorProto.FLOAT16)],
        dtype=TensorProto.FLOAT16,
    ),
    "strides": model_of([conv(strides=[2, 1])], [tensor("w", 6, 4, 3, 3), tensor("b", 6)]),
    "dilations": model_of([conv(dilations=[1, 2])], [tensor("w", 6, 4, 3, 3), tensor("b", 6)]),
    "groups": model_of([conv(group=2)], [tensor("w", 6, 2, 3, 3), tensor("b", 6)]),
    "pointwise": model_of([conv()], [tensor("w", 6, 4, 1, 1), tensor("b", 6)]),
    "opset": model_of([conv()], [tensor("w", 6, 4, 3, 3), tensor("b", 6)], opset=4),
}


@pytest.mark.parametrize("why", UNTILEABLE)
def test_what_cannot_be_tiled_is_not_offered(why: str) -> None:
    model = UNTILEABLE[why]
    assert locate(model)[0]
    assert tileable(model, locate(model)[0]) == frozenset()


def test_a_size_that_hangs_on_the_batch_is_not_fixed() -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["folded"]),
        helper.make_node("Conv", ["folded", "w"], ["y"], "conv1"),
    ]
    shape = onnx.numpy_helper.from_array(np.array([1, 4, -1, 8]), "shape")
    model = model_of(nodes, [tensor("w", 6, 4, 3, 3), shape], ["n", 4, 9, 8])
    assert tileable(model, locate(model)[0]) == frozenset()
    fixed = model_of(nodes, [tensor("w", 6, 4, 3, 3), shape], [2, 4, 9, 8])
    assert tileable(fixed, locate(fixed)[0]) == {"y"}


def test_a_tile_in_a_model_of_free_size_is_refused_by_name() -> None:
    with pytest.raises(PassError, match=r"conv1: it cannot be tiled, for the size of its input is not fixed"):
        tiled(UNTILEABLE["free size"], 4, 1)


def test_a_tile_stands_alone_and_fits_its_convolution() -> None:
    one = Stage("tile", np.ones((4, 4, 3, 3)), Geometry.plain((3, 3)), Tile((2, 2)))
    with pytest.raises(ValueError, match="alone"):
        Chain(((one,), (Stage("last", np.ones((4, 4, 1, 1)), Geometry.plain((1, 1))),)))
    with pytest.raises(ValueError, match="no tile"):
        Stage("tile", np.ones((4, 4, 3, 3)), Geometry.plain((3, 3)), Tile((1, 1)))
    with pytest.raises(ValueError, match="no tile"):
        Stage("tile", np.ones((4, 2, 3, 3)), Geometry.plain((3, 3), group=2), Tile((2, 2)))


def test_the_chain_is_the_kernel_whatever_the_tile() -> None:
    geometry = Geometry.plain((3, 3))
    kernel = np.random.default_rng(0).standard_normal((4, 5, 3, 3))
    chain = Chain(((Stage("tile", kernel, geometry, Tile((4, 2))),),))
    assert np.array_equal(chain.contract(geometry), kernel)
    assert chain.untiled().stages[0].tile is None
