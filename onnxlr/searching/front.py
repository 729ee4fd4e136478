"""The whole trade: models from slightly faster to the fastest there is, and those that no other beats."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from math import exp, inf, isfinite, log
from typing import TYPE_CHECKING

from onnxlr.errors import BudgetError
from onnxlr.report.front import Front
from onnxlr.searching.find import course, protocol_of
from onnxlr.searching.sketches import choose
from onnxlr.searching.strategy import CLOSE, EDGE, MILD, promising

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from onnxlr.progress import Progress
    from onnxlr.report.searched import Trial
    from onnxlr.searching.course import Course
    from onnxlr.searching.find import Task
    from onnxlr.searching.ledger import Ledger

_BEND = 0.2
"""Log speed-ups well above this are spaced evenly on a logarithmic scale, those below it on a linear one."""
_MOST = log(30.0)
"""Speed-ups beyond this are not looked for, unless they are asked for."""
_LOST = 0.5
"""The front is filled up to models that lose this share of what the worst of it loses."""
_TRIES = 3
"""Models built for a speed-up that was asked for, at most: predictions are corrected by each."""


def trace(task: Task, ledger: Ledger, progress: Progress) -> Front:
    """Try plans over the range of speed-ups.

    The first trials go to the speed-ups that were asked for. Then up to a third of all go to speeds over the whole
    range, closer where little is lost, and the rest where neighbours on the front leave most room between them, in
    speed and in loss. Those that the ledger has count as made.

    Raises
    ------
    BudgetError
        When nothing is faster than the original.
    """
    with course(task, ledger, progress) as tried:
        top = min(log(tried.table.fastest), _MOST)
        points = max(task.trials // 3, 1)
        speeds = [between(MILD, top, i / points) for i in range(1, points + 1)]
        choose(tried, speeds[len(speeds) // 2])
        tried.recall()
        short = {speed for speed in sorted(set(task.at)) if not visit(tried, log(speed))}
        for speed in speeds:
            if not any(abs(log(trial.predicted) - speed) < CLOSE for trial in tried.trials):
                tried.at(exp(speed))
        tried.learn_weights()
        fill(tried, top)
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
            (*tried.notes, *absent(tried, task.at, short)),
        )


def visit(tried: Course, wanted: float) -> bool:
    """Try plans until a model is as much faster as the log speed-up ``wanted`` says, and hardly more.

    Each time it is the plan of the best sketch there that was not tried. Returns False where no trial was left for it.
    """
    for _ in range(_TRIES):
        if _is_reached(tried, wanted) or wanted > log(tried.table.fastest) + CLOSE:
            return True
        if tried.left <= 0:
            return False
        if promising(tried, wanted + EDGE) is None:
            return True
        tried.learn_weights()
    return True


def _is_reached(tried: Course, wanted: float) -> bool:
    return any(-EDGE <= log(trial.faster) - wanted <= CLOSE for trial in tried.trials)


def absent(tried: Course, speeds: Sequence[float], short: Collection[float]) -> tuple[str, ...]:
    """Say at which of the speed-ups that were asked for there is no model; ``short`` are those with no trial left."""
    missing = [speed for speed in sorted(set(speeds)) if not _is_reached(tried, log(speed))]
    none = ", ".join(f"{speed:g}x" for speed in missing if speed not in short)
    untried = ", ".join(f"{speed:g}x" for speed in missing if speed in short)
    notes = (f"no model was found at {none}",) if none else ()
    return (*notes, f"no trial was left for a model at {untried}: give more --trials") if untried else notes


def unbeaten(trials: Sequence[Trial]) -> tuple[int, ...]:
    """Return the indices of trials that are faster than the original and than all that are likely to lose as little."""
    kept: list[int] = []
    least = float("inf")
    for index in sorted(range(len(trials)), key=lambda i: (-trials[i].faster, trials[i].likely)):
        if trials[index].low > 1.0 and trials[index].likely < least:
            kept.append(index)
            least = trials[index].likely
    return tuple(reversed(kept))


@dataclass(frozen=True, slots=True)
class Gap:
    """What neighbours on the front, at log speed-ups ``low`` and ``high``, leave open.

    Room is the width times what the end loses more than the beginning: where no more is lost a model between has
    nothing to offer but what the loss of the end, ``doubt``, is uncertain by.
    """

    low: float
    high: float
    rise: float
    doubt: float

    @property
    def width(self) -> float:
        """On the scale speed-ups are spaced evenly on."""
        return _scale(self.high) - _scale(self.low)

    @property
    def room(self) -> float:
        """Infinite where nothing is known of the end."""
        return self.width * (max(self.rise, 0.0) + self.doubt)


def fill(tried: Course, top: float) -> None:
    """Spend the trials that are left between neighbours on the front, where there is most room first.

    Of the plans of the best sketches there, one is tried. A gap that has no other plan is passed over.
    """
    barren: set[tuple[float, float]] = set()
    while tried.left > 0:
        gaps = [gap for gap in gaps_of(tried.trials, top) if (gap.low, gap.high) not in barren]
        if not gaps:
            return
        roomiest = max(gaps, key=lambda gap: (gap.room, gap.width))
        before = len(tried.trials)
        promising(tried, between(roomiest.low, roomiest.high, 0.5))
        if len(tried.trials) == before:
            barren.add((roomiest.low, roomiest.high))
        else:
            tried.learn_weights()


def gaps_of(trials: Sequence[Trial], top: float) -> list[Gap]:
    """Return the gaps of the front, from the mildest models to the log speed-up ``top``.

    Beyond a model that loses more than ``_LOST`` of what the worst of the front loses, nothing is worth a trial.
    """
    front = [trials[index] for index in unbeaten(trials)]
    bearable = _LOST * max((0.0, *(trial.likely for trial in front)))
    lost = {MILD: 0.0, top: inf} | {log(trial.faster): trial.likely for trial in front}
    doubt = {log(trial.faster): trial.loss_error for trial in front if isfinite(trial.loss_error)}
    return [
        Gap(low, high, lost[high] - lost[low], doubt.get(high, 0.0))
        for low, high in itertools.pairwise(sorted(lost))
        if high - low > CLOSE and low >= MILD and lost[low] <= bearable
    ]


def between(low: float, high: float, share: float) -> float:
    """Return a log speed-up a ``share`` of the way: what is lost rises steeply, so that steps widen."""
    return exp(_scale(low) + share * (_scale(high) - _scale(low))) - _BEND


def _scale(speed: float) -> float:
    return log(speed + _BEND)
