"""Trials in a file: found again, refused where they are another search's, passed over where they only save time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from onnxlr.errors import ModelError, UsageError
from onnxlr.report.searched import Baseline
from onnxlr.searching.goals import Goals
from onnxlr.searching.ledger import Ledger
from tests.searching.plants import Plant, course, table

if TYPE_CHECKING:
    from pathlib import Path

    from onnxlr.report.searched import Trial


def trial() -> Trial:
    original = table([5.0, 9.0])
    attempt = course(Plant({}, original), Goals(max_drop=0.1)).at(1.5)
    assert attempt is not None
    return attempt.trial


def test_trials_are_found_again_by_their_plan(tmp_path: Path) -> None:
    path, one = tmp_path / "deep" / "state", trial()
    ledger = Ledger(path, "here")
    ledger.baseline = Baseline(2.0, {"a": 1.5})
    ledger.add(one)
    again = Ledger(path, "here")
    assert again.find(one.choices) == one
    assert again.find(one.choices[:1]) is None
    assert again.baseline == Baseline(2.0, {"a": 1.5})


def test_another_search_or_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    Ledger(path, "here").add(trial())
    with pytest.raises(UsageError, match="state of another search"):
        Ledger(path, "there")
    path.write_text(path.read_text()[:-20])
    with pytest.raises(UsageError, match="damaged"):
        Ledger(path, "here")
    path.write_text("{}")
    with pytest.raises(UsageError, match="not the state of a search"):
        Ledger(path, "here")
    assert Ledger(path, "here", optional=True).find(()) is None


def test_a_folder_that_cannot_be_written_matters_only_where_it_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "file" / "state"
    (tmp_path / "file").write_text("")
    one = trial()
    with pytest.raises((OSError, ModelError)):
        Ledger(path, "here").add(one)
    ledger = Ledger(path, "here", optional=True)
    ledger.add(one)
    assert ledger.find(one.choices) == one


def test_a_folder_that_cannot_be_reached_matters_only_where_it_was_asked_for(unreachable: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*; check the file and its permissions"):
        Ledger(unreachable / "state", "here")
    one = trial()
    ledger = Ledger(unreachable / "state", "here", optional=True)
    ledger.add(one)
    assert ledger.find(one.choices) == one
