"""Losses drawn to their trend: less wrong than measured ones, above all for the trials that look best."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from onnxlr.searching.corrections import LEAST, MOST, Corrections
from onnxlr.searching.goals import Goals
from onnxlr.searching.likely import likely
from tests.searching.plants import Plant, course, table

if TYPE_CHECKING:
    from onnxlr.report.searched import Trial

Array = np.ndarray[Any, np.dtype[np.float64]]


def trial() -> Trial:
    attempt = course(Plant({}, table([5.0, 9.0])), Goals(max_drop=0.1)).at(1.5)
    assert attempt is not None
    return attempt.trial


def trials(loss: Array, error: Array, shift: Array) -> list[Trial]:
    one = trial()
    values = zip(loss.tolist(), error.tolist(), shift.tolist(), strict=True)
    return [replace(one, loss=lost, loss_error=about, shift=apart) for lost, about, apart in values]


def drawn(rng: np.random.Generator, error: float, spread: float) -> tuple[Array, list[Trial]]:
    """Return what sixteen models lose, and trials that measured it with an error."""
    shift = np.exp(rng.uniform(-5.0, -1.0, 16))
    true = 0.2 * shift**0.8 * (1.0 + spread * rng.standard_normal(16))
    about = np.full(16, error)
    return true, trials(true + error * rng.standard_normal(16), about, shift)


def test_the_fastest_that_seems_to_lose_little_enough_was_lucky_and_its_likely_loss_knows() -> None:
    rng = np.random.default_rng(0)
    lucky, likely_loss = [], []
    for _ in range(200):
        true, found = drawn(rng, error=0.01, spread=0.2)
        expected = likely(found)
        within = [index for index, one in enumerate(found) if one.loss <= 0.02]
        if within:
            fastest = max(within, key=lambda index: found[index].shift)
            lucky.append(found[fastest].loss - true[fastest])
            likely_loss.append(expected[fastest] - true[fastest])
    assert np.mean(lucky) < -0.007
    assert abs(np.mean(likely_loss)) < 0.002
    assert np.square(likely_loss).mean() < 0.3 * np.square(lucky).mean()


def test_losses_that_are_known_exactly_stay() -> None:
    _, found = drawn(np.random.default_rng(1), error=0.0, spread=0.5)
    assert likely(found) == pytest.approx([one.loss for one in found])


def test_few_trials_and_unknown_losses_stay() -> None:
    _, found = drawn(np.random.default_rng(2), error=0.01, spread=0.2)
    assert likely(found[:3]) == [one.loss for one in found[:3]]
    unknown = replace(found[0], loss=float("nan"))
    assert np.isnan(likely([unknown, *found[1:]])[0])
    assert likely([unknown, *found[1:]])[1:] == pytest.approx(likely(found[1:]))
    assert likely([]) == []


def test_losses_that_follow_no_shift_are_left_alone() -> None:
    """Where they spread about the trend as much as the trend itself, the measured loss counts for most."""
    rng = np.random.default_rng(3)
    loss, shift = rng.uniform(0.05, 1.0, 16), np.exp(rng.uniform(-5.0, -1.0, 16))
    found = trials(loss, np.full(16, 0.01), shift)
    np.testing.assert_allclose(likely(found), loss, atol=0.02)


def test_a_trial_meets_a_limit_only_where_its_likely_loss_does() -> None:
    original = table([9.0, 9.0, 9.0])
    plant = Plant({row.site: 1.0 for row in original.rows}, original)
    tried = course(plant, Goals(max_drop=0.05))
    for speed in (1.3, 1.6, 2.0, 2.4, 2.8):
        tried.at(speed)
    assert tried.best is not None
    fastest = tried.best.faster
    lucky = replace(tried.best, loss=0.0499, likely=0.06)
    assert not tried.accurate(lucky)
    assert tried.accurate(replace(lucky, likely=0.0499))
    assert not tried.accurate(replace(lucky, loss=0.0501, likely=0.04))
    assert fastest > 1.3


def test_a_scheme_that_was_not_seen_in_a_layer_is_corrected_as_the_others_there() -> None:
    corrections = Corrections()
    assert corrections.of("a", "basis") == 1.0
    corrections.learn("a", "basis", 2.0)
    corrections.learn("a", "cp4", 4.0)
    assert corrections.of("a", "basis") == 2.0
    assert corrections.of("a", "cp4") == 8.0
    assert corrections.of("a", "tucker2") == pytest.approx(4.0)
    assert corrections.of("b", "basis") == 1.0
    assert corrections.learn("a", "basis", 1e-9) == LEAST
    assert corrections.learn("a", "basis", 1e9) == MOST
