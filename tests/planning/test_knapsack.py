"""The knapsack is exact: on instances small enough to try everything, nothing is better."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxlr.planning.knapsack import knapsack, pareto
from onnxlr.planning.one_budget import GAP

number = st.integers(0, 20).map(float)
entries = st.lists(st.tuples(number, number), min_size=1, max_size=4)


def brute_force(layers: list[list[tuple[float, float]]], budget: float) -> float | None:
    losses = [sum(loss for _, loss in picks) for picks in product(*layers) if sum(cost for cost, _ in picks) <= budget]
    return min(losses, default=None)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(layers=st.lists(entries, min_size=1, max_size=4), budget=st.integers(0, 60).map(float))
def test_equals_brute_force(layers: list[list[tuple[float, float]]], budget: float) -> None:
    costs = [[cost for cost, _ in of] for of in layers]
    losses = [[loss for _, loss in of] for of in layers]
    picks = knapsack(costs, losses, budget)
    best = brute_force(layers, budget)
    if picks is None:
        assert best is None
        return
    assert len(picks) == len(layers)
    assert sum(of[pick] for of, pick in zip(costs, picks, strict=True)) <= budget
    assert sum(of[pick] for of, pick in zip(losses, picks, strict=True)) == best


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_losses_may_span_decades(seed: int) -> None:
    """A small gap relative to the greatest loss is not small relative to the best."""
    rng = np.random.default_rng(seed)
    layers = [
        [(float(c), float(v)) for c, v in zip(rng.random(5), 10.0 ** rng.uniform(-9, 0, 5), strict=True)]
        for _ in range(4)
    ]
    budget = float(rng.uniform(0.5, 3.0))
    picks = knapsack([[c for c, _ in of] for of in layers], [[v for _, v in of] for of in layers], budget)
    best = brute_force(layers, budget)
    assert (picks is None) == (best is None)
    if picks is not None and best is not None:
        assert sum(of[pick][1] for of, pick in zip(layers, picks, strict=True)) <= best * (1 + 2 * GAP)


def test_losses_proportional_to_costs_stay_tractable() -> None:
    """Every sum is on the front then; the work must not grow with their number, 21^20."""
    rng = np.random.default_rng(0)
    shares = np.sort(rng.random((20, 20)), axis=1)
    size = rng.uniform(0.2, 2.0, (20, 1))
    costs, losses = size * shares, size * (1.0 - shares)
    budget = 0.5 * float(size.sum())
    picks = knapsack(costs.tolist(), losses.tolist(), budget)
    assert picks is not None
    lost = sum(losses[layer, pick] for layer, pick in enumerate(picks))
    assert lost <= (float(size.sum()) - budget) * (1 + 2 * GAP)


def test_infeasible_is_none() -> None:
    assert knapsack([[3.0, 2.0], [5.0]], [[0.0, 1.0], [0.0]], 6.9) is None
    assert knapsack([[3.0, 2.0], [5.0]], [[0.0, 1.0], [0.0]], 7.0) == [1, 0]


def test_nothing_to_choose() -> None:
    assert knapsack([], [], 1.0) == []


@pytest.mark.parametrize("scale", [1.0, 1e9, 1e12])
def test_costs_of_real_size(scale: float) -> None:
    costs = [[scale, 0.5 * scale, 0.25 * scale]] * 3
    losses = [[0.0, 1e-3, 1e-2]] * 3
    assert knapsack(costs, losses, 1.75 * scale) == [1, 1, 1]
    assert knapsack(costs, losses, 3.0 * scale) == [0, 0, 0]


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(of=entries)
def test_pareto_keeps_what_nothing_beats(of: list[tuple[float, float]]) -> None:
    kept = pareto([cost for cost, _ in of], [loss for _, loss in of])
    for index, (cost, loss) in enumerate(of):
        beaten = any(c <= cost and v <= loss and (c, v) != (cost, loss) for c, v in of)
        if index in kept:
            assert not beaten
        else:
            assert beaten or any(of[other] == (cost, loss) for other in kept)
    assert [of[i][0] for i in kept] == sorted(of[i][0] for i in kept)


pair = st.tuples(number, number, number)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    layers=st.lists(st.lists(pair, min_size=1, max_size=4), min_size=1, max_size=3),
    budgets=st.tuples(st.integers(0, 60).map(float), st.integers(0, 60).map(float)),
)
def test_two_budgets_hold_at_once(layers: list[list[tuple[float, float, float]]], budgets: tuple[float, float]) -> None:
    first, second, losses = ([[entry[i] for entry in of] for of in layers] for i in range(3))
    within = [
        sum(entry[2] for entry in picks)
        for picks in product(*layers)
        if all(sum(entry[i] for entry in picks) <= budgets[i] for i in range(2))
    ]
    picks = knapsack(first, losses, budgets[0], [(second, budgets[1])])
    if picks is None:
        assert not within
        return
    assert sum(of[pick] for of, pick in zip(losses, picks, strict=True)) == min(within)
