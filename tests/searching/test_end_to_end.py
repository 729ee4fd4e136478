"""Goals on real models: met and proven, or refused with nothing written."""

from __future__ import annotations

import json
from math import inf
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxlr
import onnxlr.prove
import onnxlr.searching.workbench
from onnxlr.cost.calm import time_at_rest
from onnxlr.errors import BudgetError, UsageError
from tests.cli.small import files, kernel, written
from tests.cli.small import onnxlr as run_onnxlr
from tests.passes.one_conv import run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from onnxlr.cost.timing import Runner, Timing, TimingOptions

Array = np.ndarray[Any, Any]
QUICK = ("basis", "tucker2")


def classifier(*, size: int = 5, depthwise: bool = False) -> onnx.ModelProto:
    """Two convolutions of decaying spectra, means over positions, ten classes; or depthwise and 1x1 ones."""
    rng = np.random.default_rng(0)
    nodes, weights, value, into = [], [], "x", 8
    for index in range(3 if depthwise else 2):
        array = kernel(64, into, size, index)
        group = 1
        if depthwise:
            orthogonal = np.linalg.qr(rng.standard_normal((64, 64)))[0]
            array = orthogonal[:, :into, None, None] if index % 2 == 0 else rng.standard_normal((64, 1, 3, 3)) / 3
            group = 1 if index % 2 == 0 else 64
        weights.append(numpy_helper.from_array(array.astype(np.float32), f"w{index}"))
        pads = [array.shape[2] // 2] * 4
        nodes.append(
            helper.make_node("Conv", [value, f"w{index}"], [f"c{index}"], f"conv{index}", pads=pads, group=group)
        )
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"]))
        value, into = f"r{index}", 64
    classes = rng.standard_normal((64, 10)).astype(np.float32)
    weights.append(numpy_helper.from_array(classes, "classes"))
    nodes += [
        helper.make_node("GlobalAveragePool", [value], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "classes"], ["y"], "head"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def labelled(folder: Path, model: onnx.ModelProto, count: int = 200) -> Path:
    """Samples with the classes the model gives them, some changed: an accuracy of about 0.9."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((count, 8, 16, 16)).astype(np.float32)
    labels = run(model, x=x)[0].argmax(axis=1)
    wrong = rng.random(count) < 0.1
    np.savez(folder / "test.npz", x=x, labels=np.where(wrong, (labels + 1) % 10, labels))
    np.savez(folder / "calibration.npz", x=rng.standard_normal((64, 8, 16, 16)).astype(np.float32))
    return folder / "test.npz"


def test_the_fastest_model_within_a_drop_is_found_and_reported(tmp_path: Path) -> None:
    model = classifier()
    judged = labelled(tmp_path, model)
    result = onnxlr.rewrite(
        model,
        data=tmp_path / "calibration.npz",
        evaluation=judged,
        max_drop=0.1,
        scheme=QUICK,
        trials=5,
        threads=1,
        cache=False,
    )
    found, accuracy, measured = result.summary.searched, result.summary.accuracy, result.summary.measured
    assert found is not None
    assert accuracy is not None
    assert measured is not None
    assert found.trial.loss <= 0.1
    assert found.trial.met
    assert 1 <= len(found.trials) <= 5
    assert found.trials[0].how.endswith(", by sensitivity"), "data tell how much layers matter before the first trial"
    assert measured.speedup.ratio > 1.0
    assert accuracy.metric == "top1"
    assert (found.protocol.choosing, found.protocol.held, accuracy.samples) == (100, 100, 100)
    assert accuracy.drop.value == pytest.approx(accuracy.original.value - accuracy.new.value)
    assert {layer.site for layer in found.trial.layers} == {choice.site for choice in result.plan.choices}
    assert all(layer.realised_ms is not None for layer in found.trial.layers)
    assert json.loads(result.summary.to_json())["searched"]["trials"]


def test_timings_are_told_what_the_original_takes_at_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every trial and of the proof: without it a busy machine is not told from a slow one."""
    told: list[float] = []

    def listening(
        runners: Sequence[Runner],
        options: TimingOptions,
        *,
        at_best: float,
        clock: Callable[[], int] = perf_counter_ns,
        progress: Callable[[float], None] = lambda _: None,
    ) -> tuple[tuple[Timing, ...], int]:
        told.append(at_best)
        return time_at_rest(runners, options, at_best=at_best, clock=clock, progress=progress)

    for module in (onnxlr.searching.workbench, onnxlr.prove):
        monkeypatch.setattr(module, "time_at_rest", listening)
    model = classifier()
    judged = labelled(tmp_path, model)
    result = onnxlr.rewrite(model, evaluation=judged, max_drop=0.5, scheme=("basis",), trials=1, threads=1, cache=False)
    found = result.summary.searched
    assert found is not None
    assert len(told) == 2
    assert 0.0 < told[0] < inf
    assert told[1] == found.trial.original_ms


def test_an_impossible_drop_is_refused_and_nothing_written(tmp_path: Path) -> None:
    """1x1 convolutions with orthogonal kernels and depthwise ones: no chain keeps enough."""
    model = written(classifier(depthwise=True), tmp_path / "m.onnx")
    labelled(tmp_path, onnx.load(model))
    before = files(tmp_path)
    done = run_onnxlr(
        *("rewrite", model, "--eval", tmp_path / "test.npz", "--metric", "cosine", "--max-drop", "0.00001"),
        *("--threads", "1", "--no-cache"),
    )
    assert done.returncode == 4, done.stdout
    assert done.stderr.count("\n") == 1
    assert files(tmp_path) == before


def test_a_speed_out_of_reach_is_refused_before_any_work(tmp_path: Path) -> None:
    del tmp_path
    with pytest.raises(BudgetError, match=r"1000x is out of reach: the shortest chains have \d"):
        onnxlr.rewrite(classifier(), min_speedup=1000.0, scheme="basis", cache=False)


def test_without_data_outputs_are_bounded_and_accuracy_is_not_claimed() -> None:
    result = onnxlr.rewrite(classifier(), max_error=0.5, scheme=QUICK, trials=4, threads=1, cache=False)
    assert result.summary.searched is not None
    assert result.summary.searched.trial.loss <= 0.5
    assert result.summary.accuracy is None
    assert any("accuracy not proven" in warning for warning in result.summary.warnings)


def test_eval_beside_a_plain_budget_reports_accuracy_on_every_sample(tmp_path: Path) -> None:
    model = classifier()
    judged = labelled(tmp_path, model)
    result = onnxlr.rewrite(model, evaluation=judged, metric="top5", keep_macs=0.5, scheme="basis", threads=1)
    assert result.summary.searched is None
    assert result.summary.accuracy is not None
    assert result.summary.accuracy.samples == 200
    assert result.summary.accuracy.metric == "top5"


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"max_drop": 0.01}, "--max-drop needs data"),
        ({"max_error": 0.1, "dry_run": True}, "--dry-run runs no model"),
        ({"max_error": 0.1, "validate": False}, "--no-validate runs no model"),
        ({"max_error": 0.1, "energy": 0.9}, "--energy and --rank leave nothing to search for"),
    ],
)
def test_combinations_that_make_no_sense(asked: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        onnxlr.rewrite(classifier(size=3), **asked)


def test_the_front_is_drawn_kept_and_resumed(tmp_path: Path) -> None:
    model = classifier()
    judged = labelled(tmp_path, model)
    asked: dict[str, Any] = {
        "evaluation": judged,
        "scheme": QUICK,
        "trials": 5,
        "threads": 1,
        "cache": False,
        "state": tmp_path / "state",
    }
    front = onnxlr.search(model, **asked)
    assert 1 <= len(front.trials) <= 5
    assert front.best
    assert not (tmp_path / "state").exists()
    faster = [front.trials[index].faster for index in front.best]
    likely = [front.trials[index].likely for index in front.best]
    assert faster == sorted(faster)
    assert likely == sorted(likely), "a hundred samples may say otherwise of the loss"
    assert front.to_svg().startswith("<svg")
    assert front.to_svg().count("<circle") == len(front.trials) + 1
    assert json.loads(front.to_json())["trials"][0]["choices"]


def test_the_same_command_again_finds_its_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = classifier()
    judged = labelled(tmp_path, model)
    monkeypatch.setenv("ONNXLR_CACHE_DIR", str(tmp_path / "cache"))
    asked: dict[str, Any] = {"evaluation": judged, "max_drop": 0.1, "scheme": QUICK, "trials": 4, "threads": 1}
    first = onnxlr.rewrite(model, **asked)
    (kept,) = (tmp_path / "cache" / "searches").iterdir()
    before = kept.stat().st_mtime_ns
    again = onnxlr.rewrite(model, **asked)
    assert kept.stat().st_mtime_ns == before
    assert again.plan == first.plan
    assert again.model.SerializeToString(deterministic=True) == first.model.SerializeToString(deterministic=True)
    assert again.summary.searched is not None
    assert first.summary.searched is not None
    assert again.summary.searched.trials == first.summary.searched.trials
    labelled(tmp_path, model, 240)
    onnxlr.rewrite(model, **asked)
    assert len(list((tmp_path / "cache" / "searches").iterdir())) == 2


@pytest.mark.parametrize("cache", [True, False])
def test_an_interrupted_front_goes_on(cache: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, state = classifier(), tmp_path / "state"
    monkeypatch.setenv("ONNXLR_CACHE_DIR", str(tmp_path / "cache"))
    asked: dict[str, Any] = {"scheme": "basis", "trials": 4, "threads": 1, "state": state, "cache": cache}

    def stop(stage: str, share: float) -> None:
        if stage == "search" and share >= 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        onnxlr.search(model, **asked, progress=stop)
    assert state.exists() != cache
    path = next((tmp_path / "cache" / "searches").iterdir()) if cache else state
    kept = {trial["faster"] for trial in json.loads(path.read_text())["trials"]}
    assert len(kept) == 2
    front = onnxlr.search(model, **asked)
    assert kept <= {trial.faster for trial in front.trials}
    assert not state.exists()


def test_the_state_of_another_search_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.write_text(json.dumps({"onnxlr_search_state": 3, "setting": "other", "baseline": None, "trials": []}))
    with pytest.raises(UsageError, match="state of another search"):
        onnxlr.search(classifier(), scheme="basis", trials=4, threads=1, state=state, cache=False)


def test_a_front_is_found_again_and_added_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = classifier()
    judged = labelled(tmp_path, model)
    monkeypatch.setenv("ONNXLR_CACHE_DIR", str(tmp_path / "cache"))
    asked: dict[str, Any] = {"evaluation": judged, "scheme": QUICK, "threads": 1}
    front = onnxlr.search(model, trials=4, **asked)
    again = onnxlr.search(model, trials=4, **asked)
    assert again.trials == front.trials
    assert again.best == front.best
    more = onnxlr.search(model, trials=6, **asked)
    assert len(more.trials) > len(front.trials)
    assert {trial.faster for trial in front.trials} < {trial.faster for trial in more.trials}


def test_a_front_begins_with_the_speeds_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = classifier()
    judged = labelled(tmp_path, model)
    monkeypatch.setenv("ONNXLR_CACHE_DIR", str(tmp_path / "cache"))
    asked: dict[str, Any] = {"evaluation": judged, "scheme": QUICK, "threads": 1, "trials": 1}
    (only,) = onnxlr.search(model, at=(1.25,), **asked).trials
    assert only.predicted == pytest.approx(1.27, abs=0.04)
    again = onnxlr.search(model, at=(50.0, 1.6), **asked)
    assert [trial.choices for trial in again.trials] == [only.choices]
    assert again.notes[-2:] == (
        "no model was found at 50x",
        "no trial was left for a model at 1.6x: give more --trials",
    )
