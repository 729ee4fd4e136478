"""Latency of chains in a layer's place: the models that are timed, the turns, the cache and what is predicted."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from onnxlr.cost.cache import LatencyCache
from onnxlr.cost.context import chain_model, context_model, layer_model
from onnxlr.cost.measured import MeasureOptions, measure, scaled
from onnxlr.cost.placement import Placement, Task, chain_key, placement_of
from onnxlr.cost.turns import TurnOptions, clock_of, take_turns
from onnxlr.schemes.base import LayerShape
from onnxlr.schemes.registry import all_schemes, by_name
from onnxlr.target import Target, run, seeded_feeds, usable_cores
from onnxlr_passes.extents import Extent
from onnxlr_passes.geometry import Geometry
from onnxlr_passes.sites import locate

TARGET = Target(threads=1)
THREE = Geometry((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)))
PLACE = Placement("Conv", TensorProto.FLOAT, 32, 48, THREE, 1, (12, 12))
QUICK = MeasureOptions(TurnOptions(seconds=0.0, min_rounds=2, max_rounds=2))
WIDE = replace(PLACE, in_channels=128, out_channels=128, size=(6, 6))
PLACES = {
    "conv": PLACE,
    "strided": replace(PLACE, geometry=replace(THREE, strides=(2, 2))),
    "auto_pad": replace(PLACE, geometry=replace(THREE, pads=((0, 0), (0, 0)), auto_pad="SAME_UPPER")),
    "grouped": replace(PLACE, geometry=THREE.with_group(4)),
    "image": replace(PLACE, in_channels=3),
    "batch": replace(PLACE, batch=3),
    "1-D": replace(PLACE, geometry=Geometry((5,), (1,), (1,), ((2, 2),)), size=(40,)),
    "half": replace(PLACE, dtype=TensorProto.FLOAT16),
    "gemm": Placement("Gemm", TensorProto.FLOAT, 64, 48, Geometry.plain(()), 5, ()),
    "matmul": Placement("MatMul", TensorProto.FLOAT, 64, 48, Geometry.plain(()), 5, ()),
}


def shape_of(place):
    return LayerShape(place.out_channels, place.in_channels, place.geometry)


def task_of(place, *schemes, block=16, calls=1):
    shape = shape_of(place)
    chains = [
        by_name(name).template(shape, ranks) for name in schemes for ranks in by_name(name).candidates(shape, block)
    ]
    return Task(place, tuple(chains), calls)


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_layer_and_chains_run_between_the_same_neighbours(place):
    layer = layer_model(place)
    onnx.checker.check_model(layer, full_check=True)
    (feeds,) = seeded_feeds(layer, {})
    (expected,) = run(TARGET.session(layer.SerializeToString()), feeds)
    shape = shape_of(place)
    for scheme in all_schemes():
        if scheme.refusal(shape) is None:
            ranks = scheme.literal(8, shape)
            made = chain_model(layer, scheme.template(shape, ranks))
            (got,) = run(TARGET.session(made.SerializeToString()), feeds)
            assert got.shape == expected.shape
            assert np.isfinite(got).all()
            assert np.abs(got).max() > 1e-3  # what flows is neither zero nor subnormal
    assert (context_model(place) is None) == (place.op != "Conv")


def test_the_layer_is_a_site_of_the_asked_placement():
    (site,) = [site for site in locate(layer_model(PLACE))[0] if site.output == "layer"]
    assert placement_of(site, Extent(1, (12, 12))) == PLACE


def test_weights_are_the_same_every_time_and_no_special_numbers():
    first, second = (layer_model(PLACE).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second
    for tensor in layer_model(PLACE).graph.initializer:
        values = np.abs(numpy_helper.to_array(tensor))
        assert values.min() > np.finfo(np.float32).tiny


def test_keys_are_equal_for_equal_work_only():
    assert len({place.key() for place in PLACES.values()}) == len(PLACES)
    shape = shape_of(PLACE)
    chains = [
        scheme.template(shape, ranks)
        for scheme in all_schemes()
        if scheme.refusal(shape) is None
        for ranks in scheme.candidates(shape, 16)
    ]
    keys = {chain_key(chain) for chain in chains}
    assert len(keys) == len(chains)
    assert chain_key(by_name("basis").template(shape, (16,))) == chain_key(by_name("basis").template(shape, (16,)))


def test_less_work_costs_less():
    place = replace(PLACE, in_channels=128, out_channels=128, size=(28, 28))
    chain = by_name("cp3").template(shape_of(place), (16,))  # a thirtieth of the multiply-adds
    layer = measure([Task(place, (chain,))], TARGET, cache=LatencyCache(None)).layers[0]
    assert layer.chains[0].seconds < 0.5 * layer.dense.seconds
    assert layer.dense.timed
    assert layer.dense.spread == 0.0


def test_results_come_in_the_order_of_tasks_and_calls_multiply():
    tasks = [task_of(PLACE, "basis"), task_of(PLACES["gemm"], "basis"), task_of(PLACE, "basis", calls=3)]
    shares = []
    costs = measure(tasks, TARGET, cache=LatencyCache(None), options=QUICK, progress=shares.append)
    assert [len(layer.chains) for layer in costs.layers] == [len(task.chains) for task in tasks]
    first, _, thrice = costs.layers
    assert thrice.dense.seconds == pytest.approx(3 * first.dense.seconds, rel=1e-12)
    assert [c.seconds for c in thrice.chains] == pytest.approx([3 * c.seconds for c in first.chains], rel=1e-12)
    assert costs.timed + costs.predicted == len(tasks[0].chains) + len(tasks[1].chains) + 2  # and two layers
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_a_layer_without_chains_has_a_cost():
    costs = measure([Task(PLACE, ())], TARGET, cache=LatencyCache(None), options=QUICK)
    assert costs.layers[0].dense.seconds > 0
    assert costs.layers[0].chains == ()
    assert measure([], TARGET, cache=LatencyCache(None)).layers == ()


def test_the_second_time_nothing_is_timed_and_all_is_the_same(tmp_path):
    cache = LatencyCache(tmp_path / "l.jsonl")
    tasks = [task_of(WIDE, "basis", "cp3")]
    options = replace(QUICK, tolerance=10.0)
    first = measure(tasks, TARGET, cache=cache, options=options)
    second = measure(tasks, TARGET, cache=cache, options=options)
    assert first.timed > 0
    assert first.predicted > 0
    assert (second.timed, second.cached, second.predicted) == (0, first.timed, first.predicted)
    assert second.layers == first.layers
    assert second.errors == first.errors
    other = measure([task_of(PLACES["half"], "basis")], TARGET, cache=cache, options=QUICK)
    assert other.cached == 0


def test_tolerance_zero_times_everything():
    task = task_of(WIDE, "basis")
    costs = measure([task], TARGET, cache=LatencyCache(None), options=replace(QUICK, tolerance=0.0))
    assert (costs.timed, costs.predicted, costs.errors) == (len(task.chains) + 1, 0, ())
    assert all(cost.timed for cost in costs.layers[0].chains)


def test_a_broken_cache_is_a_note(tmp_path):
    (tmp_path / "l.jsonl").write_text("not a cache")
    costs = measure([Task(PLACE, ())], TARGET, cache=LatencyCache(tmp_path / "l.jsonl"), options=QUICK)
    assert len(costs.notes) == 1
    assert "neither used nor changed" in costs.notes[0]


def test_scaled_costs_keep_their_proportions():
    costs = measure(
        [task_of(PLACE, "basis"), Task(PLACES["gemm"], ())], TARGET, cache=LatencyCache(None), options=QUICK
    )
    new = scaled(costs, 1.0)
    assert sum(layer.dense.seconds for layer in new.layers) == pytest.approx(1.0, rel=1e-12)
    for before, after in zip(costs.layers, new.layers, strict=True):
        ratios = [c.seconds / before.dense.seconds for c in before.chains]
        assert [c.seconds / after.dense.seconds for c in after.chains] == pytest.approx(ratios, rel=1e-12)


class TestTurns:
    def test_noise_that_all_share_cancels_and_the_quicker_run_counts(self):
        now = [0]
        slow = iter(np.random.default_rng(0).uniform(1, 3, 1000))

        def runner(cost):
            def go():
                now[0] += int(cost * pace[0])

            return go

        pace = [1.0]

        def reference():
            pace[0] = next(slow)
            now[0] += int(1e6 * pace[0])

        turns = take_turns(
            [reference, runner(5e5)], lambda: now[0], TurnOptions(seconds=1e9, min_rounds=9, max_rounds=40)
        )
        assert turns[0].ratio == 1.0
        assert turns[0].spread == 0.0
        assert 0.3 < turns[1].ratio < 0.8

    def test_it_stops_when_sure(self):
        calls = []
        now = [0]

        def go():
            calls.append(1)
            now[0] += 1000

        turns = take_turns([go, go], lambda: now[0], TurnOptions(seconds=1e9, min_rounds=7, max_rounds=25))
        assert len(calls) == 2 + 7 * 2 * 2
        assert turns[1].ratio == 1.0
        assert not turns[1].unstable

    def test_what_stays_restless_is_unstable(self):
        now = [0]
        rng = np.random.default_rng(0)

        def steady():
            now[0] += 1000

        def restless():
            now[0] += int(rng.uniform(500, 2000))

        turns = take_turns([steady, restless], lambda: now[0], TurnOptions(seconds=1e9, min_rounds=7, max_rounds=25))
        assert turns[1].unstable
        assert turns[1].spread > 0.05

    def test_one_thread_on_the_cpu_is_timed_by_its_own_clock(self):
        clocks = [clock_of(Target(provider=provider, threads=1)) for provider in ("cpu", "openvino", "cuda")]
        fine = all(time.get_clock_info(name).resolution <= 1e-6 for name in ("thread_time", "process_time"))
        assert clocks[2] is time.perf_counter_ns
        assert clocks[:2] == ([time.thread_time_ns, time.process_time_ns] if fine else [time.perf_counter_ns] * 2)

    @pytest.mark.skipif(usable_cores() < 2, reason="one core")
    def test_several_threads_are_timed_by_the_time_that_passes(self):
        assert clock_of(Target(threads=2)) is time.perf_counter_ns
