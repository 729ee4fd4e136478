"""The accuracy of a finished model beside the original's, on samples it was not chosen by."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

from onnxlr.errors import BudgetError
from onnxlr.evaluation import SessionMetric, drop
from onnxlr.report.searched import Accuracy

if TYPE_CHECKING:
    import onnx

    from onnxlr.evaluation import Evaluator
    from onnxlr.report.summary import Summary
    from onnxlr.searching.goals import Goals

SIGMAS = 2.0
"""A drop on the held-out samples this many standard errors beyond the limit breaks the promise."""


def accuracy_of(evaluator: Evaluator, model: onnx.ModelProto) -> Accuracy:
    """Score ``model`` on the evaluator's samples."""
    metric = evaluator.judge.metric
    scored = evaluator.score(model)
    return Accuracy(
        metric=metric.name,
        unit=metric.unit,
        original=evaluator.original.estimate,
        new=scored.estimate,
        drop=drop(evaluator.original, scored),
        samples=scored.samples,
        agreement=scored.agreement,
        kl=scored.kl,
        own=isinstance(metric, SessionMetric),
    )


def check_goals(summary: Summary, goals: Goals) -> None:
    """Refuse a model whose last measurement, after all choosing is done, is plainly not what was asked.

    Raises
    ------
    BudgetError
        When the 95 % interval of its speed-up, or 2 standard errors of its drop, leave no doubt.
    """
    if summary.accuracy is not None and goals.max_drop is not None:
        _check_drop(summary.accuracy, goals.max_drop)
    measured = summary.measured
    if measured is None:
        return
    again = "the machine may be busy: try again, or ask for less"
    gain, latency = measured.speedup, measured.latency_after
    if goals.min_speedup is not None and gain.high < goals.min_speedup:
        raise BudgetError(f"timed again, the model is {gain.ratio:.2f}x faster, not {goals.min_speedup:g}x", again)
    if goals.target_latency is not None and latency.low_ms > goals.target_latency:
        raise BudgetError(
            f"timed again, the model takes {latency.median_ms:.3g} ms, not {goals.target_latency:g}", again
        )


def _check_drop(accuracy: Accuracy, limit: float) -> None:
    """Refuse a model whose drop on samples it was not chosen by is plainly beyond the limit.

    The held-out samples are looked at once, for a yes or no; no other model is chosen by them.
    """
    lost, unit = accuracy.drop, accuracy.unit
    known = isfinite(lost.error)
    if lost.value - (SIGMAS * lost.error if known else 0.0) > limit:
        spread = f" ± {lost.error * unit.scale:.2g}" if known else ""
        figure = f"{lost.value * unit.scale:.3g}{spread} {unit.drop_name}".rstrip()
        where = "" if accuracy.own else f" on the {accuracy.samples} samples held out"
        raise BudgetError(
            f"the model that was chosen loses {figure} of {accuracy.metric}{where}, more than the"
            f" {limit * unit.scale:g} allowed",
            "give more evaluation data, or a larger --eval-share to choose by",
        )
