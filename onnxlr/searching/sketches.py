"""Plans of one speed compared before any is tried: by what their sketches, every layer fitted alone, do to the outputs.

A sketch is many times quicker than a trial once the fits are there, which plans share, and puts plans in much the same
order (docs/adr/0031).
"""

from __future__ import annotations

from math import exp, log
from typing import TYPE_CHECKING

from onnxlr.planning.rules import hypotheses

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from onnxlr.searching.course import Course, Look

SWING = log(2.0)
"""The logarithm of the first factor by which weights of layers are moved; every round moves them further."""
PARTS = 4
"""Of many layers, those that are moved together are a quarter."""
_WIDER, _WIDEST = 1.5, log(1e9)
"""How much further the next round moves weights, and the most: past it they would overflow, and change nothing."""
_IDLE = 30
"""Directions that lead to no new plan, one after the other, before there is thought to be none."""


def choose(course: Course, at: float) -> None:
    """Go on by the rule and the weights whose sketch shifts the outputs least at ``at``, a log speed-up."""
    plans = [(course.plan(exp(at), rule, weights), rule, weights) for rule, weights in hypotheses(course.weights)]
    looks = [course.look(picks, rule, weights) for picks, rule, weights in plans if picks]
    if looks:
        best, *_ = descend(course, at, min(looks, key=lambda look: look.shift), course.bench.looks - len(looks))
        course.rule, course.weights = best.rule, dict(best.weights)


def descend(course: Course, at: float, start: Look, most: int) -> list[Look]:
    """Exchange latency between some layers and the others, from what shifts outputs least by then.

    At most ``most`` plans are sketched. Returns them with ``start``, the best first.
    """
    best, idle = start, 0
    seen = [start]
    for direction in _directions(course):
        if len(seen) > most or idle > _IDLE:
            break
        moved = {site: best.weights.get(site, 1.0) * exp(value) for site, value in direction.items()}
        picks = course.plan(exp(at), best.rule, moved)
        if not picks or any(picks == one.picks for one in seen):
            idle += 1
            continue
        look = course.look(picks, best.rule, moved)
        seen.append(look)
        idle = 0
        if look.shift < best.shift:
            best = look
    return sorted(seen, key=lambda one: one.shift)


def _directions(course: Course) -> Iterator[Mapping[str, float]]:
    """Yield changes of the log-weights by site: each layer (of many, each quarter), up and down, further each round."""
    sites = [row.site for row in course.table.rows if row.options]
    parts = min(len(sites), PARTS)
    if parts == 0:
        return
    groups = [set(sites[i * len(sites) // parts : (i + 1) * len(sites) // parts]) for i in range(parts)]
    size = SWING
    while True:
        for group in groups:
            for sign in (1.0, -1.0):
                yield {site: sign * size if site in group else 0.0 for site in sites}
        size = min(_WIDER * size, _WIDEST)  # what was too little to change a plan is not tried again
