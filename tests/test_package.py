"""The wheel: both packages with their types, the command, and nothing else."""

from __future__ import annotations

import zipfile
from configparser import ConfigParser
from email.parser import Parser
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    build = pytest.importorskip("hatchling.builders.wheel")
    builder = build.WheelBuilder(str(ROOT))
    (path,) = builder.build(directory=str(tmp_path_factory.mktemp("dist")), versions=["standard"])
    return zipfile.ZipFile(path)


def test_it_holds_both_packages_with_their_types_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"onnxlr", "onnxlr_passes"}
    assert {"onnxlr/py.typed", "onnxlr_passes/py.typed"} <= names
    assert not [name for name in names if "__pycache__" in name or name.endswith((".onnx", ".npz"))]
    for package, folder in (("onnxlr", ROOT), ("onnxlr_passes", ROOT / "passes")):
        modules = {str(path.relative_to(folder)) for path in (folder / package).rglob("*.py")}
        assert modules <= names


def test_command_version_and_licence(wheel: zipfile.ZipFile) -> None:
    (info,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    entries = ConfigParser()
    entries.read_string(wheel.read(f"{info}/entry_points.txt").decode())
    assert entries["console_scripts"]["onnxlr"] == "onnxlr.cli.main:main"
    about = Parser().parsestr(wheel.read(f"{info}/METADATA").decode())
    assert about["Name"] == "onnxlr"
    assert about["Version"] == metadata.version("onnxlr")
    assert about["License-Expression"] == "Apache-2.0"
    assert f"{info}/licenses/LICENSE" in wheel.namelist()
