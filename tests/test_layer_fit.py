"""One layer's fit: rounds through what hides its answers only where they help, and no fit that held-out rows refute."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxlr.calibration.activation import Maxout, Relu
from onnxlr.calibration.observe import Place
from onnxlr.layer_fit import GAIN, HELD_OUT, FitOptions, Task, fit_layer
from onnxlr.planning.plan import Choice
from onnxlr.schemes.base import Layer
from onnxlr.schemes.registry import by_name
from onnxlr_passes.sites import locate
from tests.test_refit import PADS, model_of, node, weight

if TYPE_CHECKING:
    import pytest

    from onnxlr_passes.chain import Chain

ROWS = 1600
BASIS = Choice("y", "layer", "basis", (3,))


def place_of(activation: Relu | Maxout | None) -> Place:
    model = model_of([node("Conv", ["x", "w"], ["y"], "layer")], [weight("w", 12, 8, 1, 1)], 8, 6, 6)
    (site,), _ = locate(model)
    return Place(site, "x", None, None, activation)


def seen_by(place: Place, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (1, n, 8), and what the layer answers to them, shifted so that a ReLU hides most of it."""
    rng = np.random.default_rng(seed)
    rows = (rng.standard_normal((1, ROWS, 8)) @ np.diag(0.7 ** np.arange(8))).astype(np.float32)
    kernel = place.site.kernel().reshape(12, 8)
    return rows, (rows[0] @ kernel.T - 0.8).astype(np.float32)


def loss_on_held_out(task: Task, fitted_with: FitOptions, choice: Choice | None) -> float:
    tried = Task(task.place, task.rows, task.wanted, task.shift, fitted_with)
    return task.loss(task.answers(fit_layer(tried, choice, None).chain, task.held), task.held)


def test_rounds_through_the_activation_lower_what_is_lost_behind_it() -> None:
    for activation in (Relu(), Maxout(2, strided=False), Maxout(3, strided=True)):
        place = place_of(activation)
        task = Task(place, *seen_by(place, 0), 0.0, FitOptions())
        plain = loss_on_held_out(task, FitOptions(weights=()), BASIS)
        assert loss_on_held_out(task, FitOptions(), BASIS) < 0.98 * plain, activation


def test_rounds_are_never_worse_on_held_out_rows() -> None:
    place = place_of(Relu())
    for seed in range(4):
        rows, own = seen_by(place, seed)
        wanted = np.roll(own, 1, axis=1)  # another kernel's answers, so that some fit is better than none
        fitted = ROWS - ROWS // HELD_OUT
        noise = np.random.default_rng(seed).standard_normal((fitted, 12))
        wanted[:fitted] += 3.0 * noise.astype(np.float32)  # even about zero, but not behind a ReLU: rounds are misled
        task = Task(place, rows, wanted, 0.7, FitOptions())
        plain = loss_on_held_out(task, FitOptions(weights=()), BASIS)
        assert loss_on_held_out(task, FitOptions(weights=(1e-3, 10.0, 1e-3)), BASIS) <= plain


def test_a_fit_that_held_out_rows_refute_is_not_kept() -> None:
    place = place_of(None)
    rows, wanted = seen_by(place, 2)
    wanted -= wanted.mean(axis=0)
    n = ROWS - ROWS // HELD_OUT
    misled = wanted.copy()
    misled[:n] = -wanted[:n]  # what is fitted to says the opposite of what is held out
    own = place.site.kernel()
    kept = fit_layer(Task(place, rows, misled, None, FitOptions()), None, None).chain.contract(place.site.geometry)
    np.testing.assert_array_equal(kept, own)
    fair = fit_layer(Task(place, rows, 0.5 * wanted, None, FitOptions()), None, None)
    changed = fair.chain.contract(place.site.geometry)
    assert np.linalg.norm(changed - 0.5 * own) < 0.1 * np.linalg.norm(own), "a refit that held-out rows confirm is kept"


