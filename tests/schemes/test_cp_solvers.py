"""What the CP solvers promise one by one: closed-form bounds, descent, the correction, and the reference."""

from __future__ import annotations

import numpy as np
import pytest
from tensorly.cp_tensor import cp_to_tensor
from tensorly.decomposition import parafac

from onnxlr.schemes.base import Layer, relative_error
from onnxlr.schemes.cp import Cp3, Cp4
from onnxlr.schemes.cp_als import als
from onnxlr.schemes.cp_epc import correct, degeneracy, secular_root
from onnxlr.schemes.cp_gram import LEAF, inverted, ridged, solve
from onnxlr.schemes.cp_nls import NlsOptions, nls
from onnxlr.schemes.cp_start import compress, exact, exact_rank, random_start, slice_spectrum, slice_start
from onnxlr.schemes.cp_tensor import Slices, balance, mttkrp, mttkrp_of, pick, relative, residual, stack, tap_product
from onnxlr_passes.geometry import Geometry

SHAPES = [(6, 5, 4), (5, 6, 3, 2), (3, 2, 7), (2, 4, 2, 3, 2)]


def tensor_of(shape, seed=0):
    return Slices.of(np.random.default_rng(seed).standard_normal(shape))


def dense(factors):
    out, into, *taps = factors
    full = np.einsum("tr,sr,kr->tsk", out, into, tap_product(tuple(taps)))
    return full.reshape(*full.shape[:2], *(tap.shape[0] for tap in taps))


def swept(tensor, start, sweeps):
    """One start, and its error."""
    factors, errors = als(tensor, stack([start]), sweeps, 0.0)
    return pick(factors, 0), errors[0]


def newton(tensor, start, options):
    """One start, and its error."""
    factors, errors = nls(tensor, stack([start]), options)
    return pick(factors, 0), errors[0]


