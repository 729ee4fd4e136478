"""Latency of many small models by turns, relative to the first: single cold runs, medians of ratios, an end in sight.

Unlike :mod:`onnxlr.cost.timing` a turn is one run, not a burst: what ran in between has taken the caches, as the rest
of a network does between two runs of a layer.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from onnxlr.cost.timing import median_interval_rank, rotation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onnxlr.target import Target

    Clock = Callable[[], int]
    Runner = Callable[[], None]

UNSTABLE = 0.05
_NS = 1e9
_FINE = 1e-6  # seconds; a coarser clock cannot time a layer
_TRIES = 2  # runs a round; the quicker counts, for a neighbour only ever makes a run slower


@dataclass(frozen=True, slots=True)
class TurnOptions:
    """When to stop: the 95 % interval of every ratio within ``enough``, or ``seconds`` per model spent.

    Never before ``min_rounds``, of which 9 are the fewest that leave an outlier out of the interval, and never after
    ``max_rounds``.
    """

    enough: float = 0.015
    seconds: float = 0.15
    min_rounds: int = 9
    max_rounds: int = 25


@dataclass(frozen=True, slots=True)
class Turn:
    """One model: ``seconds`` a run, ``ratio`` to the first model with half of its 95 % interval, relative."""

    seconds: float
    ratio: float
    spread: float

    @property
    def unstable(self) -> bool:
        """Whether the ratio is too uncertain to decide by: half of its interval is over 5 %."""
        return self.spread > UNSTABLE


def clock_of(target: Target) -> Clock:
    """Return the clock, in nanoseconds: where one thread works on the CPU, its own time, else the time that passes.

    A single thread's own time does not count what the scheduler gave to others, and is the latency on an idle machine.
    OpenVINO works on a thread of its own, for which the caller waits: there the process's time is that thread's.
    """
    if target.threads == 1 and target.provider == "cpu" and time.get_clock_info("thread_time").resolution <= _FINE:
        return time.thread_time_ns
    if (
        target.threads == 1
        and target.provider == "openvino"
        and time.get_clock_info("process_time").resolution <= _FINE
    ):
        return time.process_time_ns
    return time.perf_counter_ns


def take_turns(runners: Sequence[Runner], clock: Clock, options: TurnOptions = TurnOptions()) -> tuple[Turn, ...]:
    """Time every runner; at least one, the first being the reference."""
    for runner in runners:
        runner()
    rounds: list[list[int]] = [[] for _ in runners]
    start = time.perf_counter()
    while True:
        best: list[int | None] = [None] * len(runners)
        for _ in range(_TRIES):
            for index in rotation(len(runners), len(rounds[0])):
                took = _once(runners[index], clock)
                known = best[index]
                best[index] = took if known is None else min(known, took)
        for own, quickest in zip(rounds, best, strict=True):
            own.append(max(quickest or 0, 1))
        done = len(rounds[0])
        if done >= options.max_rounds:
            break
        late = time.perf_counter() - start > options.seconds * len(runners)
        if done >= options.min_rounds and (late or max(_spread(rounds[0], own) for own in rounds) <= options.enough):
            break
    return tuple(_turn(rounds[0], own) for own in rounds)


def _once(runner: Runner, clock: Clock) -> int:
    start = clock()
    runner()
    return clock() - start


def _turn(first: Sequence[int], own: Sequence[int]) -> Turn:
    ratio = median(b / a for a, b in zip(first, own, strict=True))
    return Turn(median(own) / _NS, ratio, _spread(first, own))


def _spread(first: Sequence[int], own: Sequence[int]) -> float:
    """Half of the 95 % interval of the median ratio, relative to it."""
    ratios = sorted(b / a for a, b in zip(first, own, strict=True))
    skip = median_interval_rank(len(ratios))
    return (ratios[-1 - skip] - ratios[skip]) / 2 / median(ratios)
