"""Measuring again what a report records."""

from __future__ import annotations

import json
import re
from contextlib import chdir

import pytest
from typer.testing import CliRunner

from onnxlr.cli.main import app
from onnxlr.errors import ModelError, UsageError
from onnxlr.validation.recorded import read_recorded
from tests.cli.small import QUICK, network, refused, written


def invoke(folder, *arguments):
    with chdir(folder):
        result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


@pytest.fixture(scope="module")
def rewritten(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded")
    written(network(batch="n"), folder / "m.onnx")
    shape = ("--shape", "x=2x3x16x16")
    invoke(folder, "rewrite", "m.onnx", *QUICK, "--threads", "1", "--seed", "3", *shape, "--json", "r.json")
    return folder


def test_a_summary_names_both_models_and_what_ran_them(rewritten):
    data = json.loads((rewritten / "r.json").read_text())
    assert (data["model"], data["written"]) == ("m.onnx", "m.lr.onnx")
    assert re.fullmatch("[0-9a-f]{64}", data["written_sha256"])
    assert data["written_sha256"] != data["model_sha256"]
    target = data["measured"]["target"]
    assert set(target) == {"provider", "options", "threads", "onnxruntime", "cpu", "gpu", "versions"}
    assert set(target["versions"]) == {"onnxlr", "onnx", "numpy", "python"}


def test_a_rewrite_is_measured_again_as_it_was(rewritten):
    out = invoke(rewritten, "bench", "--from", "r.json", "--seconds", "0.1", "--json", "again.json", "--force")
    ratio = json.loads((rewritten / "r.json").read_text())["measured"]["speedup"]["ratio"]
    assert f"recorded in r.json: {ratio:.2f}x" in out
    again = json.loads((rewritten / "again.json").read_text())
    assert [model["model"] for model in again["models"]] == ["m.onnx", "m.lr.onnx"]
    assert (again["seed"], again["shapes"], again["target"]["threads"]) == (3, {"x": [2, 3, 16, 16]}, 1)
    assert "recorded in again.json" in invoke(rewritten, "bench", "--from", "again.json", "--seconds", "0.1")


def test_models_are_found_beside_the_report(rewritten, tmp_path):
    with chdir(tmp_path):
        assert [model.path for model in read_recorded(rewritten / "r.json").models()] == [
            rewritten / "m.onnx",
            rewritten / "m.lr.onnx",
        ]


def test_another_machine_is_said(rewritten, tmp_path):
    data = json.loads((rewritten / "r.json").read_text())
    data["measured"]["target"]["cpu"] = "Other CPU"
    (tmp_path / "r.json").write_text(json.dumps(data))
    assert any("cpu was Other CPU" in note for note in read_recorded(tmp_path / "r.json").notes())


def copied(rewritten, folder):
    for name in ("m.onnx", "m.lr.onnx", "r.json"):
        (folder / name).write_bytes((rewritten / name).read_bytes())


def test_a_model_that_is_gone_or_changed_is_one_line(rewritten, tmp_path):
    copied(rewritten, tmp_path)
    (tmp_path / "m.lr.onnx").unlink()
    refused(tmp_path, 3, "m.lr.onnx, which r.json records, is gone", "bench", "--from", "r.json")
    written(network(seed=1), tmp_path / "m.lr.onnx")
    refused(tmp_path, 3, "m.lr.onnx is not the model that r.json records", "bench", "--from", "r.json")
    with chdir(tmp_path), pytest.raises(ModelError, match="SHA-256"):
        read_recorded(tmp_path / "r.json").models()


def test_models_or_a_report_not_both_nor_neither(rewritten):
    refused(rewritten, 2, "takes models or --from", "bench")
    refused(rewritten, 2, "takes models or --from", "bench", "m.onnx", "--from", "r.json")
    refused(rewritten, 2, "already says where", "bench", "--from", "r.json", "--threads", "1")


CHANGES = {
    "no measurement": lambda data: data.update(measured=None),
    "no written model": lambda data: data.update(written=""),
    "lacks": lambda data: data.pop("model_sha256"),
    "lacks what": lambda data: data["measured"].update(shapes=[1]),
    "lacks what is needed": lambda data: data["measured"]["target"].pop("cpu"),
    "not a report": lambda data: data.pop("onnxlr_summary"),
    "without path or hash": lambda data: data.update(model=3),
}


@pytest.mark.parametrize("says", CHANGES)
def test_what_is_no_record_is_one_line(rewritten, tmp_path, says):
    data = json.loads((rewritten / "r.json").read_text())
    CHANGES[says](data)
    (tmp_path / "r.json").write_text(json.dumps(data))
    with pytest.raises(UsageError, match=says) as caught:
        read_recorded(tmp_path / "r.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"{", b'"x"'])
def test_other_files_are_one_line(tmp_path, content):
    (tmp_path / "r.json").write_bytes(content)
    with pytest.raises(UsageError):
        read_recorded(tmp_path / "r.json")
    with pytest.raises(UsageError, match="cannot read"):
        read_recorded(tmp_path / "none.json")
