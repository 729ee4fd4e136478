"""Share a budget of multiply-adds out so that the network's OUTPUTS change least, on data held out from all fitting.

Rules of what a layer's error costs are hypotheses (:mod:`onnxlr.planning.rules`): the plan of each is fitted, every
layer alone, and run, and the one whose outputs are nearest the original's wins. Then layers exchange multiply-adds,
within the same budget, while that helps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from onnxlr.build import build_alone
from onnxlr.calibrate import affordable
from onnxlr.calibration.walker import Walker
from onnxlr.planning.rules import RULES, hypotheses, in_words
from onnxlr.report.allocated import Allocated, Tried
from onnxlr.sensitivity import apart, sensitivities, tempered

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    import onnx

    from onnxlr.calibrate import Calibration
    from onnxlr.planning.plan import Choice
    from onnxlr.planning.rules import Rule
    from onnxlr.planning.sharing import Share, Sharing
    from onnxlr.prepare import Prepared
    from onnxlr.target import Target

    Array = np.ndarray[Any, np.dtype[Any]]

SWING = 2.0
"""By what factor an exchange changes the weights of some layers, up or down."""

PARTS = 4
"""Exchanges are between a run of layers and all others: so many runs."""


@dataclass(frozen=True, eq=False)
class _Bench:
    """Where plans are tried."""

    prepared: Prepared
    folder: Path | None
    target: Target
    calibration: Calibration
    weights: Mapping[str, float]

    @cached_property
    def _as_it_was(self) -> list[list[Array]]:
        return self._outputs(self.prepared.proto)

    def measure(self, shares: Sequence[Share]) -> float:
        """Return the relative L2 error of the outputs, every layer fitted to what the original shows it."""
        choices = [share.choice for share in shares]
        rewritten = build_alone(self.prepared, self.folder, self.calibration, choices)
        return apart(self._as_it_was, self._outputs(rewritten))

    def predict(self, shares: Sequence[Share]) -> float:
        """Return the error that the layers' own add up to."""
        usual = float(np.mean(list(self.weights.values()))) if self.weights else 0.0
        return sqrt(sum(self.weights.get(one.choice.site, usual) * one.error**2 for one in shares))

    def _outputs(self, model: onnx.ModelProto) -> list[list[Array]]:
        held = self.calibration.held or self.calibration.batches
        names = [output.name for output in model.graph.output]
        return Walker(model, self.folder, self.target, held, self.calibration.memory).outcome(names, {})


def allocate(
    prepared: Prepared,
    folder: Path | None,
    target: Target,
    calibration: Calibration,
    sharing: Sharing,
    progress: Callable[[float], None],
) -> tuple[tuple[Choice, ...], Allocated]:
    """Return the plan whose outputs are nearest the original's, and all that were tried.

    Raises
    ------
    BudgetError
        When no plan is within the budget.
    """
    sharing.check()
    weights = sensitivities(prepared, folder, target, calibration, lambda share: progress(0.1 * share))
    bench = _Bench(prepared, folder, target, calibration, weights)
    most = affordable(calibration)
    tried: list[tuple[str, tuple[Share, ...], float]] = []

    def attempt(how: str, shares: tuple[Share, ...]) -> bool:
        """Try a plan that was not tried yet; returns whether it is the best so far."""
        if len(tried) >= most or any(shares == others for _, others, _ in tried):
            return False
        best = min((error for _, _, error in tried), default=float("inf"))
        tried.append((how, shares, bench.measure(shares)))
        progress(0.1 + 0.9 * len(tried) / most)
        return tried[-1][2] < best

    start: tuple[Rule, Mapping[str, float]] = (RULES[0], {})
    for rule, scale in hypotheses(tempered(weights)):
        if attempt(in_words(rule, scale), sharing.by(rule, scale)):
            start = (rule, scale)
    _exchange(sharing, *start, attempt)
    progress(1.0)
    best = min(range(len(tried)), key=lambda index: tried[index][2])
    record = tuple(Tried(how, bench.predict(shares), error) for how, shares, error in tried)
    return tuple(share.choice for share in tried[best][1]), Allocated(record, best)


def _exchange(
    sharing: Sharing,
    rule: Rule,
    weights: Mapping[str, float],
    attempt: Callable[[str, tuple[Share, ...]], bool],
) -> None:
    """Move multiply-adds between a run of layers and the others, keeping what helps, until a round does not."""
    sites = [of.workload.site.key for of in sharing.choices if of.candidates]
    parts = min(PARTS, len(sites))
    at = {site: weights.get(site, 1.0) for site in sites}
    helped = parts > 1
    while helped:
        helped = False
        for index in range(parts):
            run = set(sites[index * len(sites) // parts : (index + 1) * len(sites) // parts])
            for factor in (SWING, 1.0 / SWING):
                moved = {site: w * factor if site in run else w for site, w in at.items()}
                if attempt("exchange between layers", sharing.by(rule, moved)):
                    at, helped = moved, True
                    break
