"""The evaluation data of a request, split into what models are chosen by and what is only reported."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from onnxlr.evaluation import Evaluator, Judge, SessionMetric, choose_metric

if TYPE_CHECKING:
    from onnxlr.evaluation import EvaluationData
    from onnxlr.model_io import Model
    from onnxlr.request import Request


@dataclass(frozen=True, slots=True, eq=False)
class Judges:
    """``choosing`` is None where nothing is chosen by the data; ``rest`` are then all samples."""

    judge: Judge
    choosing: Evaluator | None
    rest: EvaluationData

    def held(self) -> Evaluator:
        """Score the original on the samples that are only reported."""
        metric = self.judge.metric
        reported = metric.reporting() if isinstance(metric, SessionMetric) else metric
        return Evaluator(replace(self.judge, metric=reported), self.rest)


def judges_of(model: Model, request: Request, *, split: bool) -> Judges | None:
    """Return who judges models; None where there are no evaluation data. ``split``: models are chosen by them.

    Models are run for this on every core: what they answer does not depend on it.

    Raises
    ------
    UsageError, ModelError
        When the data or the metric do not fit the model, or there are too few samples to split.
    """
    wanted = request.evaluation
    if wanted is None:
        return None
    target = replace(request.target, threads=0)
    metric = choose_metric(wanted.metric, model.proto, model.folder, target, wanted.data, wanted.peak)
    judge = Judge(metric, model.proto, model.folder, target)
    if not split:
        return Judges(judge, None, wanted.data)
    choosing, rest = wanted.data.split(wanted.share, request.seed)
    return Judges(judge, Evaluator(judge, choosing), rest)
