"""The state of a search: plans are chosen, tried, and what was seen corrects the next choice."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import TYPE_CHECKING, Protocol

from onnxlr.planning.rules import RULES, Rule, in_words
from onnxlr.searching.allocation import allocate
from onnxlr.searching.corrections import Corrections
from onnxlr.searching.likely import likely
from onnxlr.searching.sensitivity import refitted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from onnxlr.build import Built
    from onnxlr.planning.plan import Choice
    from onnxlr.report.searched import LayerTime, Trial
    from onnxlr.searching.goals import Goals
    from onnxlr.searching.ledger import Ledger
    from onnxlr.searching.table import Option, Table

_LEAST_GAIN, _MOST_GAIN = 0.7, 1.4
"""A correction of all that is saved stays within this."""


class Bench(Protocol):
    """Where plans are tried; see ``onnxlr.searching.workbench.Workbench``."""

    def build(self, choices: Sequence[Choice]) -> Built:
        """Fit and write the chains."""
        ...

    def attempt(
        self, table: Table, picks: Mapping[str, Option], how: str, progress: Callable[[float], None]
    ) -> tuple[Trial, Built]:
        """Try the plan of ``picks``; whether goals are met is left open (False). Tells what share of that is done."""
        ...

    @property
    def looks(self) -> int:
        """How many plans may be sketched for a trial."""
        ...

    def sketch(self, choices: Sequence[Choice]) -> float:
        """Return how far the outputs shift with every chain fitted alone."""
        ...


@dataclass(frozen=True, slots=True)
class Attempt:
    """A trial with the number it has in the report."""

    number: int
    trial: Trial


@dataclass(frozen=True, slots=True)
class Look:
    """A plan before it is tried: how far the outputs of its sketch shift; ``rule`` and ``weights`` chose it."""

    picks: Mapping[str, Option]
    rule: Rule
    weights: Mapping[str, float]
    shift: float


class Course:
    """Tries plans, at most ``most`` of them, and learns from each.

    ``weights`` are the layers' sensitivities, ``rule`` the rule in use, ``dense`` the layers that are to stay dense;
    the best model that meets all goals is kept built. ``accuracy`` says that what is lost is the share of samples whose
    first class is right.
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
        *,
        accuracy: bool,
    ) -> None:
        self.bench = bench
        self.goals = goals
        self.most = most
        self.of_accuracy = accuracy
        self.rule: Rule = RULES[0]
        self.weights = dict(weights)
        self.corrections = Corrections()
        self.gain = 1.0
        self.dense: set[str] = set()
        self._seen: list[Trial] = []
        self._kept: tuple[tuple[Choice, ...], Built] | None = None
        self._table = table
        self._notes = notes
        self._looked: set[tuple[Choice, ...]] = set()
        self._ledger = ledger
        self._progress = progress

    @property
    def table(self) -> Table:
        """The options as they are known by now."""
        return replace(self._table.without(self.dense).corrected(self.corrections), gain=self.gain)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said of the search."""
        if not self._looked:
            return self._notes
        return (*self._notes, f"{len(self._looked)} plans were compared with every layer fitted alone")

    @property
    def left(self) -> int:
        """How many more trials may be made."""
        return self.most - len(self._seen)

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All trials in order, with what they probably lose and whether they meet the goals, by all that was seen."""
        losses = likely(self._seen, accuracy=self.of_accuracy)
        judged = (replace(trial, likely=loss) for trial, loss in zip(self._seen, losses, strict=True))
        return tuple(replace(trial, met=self._met(trial)) for trial in judged)

    @property
    def best(self) -> Trial | None:
        """The fastest trial that meets all goals; without a limit on the loss, the one that probably loses least."""
        met = [trial for trial in self.trials if trial.met]
        if not met:
            return None
        if self.goals.loss is None:
            return min(met, key=lambda trial: (trial.likely, trial.shift, -trial.faster))
        return max(met, key=lambda trial: trial.faster)

    def at(self, speed: float, rule: Rule | None = None, weights: Mapping[str, float] | None = None) -> Attempt | None:
        """Try the best plan predicted to be ``speed`` times faster, or the fastest there is where that is too much.

        A plan that was tried is not tried again. None where the plan would change nothing, or no trial is left.
        """
        rule, sensitivities = rule or self.rule, self.weights if weights is None else weights
        picks = self.plan(speed, rule, sensitivities)
        return self.attempt(picks, in_words(rule, sensitivities)) if picks else None

    def look(self, picks: Mapping[str, Option], rule: Rule, weights: Mapping[str, float]) -> Look:
        """Sketch a plan that ``rule`` and ``weights`` chose."""
        choices = self.table.choices(picks)
        self._looked.add(choices)
        shift = self._ledger.sketch(choices)
        if shift is None:
            shift = self.bench.sketch(choices)
            self._ledger.add_sketch(choices, shift)
            self._tell(0.0)
        return Look(picks, rule, weights, shift if isfinite(shift) else inf)

    def plan(self, speed: float, rule: Rule, weights: Mapping[str, float]) -> dict[str, Option] | None:
        """Return the best plan predicted to be ``speed`` times faster, or the fastest there is where that is too much.

        Empty or None where there is none.
        """
        table = self.table
        fastest = table.original_ms / table.fastest * (1 + 1e-9)
        return allocate(table, rule, weights, self.goals, max(table.original_ms / speed, fastest))

    def attempt(self, picks: Mapping[str, Option], how: str) -> Attempt | None:
        """Try a plan."""
        table = self.table
        choices = table.choices(picks)
        for number, before in enumerate(self.trials):
            if before.choices == choices:
                return Attempt(number, before)
        if self.left <= 0:
            return None
        trial = self._ledger.find(choices)
        if trial is not None:
            self._seen.append(trial)
        else:
            trial, built = self.bench.attempt(table, picks, how, self._tell)
            self._ledger.add(trial)
            self._seen.append(trial)
            if self.best is not None and self.best.choices == choices:
                self._kept = (choices, built)
        self._learn(trial)
        self._tell(0.0)
        return Attempt(len(self._seen) - 1, self.trials[-1])

    def recall(self) -> None:
        """Take all trials of the ledger as made."""
        for trial in self._ledger.trials:
            self._seen.append(trial)
            self._learn(trial)

    def built(self, trial: Trial) -> Built:
        """Return a trial's model; it is built again where it was not kept, and comes out the same."""
        if self._kept is not None and self._kept[0] == trial.choices:
            return self._kept[1]
        return self.bench.build(trial.choices)

    def learn_weights(self) -> None:
        """Fit the layers' sensitivities to what was seen."""
        sites = [row.site for row in self.table.rows if row.options]
        self.weights = refitted(self._seen, self.rule, self.weights, sites)

    def accurate(self, trial: Trial) -> bool:
        """Whether what a trial lost, and what it probably loses, are both within the limit."""
        return self.goals.accurate(trial.counted)

    def _tell(self, share: float) -> None:
        """Say how far the search is, with this share of the next trial."""
        self._progress((len(self._seen) + share) / self.most)

    def _met(self, trial: Trial) -> bool:
        return self.accurate(trial) and self.goals.fast(trial, self._table.macs) and trial.low > 1.0

    def _learn(self, trial: Trial) -> None:
        """Correct latencies by what the full model showed: chains halfway by the trace, then their sum by the whole.

        The trace of single layers is noisy and adds to the many short ones of a chain; the whole was timed by turns.
        """
        dense = {row.site: row.dense.ms for row in self._table.rows}
        schemes = {choice.site: choice.scheme for choice in trial.choices}
        expected = 0.0
        for layer in trial.layers:
            scheme = schemes[layer.site]
            before = self.corrections.of(layer.site, scheme)
            seen, predicted = realised_ratio(layer), layer.predicted_ms / dense[layer.site]
            change = 1.0 if seen is None or predicted <= 0.0 else (seen / predicted) ** 0.5
            now = self.corrections.learn(layer.site, scheme, change)
            expected += dense[layer.site] - layer.predicted_ms / before * now
        saved = self._table.original_ms * (1.0 - 1.0 / trial.faster)
        if expected > 0.0 and saved > 0.0:
            self.gain = min(max(saved / expected, _LEAST_GAIN), _MOST_GAIN)


def realised_ratio(layer: LayerTime) -> float | None:
    """Return a chain's time relative to the layer's, both in whole models; None where either is not known."""
    if layer.dense_ms is None or layer.realised_ms is None or not 0.0 < layer.dense_ms < inf:
        return None
    return layer.realised_ms / layer.dense_ms
