"""Allocations to one budget beside a mixed-integer solver (HiGHS), on random networks, in turns.

    python -m tests.benchmarks.bench_knapsack [--networks 6] [--seed 0]

A network has layers of random cost and sensitivity; what a candidate loses falls with what it costs, exponentially,
with noise. The times are means in milliseconds. ``lost`` is how much more the solver's answers lose than ours at
worst, ``ours`` the reverse, relative: a solver stops at an absolute gap of 1e-6 of the greatest loss.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from onnxlr.planning.knapsack import knapsack

SIZES = ((8, 7), (20, 40), (55, 40), (150, 60))


@dataclass(frozen=True, slots=True)
class Network:
    """Costs and losses per layer and candidate, (layers, candidates); the first candidate is the layer as it is."""

    costs: np.ndarray
    losses: np.ndarray
    budget: float

    def lost(self, picks: list[int]) -> float:
        """Return what a choice loses."""
        return float(self.losses[np.arange(len(picks)), picks].sum())


def main() -> None:
    """Print the table."""
    options = _options()
    rng = np.random.default_rng(options.seed)
    print(f"{'layers':>6} {'candidates':>10} {'HiGHS':>10} {'ours':>10} {'times':>6} {'lost':>9} {'ours':>9}")
    for layers, candidates in SIZES:
        seconds = np.zeros(2)
        more = np.zeros(2)
        for _ in range(options.networks):
            network = _network(rng, layers, candidates)
            began = perf_counter()
            theirs = _solver(network)
            between = perf_counter()
            ours = knapsack(network.costs.tolist(), network.losses.tolist(), network.budget)
            seconds += between - began, perf_counter() - between
            assert ours is not None
            lost = np.array([network.lost(theirs), network.lost(ours)])
            more = np.maximum(more, lost / lost[::-1] - 1.0)
        ms = 1e3 * seconds / options.networks
        times = f"{ms[0] / ms[1]:5.1f}x"
        print(f"{layers:6} {candidates:10} {ms[0]:7.1f} ms {ms[1]:7.1f} ms {times} {more[0]:9.1e} {more[1]:9.1e}")


def _network(rng: np.random.Generator, layers: int, candidates: int) -> Network:
    whole = rng.uniform(0.2, 2.0, (layers, 1))
    share = np.sort(rng.uniform(0.05, 1.0, (layers, candidates)))
    noise = 1.0 + 0.1 * rng.standard_normal((2, layers, candidates))
    weight, steep = np.exp(rng.standard_normal((layers, 1))), rng.uniform(2.0, 15.0, (layers, 1))
    costs = np.hstack([whole, whole * share * noise[0]])
    losses = np.hstack([np.zeros((layers, 1)), weight * np.exp(-steep * share) * noise[1] ** 2])
    return Network(costs, losses, float(whole.sum() * rng.uniform(0.3, 0.8)))


def _solver(network: Network) -> list[int]:
    layers, entries = network.costs.shape
    row = np.repeat(np.arange(layers), entries)
    one_each = coo_array((np.ones(row.size), (row, np.arange(row.size))))
    found = milp(
        network.losses.ravel() / network.losses.max(),
        integrality=np.ones(row.size),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(network.costs.ravel()[None] / network.budget, -np.inf, 1.0),
        ],
        options={"mip_rel_gap": 0.0},
    )
    return [int(pick) for pick in np.asarray(found.x).reshape(layers, entries).argmax(1)]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=6, help="networks of each size (default 6)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
