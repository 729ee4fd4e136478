"""Prints, after the tests, how much of ONNX's own cases was rewritten."""

from __future__ import annotations

import pytest

TALLY = pytest.StashKey[list[str]]()


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> list[str]:
    """Lines to print when all tests are done."""
    return request.config.stash.setdefault(TALLY, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash.get(TALLY, [])
    if lines:
        terminalreporter.section("conformance: ONNX's own cases at full rank")
        for line in lines:
            terminalreporter.write_line(line)
