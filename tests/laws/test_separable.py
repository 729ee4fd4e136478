"""``separable`` is the best there is: its error is the tail of the spectrum of M (Tai et al. 2015, theorem 1)."""

from __future__ import annotations

from itertools import product
from math import prod

import numpy as np
import pytest

from onnxlr.schemes.base import Layer, relative_error
from onnxlr.schemes.separable import Separable
from onnxlr_passes.chain import Chain, Stage
from onnxlr_passes.geometry import Geometry

OPTIMUM = 1e-9

CASES = [
    ("3x3", (8, 6, 3, 3), (1, 1), 1),
    ("square, many channels", (24, 16, 3, 3), (1, 1), 1),
    ("oblong", (6, 5, 5, 3), (1, 1), 1),
    ("wide", (6, 5, 2, 7), (1, 1), 1),
    ("strided", (8, 6, 3, 3), (2, 1), 1),
    ("strided otherwise", (9, 4, 3, 5), (1, 3), 1),
    ("more outputs", (20, 2, 3, 3), (1, 1), 1),
    ("more inputs", (2, 20, 3, 3), (1, 1), 1),
    ("groups", (12, 4, 3, 3), (1, 1), 3),
    ("3-D", (5, 4, 3, 2, 3), (1, 2, 1), 1),
    ("3-D with a flat axis", (5, 4, 1, 3, 3), (1, 1, 1), 1),
    ("3-D, groups", (6, 3, 2, 3, 2), (1, 1, 1), 2),
]


def matricized(weight: np.ndarray, group: int, order: str) -> list[np.ndarray]:
    """M[(s, first taps), (t, other taps)] of every group, written out index by index."""
    kernel = weight.shape[2:]
    lead = next(axis for axis, k in enumerate(kernel) if k > 1)
    near = [lead] if order == "vh" else [axis for axis in range(len(kernel)) if axis != lead]
    out = []
    for part in weight.reshape(group, -1, *weight.shape[1:]):
        t, s = part.shape[:2]
        rows, columns = s * prod(kernel[a] for a in near), t * prod(k for a, k in enumerate(kernel) if a not in near)
        matrix = np.zeros((rows, columns))
        for index in product(*map(range, part.shape)):
            taps = index[2:]
            row, column = index[1], index[0]
            for axis, size in enumerate(kernel):
                if axis in near:
                    row = row * size + taps[axis]
                else:
                    column = column * size + taps[axis]
            matrix[row, column] = part[index]
        out.append(matrix)
    return out


def optimum(weight: np.ndarray, group: int, order: str, rank: int) -> float:
    tail = sum(float((np.linalg.svd(m, compute_uv=False)[rank:] ** 2).sum()) for m in matricized(weight, group, order))
    return float(np.sqrt(tail) / np.linalg.norm(weight))


def layer_of(shape: tuple[int, ...], strides: tuple[int, ...], group: int) -> Layer:
    kernel = shape[2:]
    geometry = Geometry(kernel, strides, (1,) * len(kernel), tuple((k // 2, (k - 1) // 2) for k in kernel), group)
    return Layer(np.random.default_rng(11).standard_normal(shape), geometry)


@pytest.mark.parametrize("order", ["vh", "hv"])
@pytest.mark.parametrize(("label", "shape", "strides", "group"), CASES, ids=[case[0] for case in CASES])
def test_error_is_the_optimum(
    label: str, shape: tuple[int, ...], strides: tuple[int, ...], group: int, order: str
) -> None:
    layer = layer_of(shape, strides, group)
    scheme = Separable(order)
    solver = scheme.solver(layer)
    full = scheme.full_rank(layer.shape)[0]
    assert full == min(matricized(layer.weight, group, order)[0].shape)
    for rank in sorted({1, 2, full // 3 or 1, full // 2 or 1, full - 1}):
        error = relative_error(layer.weight, solver.chain((rank,)).contract(layer.geometry))
        assert abs(error - optimum(layer.weight, group, order, rank)) <= OPTIMUM


def test_a_factor_one_percent_off_misses_the_optimum() -> None:
    layer = layer_of((8, 6, 3, 3), (1, 1), 1)
    chain = Separable("vh").solver(layer).chain((6,))
    for broken in range(2):
        steps = tuple(
            (Stage(stage.suffix, stage.weight * (1.01 if i == broken else 1.0), stage.geometry),)
            for i, stage in enumerate(chain.stages)
        )
        error = relative_error(layer.weight, Chain(steps).contract(layer.geometry))
        assert error - optimum(layer.weight, 1, "vh", 6) > 1e3 * OPTIMUM


def test_the_factors_share_the_norm_equally() -> None:
    layer = layer_of((8, 6, 3, 3), (1, 1), 1)
    first, second = (stage.weight for stage in Separable("vh").solver(layer).chain((5,)).stages)
    np.testing.assert_allclose(
        np.linalg.norm(first.reshape(5, -1), axis=1), np.linalg.norm(np.moveaxis(second, 1, 0).reshape(5, -1), axis=1)
    )
