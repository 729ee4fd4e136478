"""Fronts: the speeds that are asked for, what nothing beats, and where trials go."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log

import pytest

from onnxlr.report.searched import Trial
from onnxlr.searching.front import absent, between, fill, gaps_of, unbeaten, visit
from onnxlr.searching.goals import Goals
from onnxlr.searching.strategy import MILD
from tests.searching.plants import Plant, course, table


@pytest.mark.parametrize("slower", [1.0, 1.3])
def test_a_front_has_models_at_the_speeds_it_is_asked_for(slower: float) -> None:
    """Also where some layers' chains take longer than they were thought to: what is seen corrects the next plan."""
    original = table([5.0, 9.0, 15.0] * 3)
    slow = {row.site: slower for row in original.rows[::2]}
    tried = course(Plant({row.site: 1.0 for row in original.rows}, original, slow=slow), Goals(), 9)
    speeds = (1.5, 2.2, 3.0)
    for speed in speeds:
        assert visit(tried, log(speed))
    for speed in speeds:
        assert min(abs(log(trial.faster / speed)) for trial in tried.trials) < log(1.04)
    assert absent(tried, speeds, ()) == ()
    before = len(tried.trials)
    visit(tried, log(speeds[0]))
    assert len(tried.trials) == before, "what is there is not made again"


def test_a_speed_out_of_reach_costs_no_trial_and_is_said() -> None:
    original = table([5.0, 9.0])
    tried = course(Plant({row.site: 1.0 for row in original.rows}, original), Goals(), 9)
    assert visit(tried, log(40.0))
    assert not tried.trials
    assert absent(tried, (40.0, 30.0, 40.0), ()) == ("no model was found at 30x, 40x",)


def test_where_no_trial_is_left_for_a_speed_that_is_said() -> None:
    original = table([5.0, 9.0, 15.0])
    tried = course(Plant({row.site: 1.0 for row in original.rows}, original), Goals(), 1)
    assert visit(tried, log(1.5))
    assert not visit(tried, log(2.2))
    assert absent(tried, (1.5, 2.2), {2.2}) == ("no trial was left for a model at 2.2x: give more --trials",)


@pytest.mark.parametrize(
    ("points", "kept"),
    [
        ([(1.5, 0.01), (2.0, 0.02), (1.8, 0.03)], {0, 1}),
        ([(1.5, 0.01), (1.5, 0.02)], {0}),
        ([(0.9, 0.0), (2.0, 0.5)], {1}),
        ([(2.0, float("nan")), (1.5, 0.1)], {1}),
    ],
)
def test_the_front_has_what_nothing_beats(points: list[tuple[float, float]], kept: set[int]) -> None:
    assert set(unbeaten([trial(*point) for point in points])) == kept


def trial(faster: float, loss: float) -> Trial:
    return Trial(
        (), "", faster, faster, faster, faster, 1.0, 1.0, False, 1, 1, 1, loss, 0.0, loss, None, loss, False, (), ()
    )


def test_the_front_fills_where_there_is_most_room() -> None:
    """Neighbours on the front leave little between them, in speed and loss.

    Filled by width alone a sixth is left after as many trials: they go where nothing is lost.
    """
    original = table([5.0, 9.0, 15.0] * 2)
    tried = course(Plant({row.site: 1.0 for row in original.rows}, original), Goals(), 10)
    top = log(original.fastest)
    for share in (0.5, 1.0):
        tried.at(exp(between(MILD, top, share)))
    most = max(gap.room for gap in gaps_of(tried.trials, top))
    fill(tried, top)
    assert tried.left == 0
    assert max(gap.room for gap in gaps_of(tried.trials, top)) < 0.05 * most


def test_there_is_room_where_more_is_lost_or_may_be() -> None:
    slow, middle, fast = trial(2.0, 0.01), trial(4.0, 0.01 + 1e-6), replace(trial(5.0, 0.2), loss_error=0.01)
    first, flat, steep = gaps_of([slow, middle, fast], log(30.0))
    assert steep.room > first.room > flat.room
    assert flat.width > steep.width
    assert steep.room == pytest.approx(steep.width * 0.2, rel=1e-3), "what is lost, and its error"
    first, doubtful, steep = gaps_of([slow, replace(middle, loss_error=0.9), fast], log(30.0))
    assert doubtful.room > steep.room


def test_there_is_most_room_beyond_a_front_that_loses_nothing() -> None:
    gaps = gaps_of([trial(2.0, -0.02), trial(4.0, -0.01)], log(8.0))
    assert [(round(exp(gap.low), 6), round(exp(gap.high), 6)) for gap in gaps] == [(1.08, 2.0), (2.0, 4.0), (4.0, 8.0)]
    assert gaps[-1].room == float("inf")


def test_the_front_is_not_filled_where_little_is_left() -> None:
    """Between models that lose most of what can be lost no other is looked for."""
    trials = [trial(2.0, 0.01), trial(4.0, 0.3), trial(8.0, 0.6), trial(16.0, 0.8)]
    known = [(round(exp(gap.low), 6), round(exp(gap.high), 6)) for gap in gaps_of(trials, log(30.0))]
    assert known == [(1.08, 2.0), (2.0, 4.0), (4.0, 8.0)]
    assert len(gaps_of([trial(2.0, float("inf"))], log(8.0))) == 1
