"""What is asked of a rewrite, as one value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from onnxlr.cost.cache import LatencyCache
from onnxlr.errors import UsageError
from onnxlr.planning.budget import KeepMacs
from onnxlr.prepare import Selection
from onnxlr.search.find import TRIALS
from onnxlr.search.goals import Goals
from onnxlr.target import Target

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnxlr.calibration import Source
    from onnxlr.evaluation import EvaluationData
    from onnxlr.planning.budget import Budget
    from onnxlr.planning.plan import Plan


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Labelled data and what to make of them.

    Parameters
    ----------
    metric
        A built-in one by name, ``module:function``, a callable of (outputs, labels), or None for what the data call
        for.
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
    metric: str | Callable[[Any, Any], float] | None = None
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
        When goals that take trials go with a plan, or with running nothing.
    """

    schemes: tuple[str, ...] = ("auto",)
    budget: Budget = field(default_factory=lambda: KeepMacs(0.5))
    goals: Goals = field(default_factory=Goals)
    trials: int = TRIALS
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
