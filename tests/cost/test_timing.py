from __future__ import annotations

from math import comb

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxlr.cost.timing import (
    Speedup,
    TimingOptions,
    burst_size,
    is_unstable,
    median_interval_rank,
    relative_deviation,
    rotation,
    speedup,
    summarize,
    time_interleaved,
)
from onnxlr.target import Target, bind

QUICK = TimingOptions(budget_s=0.05, warmup_s=0.0, burst_ms=0.0, min_rounds=5)


def chain_of_products(count, size=192):
    """``count`` matrix products one after the other."""
    nodes = [helper.make_node("MatMul", ["x" if i == 0 else f"t{i}", "w"], [f"t{i + 1}"]) for i in range(count)]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [size, size]) for name in ("x", f"t{count}")]
    weight = numpy_helper.from_array(np.eye(size, dtype=np.float32), "w")
    graph = helper.make_graph(nodes, "graph", values[:1], values[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def test_order_rotates_and_each_model_runs_in_every_round():
    calls = []
    runners = [lambda name=name: calls.append(name) for name in "ABC"]
    timings = time_interleaved(runners, TimingOptions(budget_s=0.0, warmup_s=0.0, burst_ms=0.0, min_rounds=4))
    measured = "".join(calls)[6:]  # after a first and a timed run of each
    assert "".join(calls)[:6] == "AABBCC"
    # A burst is one run that does not count and one that does; 4 rounds become 6, two whole turns of the rotation.
    assert measured == "AABBCC" + "BBCCAA" + "CCAABB" + "AABBCC" + "BBCCAA" + "CCAABB"
    assert [timing.runs for timing in timings] == [6, 6, 6]


def test_rotation_gives_each_model_each_place():
    turns = [rotation(3, turn) for turn in range(3)]
    assert turns == [(0, 1, 2), (1, 2, 0), (2, 0, 1)]
    assert all(sorted(place) == [0, 1, 2] for place in zip(*turns, strict=True))


def test_bursts_last_as_asked():
    assert burst_size(run_ms=2.0, burst_ms=5.0) == 3
    assert burst_size(run_ms=50.0, burst_ms=5.0) == 1
    assert burst_size(run_ms=0.0, burst_ms=5.0) == 1


def test_more_work_is_slower():
    target = Target(threads=1)
    feeds = {"x": np.ones((192, 192), np.float32)}
    one, eight = (bind(target.session(chain_of_products(count)), feeds) for count in (1, 8))
    timings = time_interleaved([eight, one], QUICK)
    assert timings[0].median_ms > 2 * timings[1].median_ms
    assert speedup(timings[0], timings[1]).ratio > 2
    assert len(timings[0].rounds_ms) == len(timings[1].rounds_ms) >= 5
    for timing in timings:
        assert timing.low_ms <= timing.median_ms <= timing.high_ms


def test_progress_rises_to_one():
    shares = []
    time_interleaved([lambda: None], QUICK, progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_nothing_to_time():
    assert time_interleaved([]) == ()


class TestUnstable:
    def test_a_quiet_machine_is_stable(self):
        assert not is_unstable([10.0, 10.1, 9.9, 10.05, 10.0, 30.0])  # one interruption is nothing

    def test_a_wide_spread_is_unstable(self):
        values = [10.0, 12.0, 8.0, 11.0, 9.0, 10.0, 12.0, 8.0]
        assert relative_deviation(values) == pytest.approx(0.15)
        assert is_unstable(values)
        assert not is_unstable([10.0 + (value - 10.0) * 0.3 for value in values])

    def test_a_change_of_pace_is_unstable(self):
        pace = [10.0] * 12 + [11.2] * 12
        assert is_unstable(pace)
        assert not is_unstable([10.0] * 12 + [10.8] * 12)
        steady_but_slow_at_the_end = [10.0] * 19 + [20.0] * 5  # no median moves
        assert not is_unstable(steady_but_slow_at_the_end)

    def test_one_round_says_nothing(self):
        assert is_unstable([1.0])


class TestSpeedup:
    def test_noise_common_to_both_cancels(self):
        noise = np.random.default_rng(0).uniform(1, 3, 50)
        slow, fast = summarize((2.0 * noise).tolist(), 1), summarize(noise.tolist(), 1)
        result = speedup(slow, fast)
        assert (result.low, result.ratio, result.high) == pytest.approx((2.0, 2.0, 2.0))
        assert result.significant

    def test_equal_models_are_not_significant(self):
        rng = np.random.default_rng(1)
        first, second = (summarize(rng.normal(10, 0.5, 60).tolist(), 1) for _ in range(2))
        result = speedup(first, second)
        assert result.low < 1 < result.high
        assert not result.significant

    @pytest.mark.parametrize(
        ("low", "high", "significant"),
        [(1.03, 1.2, True), (0.8, 0.97, True), (1.01, 1.2, False), (0.8, 0.99, False), (0.9, 1.1, False)],
    )
    def test_what_two_sessions_of_one_model_may_differ_by_is_not_significant(self, low, high, significant):
        assert Speedup(1.0, low, high).significant is significant

    def test_interval_covers_the_median_95_times_in_100(self):
        rng = np.random.default_rng(2)
        covered = 0
        for _ in range(1000):
            times = rng.lognormal(0, 0.3, 25)
            result = speedup(summarize(times.tolist(), 1), summarize([1.0] * 25, 1))
            covered += result.low <= 1.0 <= result.high
        assert 930 <= covered <= 990  # 95.7 % in theory; one rank further in gives 89 %

    @pytest.mark.parametrize("count", [1, 2, 5, 6, 7, 20, 300])
    def test_ranks_are_the_largest_that_keep_the_coverage(self, count):
        def miss(skip):
            return sum(comb(count, i) for i in range(skip + 1)) / 2**count

        skip = median_interval_rank(count)
        assert miss(skip) <= 0.025 or skip == 0
        assert miss(skip + 1) > 0.025

    def test_different_numbers_of_rounds_cannot_be_paired(self):
        with pytest.raises(ValueError, match="shorter"):
            speedup(summarize([1.0, 1.0], 1), summarize([1.0], 1))
