"""The experiments run, on a few random images."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.cli.small import environment

SAMPLES = Path(__file__).parents[2] / "samples"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random images in the place of the data sets."""
    folder = tmp_path_factory.mktemp("cache")
    rng = np.random.default_rng(0)
    for data, image in (("cifar10", (3, 32, 32)), ("fashion-mnist", (1, 28, 28))):
        arrays = {
            f"{split}_{name}": rng.integers(0, 256 if name == "x" else 10, (count, *shape), np.uint8)
            for split, count in (("train", 200), ("test", 100))
            for name, shape in (("x", image), ("y", ()))
        }
        np.savez(folder / f"{data}.npz", **arrays)
    return folder


@pytest.mark.parametrize(
    ("script", "data", "networks"),
    [("separable", "cifar10", 2), ("composite", "cifar10", 6), ("basis", "cifar10", 6), ("basis", "fashion-mnist", 6)],
)
def test_an_experiment(script: str, data: str, networks: int, cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "record.json"
    command = [sys.executable, str(SAMPLES / "low_rank" / f"{script}.py"), "--quick", "--cache", str(cache)]
    command += ["--data", data, "--epochs", "1", "--width", "0.1", "--threads", "1", "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    assert record["settings"]["data"] == data
    assert len(record["rows"]) == networks
    plain = {row["network"]: row for row in record["rows"] if row["network"] in {"NIN", "VGG-11"}}
    for row in record["rows"]:
        first = plain.get(row["network"].split(",")[0], record["rows"][0])
        if row is not first and not row["network"].startswith("NIN, learnt"):
            assert row["macs"] < first["macs"]
            assert row["learnable"] < first["learnable"]
    assert all(0 <= share <= 1 for row in record["rows"] for share in row["accuracies"])