def weight_of(tensor):
    return tensor.data.transpose(1, 2, 0).reshape(tensor.shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_mttkrp_is_the_gradient_of_the_inner_product(shape):
    tensor = tensor_of(shape)
    factors = random_start(shape, 3, 1)
    for mode, product in enumerate(mttkrp(tensor, factors)):
        np.testing.assert_allclose(mttkrp_of(tensor, factors, mode), product, rtol=1e-12, atol=1e-12)
        other = random_start(shape, 3, 2)[mode]
        moved = (*factors[:mode], other, *factors[mode + 1 :])
        inner = float((weight_of(tensor) * dense(moved)).sum())
        assert float((product * other).sum()) == pytest.approx(inner, rel=1e-10)
        assert float((1.01 * product * other).sum()) != pytest.approx(inner, rel=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_trivial_decomposition_is_exact(shape):
    tensor = tensor_of(shape)
    factors = exact(tensor)
    assert factors[0].shape[1] == exact_rank(shape)
    assert residual(tensor, factors) == 0.0


@pytest.mark.parametrize("shape", SHAPES)
def test_the_bound_is_the_error_of_the_undisturbed_start(shape):
    tensor = tensor_of(shape)
    spectrum = slice_spectrum(tensor)
    for rank in (1, 2, 4):
        start = slice_start(spectrum, tensor, rank, 0, noise=0.0)
        reached = relative(residual(tensor, start), tensor.energy)
        assert reached == pytest.approx(spectrum.bound(rank, tensor.energy), rel=1e-9)
        assert spectrum.rank_at(reached * (1 + 1e-9), tensor.energy) <= rank


@pytest.mark.parametrize("shape", SHAPES)
def test_more_sweeps_are_never_worse_and_the_error_is_the_residual(shape):
    tensor = tensor_of(shape)
    start = random_start(shape, 3, 4)
    errors = []
    for sweeps in (1, 2, 5, 20):
        factors, error = swept(tensor, start, sweeps)
        assert error == pytest.approx(relative(residual(tensor, factors), tensor.energy), rel=1e-6)
        errors.append(error)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gauss_newton_improves_on_its_start(shape, dtype):
    tensor = tensor_of(shape).astype(dtype)
    rough, before = swept(tensor, random_start(shape, 3, 4), 3)
    factors, after = newton(tensor, rough, NlsOptions(20, 20, 0.0))
    assert after < before
    assert after == pytest.approx(relative(residual(tensor, factors), tensor.energy), rel=1e-4)


def test_gauss_newton_ends_where_the_gradient_vanishes():
    noise = np.random.default_rng(5).standard_normal((6, 5, 4))
    tensor = Slices.of(dense(random_start((6, 5, 4), 2, 6)) + 0.02 * noise)
    rough, _ = swept(tensor, random_start((6, 5, 4), 2, 4), 30)
    factors, _ = newton(tensor, rough, NlsOptions(60, 40, 0.0, 1e-6))
    modes = range(3)
    for mode in modes:
        gram = np.prod([factors[m].T @ factors[m] for m in modes if m != mode], axis=0)
        gradient = factors[mode] @ gram - mttkrp(tensor, factors)[mode]
        assert np.linalg.norm(gradient) < 1e-5 * tensor.energy


def test_compression_drops_only_unused_channels():
    random = np.random.default_rng(3)
    weight = np.einsum("ta,ask->tsk", random.standard_normal((20, 3)), random.standard_normal((3, 9, 5)))
    tensor = Slices.of(weight)
    small = compress(tensor)
    assert small.core.shape[0] == 3
    assert small.core.shape[1] <= 9
    factors = small.expand(exact(small.core))
    assert relative(residual(tensor, factors), tensor.energy) < 1e-6


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_fits_side_by_side_end_where_each_ends_alone(shape, dtype):
    tensor = tensor_of(shape).astype(dtype)
    starts = [random_start(shape, 3, seed) for seed in range(5)]
    options = NlsOptions(12, 10, 1e-3)
    together, errors = nls(tensor, als(tensor, stack(starts), 15, 1e-2)[0], options)
    rtol = 1e-3 if dtype is np.float32 else 1e-8
    for i, start in enumerate(starts):
        alone, error = nls(tensor, als(tensor, stack([start]), 15, 1e-2)[0], options)
        assert errors[i] == pytest.approx(error[0], rel=rtol)
        assert errors[i] == pytest.approx(relative(residual(tensor, pick(together, i)), tensor.energy), rel=1e-4)
        assert dense(pick(together, i)) == pytest.approx(dense(pick(alone, 0)), rel=0.0, abs=100 * rtol)
    assert len({round(float(error), 6) for error in errors}) > 1, "the starts end in different places"


def test_a_singular_system_is_solved_with_a_ridge():
    systems = np.stack([np.ones((3, 3)), np.zeros((3, 3)), np.eye(3)])
    solutions = solve(systems, np.ones((3, 2, 3)))
    assert np.isfinite(solutions).all()
    assert (solutions[1] == 0.0).all()
    np.testing.assert_allclose(solutions[2], 1.0, rtol=1e-12)


@pytest.mark.parametrize("size", [1, LEAF, LEAF + 1, 3 * LEAF])
def test_the_inverse_by_blocks_is_the_inverse(size):
    rows = np.random.default_rng(size).standard_normal((2, 3, size, size + 2))
    matrices = ridged(rows @ rows.swapaxes(-1, -2), 0.1)
    np.testing.assert_allclose(inverted(matrices) @ matrices, np.broadcast_to(np.eye(size), matrices.shape), atol=1e-9)


def degenerate(gap=1e-2):
    """Two huge terms that cancel to a tensor of border rank 2 and rank 3 (De Silva and Lim 2008)."""
    random = np.random.default_rng(1)
    a, b = (np.linalg.qr(random.standard_normal((6, 2)))[0] for _ in range(2))
    c = np.linalg.qr(random.standard_normal((5, 2)))[0]
    weight = sum(np.einsum("t,s,k->tsk", a[:, i], b[:, j], c[:, k]) for i, j, k in ((0, 0, 1), (0, 1, 0), (1, 0, 0)))
    start = tuple(np.stack([m[:, 0] + gap * m[:, 1], m[:, 0]], axis=1) for m in (a, b, c))
    start = (start[0] * np.array([1.0, -1.0]) / gap, *start[1:])
    return Slices.of(weight), balance(start)


def test_least_squares_alone_leaves_the_degenerate_fit_degenerate():
    tensor, factors = degenerate()
    assert relative(residual(tensor, factors), tensor.energy) < 0.02
    assert degeneracy(tensor, factors) > 1e3
    polished, _ = newton(tensor, factors, NlsOptions(20, 20, 0.0))
    assert degeneracy(tensor, polished) > 1e3


@pytest.mark.parametrize("slack", [1.5, 5.0])
def test_the_correction_keeps_its_bound_and_shrinks_the_terms(slack):
    tensor, factors = degenerate()
    bound = slack * np.sqrt(residual(tensor, factors))
    corrected = correct(tensor, factors, bound, cycles=50)
    assert np.sqrt(residual(tensor, corrected)) <= bound * (1 + 1e-9)
    assert degeneracy(tensor, corrected) < 0.8 * degeneracy(tensor, factors)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_cycle_of_the_correction_lowers_the_sum_of_energies(shape):
    tensor = tensor_of(shape)
    factors, error = swept(tensor, random_start(shape, 4, 4), 30)
    bound = 1.01 * error * np.sqrt(tensor.energy)
    sizes = [degeneracy(tensor, correct(tensor, factors, bound, cycles, tolerance=0.0)) for cycles in (0, 1, 2, 5)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0]
    assert np.sqrt(residual(tensor, correct(tensor, factors, bound, 5))) <= bound * (1 + 1e-9)


def test_the_secular_root_explains_what_it_is_asked_to():
    values, energies = np.array([0.5, 1.0, 4.0]), np.array([1.0, 2.0, 3.0])
    rho = secular_root(values, energies, 2.0)
    assert rho is not None

    def explained(at):
        return float((energies * (values + 2 * at) / np.square(values + at)).sum())

    assert explained(rho) == pytest.approx(2.0, rel=1e-9)
    assert explained(1.01 * rho) < 2.0
    assert secular_root(values, energies, 100.0) is None


@pytest.mark.parametrize(("seed", "rank"), [(0, 6), (0, 24), (1, 12)])
@pytest.mark.parametrize("scheme", [Cp3(), Cp4()], ids=lambda s: s.name)
def test_no_worse_than_the_best_of_three_parafac(scheme, seed, rank):
    random = np.random.default_rng(seed)
    factors = [random.standard_normal((n, 40)) / np.sqrt(n) for n in (20, 16, 3, 3)]
    weight = np.einsum("r,tr,sr,ir,jr->tsij", 0.9 ** np.arange(40), *factors)
    weight += 0.2 * np.linalg.norm(weight) / np.sqrt(weight.size) * random.standard_normal(weight.shape)
    layer = Layer(weight, Geometry.plain((3, 3)))
    tensor = weight if scheme.name == "cp4" else weight.reshape(20, 16, 9)
    reference = min(
        relative_error(tensor, cp_to_tensor(parafac(tensor, rank, init="random", random_state=start)))
        for start in range(3)
    )
    ours = relative_error(weight, scheme.solver(layer).chain((rank,)).contract(layer.geometry))
    assert ours <= reference * (1.0 + 1e-3)


@pytest.mark.filterwarnings("error")
def test_systems_of_nearly_dependent_terms_stay_finite() -> None:
    rng = np.random.default_rng(0)
    base = rng.standard_normal((2, 16, 5)).astype(np.float32)
    factor = np.concatenate([base + np.float32(1e-4) * rng.standard_normal(base.shape).astype(np.float32)] * 40, axis=2)
    factor /= np.linalg.norm(factor, axis=1, keepdims=True)
    gram = (factor.swapaxes(1, 2) @ factor) ** 2
    assert np.linalg.eigvalsh(gram.astype(np.float64)).min() < 1e-6
    target = rng.standard_normal((2, 7, 200)).astype(np.float32) @ gram
    solution = solve(gram, target)
    assert np.isfinite(solution).all()
    assert np.linalg.norm(solution @ gram - target) < 1e-3 * np.linalg.norm(target)
