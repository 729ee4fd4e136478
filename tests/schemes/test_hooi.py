"""Tucker-2 of a batch: the look-up of errors, the fit, and independence of tensorly's state."""

from __future__ import annotations

import numpy as np
import pytest
import tensorly
from tensorly.decomposition import partial_tucker

from onnxlr.schemes.base import Array, leading
from onnxlr.schemes.hooi import Hosvd, Tucker2, hooi, hosvd

SHAPE = (2, 12, 10, 9)


def start(tensor: Array) -> Hosvd:
    rows = [tensor.transpose(0, axis, 3 - axis, 3).reshape(len(tensor), tensor.shape[axis], -1) for axis in (1, 2)]
    out, into = (leading(matrix @ matrix.transpose(0, 2, 1))[0] for matrix in rows)
    return hosvd(tensor, out, into)


def error(tensor: Array, fit: Tucker2) -> float:
    rebuilt = np.einsum("gta,gabn,gmb->gtmn", fit.out, fit.core, fit.into)
    return float(np.linalg.norm(tensor - rebuilt) / np.linalg.norm(tensor))


@pytest.fixture
def tensor() -> Array:
    return np.random.default_rng(3).standard_normal(SHAPE)


def test_the_errors_looked_up_are_those_of_the_truncated_bases(tensor: Array) -> None:
    begin = start(tensor)
    for a, b in ((1, 1), (5, 3), (12, 10)):
        assert begin.error(a, b) == pytest.approx(error(tensor, hooi(begin, a, b, sweeps=0)), abs=1e-9)


def test_the_fit_is_as_good_as_the_reference(tensor: Array) -> None:
    fit = hooi(start(tensor[:1]), 5, 3, sweeps=200, tolerance=1e-12)
    (core, factors), _ = partial_tucker(tensor[0], rank=[5, 3], modes=[0, 1], init="svd", n_iter_max=200, tol=1e-12)
    reference = tensorly.tenalg.multi_mode_dot(core, factors, [0, 1])
    best = float(np.linalg.norm(tensor[0] - reference) / np.linalg.norm(tensor[0]))
    assert error(tensor[:1], fit) <= best * (1 + 1e-6)
    assert error(tensor[:1], hooi(start(tensor[:1]), 4, 3)) > best * 1.01


def test_another_backend_of_the_caller_is_no_matter(tensor: Array) -> None:
    pytest.importorskip("torch")
    expected = hooi(start(tensor), 5, 3)
    with tensorly.backend_context("pytorch"):
        again = hooi(start(tensor), 5, 3)
        assert tensorly.get_backend() == "pytorch"
    np.testing.assert_array_equal(again.core, expected.core)
