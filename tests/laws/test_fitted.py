"""What every family owes once it is fitted to data: never worse than blind, exact at full rank, whatever was seen."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxlr.calibration.statistics import Moments, lifted
from onnxlr.schemes.base import Array, Layer, Ranks, Scheme
from onnxlr.schemes.fitted import fitted_solver
from onnxlr.schemes.metric import Covariance, Rows
from onnxlr.schemes.observed import Observed
from onnxlr_passes.geometry import Geometry
from tests.laws.layers import CLOSED_FORMS, FITTED, SCHEMES, accepted, somewhere

if TYPE_CHECKING:
    from onnxlr_passes.chain import Chain

quick = settings(max_examples=12, deadline=None, derandomize=True, database=None)
every_scheme = pytest.mark.parametrize("name", SCHEMES)

# Normal equations are solved with 1e-10 of the mean energy on the diagonal, which costs up to its root in the error.
EXACT = 3e-5
# Where two ways lead to the same optimum.
SAME = 1e-5
# One family is never worse than another up to rounding of energies, of which the error is the root.
ROUNDING = 1e-6


def padded(kernel: tuple[int, ...], group: int = 1) -> Geometry:
    ones = (1,) * len(kernel)
    return Geometry(kernel, ones, ones, tuple((k // 2, k // 2) for k in kernel), group)


def rows_for(layer: Layer, kind: str, seed: int) -> Array:
    """Rows (g, n, D) a layer could see."""
    rng = np.random.default_rng(seed)
    g, d = layer.shape.group, layer.shape.S * layer.shape.taps
    count = 2 if kind == "few rows" else 4 * d
    rows = rng.standard_normal((g, count, d)) @ rng.standard_normal((g, d, d)) + 1.0
    by_channel = rows.reshape(g, count, layer.shape.S, -1)
    if kind == "dead channels":
        by_channel[:, :, ::2] = 0.0
    elif kind == "constant channels":
        by_channel[:, :, 1::2] = 3.0
    elif kind == "dead group":
        by_channel[0] = 0.0
    elif kind == "zeros":
        by_channel[:] = 0.0
    return rows


KINDS = ("plenty", "few rows", "dead channels", "constant channels", "dead group", "zeros")


def observed_by(layer: Layer, rows: Array, ridge: float = 0.0) -> Observed:
    moments = Moments.of(rows)
    return Observed(layer, Covariance(lifted(moments.covariance, ridge), moments.mean))


def lost(observed: Observed, chain: Chain) -> float:
    """Weighted error by its definition, with nothing of the code under test but the contraction."""
    weight = observed.layer.grouped()
    gap = (weight - chain.contract(observed.layer.geometry).reshape(weight.shape)).reshape(*weight.shape[:2], -1)
    flat = weight.reshape(gap.shape)
    energy = np.einsum("gtd,gde,gte->", gap, observed.metric.covariance, gap)
    total = np.einsum("gtd,gde,gte->", flat, observed.metric.covariance, flat)
    return float(np.sqrt(max(energy, 0.0) / total)) if total > 0.0 else 0.0


def anywhere(data: st.DataObject, name: str) -> tuple[Scheme, Layer, Ranks]:
    """Draw a layer and ranks; where every rank is a fit of its own, few of them."""
    scheme, layer = accepted(data, name)
    if name in FITTED:
        full = scheme.full_rank(layer.shape)
        return scheme, layer, (min(full[0], data.draw(st.sampled_from([2, 10**6]))),)
    return scheme, layer, somewhere(data, scheme, layer.shape)


@every_scheme
@quick
@given(data=st.data())
def test_with_identity_covariance_it_is_the_weights_only_form(name: str, data: st.DataObject) -> None:
    scheme, layer, ranks = anywhere(data, name)
    d = layer.shape.S * layer.shape.taps
    observed = Observed(layer, Covariance(np.stack([np.eye(d)] * layer.shape.group), np.zeros((layer.shape.group, d))))
    blind = lost(observed, scheme.solver(layer).chain(ranks))
    fitted = lost(observed, fitted_solver(scheme, observed).chain(ranks))
    assert fitted <= blind + ROUNDING
    if name in CLOSED_FORMS:
        assert fitted >= blind - SAME, "the closed form is the optimum"


@every_scheme
@pytest.mark.parametrize("kind", KINDS)
@settings(quick, max_examples=4)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_never_worse_than_weights_only_and_survives(name: str, kind: str, data: st.DataObject, seed: int) -> None:
    scheme, layer, ranks = anywhere(data, name)
    observed = observed_by(layer, rows_for(layer, kind, seed), data.draw(st.sampled_from([0.0, 1e-3])))
    solver = fitted_solver(scheme, observed)
    chain = solver.chain(ranks)
    assert all(np.isfinite(stage.weight).all() for stage in chain.stages)
    blind = lost(observed, scheme.solver(layer).chain(ranks))
    assert lost(observed, chain) <= blind + ROUNDING + EXACT * (kind != "plenty")
    assert np.isfinite(solver.error(ranks))
    if name not in FITTED and scheme.family != "mixed":
        assert lost(observed, chain) <= solver.error(ranks) + EXACT, "what is claimed is a bound"


@every_scheme
@pytest.mark.parametrize("kind", KINDS)
@settings(quick, max_examples=4)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_full_rank_keeps_the_outputs(name: str, kind: str, data: st.DataObject, seed: int) -> None:
    scheme, layer = accepted(data, name)
    observed = observed_by(layer, rows_for(layer, kind, seed))
    assert lost(observed, fitted_solver(scheme, observed).chain(scheme.full_rank(layer.shape))) <= EXACT


def layer_of(*shape: int, group: int = 1, seed: int = 3) -> Layer:
    return Layer(np.random.default_rng(seed).standard_normal(shape), padded(shape[2:], group))


RANKS = {"tucker2": (3, 4), "asym3d-vh": (6, 4), "asym3d-hv": (6, 4), "mixed": (2, 2, 2)}


def contracted(name: str, moments: Moments) -> Array:
    layer = layer_of(8, 6, 3, 3)
    observed = Observed(layer, Covariance(lifted(moments.covariance, 1e-3), moments.mean))
    return fitted_solver(SCHEMES[name], observed).chain(RANKS.get(name, (4,))).contract(layer.geometry)


@every_scheme
def test_neither_order_nor_halves_matter(name: str) -> None:
    rows = rows_for(layer_of(8, 6, 3, 3), "plenty", 1)
    whole = contracted(name, Moments.of(rows))
    shuffled = rows[:, np.random.default_rng(2).permutation(rows.shape[1])]
    merged = Moments.of(rows[:, :77]).merged(Moments.of(rows[:, 77:]))
    scale = np.linalg.norm(whole)
    assert np.linalg.norm(contracted(name, Moments.of(shuffled)) - whole) <= 1e-5 * scale
    assert np.linalg.norm(contracted(name, merged) - whole) <= 1e-5 * scale
    assert np.linalg.norm(contracted(name, Moments.of(rows[:, ::2])) - whole) > 1e-3 * scale, "other data, other fit"


@every_scheme
def test_dead_inputs_keep_moderate_weights(name: str) -> None:
    """A channel that the samples do not move must not get weights that explode when it moves after all."""
    layer = layer_of(8, 6, 3, 3)
    observed = observed_by(layer, rows_for(layer, "dead channels", 4), 1e-3)
    chain = fitted_solver(SCHEMES[name], observed).chain(RANKS.get(name, (4,)))
    assert np.linalg.norm(chain.contract(layer.geometry)) <= 3 * np.linalg.norm(layer.weight)


@pytest.mark.parametrize("name", [name for name in SCHEMES if name not in {"mixed", *FITTED}])
@pytest.mark.parametrize("kind", ["dead group", "zeros", "constant"])
def test_where_nothing_was_seen_the_weights_decide(name: str, kind: str) -> None:
    layer = layer_of(12, 5, 3, 3, group=2)
    rows = rows_for(layer, kind, 6)
    if kind == "constant":
        rows[:] = rows[:, :1].astype(np.float32)
    ranks = SCHEMES[name].literal(4, layer.shape)
    blind = SCHEMES[name].solver(layer).chain(ranks).contract(layer.geometry)
    fitted = fitted_solver(SCHEMES[name], observed_by(layer, rows, 1e-3)).chain(ranks).contract(layer.geometry)
    unseen = slice(0, 6) if kind == "dead group" else slice(0, 12)
    gaps = [np.linalg.norm(layer.weight[unseen] - made[unseen]) for made in (blind, fitted)]
    assert gaps[1] <= 1.02 * gaps[0]


@every_scheme
def test_one_percent_of_a_factor_breaks_the_tolerances(name: str) -> None:
    layer = layer_of(8, 6, 3, 3)
    observed = observed_by(layer, rows_for(layer, "plenty", 5))
    full = SCHEMES[name].full_rank(layer.shape)
    chain = fitted_solver(SCHEMES[name], observed).chain(full)
    for i, step in enumerate(chain.steps):
        wrong = tuple(replace(stage, weight=stage.weight * 1.01) for stage in step)
        steps = (*chain.steps[:i], wrong, *chain.steps[i + 1 :])
        assert lost(observed, replace(chain, steps=steps)) > 100 * EXACT


def sampled_by(layer: Layer, rows: Array, ridge: float) -> tuple[Observed, Observed]:
    """The same sample as a covariance, and as rows."""
    mean = rows.mean(axis=1)
    apart = (rows - mean[:, None, :]).astype(np.float32)
    covariance = np.einsum("gni,gnj->gij", apart.astype(np.float64), apart.astype(np.float64)) / rows.shape[1]
    level = ridge * np.trace(covariance, axis1=1, axis2=2) / rows.shape[2]
    dense = covariance + level[:, None, None] * np.eye(rows.shape[2])
    return Observed(layer, Covariance(dense, mean)), Observed(layer, Rows(apart, mean, level))


@pytest.mark.parametrize("group", [1, 2])
def test_rows_are_the_covariance_they_stand_for(group: int) -> None:
    layer = layer_of(8, 6, 3, 2, group=group)
    one, other = (o.metric for o in sampled_by(layer, rows_for(layer, "plenty", 7), 1e-2))
    kernel = layer.grouped().reshape(group, 8 // group, -1)
    assert np.allclose(one.inner(kernel, kernel[:, :2]), other.inner(kernel, kernel[:, :2]), rtol=1e-9)
    assert np.isclose(one.energy(layer.grouped()), other.energy(layer.grouped()), rtol=1e-9)
    assert not np.isclose(one.energy(layer.grouped() * 1.01), other.energy(layer.grouped()), rtol=1e-9)
    for mode in range(3):
        columns = layer.grouped().shape[2:]
        assert np.allclose(one.marginal(columns, mode), other.marginal(columns, mode), rtol=1e-9)


@every_scheme
@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("kind", ["plenty", "few rows", "dead channels"])
def test_fits_on_rows_are_almost_those_on_the_covariance(name: str, kind: str, group: int) -> None:
    layer = layer_of(8, 5, 3, 2, group=group)
    scheme = SCHEMES[name]
    if scheme.refusal(layer.shape) is not None or (name in FITTED and (kind, group) != ("plenty", 1)):
        return
    dense, sampled = sampled_by(layer, rows_for(layer, kind, 8), 1e-2)
    for ranks in (RANKS.get(name, (3,)), scheme.full_rank(layer.shape)):
        fits = [lost(dense, fitted_solver(scheme, one).chain(ranks)) for one in (dense, sampled)]
        blind = lost(dense, scheme.solver(layer).chain(ranks))
        assert fits[1] <= blind + EXACT
        # From marginals of single modes, without the alternation; 1.95 is seen on these inputs, which mix all modes.
        assert fits[1] <= 2.5 * fits[0] + EXACT
        assert 0.0 <= fitted_solver(scheme, sampled).error(ranks) <= 2.0
