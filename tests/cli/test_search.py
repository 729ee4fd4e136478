"""What search writes, and that nothing of a finished search is lost when it cannot be written."""

from __future__ import annotations

import tempfile
from contextlib import chdir
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

import onnxlr.front
from onnxlr.cli.main import app
from tests.cli.small import network, refused, written
from tests.hostile.test_model_files_in import unprivileged

if TYPE_CHECKING:
    from click.testing import Result

QUICK = ("search", "m.onnx", "--scheme", "basis", "--trials", "1", "--threads", "1", "--no-cache")
STATE = "m.front.json.state"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    written(network(channels=64, layers=2), tmp_path / "m.onnx")
    return tmp_path


def invoke(folder: Path, *options: str) -> Result:
    with chdir(folder):
        return CliRunner().invoke(app, [*QUICK, *options], catch_exceptions=False)


def never(*_: Any, **__: Any) -> None:
    raise AssertionError("the search began")


def full(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


def test_a_plan_of_each_model_of_the_front(folder: Path) -> None:
    done = invoke(folder, "--save-plans", "plans", "--plot", "p.svg")
    assert (done.exit_code, done.stderr) == (0, "")
    plans = sorted(path.name for path in (folder / "plans").iterdir())
    assert done.stdout.splitlines()[-len(plans) - 2 :] == [
        "wrote m.front.json",
        "wrote p.svg",
        *(f"wrote plans/{name}" for name in plans),
    ]
    assert not (folder / STATE).exists()
    assert invoke(folder, "--save-plans", "plans", "--plot", "p.svg", "--force").exit_code == 0


def test_a_folder_for_plans_is_tried_before_the_search(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxlr.front, "search", never)
    (folder / "file").touch()
    refused(folder, 3, "nowhere is not a folder", *QUICK, "--save-plans", "nowhere/plans")
    refused(folder, 3, "file is not a folder", *QUICK, "--save-plans", "file/plans")
    monkeypatch.setattr(Path, "mkdir", full)
    refused(folder, 3, "cannot write plans .No space left on device.; free some space", *QUICK, "--save-plans", "plans")
    assert not (folder / "plans").exists()


@pytest.mark.parametrize("speed", ["1", "0.5", "nan", "inf"])
def test_a_speed_to_have_a_model_at_is_above_1(speed: str, folder: Path) -> None:
    refused(folder, 2, f"--at {speed} is no speed-up; give one above 1, for example --at 2", *QUICK, "--at", speed)


def test_a_speed_that_no_model_has_is_said(folder: Path) -> None:
    done = invoke(folder, "--at", "1000")
    assert done.exit_code == 0
    assert "no model was found at 1000x" in done.stdout


@pytest.mark.parametrize("other", ["--out", "--plot"])
def test_a_folder_for_plans_is_no_other_output(other: str, folder: Path) -> None:
    refused(folder, 2, "are the same file", *QUICK, "--save-plans", "plans", other, "plans")
    refused(folder, 2, "are the same file", *QUICK, "--save-plans", STATE)


def test_a_search_that_fails_leaves_no_folder_for_plans(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxlr.front, "search", never)
    with pytest.raises(AssertionError, match="the search began"):
        invoke(folder, "--save-plans", "plans")
    assert not (folder / "plans").exists()
    (folder / "plans").mkdir()
    with pytest.raises(AssertionError, match="the search began"):
        invoke(folder, "--save-plans", "plans", "--force")
    assert list((folder / "plans").iterdir()) == []


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_for_plans_that_may_not_be_written(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxlr.front, "search", never)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written(network(), folder / "m.onnx")
        plans = folder / "plans"
        if there:
            plans.mkdir(mode=0o555)
        folder.chmod(0o555)
        with unprivileged():
            message = "cannot write plans .Permission denied.; check the folder"
            refused(folder, 3, message, *QUICK, "--save-plans", "plans", "--force")
        folder.chmod(0o755)


def test_trials_stay_until_what_they_gave_is_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("onnxlr.report.front.Front.to_svg", full)
        with pytest.raises(OSError, match="No space"):
            invoke(folder, "--plot", "p.svg")
    assert (folder / STATE).is_file()
    monkeypatch.setattr("onnxlr.searching.workbench.Workbench.attempt", never)
    assert invoke(folder, "--plot", "p.svg").exit_code == 0, "no trial is made again"
    assert not (folder / STATE).exists()
