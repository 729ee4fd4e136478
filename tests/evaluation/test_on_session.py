"""Metrics that run the model themselves, on samples of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import onnxlr
from onnxlr.errors import BudgetError, UsageError
from onnxlr.evaluation import Evaluator, Judge, SessionMetric, choose_metric, drop
from onnxlr.report.search_view import protocol_line, render_accuracy
from tests.evaluation.test_evaluate import ORIGINAL, OTHER, TARGET, data
from tests.report.test_search_view import text
from tests.searching.test_end_to_end import QUICK, classifier, labelled

if TYPE_CHECKING:
    from pathlib import Path

    import onnxruntime as ort

    from onnxlr.evaluation import EvaluationData

Array = np.ndarray[Any, Any]
OWN = np.eye(3, dtype=np.float32)[[0, 1, 2, 2, 2]]


def right(session: ort.InferenceSession) -> Array:
    return np.asarray(session.run(None, {"x": OWN})[0].argmax(axis=1) == OWN.argmax(axis=1))


def share_right(session: ort.InferenceSession) -> float:
    return float(right(session).mean())


def judged_by(metric: SessionMetric, samples: EvaluationData) -> Evaluator:
    assert choose_metric(metric, ORIGINAL, None, TARGET, samples, 1.0) is metric
    return Evaluator(Judge(metric, ORIGINAL, None, TARGET), samples)


def test_a_session_is_scored_on_samples_of_the_functions_own(tmp_path: Path) -> None:
    samples = data(tmp_path, ORIGINAL, labelled=False)
    for function, known in ((right, True), (share_right, False)):
        evaluator = judged_by(SessionMetric(function, function), samples)
        scored = evaluator.score(OTHER)
        assert (evaluator.original.value, scored.value) == (1.0, pytest.approx(0.6))
        lost = drop(evaluator.original, scored)
        assert lost.value == pytest.approx(0.4)
        assert np.isfinite(lost.error) == known, "scores of samples have a standard error, one number has none"
        assert scored.samples == 100
        assert scored.kl is not None
        assert scored.shift > evaluator.original.shift, "outputs are compared on the evaluation data"


@pytest.mark.parametrize("returned", [None, "0.9", float("nan"), np.zeros((2, 2)), np.zeros(0), [0.5, np.inf]])
def test_what_is_no_score_is_one_line(tmp_path: Path, returned: object) -> None:
    def wrong(session: ort.InferenceSession) -> object:
        del session
        return returned

    with pytest.raises(UsageError, match=r"wrong returned .*a finite number, or one for each sample") as caught:
        judged_by(SessionMetric(wrong, wrong), data(tmp_path, ORIGINAL))
    assert "\n" not in str(caught.value)


def test_a_model_is_chosen_by_one_function_and_reported_by_another(tmp_path: Path) -> None:
    model = classifier()
    stored = np.load(labelled(tmp_path, model))
    samples, labels = stored["x"][::2], stored["labels"][::2]
    asked: list[int] = []

    def chosen_by(session: ort.InferenceSession) -> Array:
        asked.append(0)
        return np.asarray(session.run(None, {"x": samples})[0].argmax(axis=1) == labels)

    def reported_by(session: ort.InferenceSession) -> float:
        asked.append(1)
        return float(chosen_by(session).mean()) + 7.0

    np.savez(tmp_path / "unlabelled.npz", x=stored["x"][1::2])
    options: dict[str, Any] = {
        "data": tmp_path / "calibration.npz",
        "evaluation": tmp_path / "unlabelled.npz",
        "max_drop": 0.1,
        "scheme": QUICK,
        "trials": 3,
        "threads": 1,
        "cache": False,
    }
    result = onnxlr.rewrite(model, metric=onnxlr.SessionMetric(chosen_by, reported_by), **options)
    found, accuracy = result.summary.searched, result.summary.accuracy
    assert found is not None
    assert accuracy is not None
    assert found.trial.loss <= 0.1
    assert found.protocol.own
    assert "on samples of its own" in protocol_line(found.protocol)
    assert asked.count(1) == 2, "the original and the model taken, once each"
    assert accuracy.original.value > 7.0
    assert "samples of the metric's own" in text(render_accuracy(accuracy))

    def ruined(session: ort.InferenceSession) -> float:
        return reported_by(session) if asked.count(1) % 2 == 0 else 0.0

    with pytest.raises(BudgetError, match=r"loses .*more than the 0\.1 allowed"):
        onnxlr.rewrite(model, metric=onnxlr.SessionMetric(chosen_by, ruined), **options)
