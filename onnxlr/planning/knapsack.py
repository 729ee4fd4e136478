"""The multiple-choice knapsack: one candidate per layer, least loss within a budget, solved exactly (HiGHS)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

if TYPE_CHECKING:
    from collections.abc import Sequence

_INFEASIBLE = 2  # milp's status


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
    kept = [pareto(c, v) if not others else list(range(len(c))) for c, v in zip(costs, losses, strict=True)]
    layer = np.repeat(np.arange(len(kept)), [len(k) for k in kept])
    loss = np.array([losses[i][k] for i, entries in enumerate(kept) for k in entries], dtype=np.float64)
    columns = np.arange(layer.size)
    one_each = coo_array((np.ones(layer.size), (layer, columns)), shape=(len(kept), layer.size))
    constraints = [LinearConstraint(one_each, 1, 1)]
    for each, most in ((costs, budget), *others):
        cost = np.array([each[i][k] for i, entries in enumerate(kept) for k in entries], dtype=np.float64)
        scale = most if most > 0 else 1.0
        constraints.append(LinearConstraint(cost[None] / scale, -np.inf, most / scale))
    found = milp(
        loss / (loss.max() or 1.0),
        integrality=np.ones(layer.size),
        bounds=Bounds(0, 1),
        constraints=constraints,
        options={"mip_rel_gap": 0.0},
    )
    if found.status == _INFEASIBLE and others:
        return None
    if found.x is None:
        raise RuntimeError(f"the solver failed on a feasible knapsack: {found.message}")
    picks = np.full(len(kept), -1)
    for column in np.flatnonzero(found.x > 0.5):
        picks[layer[column]] = column - int(np.searchsorted(layer, layer[column]))
    return [kept[i][pick] for i, pick in enumerate(picks)]


def pareto(costs: Sequence[float], losses: Sequence[float]) -> list[int]:
    """Return the indices that nothing beats in both cost and loss, by rising cost; the first of equals stays."""
    kept: list[int] = []
    for index in sorted(range(len(costs)), key=lambda i: (costs[i], losses[i], i)):
        if not kept or losses[index] < losses[kept[-1]]:
            kept.append(index)
    return kept
