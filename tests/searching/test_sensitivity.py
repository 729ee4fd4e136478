"""Weights of layers, from what whole models showed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from onnxlr.planning.rules import RULES
from onnxlr.searching.goals import Goals
from onnxlr.searching.sensitivity import refitted
from tests.searching.plants import Plant, course, table


def test_weights_go_towards_what_matters_and_exact_trials_tell_nothing() -> None:
    original = table([5.0, 9.0, 15.0])
    first, second, third = (row.site for row in original.rows)
    tried = course(Plant({first: 9.0, second: 1.0, third: 1.0}, original), Goals())
    for speed in (1.5, 2.0, 2.5, 3.0):
        tried.at(speed)
    found = refitted(tried.trials, RULES[0], {}, [first, second, third])
    assert found[first] > 1.5 * found[second]
    one = tried.trials[0]
    exact = replace(one, shift=1e-12, errors=())
    assert refitted([exact, *tried.trials], RULES[0], {}, [first, second, third]) == pytest.approx(found)
    assert refitted([exact], RULES[0], {first: 2.0}, [first]) == {first: 2.0}
