"""A budget of multiply-adds shared out over all layers: exactly under a rule, or evenly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxlr.errors import BudgetError
from onnxlr.planning.knapsack import knapsack
from onnxlr.planning.plan import Choice

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnxlr.planning.candidates import Candidate, Choices
    from onnxlr.planning.rules import Rule

_HALVINGS = 40


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
            raise BudgetError(
                f"no choice of schemes and ranks keeps as little as {self.share:.4g} of the MACs",
                f"the least possible with these schemes is {(least + self.other_macs) / every:.3f}",
            )

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
        return self._shares([of.candidates[p - 1] if p else None for of, p in zip(self.choices, picks, strict=True)])

    def evenly(self) -> tuple[Share, ...]:
        """Give every layer its best candidate within one share of its own multiply-adds, the largest that fits."""
        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2.0
            spent = sum(
                of.workload.macs if picked is None else picked.macs
                for of, picked in zip(self.choices, self._within(middle), strict=True)
            )
            low, high = (middle, high) if spent <= self.allowed else (low, middle)
        return self._shares(self._within(low))

    def _within(self, share: float) -> list[Candidate | None]:
        """Return the least error within ``share`` of each layer's multiply-adds; the cheapest where none is."""
        found: list[Candidate | None] = []
        for of in self.choices:
            able = [c for c in of.candidates if c.macs <= share * of.workload.macs]
            best = min(able, key=lambda c: (c.error, c.macs)) if able else None
            found.append(best or min(of.candidates, key=lambda c: c.macs, default=None))
        return found

    def _shares(self, picked: Sequence[Candidate | None]) -> tuple[Share, ...]:
        return tuple(
            Share(Choice(of.workload.site.key, of.workload.site.label, one.scheme, one.ranks), one.error)
            for of, one in zip(self.choices, picked, strict=True)
            if one is not None
        )
