"""The whole trade: models from slightly faster to the fastest there is, and those that no other beats."""

from __future__ import annotations

import itertools
from math import exp, log
from typing import TYPE_CHECKING

from onnxlr.errors import BudgetError
from onnxlr.planning.rules import RULES
from onnxlr.report.front import Front
from onnxlr.searching.find import course, protocol_of
from onnxlr.searching.strategy import MILD, shift_for_speed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxlr.progress import Progress
    from onnxlr.report.searched import Trial
    from onnxlr.searching.course import Course
    from onnxlr.searching.find import Task
    from onnxlr.searching.ledger import Ledger

_MOST = log(30.0)
"""Speed-ups beyond this are not looked for."""


def trace(task: Task, ledger: Ledger, progress: Progress) -> Front:
    """Try plans over the range of speed-ups.

    Half of the trials go to speeds evenly spaced on a logarithmic scale, some to comparing rules at the middle one, and
    the rest where two neighbours on the front are furthest apart.

    Raises
    ------
    BudgetError
        When nothing is faster than the original.
    """
    with course(task, ledger, progress) as tried:
        top = min(log(tried.table.fastest), _MOST)
        points = max(task.trials // 2 - 1, 1)
        speeds = [MILD + (top - MILD) * (i + 1) / points for i in range(points)]
        compare(tried, speeds[len(speeds) // 2])
        for speed in speeds:
            tried.at(exp(speed))
        tried.learn_weights()
        while tried.left > 0:
            before = len(tried.trials)
            tried.at(exp(_gap(tried.trials)))
            if len(tried.trials) == before:
                break
        trials = tuple(sorted(tried.trials, key=lambda trial: trial.faster))
        if not trials:
            raise BudgetError("no plan is predicted to be faster than the original", "try other schemes")
        return Front(
            str(task.model.path or "(in memory)"),
            task.model.sha256,
            protocol_of(task),
            task.prepared.macs,
            tried.table.original_ms,
            trials,
            unbeaten(trials),
            tried.notes,
        )


def compare(tried: Course, speed: float) -> None:
    """Try every rule at one speed and go on with the one whose outputs shift least."""
    tries = [(tried.at(exp(speed), rule=rule), rule) for rule in RULES]
    seen = [(shift_for_speed(attempt.trial), rule) for attempt, rule in tries if attempt is not None]
    if seen:
        tried.rule = min(seen, key=lambda entry: entry[0])[1]


def unbeaten(trials: Sequence[Trial]) -> tuple[int, ...]:
    """Return the indices of trials that are faster than the original and than all that are likely to lose as little."""
    kept: list[int] = []
    least = float("inf")
    for index in sorted(range(len(trials)), key=lambda i: (-trials[i].faster, trials[i].likely)):
        if trials[index].low > 1.0 and trials[index].likely < least:
            kept.append(index)
            least = trials[index].likely
    return tuple(reversed(kept))


def _gap(trials: Sequence[Trial]) -> float:
    """Return the log speed in the middle of the widest gap, measured by what is lost across it."""
    known = sorted((log(max(trial.predicted, 1.0)), max(trial.shift, 0.0) ** 0.5) for trial in trials)
    known = [(0.0, 0.0), *known]
    pairs = list(itertools.pairwise(known))
    low, high = max(pairs, key=lambda pair: abs(pair[1][1] - pair[0][1]) * (pair[1][0] - pair[0][0]))
    return 0.5 * (low[0] + high[0])
