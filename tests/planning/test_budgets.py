"""What was asked for is what the built graph has: MACs, energy, ranks."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnxlr
from onnxlr.errors import BudgetError, UsageError
from onnxlr.planning.budget import Energy, KeepMacs, Rank
from onnxlr.planning.evbmf import evbmf_rank
from onnxlr.schemes.registry import all_schemes
from tests.laws.graphs import count_macs
from tests.passes.one_conv import model_of


def decaying(name: str, *shape: int, seed: int) -> onnx.TensorProto:
    """Weights with a falling spectrum, as trained ones have."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((shape[0], int(np.prod(shape[1:]))))
    u, s, v = np.linalg.svd(rows, full_matrices=False)
    return numpy_helper.from_array(((u * (s * 0.8 ** np.arange(len(s)))) @ v).reshape(shape).astype(np.float32), name)


@cache
def network() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "one", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Conv", ["r", "w2"], ["b"], "two", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["b"], ["s"]),
        helper.make_node("Conv", ["s", "w3"], ["y"], "three"),
    ]
    weights = [
        decaying("w1", 32, 8, 3, 3, seed=1),
        decaying("w2", 32, 32, 3, 3, seed=2),
        decaying("w3", 48, 32, 1, 1, seed=3),
    ]
    return model_of(nodes, weights, (1, 8, 12, 12))


FAMILIES = sorted({scheme.family for scheme in all_schemes()} - {"mixed"})


@pytest.mark.parametrize("share", [0.7, 0.4, 0.2])
def test_keep_macs_is_met_on_the_built_graph(share: float) -> None:
    result = onnxlr.rewrite(network(), keep_macs=share, validate=False, simplify=False)
    before, after = count_macs(network()), count_macs(result.model)
    assert after <= share * before
    assert (result.summary.before.macs, result.summary.after.macs) == (before, after)
    assert after >= 0.6 * share * before, "far below the budget: something was given away"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_meets_a_share_of_macs(family: str) -> None:
    result = onnxlr.rewrite(network(), scheme=family, keep_macs=0.75, validate=False, simplify=False)
    assert count_macs(result.model) <= 0.75 * count_macs(network())


def test_a_share_that_cannot_be_met_says_what_can() -> None:
    with pytest.raises(BudgetError, match="the least possible with these schemes is 0") as refusal:
        onnxlr.rewrite(network(), keep_macs=0.001, validate=False, simplify=False)
    least = float(str(refusal.value).split()[-1])
    found = onnxlr.rewrite(network(), keep_macs=least, validate=False, simplify=False)
    assert least - 1e-3 < found.summary.kept_macs <= least
    with pytest.raises(BudgetError, match="least possible"):
        onnxlr.rewrite(network(), keep_macs=least - 1e-3, validate=False, simplify=False)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_energy_is_met_by_every_layer(share: float) -> None:
    result = onnxlr.rewrite(network(), energy=share, validate=False, simplify=False)
    assert result.summary.layers
    for row in result.summary.layers:
        assert 1.0 - row.error**2 >= share - 1e-6
        assert row.macs_after < row.macs_before


def test_a_literal_rank_is_taken_everywhere_and_clipped() -> None:
    result = onnxlr.rewrite(network(), scheme="basis", rank=40, validate=False, simplify=False)
    assert [row.ranks for row in result.summary.layers] == [(32,), (32,), (32,)]
    small = onnxlr.rewrite(network(), scheme="tucker2", rank=12, validate=False, simplify=False)
    assert [row.ranks for row in small.summary.layers] == [(8, 12), (12, 12)]


def test_a_rank_that_does_not_pay_says_so() -> None:
    result = onnxlr.rewrite(network(), scheme="basis", rank=32, validate=False, simplify=False)
    assert any(row.macs_after >= row.macs_before for row in result.summary.layers)


def test_evbmf_as_a_budget() -> None:
    result = onnxlr.rewrite(network(), scheme="basis", rank="evbmf", validate=False, simplify=False)
    for row, name in zip(result.summary.layers, ("w1", "w2", "w3"), strict=True):
        weight = numpy_helper.to_array(next(t for t in network().graph.initializer if t.name == name))
        matrix = weight.reshape(len(weight), -1).astype(np.float64)
        assert row.ranks == (max(1, evbmf_rank(np.linalg.svd(matrix, compute_uv=False) ** 2, *matrix.shape)),)


def test_a_plan_is_replayed_to_the_byte() -> None:
    one = onnxlr.rewrite(network(), keep_macs=0.4, validate=False, simplify=False)
    two = onnxlr.rewrite(network(), plan=one.plan, validate=False, simplify=False)
    assert one.model.SerializeToString(deterministic=True) == two.model.SerializeToString(deterministic=True)


NONSENSE = [(KeepMacs, 0.0), (KeepMacs, 1.0), (KeepMacs, float("nan")), (Energy, 0.0), (Energy, 1.5), (Rank, 0)]


@pytest.mark.parametrize(("kind", "value"), NONSENSE)
def test_budgets_that_make_no_sense(kind: type, value: float) -> None:
    with pytest.raises(UsageError, match=r"for example --(keep-macs|energy|rank)"):
        kind(value)
