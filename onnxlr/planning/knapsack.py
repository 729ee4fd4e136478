"""The multiple-choice knapsack: one candidate per layer, least loss within every budget, solved exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from onnxlr.planning.one_budget import front, solve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_INFEASIBLE = 2  # milp's status
_FINEST = 1e-6  # of the greatest loss: losses are scaled by no less, or the solver meets numbers too great for it


def knapsack(
    costs: Sequence[Sequence[float]],
    losses: Sequence[Sequence[float]],
    budget: float,
    others: Sequence[tuple[Sequence[Sequence[float]], float]] = (),
) -> list[int] | None:
    """Choose one entry per layer: minimise the sum of losses with the sum of costs at most ``budget``.

    Parameters
    ----------
    costs, losses
        Per layer, one number per candidate; any unit, costs and budget in the same one.
    others
        More costs of the same candidates, each with a budget of its own that holds as well.

    Returns
    -------
    list of int or None
        The index chosen per layer; None when no choices are within every budget.
    """
    if any(sum(min(of_layer) for of_layer in each) > most for each, most in ((costs, budget), *others)):
        return None
    if not costs:
        return []
    fronts = [pareto(cost, loss) for cost, loss in zip(costs, losses, strict=True)]
    picks = solve(_rows(costs, fronts), _rows(losses, fronts), budget)
    alone = [entries[pick] for entries, pick in zip(fronts, picks, strict=True)]
    if all(_sum(each, alone) <= most for each, most in others):
        return alone
    return _within_all(((costs, budget), *others), losses, _sum(losses, alone))


def _within_all(
    budgets: Sequence[tuple[Sequence[Sequence[float]], float]], losses: Sequence[Sequence[float]], least: float
) -> list[int] | None:
    """Solve for several budgets as a mixed-integer program (HiGHS); the losses come to ``least`` at least."""
    layer = np.repeat(np.arange(len(losses)), [len(of_layer) for of_layer in losses])
    loss = np.concatenate(losses)
    one_each = coo_array((np.ones(layer.size), (layer, np.arange(layer.size))), shape=(len(losses), layer.size))
    constraints = [LinearConstraint(one_each, 1, 1)]
    for costs, most in budgets:
        scale = most if most > 0 else 1.0
        constraints.append(LinearConstraint(np.concatenate(costs)[None] / scale, -np.inf, most / scale))
    found = milp(
        loss / (max(least, _FINEST * float(loss.max())) or 1.0),  # the solver's gap of 1e-6 is an absolute one
        integrality=np.ones(layer.size),
        bounds=Bounds(0, 1),
        constraints=constraints,
        options={"mip_rel_gap": 0.0},
    )
    if found.status == _INFEASIBLE:
        return None
    if found.x is None:
        raise RuntimeError(f"the solver failed on a feasible knapsack: {found.message}")
    picks = [-1] * len(losses)
    for column in np.flatnonzero(found.x > 0.5):
        picks[layer[column]] = int(column) - int(np.searchsorted(layer, layer[column]))
    return picks


def _rows(numbers: Sequence[Sequence[float]], entries: Sequence[Sequence[int]]) -> list[NDArray[np.float64]]:
    return [np.array([of[index] for index in at], np.float64) for of, at in zip(numbers, entries, strict=True)]


def _sum(numbers: Sequence[Sequence[float]], picks: Sequence[int]) -> float:
    return sum(of[pick] for of, pick in zip(numbers, picks, strict=True))


def pareto(costs: Sequence[float], losses: Sequence[float]) -> list[int]:
    """Return the indices that nothing beats in both cost and loss, by rising cost; the first of equals stays."""
    kept: list[int] = front(np.array(costs, np.float64), np.array(losses, np.float64)).tolist()
    return kept
