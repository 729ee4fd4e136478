"""onnxlr cache: what it shows and what it removes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from onnxlr.cost.cache import CACHE_DIR, Entry, LatencyCache
from onnxlr.target import Target
from tests.cli.small import onnxlr, refused

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_show_and_clear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_DIR, str(tmp_path))
    path = tmp_path / "latencies.jsonl"
    LatencyCache(path).add(Target(threads=1).describe(), {"a": Entry(1e-3, 0.1, 0.5, 0.01)})
    shown = onnxlr("cache", "show")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith(f"{path}: 1 measurements, ")
    assert "cpu, 1 thread, " in shown.stdout
    assert onnxlr("cache", "clear").stdout == f"removed {path}\n"
    assert not path.exists()
    assert onnxlr("cache", "clear").stdout == f"there is no cache at {path}\n"
    assert onnxlr("cache", "show").stdout == f"{path}: 0 measurements, 0 B\n"


def test_a_foreign_file_is_said_and_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_DIR, str(tmp_path))
    path = tmp_path / "latencies.jsonl"
    path.write_text("mine")
    shown = onnxlr("cache", "show")
    assert shown.returncode == 0
    assert "not a latency cache" in shown.stdout
    cleared = onnxlr("cache", "clear")
    assert (cleared.returncode, cleared.stdout) == (3, "")
    assert cleared.stderr.count("\n") == 1
    assert path.read_text() == "mine"


def test_trials_that_cannot_be_removed_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_DIR, str(tmp_path))
    stuck = tmp_path / "searches" / "a.json"
    stuck.mkdir(parents=True)
    refused(tmp_path, 3, f"{re.escape(str(stuck))} cannot be removed .*; remove it by hand", "cache", "clear")
