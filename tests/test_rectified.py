"""Targets through a ReLU: the closed form is the minimum."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxlr.rectified import closest

values = st.floats(-5.0, 5.0)


def loss(wanted: float, current: float, weight: float, z: np.ndarray) -> np.ndarray:
    return np.square(max(wanted, 0.0) - np.maximum(z, 0.0)) + weight * np.square(z - current)


@settings(deadline=None, derandomize=True, database=None)
@given(wanted=values, current=values, weight=st.floats(1e-3, 10.0))
def test_no_other_target_is_better(wanted: float, current: float, weight: float) -> None:
    z = closest(np.array([wanted]), np.array([current]), weight)
    least = loss(wanted, current, weight, np.linspace(-6.0, 6.0, 24_001)).min()
    assert loss(wanted, current, weight, z)[0] <= least + 1e-12
    far = loss(wanted, current, weight, z + 0.1)[0]
    assert far > least, "a tenth off is seen"


def test_where_both_are_off_nothing_is_asked() -> None:
    assert closest(np.array([-3.0]), np.array([-0.5]), 0.1)[0] == -0.5
