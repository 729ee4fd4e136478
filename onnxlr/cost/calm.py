"""Timings made while the machine is at rest, as far as waiting a little can bring that about.

Taking turns hides what slows all models alike. What competes for caches and memory does not slow them alike: of a
ResNet-18 with nine layers computed by tiles, 1.6 times faster at rest, 1.43 was seen while the original itself took a
ninth longer.
"""

from __future__ import annotations

from math import inf
from time import perf_counter_ns, sleep
from typing import TYPE_CHECKING

from onnxlr.cost.timing import TimingOptions, time_interleaved

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onnxlr.cost.timing import Runner, Timing

TRIES = 4
RESTLESS = 1.04
"""A machine is not at rest while the first model takes this many times what it took at best."""
PAUSE_S = 1.0
"""Seconds before a restless timing is made again: what disturbed it may pass."""
BASELINES = 3
"""Timings of one model, of which the fastest says what it takes at best."""


def time_at_rest(
    runners: Sequence[Runner],
    options: TimingOptions,
    *,
    at_best: float = inf,
    clock: Callable[[], int] = perf_counter_ns,
    progress: Callable[[float], None] = lambda _: None,
) -> tuple[tuple[Timing, ...], int]:
    """Time models in turns, again while the machine is restless.

    Parameters
    ----------
    at_best
        Milliseconds that the first model is known to take at rest.

    Returns
    -------
    tuple
        The calmest timing, and how many there were: ``TRIES`` at most.
    """
    tried: list[tuple[Timing, ...]] = []

    def restless(timings: tuple[Timing, ...]) -> tuple[bool, bool, float]:
        first = timings[0].median_ms
        return first > RESTLESS * at_best, any(timing.unstable for timing in timings), first

    while len(tried) < TRIES and not any(restless(timings)[:2] == (False, False) for timings in tried):
        if tried:
            sleep(PAUSE_S)
        tried.append(time_interleaved(runners, options, progress, clock=clock))
    return min(tried, key=restless), len(tried)


def time_at_best(runner: Runner, options: TimingOptions, clock: Callable[[], int] = perf_counter_ns) -> Timing:
    """Time one model more than once, with pauses, and return the fastest timing."""
    timings: list[Timing] = []
    for index in range(BASELINES):
        if index:
            sleep(PAUSE_S)
        timings += time_interleaved([runner], options, clock=clock)
    return min(timings, key=lambda timing: timing.median_ms)
