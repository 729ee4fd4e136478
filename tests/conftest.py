"""What every test may count on."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

import onnxlr.cost.calm

if TYPE_CHECKING:
    from collections.abc import Iterator


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
