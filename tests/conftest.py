"""What every test may count on."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

import onnxlr.cost.calm

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> Iterator[None]:
    """Take SIGINT back where the tests were started in the background: what they start would ignore it as well."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def _unlimited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Print as into a pipe: reports keep to COLUMNS where it is set, as some shells and test runners do."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time once: no test goes by latencies, and other work on the machine would make many of them wait."""
    monkeypatch.setattr(onnxlr.cost.calm, "TRIES", 1)
    monkeypatch.setattr(onnxlr.cost.calm, "BASELINES", 1)


@pytest.fixture(params=["forbidden", "too long a name"])
def unreachable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder of which not even can be told whether it is there."""
    if request.param == "too long a name":
        yield tmp_path / ("n" * 300)
        return
    locked = tmp_path / "locked"
    locked.mkdir(0o000)
    if os.access(locked, os.X_OK):
        pytest.skip("nothing is forbidden to this user")
    yield locked / "inside"
    locked.chmod(0o700)
