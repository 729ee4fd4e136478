"""The multiple-choice knapsack with one budget: what may still win is carried from layer to layer, the rest dropped.

Dynamic programming over the layers on the Pareto front of (cost, loss) so far, as Dyer, Kayal and Walker do ("A branch
and bound algorithm for solving the multiple-choice knapsack problem", 1984): what is dropped cannot lead to the least
loss, by the bound of the linear relaxation for the layers still to come.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

GAP = 1e-6
"""What would lower the loss by a smaller share than this is not looked for: it bounds the work on losses that are all
proportional to costs, where nearly every sum of candidates is on the front."""
ROUNDING = 1e-12
"""Sums may be off by this much, relative: it does not exclude what just fits."""


def solve(costs: Sequence[NDArray[np.float64]], losses: Sequence[NDArray[np.float64]], budget: float) -> list[int]:
    """Choose one entry per layer: the least sum of losses (to ``GAP``) with the sum of costs at most ``budget``.

    Parameters
    ----------
    costs, losses
        Per layer one number per candidate, ``float64[candidates]``: costs rise, losses fall, both strictly; no loss is
        negative. The sum of the least costs is within ``budget``.

    Returns
    -------
    list of int
        The index chosen per layer.
    """
    spread = [float(of[0] - of[-1]) for of in losses]
    order = sorted(range(len(costs)), key=lambda layer: -spread[layer])
    rest = _relaxations([costs[layer] for layer in order], [losses[layer] for layer in order])
    budget += ROUNDING * abs(budget)
    cost, loss = np.zeros(1), np.zeros(1)
    steps: list[tuple[NDArray[np.intp], NDArray[np.intp]]] = []
    for layer, after in zip(order, rest[1:], strict=True):
        entries = costs[layer].size
        cost = np.add.outer(cost, costs[layer]).ravel()
        loss = np.add.outer(loss, losses[layer]).ravel()
        least, known = (loss + of_rest for of_rest in after.bounds(budget - cost))
        best = int(known.argmin())
        able = np.union1d(np.flatnonzero(least < (1.0 - GAP) * known[best]), [best])
        kept = able[front(cost[able], loss[able])]
        steps.append((kept // entries, kept % entries))
        cost, loss = cost[kept], loss[kept]
    return _traced(order, steps, int(loss.argmin()))


@dataclass(frozen=True, slots=True)
class _Relaxation:
    """The least loss of some layers with fractions of candidates allowed: convex and piecewise linear in the budget.

    At its corners, by rising cost, every layer has a whole candidate.
    """

    costs: NDArray[np.float64]
    losses: NDArray[np.float64]

    def bounds(self, budgets: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return what the layers lose at least within each budget, and a loss within reach; infinite if none is."""
        corner = np.searchsorted(self.costs, budgets, side="right") - 1
        fits = corner >= 0
        least = np.where(fits, np.interp(budgets, self.costs, self.losses), np.inf)
        return least, np.where(fits, self.losses[corner], np.inf)


def _relaxations(costs: Sequence[NDArray[np.float64]], losses: Sequence[NDArray[np.float64]]) -> list[_Relaxation]:
    """Return the relaxation of all layers, of all but the first, and so on to that of none."""
    corners = [_hull(cost, loss) for cost, loss in zip(costs, losses, strict=True)]
    widths = [np.diff(cost[at]) for cost, at in zip(costs, corners, strict=True)]
    falls = [np.diff(loss[at]) for loss, at in zip(losses, corners, strict=True)]
    of = np.repeat(np.arange(len(costs)), [width.size for width in widths])
    width, fall = np.concatenate([*widths, np.zeros(0)]), np.concatenate([*falls, np.zeros(0)])
    steepest = np.argsort(fall / width, kind="stable")
    of, width, fall = of[steepest], width[steepest], fall[steepest]
    first_cost = np.array([cost[0] for cost in costs])
    first_loss = np.array([loss[0] for loss in losses])
    found = []
    for layer in range(len(costs) + 1):
        later = of >= layer
        cost = np.concatenate([[first_cost[layer:].sum()], width[later]])
        loss = np.concatenate([[first_loss[layer:].sum()], fall[later]])
        found.append(_Relaxation(np.cumsum(cost), np.cumsum(loss)))
    return found


def _hull(costs: NDArray[np.float64], losses: NDArray[np.float64]) -> list[int]:
    """Return the candidates on the lower convex hull."""
    kept: list[int] = []
    for index in range(costs.size):
        while len(kept) > 1:
            first, last = kept[-2], kept[-1]
            rise = (losses[last] - losses[first]) * (costs[index] - costs[first])
            if rise < (losses[index] - losses[first]) * (costs[last] - costs[first]):
                break
            kept.pop()
        kept.append(index)
    return kept


def front(costs: NDArray[np.float64], losses: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the indices that nothing beats in both cost and loss, by rising cost; the first of equals stays."""
    by_cost = np.lexsort((losses, costs))
    least = np.minimum.accumulate(losses[by_cost])
    lower = np.concatenate([[True], least[1:] < least[:-1]])[: least.size]
    kept: NDArray[np.intp] = by_cost[lower]
    return kept


def _traced(order: Sequence[int], steps: Sequence[tuple[NDArray[np.intp], NDArray[np.intp]]], last: int) -> list[int]:
    """Return the entries that lead to the state ``last``, in the order the layers were given."""
    picks = [0] * len(order)
    at = last
    for layer, (before, entry) in zip(reversed(order), reversed(steps), strict=True):
        picks[layer] = int(entry[at])
        at = int(before[at])
    return picks
