"""EVBMF finds what was planted in noise, and nothing where there is only noise."""

from __future__ import annotations

import numpy as np
import pytest

from onnxlr.errors import UsageError
from onnxlr.planning.evbmf import evbmf_rank, evbmf_ranks
from onnxlr.schemes.base import Layer
from onnxlr.schemes.registry import by_name
from onnxlr_passes.geometry import Geometry


def planted(rows: int, columns: int, rank: int, noise: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    signal = rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, columns))
    return signal + noise * rng.standard_normal((rows, columns))


def found(matrix: np.ndarray) -> int:
    return evbmf_rank(np.linalg.svd(matrix, compute_uv=False) ** 2, *matrix.shape)


@pytest.mark.parametrize("shape", [(64, 64), (32, 256), (256, 32)])
@pytest.mark.parametrize("rank", [0, 1, 4, 12])
@pytest.mark.parametrize("noise", [0.1, 1.0])
def test_the_planted_rank_is_found(shape: tuple[int, int], rank: int, noise: float) -> None:
    for seed in range(3):
        assert found(planted(*shape, rank, noise, seed)) == rank


def test_the_unit_does_not_matter() -> None:
    matrix = planted(48, 96, 5, 0.3, 0)
    assert found(matrix) == found(1e-4 * matrix) == found(1e4 * matrix) == 5


def test_nothing_at_all() -> None:
    assert found(np.zeros((8, 8))) == 0


def test_ranks_of_a_layer() -> None:
    rng = np.random.default_rng(1)
    core = np.einsum("ta,abij,sb->tsij", rng.standard_normal((32, 6)), rng.standard_normal((6, 4, 3, 3)),
                     rng.standard_normal((24, 4)))  # fmt: skip
    layer = Layer(core + 0.1 * rng.standard_normal(core.shape), Geometry.plain((3, 3)))
    assert evbmf_ranks(by_name("tucker2"), layer) == (4, 6)
    assert evbmf_ranks(by_name("basis"), layer) == (6,)
    assert evbmf_ranks(by_name("basis"), Layer(np.zeros((8, 8, 3, 3)), layer.geometry)) == (1,), "a chain needs one"


def test_families_without_unfoldings() -> None:
    layer = Layer(np.ones((8, 8, 3, 3)), Geometry((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1))))
    with pytest.raises(UsageError, match="evbmf is not defined for mixed"):
        evbmf_ranks(by_name("mixed"), layer)
