"""Honest latency of several models: interleaved bursts, medians, paired ratios, an unstable machine admitted.

Models timed one after the other are compared across whatever else the machine did meanwhile. Here they take turns:
every round runs a short burst of each, in an order that rotates, so that a slow second hits all of them and their
ratio, taken round by round, is hardly touched.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from time import perf_counter_ns
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Runner = Callable[[], None]

_MS = 1e6  # nanoseconds

UNSTABLE_SPREAD = 0.05
UNSTABLE_DRIFT = 0.10
SESSION_BIAS = 0.02


@dataclass(frozen=True, slots=True)
class TimingOptions:
    """How long to measure.

    Parameters
    ----------
    budget_s
        Seconds to spend on each model, warm-up apart.
    warmup_s
        Seconds to run each model before measuring; never less than 2 runs.
    burst_ms
        Milliseconds a burst should last; a burst is at least one run, and one more at its start that does not count: it
        brings the model's weights back to the caches and its threads back from sleep.
    min_rounds
        Rounds to measure even if the budget is spent.
    """

    budget_s: float = 1.5
    warmup_s: float = 0.2
    burst_ms: float = 5.0
    min_rounds: int = 7


@dataclass(frozen=True, slots=True)
class Timing:
    """Latency of one model in milliseconds.

    ``rounds_ms`` has one value a round, the median run of its burst; ``median_ms``, ``low_ms`` (10 %) and ``high_ms``
    (90 %) are taken over the rounds. ``spread`` is their median absolute deviation relative to the median, ``runs`` the
    number of measured runs, ``unstable`` as ``is_unstable`` says.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    spread: float
    runs: int
    unstable: bool
    rounds_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Speedup:
    """How many times faster one model is than another: median of the rounds' ratios, and its 95 % interval.

    The interval is about the noise between rounds. It does not hold what is fixed for as long as two sessions live,
    such as where their memory lies: two sessions of one model were seen up to 1.6 % apart.
    """

    ratio: float
    low: float
    high: float

    @property
    def significant(self) -> bool:
        """Whether the interval is wholly further from 1 than two sessions of one model can be, 2 %."""
        return self.low > 1.0 + SESSION_BIAS or self.high < 1.0 / (1.0 + SESSION_BIAS)


def time_interleaved(
    runners: Sequence[Runner],
    options: TimingOptions = TimingOptions(),
    progress: Callable[[float], None] | None = None,
    *,
    clock: Callable[[], int] = perf_counter_ns,
) -> tuple[Timing, ...]:
    """Time every runner in interleaved bursts.

    Parameters
    ----------
    runners
        Calls that run one model once, for example from ``onnxlr.target.bind``.
    progress
        Called after each round with the share of the work done, 0 to 1.
    clock
        Gives nanoseconds; how long to measure goes by the wall all the same.

    Returns
    -------
    tuple[Timing, ...]
        One per runner, in the order given; all have the same number of rounds.
    """
    if not runners:
        return ()
    bursts = [burst_size(_warm_up(runner, options.warmup_s, clock), options.burst_ms) for runner in runners]
    rounds: list[list[float]] = [[] for _ in runners]
    budget_ns = options.budget_s * 1e9 * len(runners)
    start = perf_counter_ns()
    done = 0
    while True:
        for index in rotation(len(runners), done):
            rounds[index].append(_burst(runners[index], bursts[index], clock) / _MS)
        done += 1
        spent = (perf_counter_ns() - start) / budget_ns if budget_ns else 1.0
        share = min(spent, done / options.min_rounds if options.min_rounds else 1.0)
        if progress is not None:
            progress(min(share, 1.0))
        # Whole turns of the rotation only: each model is then first, second, ... equally often.
        if share >= 1.0 and done % len(runners) == 0:
            break
    return tuple(summarize(values, burst) for values, burst in zip(rounds, bursts, strict=True))


