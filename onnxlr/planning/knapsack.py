"""The multiple-choice knapsack: one candidate per layer, least loss within a budget, solved exactly (HiGHS)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

if TYPE_CHECKING:
    from collections.abc import Sequence


def knapsack(costs: Sequence[Sequence[float]], losses: Sequence[Sequence[float]], budget: float) -> list[int] | None:
    """Choose one entry per layer: minimise the sum of losses with the sum of costs at most ``budget``.

    Parameters
    ----------
    costs, losses
        Per layer, one number per candidate; any unit, costs and budget in the same one.

    Returns
    -------
    list of int or None
        The index chosen per layer; None when even the cheapest choices exceed the budget.
    """
    if sum(min(of_layer) for of_layer in costs) > budget:
        return None
    if not costs:
        return []
    kept = [pareto(c, v) for c, v in zip(costs, losses, strict=True)]
    layer = np.repeat(np.arange(len(kept)), [len(k) for k in kept])
    cost = np.array([costs[i][k] for i, entries in enumerate(kept) for k in entries], dtype=np.float64)
    loss = np.array([losses[i][k] for i, entries in enumerate(kept) for k in entries], dtype=np.float64)
    columns = np.arange(layer.size)
    one_each = coo_array((np.ones(layer.size), (layer, columns)), shape=(len(kept), layer.size))
    scale = budget if budget > 0 else 1.0
    found = milp(
        loss / (loss.max() or 1.0),
        integrality=np.ones(layer.size),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(cost[None] / scale, -np.inf, budget / scale)],
        options={"mip_rel_gap": 0.0},
    )
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
