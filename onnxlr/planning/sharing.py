"""A budget of multiply-adds shared out over all layers, exactly under a rule."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from onnxlr.errors import BudgetError
from onnxlr.planning.knapsack import knapsack
from onnxlr.planning.plan import Choice

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnxlr.planning.candidates import Choices
    from onnxlr.planning.rules import Rule


def out_of_reach(share: float, least: float) -> BudgetError:
    """Return the refusal of a ``share`` of the multiply-adds; the ``least`` possible is rounded up, to be asked for."""
    return BudgetError(
        f"no choice of schemes and ranks keeps as little as {share:.4g} of the MACs",
        f"the least possible with these schemes is {ceil(1000 * least) / 1000:.3f}",
    )


@dataclass(frozen=True, slots=True)
class Share:
    """What one layer becomes, and the relative error that is expected of it."""

    choice: Choice
    error: float


@dataclass(frozen=True, slots=True, eq=False)
class Sharing:
    """The layers' candidates, ``other_macs`` that stay whatever happens, and the ``share`` of all that may be kept."""

    choices: Sequence[Choices]
    other_macs: int
    share: float

    @property
    def allowed(self) -> float:
        """Multiply-adds the layers may have together."""
        return self.share * (sum(of.workload.macs for of in self.choices) + self.other_macs) - self.other_macs

    def check(self) -> None:
        """Refuse a budget below the least that the candidates add up to.

        Raises
        ------
        BudgetError
            With the least possible.
        """
        least = sum(min([of.workload.macs, *(c.macs for c in of.candidates)]) for of in self.choices)
        if least > self.allowed:
            every = (sum(of.workload.macs for of in self.choices) + self.other_macs) or 1
            raise out_of_reach(self.share, (least + self.other_macs) / every)

    def by(self, rule: Rule, weights: Mapping[str, float]) -> tuple[Share, ...]:
        """Minimise the sum of the layers' losses under ``rule``, times ``weights`` by site (1 where none is given)."""
        costs = [[float(of.workload.macs), *(float(c.macs) for c in of.candidates)] for of in self.choices]
        losses = [
            [0.0, *(rule.of(c.error) * weights.get(of.workload.site.key, 1.0) for c in of.candidates)]
            for of in self.choices
        ]
        picks = knapsack(costs, losses, self.allowed)
        if picks is None:
            self.check()
            raise AssertionError("the knapsack has no solution within a budget that can be met")
        chosen = [(of.workload.site, of.candidates[p - 1]) for of, p in zip(self.choices, picks, strict=True) if p]
        return tuple(Share(Choice(site.key, site.label, one.scheme, one.ranks), one.error) for site, one in chosen)
