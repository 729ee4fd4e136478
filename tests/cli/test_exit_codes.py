"""Every documented exit code, from the real command: one line on stderr, nothing on stdout, nothing written."""

from __future__ import annotations

import json
import re
from contextlib import chdir
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto
from typer.testing import CliRunner

from onnxlr import api
from onnxlr.cli.main import app
from tests.cli.small import QUICK, chaotic, files, kernel, network, onnxlr, refused, written
from tests.hostile.models import write_external
from tests.passes.one_conv import conv, model_of, tensor

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return written(network(), tmp_path / "m.onnx")


def test_0_and_what_it_writes(model: Path, tmp_path: Path) -> None:
    source = model.read_bytes()
    done = onnxlr("rewrite", "m.onnx", *QUICK, "--json", "r.json", "--save-plan", "p.json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(files(tmp_path)) == ["m.lr.onnx", "m.onnx", "p.json", "r.json"]
    assert model.read_bytes() == source
    assert len(onnx.load(tmp_path / "m.lr.onnx").graph.node) > len(onnx.load(model).graph.node)
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["kept_macs"] <= 0.5
    assert report["measured"]["surgery"] < 1e-4
    assert {row["node"] for row in [*report["layers"], *report["skipped"]]} == {f"/body/conv{i}" for i in range(3)}
    assert done.stdout.splitlines()[-3:] == ["wrote m.lr.onnx", "wrote p.json", "wrote r.json"]


def test_a_shape_that_a_kernel_does_not_fit_is_no_bug(tmp_path: Path) -> None:
    weights = [tensor("w", 16, 4, 3, 3), tensor("b", 16)]
    written(model_of([conv()], weights, [1, 4, "h", "w_"]), tmp_path / "m.onnx")
    small = ("m.onnx", "--shape", "x=1x4x2x2")
    with chdir(tmp_path):
        result = CliRunner().invoke(app, ["inspect", *small, "--json", "r.json"], catch_exceptions=False)
    assert result.exit_code == 0
    (found,) = json.loads((tmp_path / "r.json").read_text())["findings"]
    assert found["skipped"] == "its input size cannot be inferred, or is too small for its kernel"
    refused(tmp_path, 4, "1 skipped .its input size.*too small for its kernel", "rewrite", *small, "--dry-run")


USAGE = {
    "two budgets": ("--keep-macs and --energy exclude each other", ["--keep-macs", "0.5", "--energy", "0.9"]),
    "budget out of range": ("--keep-macs 1.5 is not a share", ["--keep-macs", "1.5"]),
    "nan budget": ("--energy nan is not a share", ["--energy", "nan"]),
    "rank of nothing": ("--rank 0 is below 1", ["--rank", "0"]),
    "rank in words": ("--rank many is neither", ["--rank", "many"]),
    "unknown scheme": ("no scheme is called 'svd'.*basis", ["--scheme", "svd"]),
    "unknown input": ("--shape names the input 'z'.*its inputs: x", ["--shape", "z=1x3x8x8"]),
    "shape that is none": ("--shape x=1x3x.* is not NAME=SIZES", ["--shape", "x=1x3xHxW"]),
    "shape that conflicts": ("does not fit the model's input 'x'", ["--shape", "x=1x4x16x16"]),
    "pattern of nothing": ("--exclude 'head.' matches no node.*/body/conv0", ["--exclude", "head*"]),
    "too many threads": ("--threads 9999: this process may use", ["--threads", "9999"]),
    "samples of no data": ("--samples says how much of --data", ["--samples", "3"]),
    "copies of no data": ("--copies says how often", ["--copies", "2"]),
    "output is input": ("is the same file as the input", ["-o", "m.onnx", "--force"]),
    "two outputs in one file": ("--save-plan and --json are the same file", ["--save-plan", "a", "--json", "./a"]),
    "report over model": ("--out and --json are the same file", ["--json", "m.lr.onnx"]),
}


@pytest.mark.parametrize(("message", "options"), USAGE.values(), ids=USAGE.keys())
def test_2_for_what_cannot_be_honoured(message: str, options: list[str], model: Path, tmp_path: Path) -> None:
    refused(tmp_path, 2, message, "rewrite", model.name, *options)


@pytest.mark.parametrize(
    "arguments", [["rewrite"], ["rewrite", "m.onnx", "--keep-macs", "half"], ["rewrite", "m.onnx", "--fast"], ["fly"]]
)
def test_2_for_what_cannot_be_parsed(arguments: list[str], model: Path, tmp_path: Path) -> None:
    done = onnxlr(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "Usage: " in done.stderr
    assert "Traceback" not in done.stderr
    assert list(files(tmp_path)) == [model.name]


def test_2_for_a_free_size(tmp_path: Path) -> None:
    written(network(extent="side"), tmp_path / "m.onnx")
    for command in ("rewrite", "inspect"):
        refused(tmp_path, 2, "leaves sizes of its input 'x' .* open; fix them, as in --shape x=1x3x", command, "m.onnx")
    done = onnxlr("rewrite", "m.onnx", *QUICK, "--shape", "x=1x3x12x12", "--dry-run", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("existing", ["m.lr.onnx", "p.json", "r.json"])
def test_2_for_an_output_that_exists_before_the_model_is_even_read(existing: str, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_text("not a model")
    (tmp_path / existing).write_text("precious")
    options = ("--save-plan", "p.json", "--json", "r.json")
    refused(tmp_path, 2, f"{re.escape(existing)} exists; .*--force", "rewrite", "m.onnx", *options, process=True)


def test_2_for_a_weights_file_that_exists_before_any_work_is_done(tmp_path: Path) -> None:
    write_external(network(), tmp_path / "m.onnx")
    (tmp_path / "m.lr.onnx.data").write_text("precious")
    impossible = ("--keep-macs", "0.0001")
    refused(tmp_path, 2, "m.lr.onnx.data exists; .*--force", "rewrite", "m.onnx", *QUICK, *impossible)
    refused(tmp_path, 4, "keeps as little", "rewrite", "m.onnx", *QUICK, *impossible, "--dry-run")
    done = onnxlr("rewrite", "m.onnx", *QUICK, "--no-validate", "--force", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\nwrote m.lr.onnx\nwrote m.lr.onnx.data\n")
    onnx.checker.check_model(tmp_path / "m.lr.onnx")


def test_a_weights_file_that_will_not_be_written_is_no_matter(model: Path, tmp_path: Path) -> None:
    (tmp_path / "m.lr.onnx.data").write_text("precious")
    assert onnxlr("rewrite", "m.onnx", *QUICK, "--no-validate", cwd=tmp_path).returncode == 0
    assert (tmp_path / "m.lr.onnx.data").read_text() == "precious"


@pytest.mark.parametrize("option", ["--data", "--eval", "--plan"])
def test_2_for_an_output_over_an_input_even_with_force(option: str, model: Path, tmp_path: Path) -> None:
    (tmp_path / "in.npz").write_text("precious")
    options = (option, "in.npz", "--json", "in.npz", "--force")
    refused(tmp_path, 2, "in.npz is the same file as the input", "rewrite", model.name, *options)
    if option != "--plan":
        search = ("search", model.name, option, "in.npz", "-o", "in.npz", "--force")
        refused(tmp_path, 2, "in.npz is the same file as the input", *search)


def test_force_overwrites(model: Path, tmp_path: Path) -> None:
    (tmp_path / "m.lr.onnx").write_text("old")
    assert onnxlr("rewrite", "m.onnx", *QUICK, "--force", "--no-validate", cwd=tmp_path).returncode == 0
    onnx.checker.check_model(tmp_path / "m.lr.onnx")


PLANS = {
    "not json": ("p.json:1: not JSON", "{"),
    "no plan": ("not a plan of version 1", "[]"),
    "another version": ("not a plan of version 1", '{"onnxlr_plan": 99, "layers": []}'),
    "no layers": ('"layers" is not a list', '{"onnxlr_plan": 1}'),
    "layer of no kind": ("layer 1 is not an object", '{"onnxlr_plan": 1, "layers": [7]}'),
    "no layer of the model": ("names 'elsewhere'", ("elsewhere", "basis", [4])),
    "unknown scheme": ("no scheme is called 'magic'", ("c1", "magic", [4])),
    "ranks of another scheme": ("has no ranks .4, 4.", ("c1", "basis", [4, 4])),
    "rank above full": ("has no ranks .4000.", ("c1", "basis", [4000])),
    "rank in words": ('"ranks" is a list of whole numbers', ("c1", "basis", ["4"])),
}


@pytest.mark.parametrize(("message", "plan"), PLANS.values(), ids=PLANS.keys())
def test_2_for_a_plan_that_does_not_fit(
    message: str, plan: str | tuple[str, str, list[int]], model: Path, tmp_path: Path
) -> None:
    if isinstance(plan, tuple):
        dry = api.rewrite(model, scheme=("basis", "tucker2"), energy=0.9, dry_run=True)
        text = json.loads(dry.plan.to_json())
        layer = next(one for one in text["layers"] if one["node"] == "/body/conv1")
        key = layer["site"] if plan[0] == "c1" else plan[0]
        text["layers"] = [{**layer, "site": key, "scheme": plan[1], "ranks": plan[2]}]
        plan = json.dumps(text)
    (tmp_path / "p.json").write_text(plan)
    refused(tmp_path, 2, message, "rewrite", model.name, "--plan", "p.json")


def test_2_for_a_plan_and_more_to_choose(model: Path, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text("{}")
    refused(tmp_path, 2, "--plan already says how much", "rewrite", model.name, "--plan", "p.json", "--rank", "3")
    refused(tmp_path, 2, "--plan already says which", "rewrite", model.name, "--plan", "p.json", "--scheme", "basis")
    refused(tmp_path, 2, "cannot read the plan", "rewrite", model.name, "--plan", "nowhere.json")
    refused(tmp_path, 2, "same file as the input", "rewrite", model.name, "--plan", "p.json", "--json", "p.json")


@pytest.mark.parametrize("command", ["rewrite", "bench", "validate"])
def test_3_without_the_provider(command: str, model: Path, tmp_path: Path) -> None:
    missing = "tensorrt" if "TensorrtExecutionProvider" not in ort.get_available_providers() else "openvino"
    others = [model.name] if command == "validate" else []
    refused(tmp_path, 3, f"the {missing} provider .*pip install", command, model.name, *others, "--provider", missing)


@pytest.mark.parametrize("dtype", [TensorProto.DOUBLE, TensorProto.BFLOAT16])
def test_3_for_a_type_the_target_cannot_run_and_what_no_validate_says(dtype: int, tmp_path: Path) -> None:
    written(network(dtype=dtype), tmp_path / "m.onnx")
    refused(tmp_path, 3, "--no-validate rewrites it all the same, unproven", "rewrite", "m.onnx", *QUICK)
    done = onnxlr("rewrite", "m.onnx", *QUICK, "--no-validate", cwd=tmp_path)
    assert done.returncode == 0
    assert "warning: the rewritten model was never run" in done.stdout
    new = onnx.load(tmp_path / "m.lr.onnx")
    assert {tensor.data_type for tensor in new.graph.initializer} == {dtype}


def test_half_precision_is_run_and_proven(tmp_path: Path) -> None:
    written(network(dtype=TensorProto.FLOAT16), tmp_path / "m.onnx")
    done = onnxlr("rewrite", "m.onnx", *QUICK, "--json", "r.json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((tmp_path / "r.json").read_text())["measured"]["surgery"] < 0.01
    assert "never run" not in done.stdout


def test_3_for_weights_that_are_no_numbers(tmp_path: Path) -> None:
    bad = network()
    values = kernel(32, 32, 3, 1).astype(np.float32)
    values[0, 0, 0, 0] = np.nan
    bad.graph.initializer[1].raw_data = values.tobytes()
    written(bad, tmp_path / "m.onnx")
    refused(tmp_path, 3, "weight 'w1' holds NaN or infinity in 1 of", "rewrite", "m.onnx", *QUICK, process=True)
    refused(tmp_path, 3, "weight 'w1' holds NaN or infinity in 1 of", "inspect", "m.onnx")


def test_4_for_a_budget_out_of_reach(model: Path, tmp_path: Path) -> None:
    refused(
        tmp_path,
        4,
        "keeps as little as 0.001 .*least possible",
        "rewrite",
        model.name,
        "--keep-macs",
        "0.001",
        process=True,
    )
    refused(tmp_path, 4, "cheaper chain", "rewrite", model.name, *QUICK, "--energy", "1")


def test_4_for_nothing_to_rewrite(tmp_path: Path) -> None:
    graph = network()
    del graph.graph.node[:]
    graph.graph.node.add(op_type="Relu", input=["x"], output=["y"])
    del graph.graph.output[0].type.tensor_type.shape.dim[:]
    graph.graph.output[0].type.tensor_type.shape.CopyFrom(graph.graph.input[0].type.tensor_type.shape)
    written(graph, tmp_path / "m.onnx")
    refused(tmp_path, 4, "has no Conv, Gemm or MatMul that can be rewritten", "rewrite", "m.onnx", *QUICK)


def test_5_for_outputs_that_are_not_those_of_the_factors(tmp_path: Path) -> None:
    written(chaotic(), tmp_path / "m.onnx")
    refused(tmp_path, 5, "is not what its factors compute.*--no-validate", "rewrite", "m.onnx", *QUICK, process=True)


def test_5_for_a_model_that_is_another(tmp_path: Path) -> None:
    written(network(), tmp_path / "a.onnx")
    written(network(seed=9), tmp_path / "b.onnx")
    done = onnxlr("validate", "a.onnx", "b.onnx", "--samples", "2", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (5, "")
    assert "FAILED: output 'y': cosine" in done.stdout
    done = onnxlr("validate", "a.onnx", "a.onnx", "--samples", "2", cwd=tmp_path)
    assert done.returncode == 0
    assert "passed on 2 feeds" in done.stdout


CODES = {
    "rewrite": {"4 the asked budget", "5 the rewritten model"},
    "inspect": set[str](),
    "bench": set[str](),
    "validate": {"5 NEW failed"},
}


@pytest.mark.parametrize(("command", "own"), CODES.items(), ids=CODES.keys())
def test_every_exit_code_of_a_command_is_in_its_help(command: str, own: set[str]) -> None:
    text = " ".join(onnxlr(command, "--help").stdout.split()).partition("Exit codes: ")[2]
    found = {code for code in ("4 the asked budget", "5 the rewritten model", "5 NEW failed") if code in text}
    assert found == own
    assert all(code in text for code in ("0 done", "2 usage", "3 a model", "130 interrupted"))