def test_a_layer_is_drawn_back_as_far_as_held_out_rows_ask() -> None:
    model = model_of([node("Conv", ["x", "w"], ["y"], "layer", **PADS)], [weight("w", 12, 8, 3, 3)], 8, 6, 6)
    (site,), _ = locate(model)
    place, rng = Place(site, "x", None, None, None), np.random.default_rng(5)
    rows = rng.standard_normal((1, 320, 72)).astype(np.float32)
    own = rows[0] @ site.kernel().reshape(12, 72).T
    other = rows[0] @ rng.standard_normal((72, 12)).astype(np.float32)  # what another kernel answers
    noise = 2.0 * rng.standard_normal((320, 12)).astype(np.float32)
    every = FitOptions().pulls

    def lost(wanted: np.ndarray, pulls: tuple[float, ...]) -> float:
        task = Task(place, rows, wanted, None, FitOptions(pulls=pulls))
        return task.loss(task.answers(fit_layer(task, None, None).chain, task.held), task.held)

    for wanted, ends in ((0.5 * own + noise, (every[0], every[-1])), (other, every[-1:])):
        found = lost(wanted, every)
        assert found <= min(lost(wanted, (pull,)) for pull in every) / (1.0 - GAIN)
        assert all(lost(wanted, (pull,)) > 1.02 * found for pull in ends)


def test_a_stronger_pull_has_to_take_its_share_off(monkeypatch: pytest.MonkeyPatch) -> None:
    place = place_of(None)
    rows, own = seen_by(place, 5)
    noise = np.random.default_rng(5).standard_normal(own.shape).astype(np.float32)
    wanted = own - own.mean(axis=0) + 2.0 * noise  # of many rows the noise teaches little, and pulls take off as little

    def pulled() -> list[np.ndarray]:
        return Task(place, rows, wanted, None, FitOptions()).pulled

    def drawn(pull: float) -> list[np.ndarray]:
        return Task(place, rows, wanted, None, FitOptions(pulls=(pull,))).pulled

    np.testing.assert_array_equal(pulled(), drawn(FitOptions().pulls[0]))
    monkeypatch.setattr("onnxlr.layer_fit.GAIN", 0.0)
    assert not np.array_equal(pulled(), drawn(FitOptions().pulls[0]))


def test_of_few_rows_a_chain_does_not_believe_what_they_never_showed() -> None:
    model = model_of([node("Conv", ["x", "w"], ["y"], "layer", **PADS)], [weight("w", 12, 8, 3, 3)], 8, 6, 6)
    (site,), _ = locate(model)
    place, rng = Place(site, "x", None, None, None), np.random.default_rng(6)
    rows = (rng.standard_normal((1, 4096, 72)) @ np.diag(0.99 ** np.arange(72))).astype(np.float32)
    wanted = rows[0] @ site.kernel().reshape(12, 72).T
    every, choice = Task(place, rows, wanted, None, FitOptions()), Choice("y", "layer", "projection", (4,))

    def lost(count: int, options: FitOptions) -> float:
        task = Task(place, rows[:, :count], wanted[:count], None, options)
        return every.loss(every.answers(fit_layer(task, choice, None).chain, slice(None)), slice(None))

    few, many = (lost(count, FitOptions()) / lost(count, FitOptions(unseen=0.0)) for count in (100, 4096))
    assert few < 0.98
    assert abs(many - 1.0) < 1e-3


def test_few_rows_draw_a_layer_back_the_most() -> None:
    place = place_of(None)
    rows, wanted = seen_by(place, 4)
    few = Task(place, rows[:, : HELD_OUT - 1], np.roll(wanted[: HELD_OUT - 1], 1, axis=1), None, FitOptions())
    strongest = Task(place, few.rows, few.wanted, None, FitOptions(pulls=FitOptions().pulls[-1:]))
    np.testing.assert_array_equal(few.pulled, strongest.pulled)


def test_a_draft_is_where_a_fit_starts() -> None:
    """CP has many minima: where it starts is where it ends, so that a poor draft shows in the fit."""
    model = model_of([node("Conv", ["x", "w"], ["y"], "layer", **PADS)], [weight("w", 12, 8, 3, 3)], 8, 6, 6)
    (site,), _ = locate(model)
    rng = np.random.default_rng(3)
    rows = (rng.standard_normal((1, ROWS, 72)) @ np.diag(0.97 ** np.arange(72))).astype(np.float32)
    task = Task(Place(site, "x", None, None, None), rows, rows[0] @ site.kernel().reshape(12, 72).T, None, FitOptions())
    choice = Choice("y", "layer", "cp3", (10,))
    plain = fit_layer(task, choice, None).chain
    again = fit_layer(task, choice, plain).chain
    other = Layer(rng.standard_normal(site.kernel().shape), site.geometry)
    poor = fit_layer(task, choice, by_name("cp3").solver(other).chain((10,))).chain

    def lost(chain: Chain) -> float:
        return task.loss(task.answers(chain, slice(None)), slice(None))

    assert lost(again) <= 1.001 * lost(plain)
    assert lost(poor) > 1.05 * lost(plain)
