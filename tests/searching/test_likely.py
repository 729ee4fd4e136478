"""Losses drawn to their trend: less wrong than measured ones, above all for the trials that look best."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from onnxlr.searching.corrections import LEAST, MOST, Corrections
from onnxlr.searching.goals import Goals
from onnxlr.searching.likely import HARM, likely
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
        expected = likely(found, accuracy=False)
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
    assert likely(found, accuracy=False) == pytest.approx([one.loss for one in found])


def test_few_trials_and_unknown_losses_stay() -> None:
    _, found = drawn(np.random.default_rng(2), error=0.01, spread=0.2)
    assert likely(found[:3], accuracy=False) == [one.loss for one in found[:3]]
    unknown = replace(found[0], loss=float("nan"))
    assert np.isnan(likely([unknown, *found[1:]], accuracy=False)[0])
    assert likely([unknown, *found[1:]], accuracy=False)[1:] == pytest.approx(likely(found[1:], accuracy=False))
    assert likely([], accuracy=False) == []


def test_losses_that_follow_no_shift_are_left_alone() -> None:
    """Where they spread about the trend as much as the trend itself, the measured loss counts for most."""
    rng = np.random.default_rng(3)
    loss, shift = rng.uniform(0.05, 1.0, 16), np.exp(rng.uniform(-5.0, -1.0, 16))
    found = trials(loss, np.full(16, 0.01), shift)
    np.testing.assert_allclose(likely(found, accuracy=False), loss, atol=0.02)


def test_few_samples_that_are_lucky_in_every_trial_do_not_hide_that_classes_change() -> None:
    """125 images on which 22 % of the classes change at no loss: more trials on them say the same again."""
    changed = np.linspace(0.10, 0.30, 16)
    loss, error = np.full(16, 0.005), np.full(16, 0.028)
    found = [replace(one, agreement=1.0 - d) for one, d in zip(trials(loss, error, changed**2), changed, strict=True)]
    assert max(likely(found, accuracy=False)) < 0.01
    sober = np.array(likely(found, accuracy=True))
    assert (np.diff(sober) > 0).all()
    assert 0.01 < sober[0] < 0.02 < sober[10] < HARM * changed[10]
    assert likely(found[:2], accuracy=True)[1] > 0.008, "from the first trial on"


def test_a_trial_that_changes_nothing_leaves_what_is_said_of_the_others() -> None:
    """As one of exact tiles alone: it loses nothing on any sample, so that its loss has no error."""
    changed = np.linspace(0.10, 0.30, 16)
    one, *rest = trials(np.full(17, 0.005), np.full(17, 0.028), np.array([1e-9, *changed**2]))
    found = [replace(one, agreement=1.0 - d) for one, d in zip(rest, changed, strict=True)]
    exact = replace(one, loss=0.0, loss_error=0.0, agreement=1.0)
    first, *others = likely([exact, *found], accuracy=True)
    assert first == 0.0
    assert others == pytest.approx(likely(found, accuracy=True), rel=0.1)


def test_on_many_samples_what_was_measured_counts() -> None:
    changed = np.linspace(0.01, 0.10, 16)
    loss, error = 0.2 * changed, np.full(16, 0.0005)
    found = [replace(one, agreement=1.0 - d) for one, d in zip(trials(loss, error, changed), changed, strict=True)]
    np.testing.assert_allclose(likely(found, accuracy=True), loss, rtol=0.06)


def test_where_nothing_is_known_of_classes_the_trend_stays() -> None:
    _, found = drawn(np.random.default_rng(4), error=0.01, spread=0.2)
    assert likely(found, accuracy=True) == pytest.approx(likely(found, accuracy=False))
    exact = [replace(one, loss_error=0.0, agreement=0.8) for one in found]
    assert likely(exact, accuracy=True) == pytest.approx([one.loss for one in exact])


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
