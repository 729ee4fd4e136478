"""Chains are checked when made, counted without weights, and contracted by what their groups and pads say."""

from __future__ import annotations

import numpy as np
import pytest

from onnxlr_passes.chain import Chain, Stage, blank
from onnxlr_passes.geometry import Geometry

POINT = Geometry.plain((1, 1))


def stage(*shape: int, geometry: Geometry = POINT) -> Stage:
    return Stage("s", blank(*shape), geometry)


BAD_CHAINS = [
    ((), "at least one step"),
    (((),), "at least one step"),
    (((stage(3, 4, 1, 1), stage(2, 4, 1, 1)),), "ends in a single convolution"),
    (((stage(3, 4, 1, 1),), (stage(5, 4, 1, 1),)), "3 channels given, \\[4\\] taken"),
]


@pytest.mark.parametrize(("steps", "message"), BAD_CHAINS)
def test_chains_that_are_none(steps: tuple[tuple[Stage, ...], ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Chain(steps)


def test_stages_that_are_none() -> None:
    with pytest.raises(ValueError, match="is not a kernel of"):
        stage(3, 4, 3, 3)
    with pytest.raises(ValueError, match="3 channels in 2 groups"):
        stage(3, 4, 1, 1, geometry=Geometry.plain((1, 1), group=2))


def test_counting_needs_no_memory() -> None:
    huge = Chain(((stage(1 << 20, 1 << 20, 1, 1),), (stage(8, 1 << 20, 1, 1),)))
    assert huge.parameters == (1 << 40) + (1 << 23)
    assert huge.macs((2, 3)) == 6 * huge.parameters


def test_macs_by_hand() -> None:
    wide = Geometry((3, 3), (2, 1), (1, 1), ((1, 1), (0, 0)))
    chain = Chain(((stage(8, 4, 1, 1),), (stage(8, 8, 3, 3, geometry=wide),), (stage(6, 8, 1, 1),)))
    # 9x8 in, (9 + 2 - 3) // 2 + 1 = 5 by 8 - 3 + 1 = 6 out
    assert chain.macs((9, 8)) == 32 * 72 + 576 * 30 + 48 * 30
    assert (chain.parameters, len(chain.stages)) == (32 + 576 + 48, 3)


def test_groups_are_contracted_to_those_of_the_layer() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((6, 2, 1, 1)), rng.standard_normal((4, 3, 1, 1))
    two = Geometry.plain((1, 1), group=2)
    chain = Chain(((Stage("a", first, two),), (Stage("b", second, two),)))
    kernel = chain.contract(two)
    assert kernel.shape == (4, 2, 1, 1)
    as_one = chain.contract(POINT)
    assert as_one.shape == (4, 4, 1, 1)
    np.testing.assert_array_equal(as_one[:2, :2], kernel[:2])
    np.testing.assert_array_equal(as_one[2:, 2:], kernel[2:])
    assert not as_one[:2, 2:].any()
    np.testing.assert_allclose(kernel[2:, :, 0, 0], second[2:, :, 0, 0] @ first[3:, :, 0, 0])


def test_a_bias_is_carried_not_contracted() -> None:
    chain = Chain(((Stage("a", np.ones((2, 3, 1, 1)), POINT),),))
    with_bias = chain.with_bias(np.ones(2))
    assert chain.bias is None
    np.testing.assert_array_equal(with_bias.contract(POINT), chain.contract(POINT))


def test_two_kernels_on_one_axis_are_not_contracted() -> None:
    wide = Geometry.plain((3, 1))
    chain = Chain(((stage(3, 3, 3, 1, geometry=wide),), (stage(3, 3, 3, 1, geometry=wide),)))
    with pytest.raises(ValueError, match="two stages with a kernel on axis 0"):
        chain.contract(Geometry.plain((5, 1)))
