"""What rewrite prints and writes: nothing on a dry run, the same bytes from a plan, bars on a terminal only."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import tempfile
from contextlib import chdir
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from typer.testing import CliRunner

from onnxlr.cli.main import app
from tests.cli.small import COMMAND, QUICK, environment, files, network, onnxlr, refused, written
from tests.hostile.test_model_files_in import unprivileged


def run(folder: Path, *arguments: str) -> str:
    """Run in this process in ``folder``; return stdout."""
    with chdir(folder):
        result = CliRunner().invoke(app, ["rewrite", "m.onnx", *QUICK, *arguments], catch_exceptions=False)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def test_a_dry_run_writes_nothing_but_what_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work, temporary = tmp_path / "work", tmp_path / "tmp"
    work.mkdir()
    temporary.mkdir()
    written(network(), work / "m.onnx")
    before = files(work)
    done = onnxlr("rewrite", "m.onnx", *QUICK, "--dry-run", cwd=work, TMPDIR=str(temporary))
    assert (done.returncode, done.stderr) == (0, "")
    assert "latency" not in done.stdout
    assert "wrote" not in done.stdout
    assert (files(work), files(temporary)) == (before, {})
    assert run(work, "--dry-run", "--save-plan", "p.json", "--json", "r.json").endswith("wrote p.json\nwrote r.json\n")
    assert set(files(work)) == {"m.onnx", "p.json", "r.json"}


def test_a_saved_plan_gives_the_same_bytes(tmp_path: Path) -> None:
    written(network(), tmp_path / "m.onnx")
    run(tmp_path, "--no-validate", "-o", "a.onnx", "--save-plan", "p.json")
    with chdir(tmp_path):
        options = ["--plan", "p.json", "--no-validate", "-o", "b.onnx", "--save-plan", "q.json"]
        assert CliRunner().invoke(app, ["rewrite", "m.onnx", *options], catch_exceptions=False).exit_code == 0
    found = files(tmp_path)
    assert found["a.onnx"] == found["b.onnx"] != found["m.onnx"]
    assert found["p.json"] == found["q.json"]


def test_a_plan_of_another_model_with_the_same_layers_is_replayed_and_says_so(tmp_path: Path) -> None:
    written(network(), tmp_path / "m.onnx")
    run(tmp_path, "--dry-run", "--save-plan", "p.json")
    written(network(seed=7), tmp_path / "m.onnx")
    with chdir(tmp_path):
        result = CliRunner().invoke(app, ["rewrite", "m.onnx", "--plan", "p.json", "--dry-run"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "note: the plan was made for another model; its layers fit this one" in result.stdout


def test_a_rank_is_taken_literally_and_says_where_it_does_not_pay(tmp_path: Path) -> None:
    written(network(), tmp_path / "m.onnx")
    text = run(tmp_path, "--rank", "30", "--dry-run")
    rows = [line for line in text.splitlines() if line.startswith("/body/conv")]
    assert len(rows) == 3
    assert all(line.endswith("does not pay") for line in rows)
    assert "warning: 3 of 3 rewritten layers cost as many MACs as before, or more" in text


@pytest.mark.parametrize("field", ["type", "shape"])
def test_an_output_without_type_or_shape_is_proved_and_stays_without(field: str, tmp_path: Path) -> None:
    model = network()
    output = model.graph.output[0]
    (output if field == "type" else output.type.tensor_type).ClearField(field)
    written(model, tmp_path / "m.onnx")
    text = run(tmp_path)
    assert "graph check: outputs equal those of the contracted kernels" in text
    assert "not simplified" not in text
    assert onnx.load(tmp_path / "m.lr.onnx").graph.output[0] == output


def test_a_layer_without_a_cheaper_chain_is_told_from_one_the_budget_leaves(tmp_path: Path) -> None:
    model = network()
    model.graph.node.add(op_type="Conv", name="tiny", input=["y", "w"], output=["z"])
    model.graph.node[-1].attribute.add(name="group", type=onnx.AttributeProto.INT, i=16)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((32, 2, 1, 1), np.float32), "w"))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [1, 32, 16, 16]))
    written(model, tmp_path / "m.onnx")
    text = run(tmp_path, "--keep-macs", "0.9", "--dry-run")
    assert "1 left as they are (every chain costs as much): tiny" in text
    assert "(the budget is better met elsewhere): /body/conv" in text


def test_weights_that_were_inputs_do_not_vanish_in_silence(tmp_path: Path) -> None:
    model = network()
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    written(model, tmp_path / "m.onnx")
    text = run(tmp_path, "--no-simplify", "--no-validate", "--include", "*conv1", "--energy", "0.9")
    assert "note: weights of rewritten layers are no longer inputs, they cannot be fed at run time: w1\n" in text
    assert "note: IR version 3 raised to 4 for factors that are not inputs" in text
    assert [value.name for value in onnx.load(tmp_path / "m.lr.onnx").graph.input] == ["x", "w0", "w2"]


def test_include_and_exclude(tmp_path: Path) -> None:
    written(network(), tmp_path / "m.onnx")
    text = run(tmp_path, "--dry-run", "--energy", "0.9", "--exclude", "*conv1")
    assert "1 left as they are (excluded): /body/conv1" in text
    text = run(tmp_path, "--dry-run", "--energy", "0.9", "--include", "*conv1")
    assert "2 left as they are (not included): /body/conv0, /body/conv2" in text


def test_names_in_a_model_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    model = network()
    model.graph.node[2].name = "evil\x1b[31m\nname [bold]"
    written(model, tmp_path / "m.onnx")
    text = run(tmp_path, "--dry-run", "--energy", "0.9")
    assert r"evil\x1b[31m\nname [bold]" in text
    assert "\x1b" not in text


def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    written(network(), tmp_path / "m.onnx")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "m.onnx").write_bytes((tmp_path / "m.onnx").read_bytes())
        folder.chmod(0o555)
        with unprivileged():
            refused(folder, 3, "Permission denied.; check the folder", "rewrite", "m.onnx", *QUICK, "--no-validate")
        folder.chmod(0o755)


def test_a_reader_that_goes_away_costs_no_file(tmp_path: Path) -> None:
    written(network(), tmp_path / "m.onnx")
    reader, writer = os.pipe()
    os.close(reader)
    command = [*COMMAND, "rewrite", "m.onnx", *QUICK, "--no-validate"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert "Traceback" not in done.stderr
    assert (tmp_path / "m.lr.onnx").is_file()


def test_bars_are_for_a_terminal_and_on_stderr(tmp_path: Path) -> None:
    written(network(), tmp_path / "m.onnx")
    ours, theirs = pty.openpty()
    command = [*COMMAND, "rewrite", "m.onnx", *QUICK, "--dry-run"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(TERM="xterm"), stdout=subprocess.PIPE, stderr=theirs
    ) as child:
        os.close(theirs)
        shown = bytearray()
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # how Linux says that the other end of a terminal is closed
                break
            if not piece:
                break
            shown += piece
        assert child.stdout is not None
        out = child.stdout.read()
    os.close(ours)
    assert child.returncode == 0
    assert re.search(rb"plan.*100 %", shown)
    assert b"\x1b" not in out
    assert b"whole model" in out
