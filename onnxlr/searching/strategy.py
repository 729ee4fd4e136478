"""How the trials of a search are spent: first a bracket around the limit, then better allocations at its edge."""

from __future__ import annotations

from math import exp, inf, isfinite, log
from typing import TYPE_CHECKING

from onnxlr.planning.rules import RULES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnxlr.report.searched import Trial
    from onnxlr.searching.course import Attempt, Course
    from onnxlr.searching.goals import Goals

MILD = log(1.08)
"""Log of the least speed-up that is worth a model of its own."""
CLOSE = log(1.04)
"""A bracket this narrow is narrow enough."""
STEP = log(1.06)
"""How much faster an improved allocation is asked to be."""
FIRST = log(3.0)
"""The first speed-up to try, where chains can do twice as much and no goal asks for more."""
POWER = 0.25
"""What is lost rises steeply with the logarithm of speed, about with this power's inverse."""
BACK = 0.85
"""How far to go back, on the logarithm of speed, where nothing holds what it promised."""
_FEW = 4
"""Trials that are kept for the search itself when rules are compared."""
_IDLE = 60
"""Directions that lead to no new plan, one after the other, before there is thought to be none."""
_WIDEST = log(1e9)
"""Weights are moved by this factor at most: past it they would overflow, and change nothing."""
MISSED = 0.15
"""A trial this far from the speed that was asked for, relative, counts at the speed it got."""
HOPELESS = 30.0
"""A first trial that loses this many times the limit is followed by the mildest plan: it may be no use to go on."""
TURN = 2
"""After as many steps back, all in vain, the mildest plan is tried as well."""
FAR = 8.0
"""Rules are compared at a trial that loses at most this many times the limit; further off they say little."""


def fastest_within(course: Course, goals: Goals) -> None:
    """Find the fastest model whose loss is within the limit."""
    bracket(course, goals)
    if course.best is None:
        return
    back_to_dense(course)
    improve(course)
    back_to_dense(course)


def bracket(course: Course, goals: Goals) -> None:
    """Bisect on the logarithm of the predicted speed-up; ends early when even a mild plan loses too much."""
    limit = goals.loss or 0.0
    top = log(course.table.fastest)
    at = min(max(log(_wanted(course, goals)), min(0.5 * top, FIRST)), top)
    compared = False
    tried: list[tuple[float, int]] = []
    while course.left > 0:
        before = len(course.trials)
        attempt = course.at(exp(at))
        if attempt is None:
            return
        trial = attempt.trial
        top = log(course.table.fastest)
        if len(course.trials) > before and abs(trial.faster / exp(at) - 1.0) > MISSED:
            at = max(log(trial.faster), 0.0)
        if not course.accurate(trial) and not compared and trial.loss <= FAR * limit:
            compared = True
            attempt = _best_rule(course, attempt, at)
        tried.append((at, attempt.number))
        top = max(top, at)
        low, high = _ends(course, tried)
        if low >= top or high <= MILD or high - low < CLOSE:
            return
        if course.best is not None and log(course.best.faster) >= high:  # the end was unlucky, or chosen ill
            return
        course.learn_weights()
        trials = course.trials
        seen = [(where, trials[number].counted) for where, number in tried]
        at = _next(low, high, top, seen, limit)


def _ends(course: Course, tried: list[tuple[float, int]]) -> tuple[float, float]:
    """Return the least log speed-up that loses too much, and below it the greatest that does not, by what is known now.

    0 and infinity where there is none: what a trial probably loses may change with those after it.
    """
    trials = course.trials
    high = min((at for at, number in tried if not course.accurate(trials[number])), default=inf)
    low = max((at for at, number in tried if at < high and course.accurate(trials[number])), default=0.0)
    return low, high


def _wanted(course: Course, goals: Goals) -> float:
    """Return the least speed-up that the goals on speed call for."""
    wanted = goals.min_speedup or 1.0
    if goals.target_latency is not None:
        wanted = max(wanted, course.table.original_ms / goals.target_latency)
    return max(wanted, 1.0)


def _best_rule(course: Course, first: Attempt, at: float) -> Attempt:
    """Try the other rules at the same speed and keep the one whose outputs shift least for the speed they got."""
    best = first
    for rule in RULES[1:]:
        attempt = course.at(exp(at), rule=rule) if course.left > _FEW else None
        if attempt is not None and shift_for_speed(attempt.trial) < shift_for_speed(best.trial):
            best, course.rule = attempt, rule
    return best


