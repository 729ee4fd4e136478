"""Stdout is the report's: nothing native gets into it, and one line says that it cannot be written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.small import COMMAND, environment, network, written

NOISY = """
import ctypes, os, sys
from onnxlr.cli import main, streams
taken = streams.take_stdout
def noisy():
    taken()
    ctypes.CDLL(None).puts(b"a line of native code")
    os.write(1, b"and another")
main.take_stdout = noisy
sys.argv = ["onnxlr", "--version"]
main.main()
"""
FULL = Path("/dev/full")


def test_native_code_does_not_write_into_the_report() -> None:
    done = subprocess.run([sys.executable, "-c", NOISY], capture_output=True, text=True, check=True, env=environment())
    assert done.stdout.startswith("onnxlr ")
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


@pytest.mark.skipif(not FULL.is_char_device(), reason="this system has no /dev/full")
def test_a_report_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    model = written(network(), tmp_path / "m.onnx")
    with FULL.open("w") as full:
        command = [*COMMAND, "inspect", str(model)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=environment())
    assert done.returncode == 3
    assert done.stderr == "onnxlr: cannot write the report (No space left on device); free some space, or use --json\n"
