"""The Python API: same input, same bytes; nothing of the caller's is changed; nothing heavy is imported early."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import onnx
import pytest

import onnxlr
from onnxlr.errors import UsageError
from tests.cli.small import counting, environment, network, written

if TYPE_CHECKING:
    from pathlib import Path

QUICK = ("basis", "tucker2")
HEAVY = ("numpy", "onnx", "onnxruntime", "scipy", "onnxsim", "tensorly", "rich.table")


def loaded_after(code: str) -> set[str]:
    """Heavy modules that are loaded after ``code`` has run in a process of its own."""
    text = f"{code}\nimport sys\nprint(' '.join(name for name in {HEAVY!r} if name in sys.modules))"
    command = [sys.executable, "-c", text]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
    return set(done.stdout.splitlines()[-1].split())


def test_nothing_heavy_is_imported_before_it_is_used() -> None:
    assert loaded_after("import onnxlr, onnxlr.errors, onnxlr.cli.main") == set()
    assert loaded_after("import onnxlr\nonnxlr.rewrite") > {"numpy", "onnx", "onnxruntime"}


def test_help_imports_nothing_heavy() -> None:
    code = "import sys\nsys.argv = ['onnxlr', {}'--help']\nfrom onnxlr.cli.main import main\n"
    code += "try:\n    main()\nexcept SystemExit as stop:\n    assert stop.code == 0"
    for command in ("", "'rewrite', ", "'inspect', "):
        assert loaded_after(code.format(command)) == set()


def test_what_there_is() -> None:
    for name in onnxlr.__all__:
        assert getattr(onnxlr, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = onnxlr.nothing


def test_a_model_in_memory_is_not_changed_and_gives_what_a_file_gives(tmp_path: Path) -> None:
    model = network()
    before = model.SerializeToString(deterministic=True)
    first = onnxlr.rewrite(model, scheme=QUICK, keep_macs=0.5, validate=False)
    assert model.SerializeToString(deterministic=True) == before
    again = onnxlr.rewrite(written(model, tmp_path / "m.onnx"), scheme=QUICK, keep_macs=0.5, validate=False)
    paths = [one.save(tmp_path / name) for one, name in ((first, "a.onnx"), (again, "b.onnx"))]
    assert paths[0].read_bytes() == paths[1].read_bytes() != before
    assert first.plan == again.plan


def test_a_plan_replayed_gives_the_same_bytes(tmp_path: Path) -> None:
    model = written(network(), tmp_path / "m.onnx")
    first = onnxlr.rewrite(model, scheme=["basis", "tucker2"], keep_macs=0.6, validate=False)
    (tmp_path / "p.json").write_text(first.plan.to_json())
    again = onnxlr.rewrite(model, plan=tmp_path / "p.json", validate=False)
    third = onnxlr.rewrite(model, plan=first.plan, validate=False)
    assert len({one.model.SerializeToString(deterministic=True) for one in (first, again, third)}) == 1
    fewer = onnxlr.Plan(first.plan.choices[:1], first.plan.model_sha256)
    other = onnxlr.rewrite(model, plan=fewer, validate=False)
    assert other.model != first.model
    assert "not in the plan" in {row.reason for row in other.summary.skipped}


def test_a_plan_leaves_nothing_else_to_choose() -> None:
    for option in ({"keep_macs": 0.5}, {"energy": 0.9}, {"rank": 4}, {"scheme": "basis"}):
        with pytest.raises(UsageError, match="--plan already says"):
            onnxlr.rewrite(network(), plan=onnxlr.Plan(()), **option)


def test_a_dry_run_returns_the_original(tmp_path: Path) -> None:
    model = network()
    result = onnxlr.rewrite(model, scheme=QUICK, dry_run=True)
    assert [node.op_type for node in result.model.graph.node] == [node.op_type for node in model.graph.node]
    assert result.summary.measured is None
    assert result.summary.after.macs < result.summary.before.macs


def test_save_does_not_overwrite(tmp_path: Path) -> None:
    source = written(network(), tmp_path / "m.onnx")
    result = onnxlr.rewrite(source, scheme=QUICK, validate=False)
    with pytest.raises(UsageError, match="same file as the input"):
        result.save(source, force=True)
    result.save(tmp_path / "o.onnx")
    with pytest.raises(UsageError, match="exists"):
        result.save(tmp_path / "o.onnx")
    assert result.save(tmp_path / "o.onnx", force=True) == tmp_path / "o.onnx"
    onnx.checker.check_model(tmp_path / "o.onnx")


def test_the_proof_is_of_this_model() -> None:
    result = onnxlr.rewrite(network(), scheme=QUICK, energy=0.9)
    measured = result.summary.measured
    assert measured is not None
    assert measured.surgery is not None
    assert measured.surgery < 1e-4
    (output,) = measured.outputs
    assert output.name == "y"
    assert 1e-3 < output.relative_l2 < 0.5
    assert onnxlr.validate(network(), result.model, max_error=0.6).passed
    assert not onnxlr.validate(network(), result.model, max_error=output.relative_l2 / 10).passed


def test_outputs_whose_size_depends_on_the_values_are_no_failure() -> None:
    result = onnxlr.rewrite(counting(), scheme=QUICK, energy=0.8)
    measured = result.summary.measured
    assert measured is not None
    assert measured.surgery is None
    assert measured.incomparable is not None
    assert any("outputs were not compared" in warning for warning in result.summary.warnings)


def test_inspect_and_bench() -> None:
    found = onnxlr.inspect(network())
    assert [finding.node for finding in found.findings] == [f"/body/conv{index}" for index in range(3)]
    assert sum(finding.macs or 0 for finding in found.findings) == found.macs
    result = onnxlr.bench(network(), network(seed=1), seconds=0.1)
    assert [model.speedup is None for model in result.models] == [True, False]


def test_every_name_stays_what_it_is_once_the_api_is_loaded() -> None:
    for first in ("rewrite", "validate"):
        code = f"import onnxlr\nonnxlr.{first}\nassert all(callable(getattr(onnxlr, name)) for name in onnxlr.__all__)"
        loaded_after(code)
