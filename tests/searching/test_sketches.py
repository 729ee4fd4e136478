"""Plans compared by sketches: the best of a speed leads, few are made, none twice."""

from __future__ import annotations

from math import exp, log
from typing import TYPE_CHECKING

import numpy as np
import pytest

from onnxlr.planning.rules import RULES, hypotheses
from onnxlr.searching.goals import Goals
from onnxlr.searching.ledger import Ledger
from onnxlr.searching.sketches import choose, descend
from onnxlr.searching.strategy import fastest_within
from tests.searching.plants import Plant, course, table

if TYPE_CHECKING:
    from pathlib import Path

    from onnxlr.searching.course import Look

AT = log(2.0)
GOALS = Goals(max_drop=0.05)


def plant(faithless: float = 1.0) -> Plant:
    """Layers of very different weight, which a search does not know."""
    original = table([5.0, 9.0, 15.0, 2.0, 9.0, 5.0])
    weights = dict(zip([row.site for row in original.rows], [8.0, 0.2, 1.0, 3.0, 0.1, 1.0], strict=True))
    return Plant(weights, original, faithless=faithless)


def first_look(tried: Plant) -> tuple[Look, float]:
    """Return the plan of the first rule, and what it loses."""
    made = course(tried, GOALS)
    picks = made.plan(exp(AT), RULES[0], {})
    assert picks
    return made.look(picks, RULES[0], {}), tried.loss(tried.original.choices(picks))


def test_a_search_goes_on_by_the_best_rule_or_exchange() -> None:
    tried = plant()
    made = course(tried, GOALS)
    losses = []
    for rule, weights in hypotheses(tried.sensitivity):
        picks = made.plan(exp(AT), rule, weights)
        assert picks
        losses.append(tried.loss(tried.original.choices(picks)))
    made.weights = dict(tried.sensitivity)
    choose(made, AT)
    picks = made.plan(exp(AT), made.rule, made.weights)
    assert picks
    assert tried.loss(tried.original.choices(picks)) <= min(losses) < max(losses)


def test_exchanges_lower_the_shift_with_few_sketches() -> None:
    tried = plant()
    start, loss = first_look(tried)
    made = course(tried, GOALS)
    before = tried.sketched
    looks = descend(made, AT, start, 8)
    assert tried.sketched - before <= 8
    assert looks[0].shift < 0.8 * loss
    assert [look.shift for look in looks] == sorted(look.shift for look in looks)
    assert descend(made, AT, start, 0) == [start]


def test_a_sketch_that_is_not_a_number_is_never_the_best() -> None:
    tried = plant()
    start, _ = first_look(tried)
    kept = Ledger()
    made = course(tried, GOALS, ledger=kept)
    kept.add_sketch(made.table.choices(start.picks), float("nan"))
    assert made.look(start.picks, RULES[0], {}).shift == np.inf


def test_a_search_begun_again_makes_no_sketch_twice(tmp_path: Path) -> None:
    first = plant()
    once = course(first, GOALS, ledger=Ledger(tmp_path / "state", "here"))
    fastest_within(once, GOALS)
    assert first.sketched > 0
    assert f"{first.sketched} plans were compared with every layer fitted alone" in once.notes
    second = plant()
    again = course(second, GOALS, ledger=Ledger(tmp_path / "state", "here"))
    fastest_within(again, GOALS)
    assert (second.sketched, second.tried) == (0, 0)
    assert again.best == once.best


@pytest.mark.parametrize(("faithless", "share"), [(1.0, 0.99), (1.2, 0.7)])
def test_plans_are_nearly_as_good_where_sketches_are_not_exact(faithless: float, share: float) -> None:
    tried = plant(faithless)
    start, loss = first_look(tried)
    best, *_ = descend(course(tried, GOALS), AT, start, 30)
    exact = plant()
    known, *_ = descend(course(exact, GOALS), AT, first_look(exact)[0], 30)
    gained = log(loss / tried.loss(tried.original.choices(best.picks)))
    assert gained > share * log(loss / exact.loss(exact.original.choices(known.picks)))


@pytest.mark.parametrize("wanted", [1.5, 2.0])
def test_a_search_for_a_speed_begins_there(wanted: float) -> None:
    goals = Goals(max_drop=0.02, min_speedup=wanted)
    tried = course(plant(), goals)
    fastest_within(tried, goals)
    assert wanted < tried.trials[0].faster < 1.15 * wanted


def test_a_speed_that_just_loses_too_much_is_reached_by_another_allocation() -> None:
    """What the first rules lose at the wanted speed is beyond the limit by a little; exchanges get below it."""
    tried = plant(1.1)
    tried.looks = 4  # the rules alone: no exchange before the first trial
    made = course(tried, Goals(max_drop=1.0, min_speedup=2.0))
    fastest_within(made, made.goals)
    limit = 0.9 * made.trials[0].loss
    goals = Goals(max_drop=limit, min_speedup=2.0)
    again = course(tried, goals)
    fastest_within(again, goals)
    assert again.trials[0].loss > limit
    assert again.best is not None
    assert again.best.faster >= 2.0


def test_a_speed_that_was_predicted_and_just_missed_is_reached_by_another_allocation() -> None:
    """Chains take longer than predicted: the first trial is a little too slow, and loses a little too much."""
    tried = plant(1.1)
    tried.looks = 4
    tried.slow = dict.fromkeys(tried.sensitivity, 1.2)
    made = course(tried, Goals(max_drop=1.0, min_speedup=2.0))
    fastest_within(made, made.goals)
    first = made.trials[0]
    assert first.faster < 2.0 < first.predicted
    goals = Goals(max_drop=0.9 * first.loss, min_speedup=2.0)
    again = course(tried, goals)
    fastest_within(again, goals)
    assert again.best is not None
    assert again.best.faster >= 2.0
