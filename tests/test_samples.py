"""The sample scripts run as their readers would run them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from onnxlr.planning.plan import Choice, Plan, read_plan
from tests.cli.small import environment

SAMPLES = Path(__file__).parents[1] / "samples"


def test_the_export_script_rewrites_what_both_exporters_give(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    command = [sys.executable, "-W", "ignore", str(SAMPLES / "export_script.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 0, done.stderr
    for exporter in ("dynamo", "TorchScript"):
        assert f"{exporter}: 19.8 M MACs before, " in done.stdout
        assert (tmp_path / f"{exporter}.lr.onnx").is_file()


def test_cifar10_becomes_files_to_rewrite_train_and_judge_with(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = {split: rng.integers(0, 256, (count, 3, 32, 32), np.uint8) for split, count in (("train", 9), ("test", 4))}
    labels = {f"{split}_y": np.arange(len(value), dtype=np.uint8) for split, value in images.items()}
    np.savez(tmp_path / "cifar10.npz", **{f"{split}_x": value for split, value in images.items()}, **labels)
    command = [sys.executable, str(SAMPLES / "resnet56" / "data.py"), "--cache", str(tmp_path), "--out", str(tmp_path)]
    command += ["--name", "image", "--mean", "0.5", "0.25", "0", "--std", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 0, done.stderr
    expected = (images["train"] / 255 - np.reshape([0.5, 0.25, 0], (3, 1, 1))) / 2
    for name in ("train", "calibration"):
        with np.load(tmp_path / f"{name}.npz") as archive:
            assert archive.files == ["image"]
            assert archive["image"].dtype == np.float32
            np.testing.assert_allclose(archive["image"], expected, atol=1e-6)
    with np.load(tmp_path / "new.npz") as archive:
        assert sorted(archive["labels"]) == list(range(9))
        np.testing.assert_allclose(archive["image"], expected[archive["labels"]], atol=1e-6)
    with np.load(tmp_path / "test.npz") as archive:
        assert archive["image"].shape == (4, 3, 32, 32)
        assert archive["labels"].tolist() == [0, 1, 2, 3]


def test_a_plan_without_its_tiles_can_be_replayed(tmp_path: Path) -> None:
    chain = Choice("a", "conv1", "cp3", (16,))
    plan = Plan((chain, Choice("b", "conv2", "winograd", (4, 4))), "sha", "half")
    (tmp_path / "plan.json").write_text(plan.to_json(), encoding="utf-8")
    command = [sys.executable, str(SAMPLES / "resnet56" / "chains_of.py"), "plan.json", "chains.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "chains.json: 1 chains, without 1 layers by tiles\n"
    assert read_plan(tmp_path / "chains.json") == Plan((chain,), "sha", "half")
