"""The laws of cp3 and cp4, over random shapes, groups and geometries."""

from __future__ import annotations

from itertools import pairwise
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxlr.schemes.base import Layer, LayerShape, relative_error
from onnxlr.schemes.cp import Cp3, Cp4
from onnxlr_passes.geometry import Geometry

SCHEMES = (Cp3(), Cp4())
EXACT = 1e-10
RISE = 0.02  # how much a fit stopped early may lose against one of lower rank


@st.composite
def layers(draw, most=4):
    axes = draw(st.integers(1, 3))
    group = draw(st.integers(1, 2))
    t, s = draw(st.integers(1, most)), draw(st.integers(1, most))

    def each(low, high):
        return tuple(draw(st.lists(st.integers(low, high), min_size=axes, max_size=axes)))

    kernel = each(1, 3 if axes < 3 else 2)
    pads = tuple(zip(each(0, 2), each(0, 2), strict=True))
    geometry = Geometry(kernel, each(1, 2), each(1, 2), pads, group)
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    return Layer(random.standard_normal((group * t, s, *kernel)), geometry)


def decaying(shape, terms, noise, seed):
    """A kernel with the spectrum of a trained one: terms of falling norm, then noise."""
    random = np.random.default_rng(seed)
    taps = prod(shape[2:])
    factors = [random.standard_normal((n, terms)) / np.sqrt(n) for n in (shape[0], shape[1], taps)]
    weight = np.einsum("r,tr,sr,kr->tsk", 0.9 ** np.arange(terms), *factors)
    weight += noise * np.linalg.norm(weight) / np.sqrt(weight.size) * random.standard_normal(weight.shape)
    return weight.reshape(shape)


def error_of(layer, chain):
    return relative_error(layer.weight, chain.contract(layer.geometry))


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.name)
@settings(max_examples=60, deadline=None)
@given(layer=layers())
def test_full_rank_is_the_identity(scheme, layer):
    if scheme.refusal(layer.shape) is not None:
        return
    ranks = scheme.full_rank(layer.shape)
    solver = scheme.solver(layer)
    assert error_of(layer, solver.chain(ranks)) <= EXACT
    assert solver.error(ranks) == 0.0


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.name)
@settings(max_examples=15, deadline=None)
@given(layer=layers(), rank=st.integers(1, 4))
def test_the_template_counts_what_the_chain_costs(scheme, layer, rank):
    if scheme.refusal(layer.shape) is not None:
        return
    ranks = scheme.literal(rank, layer.shape)
    chain, template = scheme.solver(layer).chain(ranks), scheme.template(layer.shape, ranks)
    size = (9,) * layer.geometry.rank
    assert chain.macs(size) == template.macs(size)
    assert [s.weight.shape for s in chain.stages] == [s.weight.shape for s in template.stages]
    assert [s.geometry for s in chain.stages] == [s.geometry for s in template.stages]
    assert len({s.suffix for s in chain.stages}) == len(chain.stages)
    assert all(
        step == 0 or n == 1 for s in template.stages for step, n in zip(s.weight.strides, s.weight.shape, strict=True)
    )


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.name)
@settings(max_examples=15, deadline=None)
@given(layer=layers(), rank=st.integers(1, 4))
def test_the_chain_contracts_to_the_sum_of_its_rank_one_terms(scheme, layer, rank):
    if scheme.refusal(layer.shape) is not None:
        return
    shape = layer.shape
    (rank,) = scheme.literal(rank, shape)
    chain = scheme.solver(layer).chain((rank,))
    first, *middle, last = chain.stages
    expected = np.zeros((shape.group, shape.T, shape.S, *shape.geometry.kernel))
    for g in range(shape.group):
        for r in range(rank):
            channel = g * rank + r
            taps = np.ones((1,) * shape.geometry.rank)
            for stage in middle:
                taps = taps * stage.weight[channel, 0]
            ends = np.multiply.outer(
                last.weight.reshape(shape.group, shape.T, rank)[g, :, r], first.weight[channel].ravel()
            )
            expected[g] += np.multiply.outer(ends, np.broadcast_to(taps, shape.geometry.kernel))
    got = chain.contract(layer.geometry)
    expected = expected.reshape(got.shape)
    assert relative_error(expected, got) <= EXACT
    assert relative_error(expected, 1.01 * got) > EXACT


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.name)
@pytest.mark.parametrize("group", [1, 2])
def test_the_error_does_not_rise_with_the_rank(scheme, group):
    layer = Layer(decaying((12 * group, 10, 3, 3), 30, 0.2, 3), Geometry.plain((3, 3), group))
    solver = scheme.solver(layer)
    (full,) = scheme.full_rank(layer.shape)
    errors = [error_of(layer, solver.chain((rank,))) for rank in (1, 4, 16, full)]
    assert all(after <= before * (1.0 + RISE) for before, after in pairwise(errors))
    assert errors[-1] <= EXACT
    assert errors[0] > 0.5


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.name)
@pytest.mark.parametrize("shape", [(24, 20, 3, 3), (80, 40, 3, 3)], ids=["fitted", "sampled"])
def test_the_estimate_is_near_what_the_chain_reaches(scheme, shape):
    layer = Layer(decaying(shape, 200, 0.3, 5), Geometry.plain((3, 3)))
    solver = scheme.solver(layer)
    for ranks in scheme.candidates(layer.shape, 16)[:1]:
        assert solver.error(ranks) == pytest.approx(error_of(layer, solver.chain(ranks)), rel=0.1)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.name)
