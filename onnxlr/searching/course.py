"""The state of a search: plans are chosen, tried, and what was seen corrects the next choice."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Protocol

from onnxlr.planning.rules import RULES, Rule
from onnxlr.searching.allocation import allocate
from onnxlr.searching.sensitivity import refitted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from onnxlr.build import Built
    from onnxlr.planning.plan import Choice
    from onnxlr.report.searched import LayerTime, Trial
    from onnxlr.searching.goals import Goals
    from onnxlr.searching.ledger import Ledger
    from onnxlr.searching.table import Option, Table

_LEAST_FACTOR, _MOST_FACTOR = 0.5, 30.0
"""A correction of a layer's latency by the full model stays within this."""
_LEAST_GAIN, _MOST_GAIN = 0.7, 1.4
"""So does one of all that is saved."""


class Bench(Protocol):
    """Where plans are tried; see ``onnxlr.searching.workbench.Workbench``."""

    def build(self, choices: Sequence[Choice]) -> Built:
        """Fit and write the chains."""
        ...

    def attempt(self, table: Table, picks: Mapping[str, Option], how: str) -> tuple[Trial, Built]:
        """Try the plan of ``picks``; whether goals are met is left open (False)."""
        ...


@dataclass(frozen=True, slots=True)
class Attempt:
    """A trial with the number it has in the report."""

    number: int
    trial: Trial


class Course:
    """Tries plans, at most ``most`` of them, and learns from each.

    ``weights`` are the layers' sensitivities, ``rule`` the rule in use, ``dense`` the layers that are to stay dense;
    the best model that meets all goals is kept built.
    """

    def __init__(
        self,
        bench: Bench,
        table: Table,
        weights: Mapping[str, float],
        notes: tuple[str, ...],
        goals: Goals,
        ledger: Ledger,
        most: int,
        progress: Callable[[float], None],
    ) -> None:
        self.bench = bench
        self.notes = notes
        self.goals = goals
        self.most = most
        self.rule: Rule = RULES[0]
        self.weights = dict(weights)
        self.factors: dict[str, float] = {}
        self.gain = 1.0
        self.dense: set[str] = set()
        self.trials: list[Trial] = []
        self.kept: tuple[Trial, Built] | None = None
        self._table = table
        self._ledger = ledger
        self._progress = progress

    @property
    def table(self) -> Table:
        """The options as they are known by now."""
        return replace(self._table.without(self.dense).corrected(self.factors), gain=self.gain)

    @property
    def left(self) -> int:
        """How many more trials may be made."""
        return self.most - len(self.trials)

    @property
    def best(self) -> Trial | None:
        """The fastest trial that meets all goals; without a limit on the loss, the one that loses least."""
        met = [trial for trial in self.trials if trial.met]
        if not met:
            return None
        if self.goals.loss is None:
            return min(met, key=lambda trial: (trial.loss, trial.shift, -trial.faster))
        return max(met, key=lambda trial: trial.faster)

    def at(self, speed: float, rule: Rule | None = None, weights: Mapping[str, float] | None = None) -> Attempt | None:
        """Try the best plan predicted to be ``speed`` times faster, or the fastest there is where that is too much.

        A plan that was tried is not tried again. None where the plan would change nothing, or no trial is left.
        """
        table, rule = self.table, rule or self.rule
        sensitivities = self.weights if weights is None else weights
        fastest = table.original_ms / table.fastest * (1 + 1e-9)
        picks = allocate(table, rule, sensitivities, self.goals, max(table.original_ms / speed, fastest))
        if not picks:
            return None
        return self.attempt(picks, rule.name + (", weighted" if sensitivities else ""))

    def attempt(self, picks: Mapping[str, Option], how: str) -> Attempt | None:
        """Try a plan."""
        table = self.table
        choices = table.choices(picks)
        for number, trial in enumerate(self.trials):
            if trial.choices == choices:
                return Attempt(number, trial)
        if self.left <= 0:
            return None
        found = self._ledger.find(choices)
        if found is None:
            trial, built = self.bench.attempt(table, picks, how)
            trial = self._judged(trial)
            self._ledger.add(trial)
        else:
            trial, built = self._judged(found), None
        self.trials.append(trial)
        if built is not None and trial is self.best:
            self.kept = (trial, built)
        self._learn(trial)
        self._progress(len(self.trials) / self.most)
        return Attempt(len(self.trials) - 1, trial)

    def built(self, trial: Trial) -> Built:
        """Return a trial's model; it is built again where it was not kept, and comes out the same."""
        if self.kept is not None and self.kept[0] is trial:
            return self.kept[1]
        return self.bench.build(trial.choices)

    def learn_weights(self) -> None:
        """Fit the layers' sensitivities to what was seen."""
        sites = [row.site for row in self.table.rows if row.options]
        self.weights = refitted(self.trials, self.rule, self.weights, sites)

    def _judged(self, trial: Trial) -> Trial:
        met = self.goals.accurate(trial.loss) and self.goals.fast(trial, self.table.macs) and trial.low > 1.0
        return replace(trial, met=met)

    def _learn(self, trial: Trial) -> None:
        """Correct latencies by what the full model showed: chains halfway by the trace, then their sum by the whole.

        The trace of single layers is noisy and adds to the many short ones of a chain; the whole was timed by turns.
        """
        dense = {row.site: row.dense.ms for row in self._table.rows}
        expected = 0.0
        for layer in trial.layers:
            before = self.factors.get(layer.site, 1.0)
            seen, predicted = realised_ratio(layer), layer.predicted_ms / dense[layer.site]
            change = 1.0 if seen is None or predicted <= 0.0 else (seen / predicted) ** 0.5
            self.factors[layer.site] = min(max(before * change, _LEAST_FACTOR), _MOST_FACTOR)
            expected += dense[layer.site] - layer.predicted_ms / before * self.factors[layer.site]
        saved = self._table.original_ms * (1.0 - 1.0 / trial.faster)
        if expected > 0.0 and saved > 0.0:
            self.gain = min(max(saved / expected, _LEAST_GAIN), _MOST_GAIN)


def realised_ratio(layer: LayerTime) -> float | None:
    """Return a chain's time relative to the layer's, both in whole models; None where either is not known."""
    if layer.dense_ms is None or layer.realised_ms is None or not 0.0 < layer.dense_ms < inf:
        return None
    return layer.realised_ms / layer.dense_ms
