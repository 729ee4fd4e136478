"""A restless timing is made again; the calmest counts. Models here take what a script says, by a clock of their own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

import onnxlr.cost.calm
from onnxlr.cost.calm import time_at_best, time_at_rest
from onnxlr.cost.timing import TimingOptions, speedup

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

OPTIONS = TimingOptions(budget_s=0.0, warmup_s=0.0, burst_ms=0.0, min_rounds=8)


@dataclass(eq=False)
class Machine:
    """Time passes only while models run: ``slower`` by these factors, one for every timing, the last for all others."""

    slower: Sequence[float]
    now: float = 0.0
    timings: int = 0
    runs: dict[str, int] = field(default_factory=dict)

    def clock(self) -> int:
        return round(self.now)

    def runner(self, name: str, ms: float, suffers: float = 1.0) -> Callable[[], None]:
        """A model that takes ``ms`` at rest, and ``suffers`` times the disturbance on top."""

        def run() -> None:
            self.runs[name] = self.runs.get(name, 0) + 1
            factor = self.slower[min(self.timings, len(self.slower) - 1)]
            self.now += ms * (1.0 + suffers * (factor - 1.0)) * 1e6

        return run

    def finished(self, share: float) -> None:
        self.timings += share >= 1.0


TRIES = 4


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch, _impatient: None) -> None:
    for name, value in (("PAUSE_S", 0.0), ("TRIES", TRIES), ("BASELINES", 3)):
        monkeypatch.setattr(onnxlr.cost.calm, name, value)


def timed(machine: Machine, at_best: float) -> tuple[float, float, int]:
    runners = (machine.runner("old", 10.0), machine.runner("new", 5.0, suffers=2.0))
    (before, after), tries = time_at_rest(
        runners, OPTIONS, at_best=at_best, clock=machine.clock, progress=machine.finished
    )
    return before.median_ms, speedup(before, after).ratio, tries


def test_a_machine_at_rest_is_timed_once() -> None:
    assert timed(Machine([1.0]), 10.0) == (10.0, 2.0, 1)
    assert timed(Machine([1.3]), float("inf"))[2] == 1, "nothing is known of what it takes at best"


def test_what_passes_is_waited_for() -> None:
    before, gain, tries = timed(Machine([1.2, 1.1, 1.0]), 10.0)
    assert (before, gain, tries) == (10.0, 2.0, 3)
    assert timed(Machine([1.2, 1.1, 1.0]), 20.0)[1] == pytest.approx(2.0 * 1.2 / 1.4), "what it would be otherwise"


def test_the_calmest_counts_where_nothing_is_calm() -> None:
    before, _, tries = timed(Machine([1.3, 1.1, 1.2]), 10.0)
    assert (before, tries) == (pytest.approx(11.0), TRIES)


def test_the_fastest_of_several_timings_is_what_a_model_takes_at_best() -> None:
    machine = Machine([1.0])
    slow, rest = machine.runner("old", 15.0), machine.runner("old", 10.0)

    def run() -> None:
        (slow if machine.runs.get("old", 0) < 20 else rest)()

    assert time_at_best(run, OPTIONS, machine.clock).median_ms == pytest.approx(10.0)
    assert machine.runs["old"] > 40, "timed more than once"
