"""Small models with weights of decaying spectra, and the real command in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import chdir
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from onnxlr.cli.main import app

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

COMMAND = (sys.executable, "-m", "onnxlr")
QUICK = ("--scheme", "basis", "--scheme", "tucker2")  # for tests that are not about the choice of a family


def kernel(out: int, into: int, size: int, seed: int) -> np.ndarray[Any, Any]:
    """Kernel (out, into, size, size) of spectral norm 1 whose singular values fall by 0.8 each."""
    rng = np.random.default_rng(seed)
    full = min(out, into * size * size)
    left, right = rng.standard_normal((out, full)), rng.standard_normal((full, into * size * size))
    matrix = (left * 0.8 ** np.arange(full)) @ right
    return (matrix / np.linalg.norm(matrix, 2)).reshape(out, into, size, size)


def network(
    *,
    channels: int = 32,
    layers: int = 3,
    dtype: int = TensorProto.FLOAT,
    batch: int | str = 1,
    extent: int | str = 16,
    tail: Sequence[onnx.NodeProto] = (),
    output: onnx.ValueInfoProto | None = None,
    seed: int = 0,
) -> onnx.ModelProto:
    """Conv and Relu in turns on input x (batch, 3, extent, extent); the last is named y, or r where a tail follows."""
    nodes, weights, value, into = [], [], "x", 3
    numbers = helper.tensor_dtype_to_np_dtype(dtype)
    for index in range(layers):
        weights.append(numpy_helper.from_array(kernel(channels, into, 3, seed + index).astype(numbers), f"w{index}"))
        nodes.append(helper.make_node("Conv", [value, f"w{index}"], [f"c{index}"], f"/body/conv{index}", pads=[1] * 4))
        value, into = f"r{index}" if index + 1 < layers else "r" if tail else "y", channels
        nodes.append(helper.make_node("Relu", [f"c{index}"], [value], f"/body/relu{index}"))
    shape = [batch, channels, extent, extent]
    graph = helper.make_graph(
        [*nodes, *tail],
        "net",
        [helper.make_tensor_value_info("x", dtype, [batch, 3, extent, extent])],
        [output or helper.make_tensor_value_info("y", dtype, shape)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="test")
    model.ir_version = 8
    return model


def chaotic() -> onnx.ModelProto:
    """A network whose output turns rounding into noise: sin(1e8 r)."""
    tail = (
        helper.make_node("Constant", [], ["big"], value_float=1e8),
        helper.make_node("Mul", ["r", "big"], ["m"]),
        helper.make_node("Sin", ["m"], ["y"]),
    )
    return network(tail=tail)


def counting() -> onnx.ModelProto:
    """A network whose output lists where it is not zero: its size depends on the values."""
    output = helper.make_tensor_value_info("y", TensorProto.INT64, [4, "found"])
    return network(tail=(helper.make_node("NonZero", ["r"], ["y"]),), output=output)


def written(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def environment(**more: str) -> dict[str, str]:
    """Environment of a child that imports what this process imports, on one thread, without a terminal's width."""
    kept = {key: value for key, value in os.environ.items() if key not in {"COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE"}}
    paths = os.pathsep.join(path for path in sys.path if path)
    return {**kept, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **more}


def onnxlr(*arguments: str | Path, cwd: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    """Run ``onnxlr`` with ``arguments``."""
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment(**more))


def files(folder: Path) -> dict[str, bytes]:
    """Every file under ``folder``, hidden ones too, with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(folder: Path, code: int, message: str, *arguments: str | Path, process: bool = False) -> None:
    """The command fails with ``code`` and one line that matches ``message``, and changes no file of ``folder``.

    It runs in this very process, where an exception that is a bug comes through, or in one of its own.
    """
    before = files(folder)
    if process:
        done = onnxlr(*arguments, cwd=folder)
        got, out, err = done.returncode, done.stdout, done.stderr
    else:
        with chdir(folder):
            result = CliRunner().invoke(app, list(map(str, arguments)))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        got, out, err = result.exit_code, result.stdout, result.stderr
    assert got == code, err
    err = re.sub(r"^onnxlr: \w+ \d+%, \d+ min\n", "", err, flags=re.MULTILINE)  # of a busy machine
    assert re.fullmatch(rf"onnxlr: .*{message}.*\n", err), err
    assert out == ""
    assert files(folder) == before
