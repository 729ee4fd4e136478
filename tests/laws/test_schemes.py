"""What every factorization family owes, whatever the layer: stated once, for all of the registry."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxlr.schemes.base import Layer, LayerShape, relative_error
from onnxlr_passes.chain import Chain, Stage
from onnxlr_passes.geometry import Geometry
from tests.laws.layers import BOUNDED, CLOSED_FORMS, FITTED, SCHEMES, accepted, layers, somewhere

quick = settings(max_examples=30, deadline=None, derandomize=True, database=None)
every_scheme = pytest.mark.parametrize("name", SCHEMES)

IDENTITY = 1e-10
# Solvers read errors off eigenvalues of the Gram matrix: a squared error of one rounding (1e-16 of the energy, times
# the size) is a claimed error of some 1e-8, so nothing tighter can be asked of kernels that are reproduced exactly.
CLAIM = 1e-6
# How much worse a larger rank may come out, relative to the kernel's norm. Closed forms: rounding. Alternating fits end
# near a local optimum that the next rank need not share; HOOI also stops at a sweep that recovers 1e-3 of what is lost.
# The theory allows a HOSVD start sqrt(2) times the optimum; on Gaussian noise, the worst kernels there are, 4e-4 is
# seen.
MONOTONE = {"closed": 1e-9, "tucker2": 2e-3, "asym3d": 2e-3, "mixed": 2e-3}


def contracted_error(layer: Layer, chain: Chain) -> float:
    return relative_error(layer.weight, chain.contract(layer.geometry))


@every_scheme
@quick
@given(layer=layers())
def test_a_layer_is_taken_or_refused_with_a_reason(name: str, layer: Layer) -> None:
    reason = SCHEMES[name].refusal(layer.shape)
    if reason is not None:
        assert len(reason.split()) > 2
        assert "\n" not in reason
    else:
        assert min(SCHEMES[name].full_rank(layer.shape)) >= 1


@every_scheme
@quick
@given(data=st.data())
def test_full_rank_is_the_identity(name: str, data: st.DataObject) -> None:
    scheme, layer = accepted(data, name)
    full = scheme.full_rank(layer.shape)
    chain = scheme.solver(layer).chain(full)
    assert contracted_error(layer, chain) <= IDENTITY
    assert scheme.solver(layer).error(full) <= CLAIM


@pytest.mark.parametrize("name", [name for name in SCHEMES if name not in FITTED])
@quick
@given(data=st.data())
def test_error_does_not_rise_with_rank(name: str, data: st.DataObject) -> None:
    scheme, layer = accepted(data, name)
    slack = MONOTONE.get(scheme.family, MONOTONE["closed"])
    start = somewhere(data, scheme, layer.shape)
    axis = data.draw(st.integers(0, len(start) - 1))
    solver = scheme.solver(layer)
    path = [start]
    while path[-1][axis] < scheme.full_rank(layer.shape)[axis] and len(path) < 4:
        path.append(tuple(rank + (i == axis) for i, rank in enumerate(path[-1])))
    errors = [contracted_error(layer, solver.chain(ranks)) for ranks in path]
    assert all(after <= before + slack for before, after in pairwise(errors)), (path, errors)
    assert max(errors) <= 1.0 + 1e-9, "worse than nothing at all"


@pytest.mark.parametrize("name", CLOSED_FORMS)
@quick
@given(data=st.data())
def test_claimed_error_is_the_contracted_error(name: str, data: st.DataObject) -> None:
    scheme, layer = accepted(data, name)
    ranks = somewhere(data, scheme, layer.shape)
    solver = scheme.solver(layer)
    assert abs(solver.error(ranks) - contracted_error(layer, solver.chain(ranks))) <= CLAIM


@pytest.mark.parametrize("name", BOUNDED)
@quick
@given(data=st.data())
def test_claimed_error_bounds_the_contracted_error(name: str, data: st.DataObject) -> None:
    scheme, layer = accepted(data, name)
    ranks = somewhere(data, scheme, layer.shape)
    solver = scheme.solver(layer)
    assert contracted_error(layer, solver.chain(ranks)) <= solver.error(ranks) + CLAIM


def span(array: np.ndarray) -> int:
    """How many bytes lie between the first and the last element."""
    return sum((n - 1) * abs(stride) for n, stride in zip(array.shape, array.strides, strict=True))


@every_scheme
@quick
@given(data=st.data())
def test_template_has_the_shape_of_the_chain(name: str, data: st.DataObject) -> None:
    scheme, layer = accepted(data, name)
    ranks = somewhere(data, scheme, layer.shape)
    chain, template = scheme.solver(layer).chain(ranks), scheme.template(layer.shape, ranks)
    assert [[(s.suffix, s.weight.shape, s.geometry) for s in step] for step in chain.steps] == [
        [(s.suffix, s.weight.shape, s.geometry) for s in step] for step in template.steps
    ]
    assert all(span(stage.weight) == 0 for stage in template.stages), "a template takes no memory"


@every_scheme
@quick
@given(data=st.data())
def test_two_solvers_give_the_same_bytes(name: str, data: st.DataObject) -> None:
    scheme, layer = accepted(data, name)
    ranks = somewhere(data, scheme, layer.shape)
    one = scheme.solver(layer).chain(ranks)
    other_solver = scheme.solver(Layer(layer.weight.copy(), layer.geometry))
    other_solver.error(ranks)  # asking first for the error changes nothing
    other = other_solver.chain(ranks)
    assert [s.weight.tobytes() for s in one.stages] == [s.weight.tobytes() for s in other.stages]


@every_scheme
@quick
@given(data=st.data(), rank=st.integers(1, 300), block=st.sampled_from([1, 8, 16]))
def test_ranks_on_offer_exist(name: str, data: st.DataObject, rank: int, block: int) -> None:
    scheme, layer = accepted(data, name)
    full = scheme.full_rank(layer.shape)
    offered = [*scheme.candidates(layer.shape, block), scheme.literal(rank, layer.shape)]
    assert len(scheme.candidates(layer.shape, block)) == len(set(scheme.candidates(layer.shape, block)))
    for ranks in offered:
        assert len(ranks) == len(full)
        assert all(0 <= r <= f for r, f in zip(ranks, full, strict=True)), (ranks, full)
        assert any(ranks)
    assert scheme.literal(10**6, layer.shape) == full


@every_scheme
def test_a_layer_of_zeros_has_no_error(name: str) -> None:
    layer = Layer(np.zeros((6, 4, 3, 3)), Geometry((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1))))
    solver = SCHEMES[name].solver(layer)
    ranks = SCHEMES[name].literal(2, layer.shape)
    assert solver.error(ranks) == 0.0
    assert contracted_error(layer, solver.chain(ranks)) == 0.0


REFUSED = [
    ("basis", (1, 4), Geometry.plain(())),
    ("projection", (8, 4, 1, 1), Geometry.plain((1, 1))),
    ("projection", (8, 1, 3, 3), Geometry.plain((3, 3))),
    ("separable-vh", (8, 4, 3), Geometry.plain((3,))),
    ("separable-hv", (8, 4, 3, 1), Geometry.plain((3, 1))),
    ("separable-vh", (8, 4), Geometry.plain(())),
    ("tucker2", (8, 4, 1, 1), Geometry.plain((1, 1))),
    ("tucker2", (8, 1, 3, 3), Geometry.plain((3, 3))),
    ("asym3d-vh", (8, 4, 1, 3), Geometry.plain((1, 3))),
    ("mixed", (8, 4, 3, 3), Geometry.plain((3, 3))),
    ("mixed", (8, 4, 3, 3), Geometry((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), group=2)),
    ("mixed", (8, 4, 3, 3, 3), Geometry.plain((3, 3, 3))),
]


@pytest.mark.parametrize(("name", "shape", "geometry"), REFUSED)
def test_what_a_family_cannot_express_is_refused(name: str, shape: tuple[int, ...], geometry: Geometry) -> None:
    reason = SCHEMES[name].refusal(LayerShape(shape[0], shape[1] * geometry.group, geometry))
    assert reason is not None


# A check that cannot fail is no check: one factor 1 % off must break each tolerance above.


def perturbed(chain: Chain, stage: int) -> Chain:
    steps, seen = [], 0
    for step in chain.steps:
        made = []
        for one in step:
            made.append(Stage(one.suffix, one.weight * (1.01 if seen == stage else 1.0), one.geometry))
            seen += 1
        steps.append(tuple(made))
    return Chain(tuple(steps))


@every_scheme
@pytest.mark.parametrize("full", [True, False])
def test_one_percent_of_a_factor_breaks_the_tolerances(name: str, full: bool) -> None:
    weight = np.random.default_rng(3).standard_normal((8, 6, 3, 3))
    layer = Layer(weight, Geometry((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1))))
    scheme = SCHEMES[name]
    solver = scheme.solver(layer)
    ranks = scheme.full_rank(layer.shape) if full else scheme.literal(5, layer.shape)
    chain = solver.chain(ranks)
    right = contracted_error(layer, chain)
    # Where full filters hold everything, the arms beside them hold rounding.
    telling = [i for i, stage in enumerate(chain.stages) if np.linalg.norm(stage.weight) > 1e-6]
    assert len(telling) >= 2
    for stage in telling:
        wrong = contracted_error(layer, perturbed(chain, stage))
        assert abs(wrong - right) > CLAIM > IDENTITY, (stage, right, wrong)
