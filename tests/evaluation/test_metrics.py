"""Metrics against plain formulas, their standard errors against known ones, and what they refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from onnxlr.errors import ModelError, UsageError
from onnxlr.evaluation.custom import load_function
from onnxlr.evaluation.estimates import Estimate, Scored, drop, standard_error, within
from onnxlr.evaluation.metrics import PERCENT, WholeSet, agreement, built_in, default_name, divergence

if TYPE_CHECKING:
    from pathlib import Path

Array = np.ndarray[Any, Any]


def score(name: str, outputs: Array, answers: Array, peak: float = 1.0) -> tuple[float, Array]:
    return built_in(name, peak).score({"y": outputs}, answers)


def test_top1_and_top5_count_hits() -> None:
    scores = np.arange(10.0, dtype=np.float32)[None].repeat(3, axis=0)
    labels = np.array([9, 5, 4], dtype=np.uint8)
    assert score("top1", scores, labels)[0] == pytest.approx(1 / 3)
    assert score("top5", scores, labels)[0] == pytest.approx(2 / 3)
    assert score("top1", scores[:, :, None, None], labels[:, None])[0] == pytest.approx(1 / 3)
    assert built_in("top1", 1.0).unit is PERCENT


def test_scores_that_are_not_finite_are_no_hit() -> None:
    scores = np.array([[0.0, np.nan], [np.nan, np.nan]], dtype=np.float32)
    assert score("top1", scores, np.array([1, 0]))[0] == 0.0
    assert agreement(scores, np.array([[0.0, 1.0], [1.0, 0.0]], dtype=np.float32)).tolist() == [0.0, 0.0]


def test_labels_that_are_no_class_of_the_model_are_refused() -> None:
    with pytest.raises(ModelError, match="labels go from 0 to 3, the model's classes from 0 to 2"):
        score("top1", np.zeros((2, 3), np.float32), np.array([0, 3]))
    with pytest.raises(ModelError, match="not a class for each sample"):
        score("top1", np.zeros((2, 3), np.float32), np.zeros((2, 3)))


def test_psnr_is_that_of_each_picture() -> None:
    clean = np.zeros((2, 1, 8, 8), np.float32)
    noisy = clean + np.array([0.1, 0.01], np.float32).reshape(2, 1, 1, 1)
    value, parts = score("psnr", noisy, clean)
    np.testing.assert_allclose(parts, [20.0, 40.0], atol=1e-4)
    assert value == pytest.approx(30.0, abs=1e-4)
    assert score("psnr", noisy, clean, peak=10.0)[0] == pytest.approx(50.0, abs=1e-4)
    assert score("psnr", clean, clean)[0] == 100.0
    with pytest.raises(UsageError, match="--peak 0"):
        built_in("psnr", 0.0)


def test_cosine_and_agreement_are_one_for_the_original_itself() -> None:
    outputs = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    for name in ("cosine", "agreement"):
        assert built_in(name, 1.0).against_original
        assert score(name, outputs, outputs)[0] == pytest.approx(1.0)
    assert score("cosine", -outputs, outputs)[0] == pytest.approx(-1.0)
    np.testing.assert_allclose(divergence(outputs, outputs), 0.0, atol=1e-12)


def test_divergence_is_kl_of_soft_maxes_or_of_probabilities() -> None:
    p, q = np.array([[0.5, 0.25, 0.25]]), np.array([[0.25, 0.5, 0.25]])
    expected = 0.5 * np.log(2.0) - 0.25 * np.log(2.0)
    np.testing.assert_allclose(divergence(q, p), expected, rtol=1e-9)
    np.testing.assert_allclose(divergence(np.log(q) + 3.0, np.log(p) - 1.0), expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("outputs", "labels", "name"),
    [
        (np.zeros((2, 3), np.float32), np.array([0, 1]), "top1"),
        (np.zeros((2, 3, 1, 1), np.float32), np.array([[0], [1]]), "top1"),
        (np.zeros((2, 1, 8, 8), np.float32), np.zeros((2, 1, 8, 8), np.float32), "psnr"),
        (np.zeros((2, 3), np.float32), None, "agreement"),
        (np.zeros((2, 1, 8, 8), np.float32), None, "cosine"),
    ],
)
def test_the_default_metric(outputs: Array, labels: Array | None, name: str) -> None:
    assert default_name(outputs, labels) == name


def test_labels_that_mean_no_metric_plainly_are_refused() -> None:
    with pytest.raises(UsageError, match=r"no metric is plainly meant.*--metric"):
        default_name(np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32))


def test_the_error_of_a_share_is_the_binomial_one() -> None:
    hits = np.zeros(400)
    hits[:300] = 1.0
    assert standard_error(hits) == pytest.approx(np.sqrt(0.75 * 0.25 / 399))
    assert np.isnan(standard_error(hits[:1]))


def scored(parts: Array) -> Scored:
    return Scored(float(parts.mean()), parts, len(parts), None, None, 0.0)


def test_a_drop_is_paired() -> None:
    before = (np.arange(100) < 50).astype(np.float64)
    after = before.copy()
    after[0] = 0.0
    lost = drop(scored(before), scored(after))
    assert lost.value == pytest.approx(0.01)
    assert lost.error == pytest.approx(0.01)  # the error of 1 in 100, not that of two shares of a half
    assert within(lost, 0.01)
    assert not within(lost, 0.0099)
    assert not within(Estimate(float("nan"), 0.1), 1.0)


def test_a_function_of_the_whole_set_has_a_jackknifed_error() -> None:
    rng = np.random.default_rng(0)
    outputs, labels = rng.standard_normal((400, 1)), np.zeros(400)
    value, parts = WholeSet("mean", lambda y, _: y.mean()).score({"y": outputs}, labels)
    assert value == pytest.approx(outputs.mean())
    assert parts.mean() == pytest.approx(value)
    assert standard_error(parts) == pytest.approx(1 / 20, rel=0.5)


def test_a_function_of_several_outputs_gets_them_by_name() -> None:
    both = {"a": np.ones((4, 1)), "b": np.zeros((4, 1))}
    metric = WholeSet("difference", lambda y, _: float((y["a"] - y["b"]).mean()))
    assert metric.score(both, np.zeros(4))[0] == 1.0


@pytest.mark.parametrize(("result", "what"), [("good", "a str"), (None, "a NoneType"), (float("nan"), "nan")])
def test_a_function_that_returns_no_number_is_one_line(result: object, what: str) -> None:
    metric = WholeSet("mine", lambda *_: result)  # type: ignore[arg-type,return-value]
    with pytest.raises(UsageError, match=f"the metric mine returned {what}"):
        metric.score({"y": np.ones((3, 1))}, np.zeros(3))


def test_functions_are_imported_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["", *__import__("sys").path])
    (tmp_path / "metric_of_mine.py").write_text("def mine(outputs, labels):\n    return 0.5\n")
    (tmp_path / "metric_broken.py").write_text("def mine(:\n")
    assert load_function("metric_of_mine:mine")(None, None) == 0.5
    for text, why in (
        ("metric_of_mine:other", "has no function 'other'"),
        ("metric_missing:mine", "cannot import the metric metric_missing:mine: No module named"),
        ("metric_broken:mine", "cannot import the metric metric_broken:mine"),
        ("metric_of_mine:", "names no function"),
    ):
        with pytest.raises(UsageError, match=why):
            load_function(text)


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no metric 'top3'.*top1, top5"):
        built_in("top3", 1.0)
