"""Progress where there is no terminal: a line a minute, and none for what is done before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxlr.cli.console import EVERY, Lines, progress

if TYPE_CHECKING:
    import pytest


def test_a_line_is_said_once_in_a_while(capsys: pytest.CaptureFixture[str]) -> None:
    now = [100.0]
    lines = Lines(clock=lambda: now[0])
    for passed, stage, share in ((1.0, "plan", 0.5), (EVERY, "search", 0.25), (EVERY + 1.0, "search", 0.5)):
        now[0] = 100.0 + passed
        lines.tell(stage, share)
    assert capsys.readouterr().err == "onnxlr: search 25%, 1 min\n"
    now[0] = 100.0 + 5.5 * EVERY
    lines.tell("measure", 1.0)
    assert capsys.readouterr().err == "onnxlr: measure 100%, 6 min\n"


def test_quick_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as tell:
        tell("plan", 0.5)
        tell("plan", 1.0)
    assert capsys.readouterr().err == ""
