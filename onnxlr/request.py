"""What is asked of a rewrite, as one value."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxlr.cost.cache import LatencyCache
from onnxlr.errors import UsageError
from onnxlr.planning.budget import Energy, Evbmf, KeepMacs, Rank
from onnxlr.planning.plan import Plan, read_plan
from onnxlr.prepare import Selection
from onnxlr.searching.find import TRIALS
from onnxlr.searching.goals import Goals
from onnxlr.target import Target

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from onnxlr.calibration import Source
    from onnxlr.evaluation import EvaluationData, SessionMetric
    from onnxlr.planning.budget import Budget


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Labelled data and what to make of them.

    Parameters
    ----------
    metric
        A built-in one by name, ``module:function``, a callable of (outputs, labels), a metric on sessions, or None
        for what the data call for.
    share
        Share of the samples to choose models by, 0 to 1; the others are kept to report on.
    peak
        Largest value of a picture, for psnr.

    Raises
    ------
    UsageError
        When the share leaves one part without samples.
    """

    data: EvaluationData
    metric: str | SessionMetric | Callable[[Any, Any], float] | None = None
    share: float = 0.5
    peak: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.share < 1.0:
            raise UsageError(f"--eval-share {self.share:g} is not a share between 0 and 1", "for example 0.5")


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """What to do with a model: see the command line's options for each.

    Raises
    ------
    UsageError
        When goals that take trials go with a plan, or with running nothing, or one of ``at`` is not above 1.
    """

    schemes: tuple[str, ...] = ("auto",)
    budget: Budget = field(default_factory=lambda: KeepMacs(0.5))
    goals: Goals = field(default_factory=Goals)
    trials: int = TRIALS
    at: tuple[float, ...] = ()
    selection: Selection = field(default_factory=Selection)
    target: Target = field(default_factory=Target)
    plan: Plan | None = None
    data: Source | None = None
    evaluation: Evaluation | None = None
    cache: LatencyCache = field(default_factory=lambda: LatencyCache(None))
    simplify: bool = True
    validate: bool = True
    dry_run: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for speed in self.at:
            if not 1.0 < speed < inf:
                raise UsageError(f"--at {speed:g} is no speed-up", "give one above 1, for example --at 2")
        if self.dry_run and self.evaluation is not None:
            raise UsageError("--dry-run runs no model, so --eval has nothing to judge", "leave one of them out")
        if not self.goals.searching:
            return
        self.goals.check_data(evaluation=self.evaluation is not None)
        if self.plan is not None:
            raise UsageError("--plan already says what to do, a goal asks to find out", "leave one of them out")
        if self.dry_run or not self.validate:
            option = "--dry-run" if self.dry_run else "--no-validate"
            raise UsageError(f"{option} runs no model, and only running tells whether goals are met", "leave it out")


def budget_of(keep_macs: float | None, energy: float | None, rank: int | str | None) -> Budget:
    """Return the one budget that was given; half of the MACs when none was.

    Raises
    ------
    UsageError
        When several are given, or a value makes no sense.
    """
    given = [name for name, v in (("keep-macs", keep_macs), ("energy", energy), ("rank", rank)) if v is not None]
    if len(given) > 1:
        raise UsageError(f"--{given[0]} and --{given[1]} exclude each other", "give one of them")
    if energy is not None:
        return Energy(energy)
    if rank is not None:
        if rank == "evbmf":
            return Evbmf()
        if isinstance(rank, str) and not rank.isdigit():
            raise UsageError(f"--rank {rank} is neither a whole number nor evbmf", "for example --rank 32")
        return Rank(int(rank))
    return KeepMacs(0.5 if keep_macs is None else keep_macs)


def replayed_plan(
    plan: Plan | str | os.PathLike[str] | None, scheme: str | Sequence[str], budget: Sequence[float | str | None]
) -> Plan | None:
    """Return the plan to replay, which leaves nothing else to choose."""
    if plan is None:
        return None
    if any(value is not None for value in budget):
        raise UsageError("--plan already says how much", "leave out --keep-macs, --energy and --rank")
    if scheme != "auto" and tuple(scheme) != ("auto",):
        raise UsageError("--plan already says which schemes", "leave out --scheme")
    return plan if isinstance(plan, Plan) else read_plan(Path(plan))
