"""How good a model is on labelled data: the data, the metrics, and scores with their standard errors."""

from __future__ import annotations

from onnxlr.evaluation.data import EvaluationData, open_evaluation
from onnxlr.evaluation.estimates import Estimate, Scored, drop, within
from onnxlr.evaluation.evaluate import Evaluator, Judge, choose_metric
from onnxlr.evaluation.metrics import METRICS, Metric, Unit
from onnxlr.evaluation.on_session import SessionMetric

__all__ = [
    "METRICS",
    "Estimate",
    "EvaluationData",
    "Evaluator",
    "Judge",
    "Metric",
    "Scored",
    "SessionMetric",
    "Unit",
    "choose_metric",
    "drop",
    "open_evaluation",
    "within",
]
