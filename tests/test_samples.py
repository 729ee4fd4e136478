"""The sample scripts run as their readers would run them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
