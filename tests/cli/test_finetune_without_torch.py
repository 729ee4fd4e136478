"""``onnxlr finetune`` without PyTorch says what to install, and the other commands do not ask for it.

Where PyTorch is installed it is hidden from the command; where it is not, this is the command as it is.
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tests.cli.small import environment, network, written

if TYPE_CHECKING:
    from pathlib import Path

HIDE = """
import importlib.abc, importlib.util, sys

class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError(name)

real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "torch" else real(name, *rest)
sys.meta_path.insert(0, Hide())
from onnxlr.cli.main import main
main()
"""


def test_finetune_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "hide.py").write_text(HIDE)
    for name in ("t.onnx", "s.onnx"):
        written(network(), tmp_path / name)
    np.savez(tmp_path / "d.npz", x=np.zeros((4, 32, 8, 8), np.float32))
    hidden = partial(subprocess.run, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    arguments = ("finetune", "s.onnx", "--teacher", "t.onnx", "--data", "d.npz", "--threads", "1")
    done = hidden([sys.executable, "hide.py", *arguments])
    assert done.returncode == 2
    assert done.stderr == "onnxlr: fine-tuning needs PyTorch, which is not installed; pip install 'onnxlr[train]'\n"
    assert not (tmp_path / "s.ft.onnx").exists()
    for other in (["inspect", "s.onnx"], ["--help"], ["finetune", "--help"]):
        done = hidden([sys.executable, "hide.py", *other])
        assert done.returncode == 0, done.stderr
