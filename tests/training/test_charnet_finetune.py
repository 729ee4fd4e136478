"""The CharNet experiment runs, on a few patches of the shipped test set."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.cli.small import environment

CHARNET = Path(__file__).parents[2] / "samples" / "charnet"


@pytest.mark.timeout(1200)
def test_conv2_then_conv3_with_fine_tuning_between(tmp_path: Path) -> None:
    with np.load(CHARNET / "test.npz") as archive:
        np.savez(tmp_path / "train.npz", patch=archive["patch"][:64], labels=archive["labels"][:64])
    command = [
        sys.executable,
        str(CHARNET / "finetune.py"),
        "--build",
        str(tmp_path),
        "--epochs",
        "1",
        "--threads",
        "1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "finetune.json").read_text())
    assert [row["model"] for row in record["rows"]][::2] == ["original", "  fine-tuned", "  fine-tuned"]
    assert (tmp_path / "charnet.ft.onnx").stat().st_size < 400_000