def test_two_solvers_give_the_same_bytes(scheme):
    layer = Layer(decaying((12, 10, 3, 3), 30, 0.2, 7), Geometry.plain((3, 3)))
    one, other = scheme.solver(layer), scheme.solver(layer)
    one.error((8,))  # what is asked before must not matter
    first, second = one.chain((8,)), other.chain((8,))
    assert [s.weight.tobytes() for s in first.stages] == [s.weight.tobytes() for s in second.stages]
    assert one.error((8,)) == other.error((8,))


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.name)
@pytest.mark.parametrize("rank", [1, 3, 100])
def test_zeros_are_fitted_by_zeros(scheme, rank):
    layer = Layer(np.zeros((4, 3, 3, 3)), Geometry.plain((3, 3)))
    ranks = scheme.literal(rank, layer.shape)
    solver = scheme.solver(layer)
    assert solver.error(ranks) == 0.0
    assert error_of(layer, solver.chain(ranks)) == 0.0


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.name)
def test_a_group_of_zeros_beside_one_that_is_not(scheme):
    weight = decaying((8, 3, 3, 3), 10, 0.2, 1)
    weight[:4] = 0.0
    layer = Layer(weight, Geometry.plain((3, 3), 2))
    solver = scheme.solver(layer)
    assert solver.error((4,)) == pytest.approx(error_of(layer, solver.chain((4,))), rel=0.1)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.name)
@pytest.mark.parametrize("rows", [1, 3])
def test_rank_deficient_kernels_are_reproduced_at_their_rank(scheme, rows):
    random = np.random.default_rng(2)
    factors = [random.standard_normal((n, rows)) for n in (9, 8, 3, 3)]
    layer = Layer(np.einsum("tr,sr,ir,jr->tsij", *factors), Geometry.plain((3, 3)))
    for rank in (rows, rows + 4):
        assert error_of(layer, scheme.solver(layer).chain((rank,))) < 1e-6


def test_balanced_factors_share_the_norm_of_every_term():
    layer = Layer(decaying((12, 10, 3, 3), 30, 0.2, 9), Geometry.plain((3, 3)))
    first, *middle, last = Cp4().solver(layer).chain((6,)).stages
    norms = [np.linalg.norm(stage.weight.reshape(6, -1), axis=1) for stage in (first, *middle)]
    norms.append(np.linalg.norm(last.weight.reshape(12, 6), axis=0))
    for norm in norms[1:]:
        np.testing.assert_allclose(norm, norms[0], rtol=1e-9)


def shape_of(out, into, kernel, group=1):
    return LayerShape(out, into, Geometry.plain(kernel, group))


@pytest.mark.parametrize(
    ("scheme", "shape", "reason"),
    [
        (Cp3(), shape_of(8, 8, (1, 1)), "pointwise"),
        (Cp3(), shape_of(8, 8, ()), "pointwise"),
        (Cp3(), shape_of(8, 8, (3, 3), 8), "one input channel"),
        (Cp4(), shape_of(8, 8, (3, 3), 8), "one input channel"),
        (Cp4(), shape_of(8, 8, (3, 1)), "cp3 is the same"),
        (Cp4(), shape_of(8, 8, (5,)), "cp3 is the same"),
        (Cp4(), shape_of(8, 8, (1, 1)), "pointwise"),
        (Cp3(), shape_of(8, 8, (3, 1)), None),
        (Cp4(), shape_of(8, 8, (3, 1, 3)), None),
    ],
)
def test_refusals_say_why(scheme, shape, reason):
    told = scheme.refusal(shape)
    assert told is None if reason is None else told is not None and reason in told


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.name)
@pytest.mark.parametrize("block", [8, 16])
@pytest.mark.parametrize(
    "shape",
    [shape_of(64, 64, (3, 3)), shape_of(512, 512, (3, 3)), shape_of(64, 3, (7, 7)), shape_of(256, 256, (3, 3), 32)],
)
def test_candidates_are_a_few_blocks_that_save(scheme, block, shape):
    candidates = scheme.candidates(shape, block)
    shares = [scheme.template(shape, ranks).parameters / shape.parameters for ranks in candidates]
    assert 2 <= len(candidates) <= 6
    assert all(0.05 < share < 1.0 for share in shares)
    assert shares[0] < 0.5 < shares[-1]
    assert all((shape.group * rank) % block == 0 or rank in {2, 4, 8} for (rank,) in candidates)


def test_tiny_layers_get_ranks_under_a_block():
    assert min(Cp3().candidates(shape_of(8, 8, (3, 3)), 16)) < (16,)


def test_an_axis_without_a_kernel_keeps_its_stride_and_pads():
    geometry = Geometry((3, 1, 3), (1, 2, 1), (1, 1, 1), ((1, 1), (1, 0), (0, 0)))
    first, one, other, last = Cp4().template(LayerShape(4, 4, geometry), (2,)).stages
    assert (one.geometry.strides, one.geometry.pads[1]) == ((1, 2, 1), (1, 0))
    assert other.geometry.kernel == (1, 1, 3)
    assert first.geometry.strides == last.geometry.strides == (1, 1, 1)


def test_pads_known_at_run_time_stay_with_the_stage_that_moves():
    geometry = Geometry((3, 3), (2, 2), (1, 1), ((0, 0), (0, 0)), auto_pad="SAME_UPPER")
    names = [stage.geometry.auto_pad for stage in Cp4().template(LayerShape(4, 4, geometry), (2,)).stages]
    assert names == ["NOTSET", "SAME_UPPER", "SAME_UPPER", "NOTSET"]
