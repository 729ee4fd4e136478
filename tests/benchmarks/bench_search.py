"""How searches end, on simulated networks: the speed-up found of what is possible, and how lucky the model taken was.

    python -m tests.benchmarks.bench_search [--networks 100] [--sets 2000]

The first table has networks whose loss is a sum of sensitivity x error^2, measured exactly. A search begins with all
sensitivities alike; those of the network are lognormal, their logarithms of deviation 1. ``found`` is the logarithm of
the speed-up over that of the fastest plan within the limit for who knows the sensitivities: the mean over the networks,
its standard error, what nine in ten reach, and the least.

The second has sets of sixteen trials. True losses are a power of the shift, with a relative spread; they are measured
with a gaussian error, given relative to the limit. The model taken is the one of those within the limit whose outputs
shift most, as the fastest do: by the measured loss alone, then by the measured and the likely loss. ``measured`` and
``likely`` are the mean errors of its losses, in standard errors: below 0 where more is lost than thought. ``beyond`` is
how often its true loss is above the limit.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
from dataclasses import replace
from math import log
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxlr.cli.streams import take_stdout
from onnxlr.searching.goals import Goals
from onnxlr.searching.likely import likely
from onnxlr.searching.strategy import fastest_within
from tests.searching.plants import Plant, course, optimum, table

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[np.float64]]

TRIALS = 16
POWER = 0.8
LAYERS = (3, 8, 30)
SHARPNESS = (2.0, 5.0, 9.0, 15.0)
SPREADS = (0.1, 0.2, 0.3)
ERRORS = (0.2, 0.4)
RANGES = (log(2.0), log(8.0))
"""How far the trend's losses are from the limit at most, on a logarithmic scale."""


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=100, help="simulated networks of each size (default 100)")
    parser.add_argument("--sets", type=int, default=2000, help="simulated sets of sixteen trials (default 2000)")
    options = parser.parse_args()
    take_stdout()
    print(f"{'layers':>6} {'found':>7} {'error':>7} {'9 in 10':>7} {'least':>6}")
    for layers in LAYERS:
        found = np.array([share_found(layers, seed) for seed in range(options.networks)])
        error, tenth = found.std() / len(found) ** 0.5, np.quantile(found, 0.1)
        print(f"{layers:6} {found.mean():7.3f} {error:7.3f} {tenth:7.3f} {found.min():6.3f}", flush=True)
    alone, both = "by the measured loss", "by both losses"
    figures = f"{'measured':>8} {'likely':>7} {'beyond':>7}"
    print(f"\n{'':23}{alone:>28}{both:>28}\nwithin spread  error    {figures}    {figures}")
    for width in RANGES:
        for spread in SPREADS:
            for error in ERRORS:
                first, second = lucky(options.sets, width, spread, error)
                print(f"{np.exp(width):5.0f}x {spread:6} {error:6}", end="    ")
                print(f"{first[0]:8.2f} {first[1]:7.2f} {first[2]:7.0%}", end="    ")
                print(f"{second[0]:8.2f} {second[1]:7.2f} {second[2]:7.0%}")


def share_found(layers: int, seed: int) -> float:
    """Return the logarithm of the speed-up that a search finds over that of the greatest there is."""
    rng = np.random.default_rng([layers, seed])
    original = table(rng.choice(SHARPNESS, layers).tolist())
    plant = Plant({row.site: float(np.exp(rng.standard_normal())) for row in original.rows}, original)
    limit = 0.03 * layers
    goals = Goals(max_drop=limit)
    tried = course(plant, goals, TRIALS)
    fastest_within(tried, goals)
    return 0.0 if tried.best is None else log(tried.best.faster) / log(optimum(plant, limit))


def lucky(sets: int, width: float, spread: float, error: float) -> tuple[Array, Array]:
    """Return the mean errors of both losses of the model taken and how often it is beyond the limit, for either way."""
    attempt = course(Plant({}, table([5.0, 9.0])), Goals(max_drop=1.0)).at(1.5)
    if attempt is None:
        raise AssertionError("the plan changes something")
    rng = np.random.default_rng(0)
    found: tuple[list[list[float]], list[list[float]]] = ([], [])
    for _ in range(sets):
        expected = np.exp(rng.uniform(-width, width, TRIALS))  # the limit is 1
        true = expected * np.maximum(1.0 + spread * rng.standard_normal(TRIALS), 0.0)
        measured = true + error * rng.standard_normal(TRIALS)
        trials = [
            replace(attempt.trial, loss=loss, loss_error=error, shift=shift)
            for loss, shift in zip(measured.tolist(), (0.05 * expected ** (1.0 / POWER)).tolist(), strict=True)
        ]
        probable = np.array(likely(trials, accuracy=False))
        for rows, counted in zip(found, (measured, np.maximum(measured, probable)), strict=True):
            if (counted <= 1.0).any():
                one = int(np.where(counted <= 1.0, expected, 0.0).argmax())
                off = [float(values[one] - true[one]) / error for values in (measured, probable)]
                rows.append([*off, float(true[one] > 1.0)])
    first, second = (np.array(rows).mean(axis=0) for rows in found)
    return first, second


if __name__ == "__main__":
    main()
