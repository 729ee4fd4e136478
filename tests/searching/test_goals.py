"""Goals that make sense, and one line for those that do not."""

from __future__ import annotations

import pytest

from onnxlr.errors import UsageError
from onnxlr.evaluation.metrics import DECIBEL, PERCENT, PLAIN
from onnxlr.searching.goals import Goals


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"max_drop": -0.01}, "--max-drop -0.01 is below 0"),
        ({"max_drop": float("nan")}, "--max-drop nan"),
        ({"min_speedup": 0.5}, "--min-speedup 0.5 is below 1"),
        ({"target_latency": 0.0}, "--target-latency 0 is not above 0"),
        ({"max_size": -1.0}, "--max-size -1"),
        ({"keep_macs": 1.5}, "--keep-macs 1.5"),
        ({"max_drop": 0.01, "max_error": 0.1}, "exclude each other"),
    ],
)
def test_goals_that_make_no_sense(given: dict[str, float], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Goals(**given)


def test_a_drop_needs_data_and_an_error_needs_none() -> None:
    with pytest.raises(UsageError, match=r"--max-drop needs data.*--eval"):
        Goals(max_drop=0.01).check_data(evaluation=False)
    with pytest.raises(UsageError, match="--max-error is for the case without --eval"):
        Goals(max_error=0.1).check_data(evaluation=True)
    Goals(max_drop=0.01, min_speedup=2.0).check_data(evaluation=True)


def test_what_calls_for_a_search() -> None:
    assert not Goals().searching
    assert not Goals(keep_macs=0.5).searching
    assert Goals(max_size=3.0).searching


def test_a_loss_that_is_no_number_is_never_accurate() -> None:
    assert Goals(max_drop=0.01).accurate(0.01)
    assert not Goals(max_drop=0.01).accurate(0.0101)
    assert not Goals(max_drop=0.01).accurate(float("nan"))
    assert not Goals(min_speedup=2.0).accurate(float("nan"))
    assert Goals(min_speedup=2.0).accurate(100.0)


def test_in_words() -> None:
    assert Goals(max_drop=0.01, min_speedup=2.0).in_words("top1", PERCENT) == (
        "top1 at most 1 points lower, at least 2x faster"
    )
    assert Goals(max_drop=0.1).in_words("psnr", DECIBEL) == "psnr at most 0.1 dB lower"
    assert Goals(max_drop=0.1).in_words("mine", PLAIN) == "mine at most 0.1 lower"