def shift_for_speed(trial: Trial) -> float:
    """Return the shift relative to what it would be at this speed, up to a constant (see ``POWER``)."""
    return trial.shift / log(trial.faster) ** (1.0 / POWER) if trial.faster > 1.0 else inf


def _next(low: float, high: float, top: float, seen: list[tuple[float, float]], limit: float) -> float:
    """Choose where to look next, on the logarithm of speed."""
    floor = max(limit, 1e-6) / 20.0
    loss = {at: max(value, floor) if isfinite(value) else 1e3 * max(limit, 1e-6) for at, value in seen}
    if high == inf and low == 0.0:  # accurate, but not faster: by what was learned, another plan is
        return top
    if high == inf:
        ahead: float = (max(limit, 1e-6) / loss[low]) ** POWER
        return min(low * min(max(ahead, 1.25), 2.0), top)
    last = seen[-1][1] / max(limit, 1e-6)
    if low == 0.0 and (last > HOPELESS or (len(seen) > TURN and last > 2.0)):  # is there anything at all?
        return MILD * 0.99
    if low == 0.0:
        back: float = (max(limit, 1e-6) / loss[high]) ** POWER
        return max(high * min(max(back, 0.3), 0.85), MILD * 0.99)
    slope = log(loss[high] / loss[low])
    share = log(max(limit, floor) / loss[low]) / slope if slope > 0.0 else 0.5
    return low + min(max(share, 0.3), 0.7) * (high - low)


def improve(course: Course) -> None:
    """Spend what is left on other allocations at a slightly higher speed than the best: a descent on the weights.

    One direction at a time is weighted up or down, from the sensitivities as they are known after each trial. A plan
    that passes sets the new mark.
    """
    if course.best is None:
        return
    fastest = log(course.best.faster)
    mark = fastest + STEP
    idle = 0
    for direction in _directions(course):
        if course.left <= 0 or mark > log(course.table.fastest) + CLOSE or idle > _IDLE:
            return
        moved = {site: course.weights.get(site, 1.0) * exp(value) for site, value in direction.items()}
        before = len(course.trials)
        attempt = course.at(exp(mark), weights=moved)
        if attempt is None or len(course.trials) == before:
            idle += 1
            continue
        idle = 0
        course.learn_weights()
        if course.accurate(attempt.trial):
            mark = max(log(attempt.trial.faster), mark) + STEP
        standing = BACK * fastest if course.best is None else log(course.best.faster)
        if standing < fastest:  # what led was lucky, as is known by now
            mark = standing if course.best is None else standing + STEP
        fastest = standing


def _directions(course: Course) -> Iterator[dict[str, float]]:
    """Yield changes of the log-weights by site: none, then each layer (of many, each quarter), up and down."""
    sites = [row.site for row in course.table.rows if row.options]
    parts = min(len(sites), 4)
    if parts == 0:
        return
    groups = [set(sites[i * len(sites) // parts : (i + 1) * len(sites) // parts]) for i in range(parts)]
    size = log(2.0)
    while True:
        yield dict.fromkeys(sites, 0.0)
        for group in groups:
            for sign in (1.0, -1.0):
                yield {site: sign * size if site in group else 0.0 for site in sites}
        size = min(1.5 * size, _WIDEST)  # what was too little to change a plan is not tried again


def back_to_dense(course: Course) -> None:
    """Leave layers dense whose chains are not faster in the whole model, and see whether that is better."""
    best = course.best
    if best is None:
        return
    idle = {layer.site for layer in best.layers if not layer.pays}
    if not idle or idle == {choice.site for choice in best.choices} or course.left <= 0:
        return
    course.dense |= idle
    kept = [choice for choice in best.choices if choice.site not in idle]
    course.attempt(course.table.picks(kept), f"{best.how}; {len(idle)} back to dense")


def most_accurate(course: Course, goals: Goals) -> None:
    """Find the model that loses least among those that are fast and small enough."""
    asked = max(log(_wanted(course, goals)), 0.0)
    at, top = asked, log(course.table.fastest)
    for rule in RULES:
        attempt = course.at(exp(at), rule=rule)
        if attempt is None:
            break
        for _ in range(3):
            if goals.fast(attempt.trial, course.table.macs) or course.left <= 0 or at >= top:
                break
            missed = max(log(_wanted(course, goals)) - log(attempt.trial.faster), 0.01)
            at = min(at + missed + 0.01, top)
            again = course.at(exp(at), rule=rule)
            if again is None or again.number == attempt.number:
                break
            attempt = again
    back_to_dense(course)
