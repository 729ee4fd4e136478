"""Which option each layer gets: an exact knapsack on milliseconds, under a rule for what a layer's error costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxlr.planning.knapsack import knapsack

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnxlr.planning.rules import Rule
    from onnxlr.searching.goals import Goals
    from onnxlr.searching.table import Option, Table


def allocate(
    table: Table, rule: Rule, weights: Mapping[str, float], goals: Goals, budget_ms: float
) -> dict[str, Option] | None:
    """Choose the options of least weighted loss whose predicted latency is at most ``budget_ms``.

    The goals on MACs and size hold as well. ``weights`` are sensitivities by site, 1 where none is given. None when
    no choice is within all limits.
    """
    rows = table.rows
    losses = [[rule.of(option.error) * weights.get(row.site, 1.0) for option in row.all] for row in rows]
    dense_ms = sum(row.dense.ms for row in rows)
    limits = [([[o.ms for o in row.all] for row in rows], dense_ms - (table.original_ms - budget_ms) / table.gain)]
    if goals.keep_macs is not None:
        costs = [[float(o.macs) for o in row.all] for row in rows]
        limits.append((costs, goals.keep_macs * table.macs - table.other_macs))
    if goals.max_size is not None:
        costs = [[float(o.size) for o in row.all] for row in rows]
        dense = sum(row.dense.size for row in rows)
        limits.append((costs, dense - (table.size - goals.max_size * 1e6)))
    (first, first_limit), *others = limits
    picks = knapsack(first, losses, first_limit, others)
    if picks is None:
        return None
    return {row.site: row.all[pick] for row, pick in zip(rows, picks, strict=True) if pick > 0}
