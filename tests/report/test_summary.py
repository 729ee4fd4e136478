"""What a report of a rewrite says, and above all what it warns of."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace

import pytest
from rich.console import Console

from onnxlr.cost.timing import Speedup, Timing
from onnxlr.report.notes import notes_on
from onnxlr.report.summary import ChangeRow, LayerRow, Measured, SkippedRow, Summary, Totals
from onnxlr.report.summary_view import MOST_LAYERS, render_summary
from onnxlr.target import Target
from onnxlr.validation.numeric import OutputDifference

TIMING = Timing(2.0, 1.9, 2.1, 0.01, 50, unstable=False, rounds_ms=(2.0,))
OUTPUT = OutputDifference("y", (1, 10), 0.1, 0.05, 0.99, 1.0, 0)
MEASURED = Measured(
    Target(threads=1).describe(), {"x": (1, 3, 8, 8)}, 0, 1e-6, (OUTPUT,), TIMING, TIMING, Speedup(1.8, 1.7, 1.9)
)
ROW = LayerRow("/a/very/long/name/of/a/node/Conv", "s", "Conv", "64->64 3x3", "separable-vh", (16,), 1000, 500, 0.1)
SUMMARY = Summary(
    "m.onnx", "00", "0", "keep half", dry_run=False, layers=(ROW,), skipped=(SkippedRow("b", "Conv", "depthwise"),),
    before=Totals(2000, 10, 100), after=Totals(1000, 5, 50), notes=(), changes=(), measured=MEASURED,
)  # fmt: skip


def shown(summary: Summary, width: int = 200) -> str:
    file = io.StringIO()
    Console(file=file, width=width, markup=False, highlight=False).print(render_summary(summary))
    return file.getvalue()


def timed(ratio: float, low: float, high: float) -> Summary:
    return replace(SUMMARY, measured=replace(MEASURED, speedup=Speedup(ratio, low, high)))


def test_a_good_result_has_no_warning() -> None:
    assert SUMMARY.warnings == ()
    assert "warning" not in shown(SUMMARY)


WARNINGS = {
    "slower": (timed(0.8, 0.7, 0.9), "SLOWER \\(0.80x\\)"),
    "not faster": (timed(1.0, 0.9, 1.1), "no speed-up was measured"),
    "slower within the noise": (timed(0.99, 0.983, 0.995), "no speed-up was measured"),
    "too fast": (timed(9.0, 8.0, 9.5), "far above the MAC ratio"),
    "far": (
        replace(SUMMARY, measured=replace(MEASURED, outputs=(replace(OUTPUT, cosine=0.2),))),
        "cosine 0.20 in 'y'.*accuracy",
    ),
    "far on data": (
        replace(SUMMARY, measured=replace(MEASURED, outputs=(replace(OUTPUT, cosine=0.2),), compared_on="9 samples")),
        "outputs on 9 samples are far",
    ),
    "not comparable": (
        replace(SUMMARY, measured=replace(MEASURED, outputs=(), incomparable="why")),
        "not compared.*why",
    ),
    "never run": (replace(SUMMARY, measured=None), "never run"),
    "idle": (replace(SUMMARY, layers=(ROW, replace(ROW, macs_after=1000))), "1 of 2 rewritten layers cost as many"),
    "nothing saved": (replace(SUMMARY, after=SUMMARY.before), "no fewer MACs"),
}


@pytest.mark.parametrize(("summary", "message"), WARNINGS.values(), ids=WARNINGS.keys())
def test_warnings(summary: Summary, message: str) -> None:
    assert any(re.search(message, warning) for warning in summary.warnings)
    assert re.search(f"warning: .*{message}", shown(summary))
    assert json.loads(summary.to_json())["warnings"] == list(summary.warnings)


def test_a_layer_that_does_not_pay_says_so_in_its_row() -> None:
    text = shown(replace(SUMMARY, layers=(ROW, replace(ROW, node="idle", macs_after=1300))))
    (line,) = [line for line in text.splitlines() if line.startswith("idle")]
    assert "130%" in line
    assert line.endswith("does not pay")
    assert text.count("does not pay") == 1


@pytest.mark.parametrize("width", [80, 120, 200])
def test_rows_do_not_wrap(width: int) -> None:
    names = [f"/backbone/with/a/long/name/layer{index}/Conv" for index in range(MOST_LAYERS)]
    text = shown(replace(SUMMARY, layers=tuple(replace(ROW, node=name) for name in names)), width)
    rows = [line for line in text.splitlines() if line.startswith("/")]
    assert len(rows) == MOST_LAYERS
    assert all(len(row) <= width and "separable-vh" in row and "0.100" in row for row in rows)


@pytest.mark.parametrize(("top1", "there"), [(0.5, True), (None, False)])
def test_only_scores_have_a_column_of_agreement(top1: float | None, there: bool) -> None:
    text = shown(replace(SUMMARY, measured=replace(MEASURED, outputs=(replace(OUTPUT, top1=top1),))))
    assert ("same top-1" in text) is there
    assert (" 50%\n" in text) is there


def test_many_layers_share_rows() -> None:
    rows = tuple(replace(ROW, node=f"n{index}", error=index / 1000) for index in range(MOST_LAYERS + 1))
    text = shown(replace(SUMMARY, layers=rows))
    (line,) = [line for line in text.splitlines() if line.startswith("n0")]
    assert line.split()[:3] == ["n0,", "...", str(MOST_LAYERS + 1)]
    assert "0.000 to 0.040" in line


def test_notes_are_a_line_a_pass() -> None:
    changes = [ChangeRow("fold", f"n{index}", f"Pad 'p{index}' folded") for index in range(9)]
    changes += [ChangeRow("other", "", kind) for kind in "aabcdef"]
    assert notes_on(changes) == ("fold: Pad folded (9)", "other: a (2), b, c, d, 2 other changes (all in --json)")
    assert notes_on(changes[9:-1])[0].endswith("1 other change (all in --json)")
