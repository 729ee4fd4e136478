"""What a report says of a search: figures in the metric's unit with their errors, and warnings where they are due."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from onnxlr.evaluation import Estimate
from onnxlr.evaluation.metrics import DECIBEL, PERCENT, PLAIN
from onnxlr.planning.plan import Choice
from onnxlr.report.search_view import render_accuracy, render_search, with_error
from onnxlr.report.searched import Accuracy, LayerTime, Protocol, Searched, Trial
from onnxlr.report.summary import _search_warnings, finite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

TRIAL = Trial(
    choices=(Choice("c1", "conv1", "basis", (8,)),),
    how="squared errors",
    predicted=2.0,
    faster=2.05,
    low=2.0,
    high=2.1,
    original_ms=4.0,
    latency_ms=1.95,
    unstable=False,
    timings=1,
    macs=40,
    size=400,
    loss=0.0123,
    loss_error=0.004,
    likely=0.0157,
    agreement=0.97,
    shift=0.01,
    met=True,
    layers=(LayerTime("c1", "conv1", 1.0, 3.0, 1.1), LayerTime("c2", "conv2", 0.5, 0.4, 0.6)),
    errors=(("c1", 0.1),),
)
PROTOCOL = Protocol("top1", PERCENT, 300, 200, 7)
SEARCHED = Searched("top1 at most 2 points lower", PROTOCOL, (TRIAL,), 0, 16, 0.02, ("conv3",), ("12 measured",))
ACCURACY = Accuracy(
    "top1", PERCENT, Estimate(0.9, 0.01), Estimate(0.885, 0.012), Estimate(0.015, 0.004), 200, 0.96, 0.02
)


def text(parts: Sequence[RenderableType]) -> str:
    file = io.StringIO()
    console = Console(file=file, width=200, markup=False, highlight=False)
    for part in parts:
        console.print(part)
    return file.getvalue()


def test_a_provider_that_tells_no_nodes_apart_has_no_table_of_them() -> None:
    blind = replace(TRIAL, layers=tuple(replace(layer, dense_ms=None, realised_ms=None) for layer in TRIAL.layers))
    shown = text(render_search(replace(SEARCHED, trials=(blind,)), 100))
    assert "does not tell what single nodes take" in shown
    assert "predicted and realised" not in shown
    assert "predicted and realised" in text(render_search(SEARCHED, 100))


def test_trials_layers_and_protocol_are_told() -> None:
    shown = text(render_search(SEARCHED, 100))
    for words in (
        "models tried: 1 of at most 16",
        "1*",
        "40.0%",
        "2.00x",
        "2.05x",
        "1.23 ± 0.40 points",
        "97.0%",
        "meets the goals",
        "chosen by top1 on 300 samples drawn with seed 7 and by the loss that is likely where outputs differ",
        " as much; the other 200 are only reported on",
        "1.57 points",
        "does not pay",
        "back to dense, not faster in the whole model: conv3",
        "12 measured",
    ):
        assert words in shown


def test_accuracy_is_told_with_errors() -> None:
    shown = text(render_accuracy(ACCURACY))
    assert "90.00 ± 1.00 %" in shown
    assert "88.50 ± 1.20 %" in shown
    assert "1.50 ± 0.40 points" in shown
    assert "200 samples that no model was chosen by" in shown
    assert "96.00%" in shown


def test_units() -> None:
    assert with_error(0.0123, 0.004, PERCENT, drop=True) == "1.23 ± 0.40 points"
    assert with_error(31.2, None, DECIBEL) == "31.20 dB"
    assert with_error(0.98765, 0.001, PLAIN) == "0.9877 ± 0.0010"
    assert with_error(0.5, float("nan"), PLAIN) == "0.5000"


@pytest.mark.parametrize(
    ("searched", "accuracy", "words"),
    [
        (SEARCHED, None, "accuracy not proven"),
        (replace(SEARCHED, max_loss=0.01), ACCURACY, "1.50 points, above the 1 allowed"),
        (
            replace(SEARCHED, trials=(replace(TRIAL, predicted=3.0),)),
            ACCURACY,
            "3.00x was predicted, 2.05x was realised",
        ),
        (replace(SEARCHED, trials=(replace(TRIAL, timings=3),)), ACCURACY, "repeated, 3 times"),
    ],
)
def test_warnings(searched: Searched, accuracy: Accuracy | None, words: str) -> None:
    assert any(words in warning for warning in _search_warnings(searched, accuracy))
    assert _search_warnings(SEARCHED, ACCURACY) == []


def test_a_drop_that_is_the_limit_but_for_rounding_is_within_it() -> None:
    drop = Estimate(0.9345 - 0.9245, 0.004)
    assert drop.value > 0.01
    assert _search_warnings(replace(SEARCHED, max_loss=0.01), replace(ACCURACY, drop=drop)) == []


def test_json_has_no_numbers_that_json_lacks() -> None:
    assert finite({"a": [float("nan"), 1.0, (float("inf"), "x")]}) == {"a": [None, 1.0, [None, "x"]]}
