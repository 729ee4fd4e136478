"""How the trials of a search are spent: first a bracket around the limit, then better allocations at its edge."""

from __future__ import annotations

from math import exp, inf, isfinite, log
from typing import TYPE_CHECKING

from onnxlr.planning.rules import in_words
from onnxlr.searching.sketches import choose, descend

if TYPE_CHECKING:
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
_AGAIN = 8
"""Times that more speed is asked for where what was promised was not kept."""
MISSED = 0.15
"""A trial this far from the speed that was asked for, relative, counts at the speed it got."""
HOPELESS = 30.0
"""A first trial that loses this many times the limit is followed by the mildest plan: it may be no use to go on."""
TURN = 2
"""After as many steps back, all in vain, the mildest plan is tried as well."""
NEAR = 2.0
"""Where a model that is fast enough loses at most this many times the limit, other allocations of its speed may not."""
EDGE = log(1.01)
"""How much more speed than is wanted is asked for at least, as no prediction is exact."""
FAR = 8.0
"""Rules are compared at a trial that loses at most this many times the limit; further off they say little."""


def fastest_within(course: Course, goals: Goals) -> None:
    """Find the fastest model whose loss is within the limit."""
    bracket(course, goals)
    if course.best is None:
        reach(course, goals)
    if course.best is None:
        return
    back_to_dense(course)
    improve(course)
    back_to_dense(course)


def bracket(course: Course, goals: Goals) -> None:
    """Bisect on the logarithm of the predicted speed-up; ends early when even a mild plan loses too much."""
    limit = goals.loss or 0.0
    top = log(course.table.fastest)
    wanted = log(_wanted(course, goals))
    at = min(wanted + CLOSE if wanted > 0.0 else min(0.5 * top, FIRST), top)
    compared = False
    tried: list[tuple[float, int]] = []
    while course.left > 0:
        if wanted > 0.0 and not compared:
            compared = True
            choose(course, at)
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
            choose(course, at)
        tried.append((at, attempt.number))
        top = max(top, at)
        low, high = _ends(course, tried)
        if low >= top or high <= MILD or high - low < CLOSE:
            return
        if course.best is not None and log(course.best.faster) >= high:  # the end was unlucky, or chosen ill
            return
        course.learn_weights()
        if high <= wanted + CLOSE and _near(course, goals):
            return
        trials = course.trials
        if len(trials) > before and 0.0 < log(trial.faster) < wanted and course.accurate(trials[-1]):
            at = min(wanted + 2.0 * EDGE, top)  # only too slow: the same again, by what was learned of latencies
            continue
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


def reach(course: Course, goals: Goals) -> None:
    """Try other allocations at the least speed that is wanted, where what was tried there loses little too much."""
    wanted = log(_wanted(course, goals))
    while wanted > 0.0 and course.left > 0 and course.best is None and _near(course, goals):
        attempt = promising(course, wanted + EDGE)
        if attempt is None:
            return
        course.learn_weights()


def _near(course: Course, goals: Goals) -> bool:
    """Whether a trial that is fast enough, or was predicted to be, loses hardly more than the limit."""
    wanted = _wanted(course, goals)
    fast = [trial.counted for trial in course.trials if max(trial.faster, trial.predicted) >= wanted]
    return min(fast, default=inf) <= NEAR * (goals.loss or 0.0)


def improve(course: Course) -> None:
    """Spend what is left on other allocations at a slightly higher speed than the best, those of the best sketches.

    A plan that passes sets the new mark; where all that were sketched at a mark have failed, half the step is tried.
    """
    if course.best is None:
        return
    fastest = log(course.best.faster)
    step = STEP
    while course.left > 0 and step >= 0.25 * STEP:
        mark = fastest + step
        attempt = promising(course, mark) if mark <= log(course.table.fastest) + CLOSE else None
        if attempt is None:
            step *= 0.5
            continue
        course.learn_weights()
        standing = BACK * fastest if course.best is None else log(course.best.faster)
        if standing > fastest:
            step = STEP
        fastest = standing  # less than before where what led was lucky, as is known by now


def promising(course: Course, mark: float) -> Attempt | None:
    """Try the plan at ``mark`` whose sketch shifts least of those that were not tried; None where all were."""
    picks = course.plan(exp(mark), course.rule, course.weights)
    if not picks:
        return None
    start = course.look(picks, course.rule, course.weights)
    for look in descend(course, mark, start, course.bench.looks):
        before = len(course.trials)
        attempt = course.attempt(look.picks, in_words(look.rule, look.weights))
        if attempt is not None and len(course.trials) > before:
            course.weights = dict(look.weights)
            return attempt
    return None


def back_to_dense(course: Course) -> None:
    """Leave layers dense whose chains are not faster in the whole model, and see whether that is better."""
    best = course.best
    if best is None:
        return
    idle = {layer.site for layer in best.layers if not layer.pays}
    if not idle or idle == {choice.site for choice in best.choices} or course.left <= 0:
        return
    course.dense |= idle
    kept = [choice for choice in best.choices if choice.site not in course.dense]  # also what was left dense before
    if kept:
        course.attempt(course.table.picks(kept), f"{best.how}; {len(idle)} back to dense")


def most_accurate(course: Course, goals: Goals) -> None:
    """Find the model that loses least among those that are fast and small enough."""
    asked = max(log(_wanted(course, goals)), 0.0)
    at, top = asked, log(course.table.fastest)
    choose(course, at)
    attempt = course.at(exp(at))
    for _ in range(_AGAIN):
        if attempt is None or goals.fast(attempt.trial, course.table.macs) or course.left <= 0 or at >= top:
            break
        missed = max(log(_wanted(course, goals)) - log(attempt.trial.faster), 0.01)
        at = min(at + missed + 0.01, top)
        before = attempt.number
        attempt = course.at(exp(at))
        if attempt is not None and attempt.number == before:
            break
    back_to_dense(course)