def rotation(count: int, turn: int) -> tuple[int, ...]:
    """Order ``count`` models for round ``turn``: 0 1 2, then 1 2 0, then 2 0 1, ..."""
    return tuple((turn + position) % count for position in range(count))


def burst_size(run_ms: float, burst_ms: float) -> int:
    """Count the runs that make a burst of about ``burst_ms``, at least 1."""
    return max(1, math.ceil(burst_ms / run_ms)) if run_ms > 0 else 1


def summarize(rounds_ms: Sequence[float], runs_per_round: int) -> Timing:
    """Turn the rounds' latencies (milliseconds, at least one) into a ``Timing``."""
    values = np.asarray(rounds_ms, dtype=np.float64)
    low, middle, high = (float(value) for value in np.percentile(values, (10, 50, 90)))
    return Timing(
        median_ms=middle,
        low_ms=low,
        high_ms=high,
        spread=relative_deviation(rounds_ms),
        runs=len(rounds_ms) * runs_per_round,
        unstable=is_unstable(rounds_ms),
        rounds_ms=tuple(rounds_ms),
    )


def relative_deviation(values: Sequence[float]) -> float:
    """Median absolute deviation relative to the median; half of the values lie within it."""
    middle = median(values)
    return median(abs(value - middle) for value in values) / middle if middle > 0 else 0.0


def is_unstable(rounds_ms: Sequence[float]) -> bool:
    """Whether the machine was too restless for the latency to be quoted.

    It was when the relative median absolute deviation is over 5 %, or when the medians of the first and the second half
    of the rounds are more than 10 % apart (the clock changed, or a neighbour came or went), or with a single round.
    """
    if relative_deviation(rounds_ms) > UNSTABLE_SPREAD:
        return True
    half = len(rounds_ms) // 2
    if half < 1:
        return True
    first, second = median(rounds_ms[:half]), median(rounds_ms[half:])
    return max(first, second) > (1 + UNSTABLE_DRIFT) * min(first, second)


def speedup(reference: Timing, other: Timing) -> Speedup:
    """Tell how many times faster ``other`` is than ``reference``; both from the same ``time_interleaved`` call.

    The interval is the distribution-free one for a median: order statistics of the rounds' ratios whose binomial
    coverage is at least 95 % (David and Nagaraja, Order Statistics, 7.1). Under 6 rounds no such pair exists, and it
    is the whole range.
    """
    ratios = sorted(a / b for a, b in zip(reference.rounds_ms, other.rounds_ms, strict=True))
    skip = median_interval_rank(len(ratios))
    return Speedup(median(ratios), ratios[skip], ratios[-1 - skip])


def median_interval_rank(count: int, miss: float = 0.05) -> int:
    """Count the values to drop at each end of ``count`` sorted ones so that the rest covers the median.

    The largest k with P(Binomial(count, 1/2) <= k) <= miss / 2, ``miss`` being the chance of not covering it; 0 where
    even that is more than ``miss``.
    """
    below = 0  # 2^count P(Binomial <= k)
    for k in range(count):
        below += math.comb(count, k)
        if below / 2**count > miss / 2:
            return max(0, k - 1)
    return 0


def _warm_up(runner: Runner, seconds: float, clock: Callable[[], int]) -> float:
    """Run for ``seconds``, at least twice; give the median latency in milliseconds, the first run left out."""
    runner()
    times: list[int] = []
    start = perf_counter_ns()
    while not times or perf_counter_ns() - start < seconds * 1e9:
        times.append(_once(runner, clock))
    return median(times) / _MS


def _burst(runner: Runner, runs: int, clock: Callable[[], int]) -> float:
    """Run once unmeasured, then ``runs`` times; give the median in nanoseconds."""
    runner()
    return median([_once(runner, clock) for _ in range(runs)])


def _once(runner: Runner, clock: Callable[[], int]) -> int:
    start = clock()
    runner()
    return clock() - start
