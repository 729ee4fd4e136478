"""``winograd``: which tiles are offered, where, and that a rewrite with them changes nothing but the time."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxlr
from onnxlr.cost.cache import LatencyCache
from onnxlr.cost.measured import Cost, LayerCosts, MeasureOptions, measure
from onnxlr.cost.placement import Placement, Task, chain_key
from onnxlr.cost.turns import TurnOptions
from onnxlr.errors import ModelError, UsageError
from onnxlr.model_io import load
from onnxlr.planning.candidates import enumerate_choices
from onnxlr.planning.plan import Choice, Plan
from onnxlr.planning.rules import RULES
from onnxlr.prepare import Selection, prepare
from onnxlr.schemes.base import LayerShape
from onnxlr.schemes.registry import all_schemes, by_family, by_name
from onnxlr.schemes.winograd import Winograd
from onnxlr.searching.allocation import allocate
from onnxlr.searching.goals import Goals
from onnxlr.searching.table import tabulate
from onnxlr.target import Target
from onnxlr_passes.geometry import Geometry
from tests.passes.one_conv import assert_same, model_of, noise, tensor

SCHEME = Winograd()
SAME = 3e-5  # float32 through two layers by tiles, relative to the largest output
THREE = Geometry((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)))


def network(size: int | str = 10, channels: int = 8) -> onnx.ModelProto:
    """Two 3x3 convolutions with a ReLU between, and a 1x1 at the end."""
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["c0"], "conv0", pads=[1] * 4),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], "conv1", pads=[1] * 4),
        helper.make_node("Conv", ["c1", "w2"], ["y"], "last"),
    ]
    n = channels
    constants = [
        tensor("w0", n, 4, 3, 3),
        tensor("b0", n, seed=1),
        tensor("w1", n, n, 3, 3, seed=2),
        tensor("w2", n, n, 1, 1, seed=3),
    ]
    return model_of(nodes, constants, ["n", 4, size, 9])


def plan(*ranks: int) -> Plan:
    """Both 3x3 convolutions by tiles."""
    return Plan(tuple(Choice(site, name, "winograd", ranks) for site, name in (("c0", "conv0"), ("c1", "conv1"))))


@pytest.mark.parametrize(
    ("kernel", "full", "some"),
    [((3, 3), (4, 4), (4, 1)), ((5, 5), (2, 2), (2, 2)), ((1, 3), (1, 4), (1, 4)), ((3,), (4,), (2,))],
)
def test_tiles_fit_the_kernel(kernel: tuple[int, ...], full: tuple[int, ...], some: tuple[int, ...]) -> None:
    shape = LayerShape(16, 8, Geometry.plain(kernel))
    assert SCHEME.refusal(shape) is None
    assert SCHEME.full_rank(shape) == full
    offered = SCHEME.candidates(shape, 16)
    assert some in offered
    assert all(max(ranks) > 1 and all(r <= f for r, f in zip(ranks, full, strict=True)) for ranks in offered)
    assert {SCHEME.literal(rank, shape) for rank in (1, 3, 64)} <= set(offered)


@pytest.mark.parametrize(
    "geometry",
    [Geometry.plain((7, 7)), Geometry.plain((1, 1)), Geometry.plain((3, 3), group=2), Geometry.plain((3, 3, 3))],
)
def test_what_has_no_tile_is_refused(geometry: Geometry) -> None:
    assert SCHEME.refusal(LayerShape(16, 8, geometry)) is not None


def test_it_is_part_of_auto_only_where_latency_is_measured() -> None:
    assert SCHEME not in all_schemes()
    assert by_family(("auto",)) == all_schemes()
    assert by_family(("auto",), measured=True) == (*all_schemes(), SCHEME)
    assert by_family(("winograd",)) == (SCHEME,)
    assert by_name("winograd") == SCHEME
    with pytest.raises(UsageError, match="winograd"):
        by_family(("nothing",))


@pytest.mark.parametrize(("size", "offered"), [(10, True), ("h", False)])
def test_it_is_offered_as_exact_where_the_model_fixes_the_size(size: int | str, offered: bool) -> None:
    shapes = (("x", (1, 4, 10, 9)),)
    prepared = prepare(load(network(size)), Target(threads=1, shapes=shapes), Selection(), simplify=False)
    choices = enumerate_choices(prepared.workloads, (SCHEME,), 16, {}, lambda _: None)
    found = {of.workload.site.label: of for of in choices}
    assert bool(found["conv1"].of_each) == offered
    assert all(one.error == 0.0 for one in found["conv1"].of_each)
    assert [reason for _, reason in found["last"].refusals] == ["no kernel along one or two axes"]
    if not offered:
        assert "fixed in the model" in found["conv1"].refusals[0][1]


def test_where_it_is_measured_to_be_faster_a_knapsack_takes_it_before_anything_that_loses() -> None:
    prepared = prepare(load(network()), Target(threads=1), Selection(), simplify=False)
    schemes = (by_name("basis"), SCHEME)
    choices = enumerate_choices(prepared.workloads, schemes, 4, {}, lambda _: None)

    def cost(ms: float) -> Cost:
        return Cost(ms / 1e3, 0.0, timed=True, unstable=False)

    costs = [
        LayerCosts(cost(1.0), tuple(cost(0.7 if one.scheme == "winograd" else 0.5) for one in of.of_each))
        for of in choices
    ]
    table = tabulate(choices, costs, original_ms=4.0, other_macs=0, size=10_000)
    picks = allocate(table, RULES[0], {}, Goals(), budget_ms=3.4)
    assert picks is not None
    assert {site: option.scheme for site, option in picks.items()} == {"c0": "winograd", "c1": "winograd"}
    assert all(option.error == 0.0 for option in picks.values())
    assert picks["c1"].size == 4 * SCHEME.template(LayerShape(8, 8, THREE), picks["c1"].ranks).parameters
    faster = allocate(table, RULES[0], {}, Goals(), budget_ms=3.3)
    assert faster is not None
    assert "basis" in {option.scheme for option in faster.values()}


@pytest.mark.parametrize("ranks", [(4, 1), (4, 4), (2, 2)])
def test_a_rewrite_with_it_computes_the_same(ranks: tuple[int, int]) -> None:
    model = network()
    result = onnxlr.rewrite(model, plan=plan(*ranks), threads=1)
    assert_same(result.model, model, SAME, x=noise(2, 4, 10, 9))
    assert [row.scheme for row in result.summary.layers] == ["winograd", "winograd"]
    assert [row.error for row in result.summary.layers] == [0.0, 0.0]
    measured = result.summary.measured
    assert measured is not None
    assert measured.surgery is not None
    assert measured.surgery < SAME


def test_fitted_to_data_beside_a_layer_that_loses_it_takes_up_what_that_has_lost() -> None:
    model = network(channels=16)
    data = [{"x": noise(64, 4, 10, 9, seed=5)}]
    lossy = Choice("c0", "conv0", "basis", (6,))
    alone = onnxlr.rewrite(model, plan=Plan((lossy,)), data=data, threads=1, validate=False)
    both = onnxlr.rewrite(model, plan=Plan((lossy, plan(4, 1).choices[1])), data=data, threads=1, validate=False)
    x = noise(4, 4, 10, 9, seed=6)
    assert_same(both.model, alone.model, 1e-3, x=x)
    with pytest.raises(AssertionError):
        assert_same(both.model, model, 1e-3, x=x)


def test_a_plan_of_it_is_refused_where_it_cannot_be() -> None:
    with pytest.raises(ModelError, match="conv0: it cannot be tiled"):
        onnxlr.rewrite(network("h"), plan=plan(4, 1), shapes={"x": (1, 4, 10, 9)}, threads=1)
    with pytest.raises(UsageError, match="no ranks"):
        onnxlr.rewrite(network(), plan=plan(1, 1), threads=1)


def test_its_tiles_are_timed_apart() -> None:
    place = Placement("Conv", TensorProto.FLOAT, 16, 24, THREE, 1, (13, 10))
    shape = LayerShape(24, 16, THREE)
    chains = tuple(SCHEME.template(shape, ranks) for ranks in SCHEME.candidates(shape, 16))
    assert len({chain_key(chain) for chain in chains}) == len(chains)
    few = MeasureOptions(TurnOptions(seconds=0.0, min_rounds=2, max_rounds=2))
    costs = measure([Task(place, chains)], Target(threads=1), cache=LatencyCache(None), options=few)
    assert all(cost.timed for cost in costs.layers[0].chains)


def test_weights_of_tiles_are_counted_as_written() -> None:
    model = network()
    result = onnxlr.rewrite(model, plan=plan(4, 4), threads=1, validate=False)
    wide = LayerShape(128, 128, THREE)
    dense = 9 * 128 * 128 * 28 * 28
    assert SCHEME.template(wide, (4, 4)).macs((28, 28)) < 0.4 * dense
    assert SCHEME.template(wide, (4, 1)).macs((28, 28)) < 0.6 * dense
    written = {one.name: int(np.prod(one.dims)) for one in result.model.graph.initializer}
    assert (
        written["c1/lr0_tile_weight"]
        == 36 * 8 * 8
        == by_name("winograd").template(LayerShape(8, 8, THREE), (4, 4)).parameters
    )
